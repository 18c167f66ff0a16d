//! The small examples.

use std::collections::BTreeSet;

use orch::Limits;
use orch::ledger::{RunStatus, StepStatus};
use orch::planner::{Plan, RunState};
use serde_json::json;

use crate::kit::{Bench, dags, example, output};

/// Those that a test here or in `sbom.rs` runs.
const RUN_BY_A_TEST: [&str; 7] = ["approval", "fan-out", "hello", "on-failure", "process", "retry", "sbom"];

#[test]
fn every_example_is_valid_and_plans_and_is_run_by_a_test() {
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(dags()).unwrap() {
        let name = file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        let dag = example(&name);
        assert_eq!(dag.id.as_str(), name, "an example is named like its file");
        assert!(dag.description.is_some(), "{name}");
        Plan::new(dag, &Limits::default()).unwrap();
        names.insert(name);
    }
    assert_eq!(names, RUN_BY_A_TEST.map(str::to_owned).into());
}

#[test]
fn every_example_begins_with_its_task() {
    for name in RUN_BY_A_TEST {
        let text = std::fs::read_to_string(dags().join(format!("{name}.yaml"))).unwrap();
        assert!(text.starts_with("# Task: "), "{name}");
        assert!(text.contains(&format!("examples/dags/{name}.yaml")), "{name} says how it is run");
    }
}

fn status(state: &RunState, step: &str) -> StepStatus {
    state.get(state.find(&step.parse().unwrap()).unwrap()).unwrap().status
}

#[tokio::test]
async fn hello_greets_the_world_or_whom_it_is_told() {
    let bench = Bench::new();
    for (inputs, greeting) in [(json!({}), "hello, world"), (json!({"name": "Ada"}), "hello, Ada")] {
        let (ended, state) = bench.run("hello", inputs).await;
        assert_eq!((ended, output(&state, "greet")), (RunStatus::Completed, &json!(greeting)));
    }
}

#[tokio::test]
async fn fan_out_keeps_the_order_of_its_items() {
    let (ended, state) = Bench::new().run("fan-out", json!({"words": ["b", "a", "b"]})).await;
    let line = |word: &str| format!("{word} {:.8}", orch::Digest::of(word).to_string());
    assert_eq!(ended, RunStatus::Completed);
    assert_eq!(output(&state, "lines"), &json!([line("b"), line("a"), line("b")]));
}

#[tokio::test]
async fn approval_ships_after_a_yes_and_tells_after_a_no() {
    let bench = Bench::new();
    for approved in [true, false] {
        let run = bench.submit("approval", json!({"version": format!("1.{approved}")})).await;
        let mut events = bench.orchestrator.events(&bench.who, run, 0, true);
        while let Some((entry, _)) = events.next().await.unwrap() {
            if entry.event.type_name() == "gate.requested" {
                break;
            }
        }
        let who = bench.who.clone().because("because");
        bench.orchestrator.decide(&who, run, "release".parse().unwrap(), approved).await.unwrap();
        let (ended, state) = bench.end(run).await;
        if approved {
            assert_eq!((ended, status(&state, "tell")), (RunStatus::Completed, StepStatus::Skipped));
            assert_eq!(output(&state, "ship"), "shipped 1.true, approved by tester");
        } else {
            assert_eq!((ended, status(&state, "ship")), (RunStatus::Failed, StepStatus::Skipped));
            assert_eq!(output(&state, "tell"), "not shipped: rejected by tester: because");
        }
    }
}

#[tokio::test]
async fn retry_succeeds_at_the_third_attempt() {
    let (ended, state) = Bench::new().run("retry", json!({})).await;
    assert_eq!(ended, RunStatus::Completed);
    assert_eq!(output(&state, "report"), "uploaded at attempt 3");
}

#[tokio::test]
async fn on_failure_alerts_only_after_one_and_cleans_up_in_any_case() {
    let bench = Bench::new();
    let (ended, state) = bench.run("on-failure", json!({})).await;
    assert_eq!((ended, status(&state, "announce")), (RunStatus::Failed, StepStatus::Skipped));
    assert_eq!(output(&state, "alert"), "migration failed: disk_full");
    assert_eq!(output(&state, "clean-up"), "cleaned up after a migration that failed");
    let (ended, state) = bench.run("on-failure", json!({"broken": false})).await;
    assert_eq!((ended, status(&state, "alert")), (RunStatus::Completed, StepStatus::Skipped));
    assert_eq!(output(&state, "clean-up"), "cleaned up after a migration that succeeded");
}

#[tokio::test]
async fn process_sorts_what_was_measured() {
    let (ended, state) = Bench::new().run("process", json!({})).await;
    assert_eq!(ended, RunStatus::Completed);
    assert_eq!(output(&state, "sort"), &json!({"stdout": "1\n2\n3\n"}));
    assert_eq!(output(&state, "identify"), &json!({"stdout": "identify, attempt 1"}));
}
