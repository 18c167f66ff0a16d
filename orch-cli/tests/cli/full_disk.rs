//! Disks that fill up during a run and are emptied again: real ones, in memory.

use std::fmt::Write as _;

use crate::kills::{ledger, successes};
use crate::kit::{Ended, Lab, Worker};

const CHAINS: usize = 10;
const LINKS: usize = 30;
const STEPS: usize = CHAINS * LINKS;
/// A disk with room for the run and its log, and what takes most of it away.
const DISK: &str = "16m";
const BALLAST: usize = 13 << 20;
const RUN: [&str; 6] = ["run", "big.yaml", "--run-token", "nightly", "--lease", "2s"];

/// Steps that leave 8 KB behind each.
fn big() -> String {
    let block = "x".repeat(8_000);
    let mut text = format!(
        "inputs: {{ type: object, properties: {{ block: {{ type: string, default: '{block}' }} }} }}\nsteps:\n"
    );
    for (chain, link) in (0..CHAINS).flat_map(|chain| (0..LINKS).map(move |link| (chain, link))) {
        let needs =
            link.checked_sub(1).map_or_else(String::new, |before| format!("needs: [c{chain}-{before}], "));
        writeln!(
            text,
            "  - {{ id: c{chain}-{link}, {needs}uses: fn/echo, with: '${{{{ inputs.block }}}}' }}"
        )
        .unwrap();
    }
    text
}

/// A run that has met the end of its disk.
fn full(test: &str) -> Option<(Lab, Worker)> {
    let lab = Lab::on_disk(DISK, test)?;
    lab.dag("big", &big());
    lab.dag("huge", &format!("steps:\n  - {{ id: a, uses: fn/echo, with: '{}' }}\n", "x".repeat(300_000)));
    fill(&lab, BALLAST);
    let mut worker = Worker::start(&lab, &RUN);
    worker.hear("⚠ runs cannot be written: disk is full; make room and try again; trying again");
    Some((lab, worker))
}

/// Takes so many bytes, or all that are left.
fn fill(lab: &Lab, bytes: usize) {
    match std::fs::write(lab.path("ballast"), vec![1; bytes]) {
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {}
        filled => filled.unwrap(),
    }
}

fn empty(lab: &Lab) {
    std::fs::remove_file(lab.path("ballast")).unwrap();
}

/// What can be read on the full disk: whole entries that verify.
fn readable(lab: &Lab) -> String {
    let lines = ledger(lab);
    let count = successes(&lines).len();
    assert!(0 < count && count < STEPS, "the disk was full in the middle of the run: {count}");
    let verified = lab.orch(&["ledger", "verify"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    lines
}

/// The run has completed, with everything that was there before and every step once.
fn assert_whole(lab: &Lab, ended: &Ended, before: &str) {
    assert!(ended.code == 0 && ended.stdout.contains("✓ completed big run"), "{ended:?}");
    let lines = ledger(lab);
    assert!(lines.starts_with(before), "what was there is there");
    let recorded = successes(&lines);
    assert!(recorded.len() == STEPS && recorded.values().all(|count| *count == 1), "{recorded:?}");
    assert_eq!(lab.json(&["runs", "list"])["runs"].as_array().unwrap().len(), 1);
    let verified = lab.orch(&["ledger", "verify"]);
    assert_eq!(verified.code, 0, "{verified:?}");
}

#[test]
fn l1_r1_r4_a_run_on_a_full_disk_says_so_and_goes_on_by_itself_when_there_is_room() {
    let Some((lab, worker)) = full("a run on a full disk") else { return };
    let before = readable(&lab);
    // Others are told as well, and leave nothing half done.
    let other = lab.orch(&["run", "huge.yaml", "--no-work"]);
    assert!(other.code == 1 && other.stderr.contains("disk is full; make room and try again"), "{other:?}");
    empty(&lab);
    assert_whole(&lab, &worker.end(), &before);
}

#[test]
fn l1_r1_r4_a_run_killed_on_a_full_disk_goes_on_by_the_same_command_when_there_is_room() {
    let Some((lab, mut worker)) = full("a run killed on a full disk") else { return };
    worker.kill();
    let before = readable(&lab);
    let mut again = Worker::start(&lab, &RUN);
    again.hear("disk is full");
    again.kill();
    empty(&lab);
    assert_whole(&lab, &lab.orch(&RUN), &before);
}

const LOGS: &str =
    "uses: process, with: { command: sh, args: [-c, 'echo once >> ran.txt; echo a remark >&2'] }";

/// A process at work on a step of these words, whose artifacts find no room.
fn without_room(lab: &Lab, disk: &Lab, id: &str, step: &str) -> Worker {
    lab.dag(id, &format!("steps:\n  - {{ id: a, {step} }}\n"));
    fill(disk, 8 << 20);
    let (artifacts, file) = (disk.path(""), format!("{id}.yaml"));
    let mut worker =
        Worker::start(lab, &["--artifacts", artifacts.to_str().unwrap(), "run", &file, "--sandbox", "none"]);
    worker.hear("disk of the artifacts is full; make room and try again");
    worker
}

/// The same, with room later: the step succeeds once. Answers the log.
fn with_room_later(lab: &Lab, disk: &Lab, id: &str, step: &str) -> Ended {
    let worker = without_room(lab, disk, id, step);
    assert_eq!(lab.json(&["runs", "show", "latest"])["status"], "running", "{id}");
    empty(disk);
    let ended = worker.end();
    assert!(ended.code == 0 && ended.stdout.contains(&format!("✓ completed {id} run")), "{ended:?}");
    assert_eq!(successes(&ledger(lab)).into_iter().collect::<Vec<_>>(), [("a".to_owned(), 1)]);
    assert_eq!(lab.orch(&["ledger", "verify"]).code, 0);
    lab.orch(&["--artifacts", disk.path("").to_str().unwrap(), "runs", "logs", "latest"])
}

#[test]
fn r1_r4_what_a_step_made_and_logged_waits_for_room_on_a_full_disk() {
    let Some(disk) = Lab::on_disk("8m", "artifacts on a full disk") else { return };
    let lab = Lab::new();
    let said = with_room_later(&lab, &disk, "logs", LOGS);
    assert!(said.stdout.contains("a remark"), "{said:?}");
    assert_eq!(
        std::fs::read_to_string(lab.path("ran.txt")).unwrap(),
        "once\n",
        "what was done is not repeated"
    );
    // More than an output may have in the ledger.
    lab.write("long.txt", &"0123456789".repeat(500_000));
    with_room_later(&lab, &disk, "reads", "uses: fn/read, with: { path: long.txt }");
    let run = lab.json(&["runs", "show", "latest"]);
    assert!(run["stepStates"][0]["output"].to_string().contains("artifact"), "{run}");
    // A function that makes artifacts by itself fails, and is tried again as its step says.
    let patient = "retry: { maxAttempts: 50, backoff: 100ms, maxBackoff: 1s }";
    let writes = format!("uses: fn/write, with: {{ name: x, text: y }}, {patient}");
    with_room_later(&lab, &disk, "writes", &writes);
}

#[test]
fn r4_a_run_that_waits_for_room_for_a_log_can_be_cancelled() {
    let Some(disk) = Lab::on_disk("8m", "a run cancelled on a full disk") else { return };
    let lab = Lab::new();
    let worker = without_room(&lab, &disk, "logs", LOGS);
    assert_eq!(lab.orch(&["runs", "cancel", "latest", "--no-work"]).code, 0);
    let ended = worker.end();
    assert!(ended.code == 1 && ended.stdout.contains("cancelled logs run"), "{ended:?}");
    assert_eq!(lab.orch(&["ledger", "verify"]).code, 0);
}
