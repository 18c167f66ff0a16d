//! Processes that are stopped (SIGSTOP) past their lease and go on afterwards (SIGCONT): everybody believes them dead.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, SqliteConnection};

use crate::crash::{attempts_of_a_run_finished_once, long, wait_for_long};
use crate::kit::{Lab, Worker};

const RUN: [&str; 6] = ["run", "long.yaml", "--run-token", "nightly", "--lease", "1s"];

/// Stops a process, and not in the middle of a commit: then it would hold the file, and nobody could take over before it
/// goes on or is killed.
fn stop(worker: &Worker, lab: &Lab) {
    for _ in 0..20 {
        worker.signal(Signal::STOP);
        if may_write(lab) {
            return;
        }
        worker.signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(7));
    }
    panic!("it was committing all the time");
}

/// Whether nobody holds the file's lock for writing, or gives it up soon.
fn may_write(lab: &Lab) -> bool {
    let path = lab.path(".orch/orch.db");
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
        let mut file = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
        let held = file.execute("PRAGMA busy_timeout = 500; BEGIN IMMEDIATE; ROLLBACK").await;
        file.close().await.unwrap();
        held.is_ok()
    })
}

/// Every entry of the tenant, byte for byte; that they were read is not recorded.
fn everything(lab: &Lab) -> String {
    let exported = lab.orch(&["export", "--store", "sqlite:.orch/orch.db?mode=ro"]);
    assert_eq!(exported.code, 0, "{exported:?}");
    exported.stdout
}

/// The entries about attempts of the long step, as `type`, attempt and actor.
fn story(lab: &Lab) -> Vec<(String, u64, String)> {
    let entries = lab.lines(&["runs", "events", "latest"]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of_long = entries.iter().filter(|entry| entry["data"]["step"] == "long");
    of_long
        .filter_map(|entry| {
            Some((text(&entry["type"]), entry["data"]["attempt"].as_u64()?, text(&entry["actor"])))
        })
        .collect()
}

/// Whether nothing is said of an attempt once it is lost, and who started the one that succeeded says so.
fn is_fenced(story: &[(String, u64, String)]) -> bool {
    let quiet = |at: usize| story[at + 1..].iter().all(|(_, attempt, _)| *attempt != story[at].1);
    let lost = (0..story.len()).filter(|at| story[*at].0 == "step.lost");
    let (_, attempt, actor) = story.iter().find(|(kind, ..)| kind == "step.succeeded").unwrap();
    let own = |(kind, of, by): &(String, u64, String)| kind == "step.started" && of == attempt && by == actor;
    lost.clone().count() > 0 && lost.clone().all(quiet) && story.iter().any(own)
}

#[test]
fn r2_a_process_stopped_until_another_has_finished_its_run_records_nothing_and_reports_the_end() {
    let lab = Lab::new();
    lab.dag("long", &long("3s"));
    let zombie = Worker::start(&lab, &RUN);
    wait_for_long(&lab, 1);
    stop(&zombie, &lab);
    let other = lab.orch(&RUN);
    assert!(other.code == 0 && other.stderr.contains("is there already"), "{other:?}");
    let before = everything(&lab);
    zombie.signal(Signal::CONT);
    let ended = zombie.end();
    // It does not fail: its run has completed, if not by its own hands.
    assert!(ended.code == 0 && ended.stdout.contains("✓ completed long run"), "{ended:?}");
    assert_eq!(everything(&lab), before, "it has nothing to record any more");
    assert!(attempts_of_a_run_finished_once(&lab) >= 2, "the stopped attempt counts");
    assert!(is_fenced(&story(&lab)), "{:?}", story(&lab));
}

#[test]
fn r2_a_process_that_goes_on_while_another_repeats_its_step_records_nothing_for_it() {
    let lab = Lab::new();
    lab.dag("long", &long("3s"));
    let zombie = Worker::start(&lab, &RUN);
    wait_for_long(&lab, 1);
    stop(&zombie, &lab);
    let other = Worker::start(&lab, &["work", "--until-idle", "--lease", "1s"]);
    wait_for_long(&lab, 2);
    zombie.signal(Signal::CONT);
    let (ended, other) = (zombie.end(), other.end());
    assert!(ended.code == 0 && ended.stdout.contains("✓ completed long run"), "{ended:?}");
    assert!(other.code == 0 && other.stdout.contains("✓ completed long run"), "{other:?}");
    assert!(attempts_of_a_run_finished_once(&lab) >= 2, "the stopped attempt counts");
    assert!(is_fenced(&story(&lab)), "{:?}", story(&lab));
}
