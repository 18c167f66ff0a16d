//! What people see.

use std::io::Read as _;
use std::process::Stdio;

use crate::kit::{Lab, assert_looks};

const STEPS: &str = r#"description: shows a bit of everything
inputs: { type: object, properties: { name: { type: string, default: world } }, additionalProperties: false }
steps:
  - { id: begin, uses: fn/echo, with: { n: 20 } }
  - { id: each, uses: fn/echo, forEach: { items: [1, 2, 3], maxParallel: 1 }, needs: [begin], with: "${{ item }}" }
  - { id: file, uses: fn/write, needs: [each], with: { name: hello.txt, text: "hello ${{ inputs.name }}\n", path: hello.txt } }
  - { id: never, uses: fn/noop, needs: [file], when: "inputs.name == 'nobody'" }
"#;

fn lab() -> Lab {
    let lab = Lab::new();
    lab.dag("tour", STEPS);
    lab
}

#[test]
fn a_run_is_told_line_by_line_and_ends_with_a_table() {
    assert_looks!("run", lab().orch(&["run", "tour.yaml", "name=you"]).all());
}

#[test]
fn quiet_leaves_only_the_result() {
    let ended = lab().orch(&["run", "tour.yaml", "--quiet"]);
    assert_eq!(ended.stderr, "");
    assert!(ended.stdout.contains("✓ completed tour run"), "{ended:?}");
}

#[test]
fn a_failed_run_says_what_failed_and_exits_with_one() {
    let lab = Lab::new();
    lab.dag("bad", "steps:\n  - { id: a, uses: fn/fail, with: { code: no_disk, message: the disk is gone } }\n  - { id: b, uses: fn/noop, needs: [a] }\n");
    assert_looks!("failed", lab.orch(&["run", "bad.yaml"]).all());
}

#[test]
fn runs_are_listed_shown_and_their_entries_printed() {
    let lab = lab();
    lab.orch(&["run", "tour.yaml", "--run-token", "t", "--rationale", "to see it"]);
    assert_looks!("list", lab.orch(&["runs", "list"]).all());
    assert_looks!("show", lab.orch(&["runs", "show", "latest"]).all());
    let events = lab.orch(&["runs", "events", "latest"]).stdout;
    let types: Vec<&str> = events.lines().map(|line| line.split_whitespace().nth(2).unwrap()).collect();
    assert_eq!((types[0], types[types.len() - 1]), ("run.created", "run.completed"));
}

#[test]
fn a_plan_is_a_table_and_dags_are_published_in_versions() {
    let lab = lab();
    assert_looks!("plan", lab.orch(&["plan", "tour.yaml"]).all());
    let first = lab.orch(&["dag", "publish", "tour.yaml"]).stdout;
    assert_eq!(
        first,
        lab.orch(&["dag", "publish", "tour.yaml"]).stdout,
        "the same document is no new version"
    );
    lab.dag("tour", "steps: [{ id: a, uses: fn/noop }]\n");
    lab.orch(&["dag", "publish", "tour.yaml"]);
    assert_looks!("dags", lab.orch(&["dag", "list"]).all());
    assert_looks!("dag", lab.orch(&["dag", "show", "tour"]).all());
}

#[test]
fn a_gate_holds_a_run_until_it_is_decided_in_another_process() {
    let lab = Lab::new();
    lab.dag("gated", "steps:\n  - { id: ok, uses: gate/approval, with: { question: ship? } }\n  - { id: ship, uses: fn/noop, needs: [ok] }\n");
    let waiting = lab.orch(&["run", "gated.yaml"]);
    assert_eq!(waiting.code, 1, "a run that waits is not done");
    assert_looks!("gates", lab.orch(&["gate", "list"]).all());
    assert_looks!("explain", lab.orch(&["explain", "latest", "ship"]).all());
    assert_looks!(
        "decide",
        lab.orch(&["gate", "decide", "latest", "ok", "approve", "--reason", "fine"]).all()
    );
    assert_eq!(lab.orch(&["gate", "decide", "latest", "ok", "approve"]).code, 3, "decided is decided");
}

#[test]
fn a_signal_a_retry_and_a_cancellation_carry_the_run_on() {
    let lab = Lab::new();
    lab.dag("waits", "steps:\n  - { id: w, uses: wait/signal, with: { name: go } }\n  - { id: p, uses: fn/fail, needs: [w], with: { times: 1 }, retry: { maxAttempts: 1, onExhausted: park } }\n  - { id: h, uses: wait/signal, needs: [p], with: { name: never } }\n");
    assert!(lab.orch(&["run", "waits.yaml"]).stdout.contains("orch signal send"));
    assert!(lab.orch(&["signal", "send", "latest", "go", "{\"n\": 1}"]).stdout.contains("orch runs retry"));
    assert!(lab.orch(&["runs", "retry", "latest", "p"]).stdout.contains("for the signal never"));
    let cancelled = lab.orch(&["runs", "cancel", "latest", "--reason", "enough"]);
    assert!(cancelled.code == 0 && cancelled.stdout.contains("⊘ cancelled waits run"), "{cancelled:?}");
}

#[test]
fn a_held_run_goes_on_when_it_is_resumed() {
    let lab = lab();
    lab.orch(&["run", "tour.yaml", "--no-work"]);
    assert_looks!("pause", lab.orch(&["runs", "pause", "latest"]).all());
    assert_eq!(lab.orch(&["runs", "resume", "latest"]).code, 0);
}

#[test]
fn a_replay_is_compared_with_what_it_repeats() {
    let lab = lab();
    lab.orch(&["run", "tour.yaml"]);
    let replay = lab.orch(&["runs", "replay", "latest"]);
    assert!(replay.code == 0 && replay.stdout.contains("every step did the same"), "{replay:?}");
    let rerun = lab.orch(&["runs", "rerun", "latest", "--from", "file"]);
    assert_eq!(rerun.code, 0, "{rerun:?}");
}

#[test]
fn colour_is_there_when_asked_for_and_never_with_no_color() {
    let lab = lab();
    assert!(lab.orch(&["check", "tour.yaml", "--color", "always"]).stdout.contains("\u{1b}[32m"));
    let plain = lab.command(&["check", "tour.yaml"]).env("NO_COLOR", "1").output().unwrap();
    assert!(!plain.stdout.contains(&0x1b));
}

#[test]
fn a_reader_that_goes_away_is_no_crash_and_the_run_is_finished() {
    let lab = lab();
    let mut child =
        lab.command(&["run", "tour.yaml"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(child.wait().unwrap().success() && !errors.contains("panic"), "{errors}");
    assert_eq!(lab.json(&["runs", "list"])["runs"][0]["status"], "completed");
}

#[test]
fn the_doctor_and_the_completions_answer_without_a_store() {
    let lab = Lab::new();
    assert_looks!("doctor", lab.orch(&["doctor"]).all());
    assert!(!lab.path(".orch").exists(), "looking makes nothing");
    for shell in ["bash", "zsh", "fish"] {
        assert!(lab.orch(&["completions", shell]).stdout.contains("orch"), "{shell}");
    }
}

#[test]
fn pictures_are_drawn_in_three_formats() {
    let lab = lab();
    assert!(lab.orch(&["graph", "tour.yaml", "-f", "dot"]).stdout.starts_with("digraph"));
    assert!(lab.orch(&["graph", "tour.yaml", "--format", "mermaid"]).stdout.contains("flowchart"));
    assert_eq!(lab.orch(&["graph", "tour.yaml", "-o", "x.svg"]).code, 0);
    assert!(std::fs::read_to_string(lab.path("x.svg")).unwrap().starts_with("<svg"));
}
