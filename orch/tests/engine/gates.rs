//! Gates, signals, sleeps; holding runs.

use orch::engine::{Roles, Settings};
use orch::ledger::{RunStatus, StepStatus};
use orch::{ErrorKind, Payload};
use serde_json::json;

use crate::kit::*;

const GATE: &str = r#"
  - { id: gate, uses: gate/approval, with: { ask: "go?" }, timeout: 60s }
  - { id: a, uses: fn/echo, needs: [gate], with: "${{ steps.gate.output.actor }}" }
"#;

fn payload(value: serde_json::Value) -> Payload {
    Payload::new(&value).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_approved_gate_opens_once() {
    let orchestrator = builder().start().unwrap();
    let run = submit(&orchestrator, dag(GATE)).await;
    until(&orchestrator, run, "gate", StepStatus::Waiting).await;
    orchestrator.decide(&who(), run, key("gate"), true).await.unwrap();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
    assert_eq!(state(&orchestrator, run).await.outputs()["a"].get(), &json!("tester"));
    let again = orchestrator.decide(&who(), run, key("gate"), false).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Refused);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_gate_and_an_expired_one_fail_the_run() {
    let orchestrator = builder().start().unwrap();
    let run = submit(&orchestrator, dag(GATE)).await;
    orchestrator.decide(&who().because("not today"), run, key("gate"), false).await.unwrap();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Failed);
    let rejected = state(&orchestrator, run).await;
    let error = step(&rejected, "gate").error.as_ref().unwrap();
    assert!(error.code == "rejected" && error.message.contains("not today"), "{error:?}");
    let begun = tokio::time::Instant::now();
    let run = submit(&orchestrator, dag(GATE)).await;
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Failed);
    assert_eq!(step(&state(&orchestrator, run).await, "gate").error.as_ref().unwrap().code, "expired");
    assert!((60_000..61_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_signal_counts_before_and_after_somebody_waits_and_once_each() {
    let orchestrator = builder().start().unwrap();
    let steps = r#"
  - { id: nap, uses: wait/sleep, with: { duration: 5s } }
  - { id: one, uses: wait/signal, needs: [nap], with: { name: go } }
  - { id: two, uses: wait/signal, needs: [nap], with: { name: go } }
"#;
    let run = submit(&orchestrator, dag(steps)).await;
    orchestrator.signal(&who(), run, "go", payload(json!(1))).await.unwrap();
    until(&orchestrator, run, "one", StepStatus::Succeeded).await;
    assert_eq!(step(&state(&orchestrator, run).await, "two").status, StepStatus::Waiting);
    orchestrator.signal(&who(), run, "go", payload(json!(2))).await.unwrap();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
    let state = state(&orchestrator, run).await;
    assert_eq!((state.outputs()["one"].get(), state.outputs()["two"].get()), (&json!(1), &json!(2)));
    assert!(orchestrator.signal(&who(), run, "go", payload(json!(3))).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_does_not_come_fails_the_wait() {
    let orchestrator = builder().start().unwrap();
    let steps = "  - { id: one, uses: wait/signal, with: { name: go }, timeout: 3s }\n";
    let row = run(&orchestrator, dag(steps)).await;
    assert_eq!(row.status, RunStatus::Failed);
    let state = state(&orchestrator, row.run).await;
    assert_eq!(step(&state, "one").error.as_ref().unwrap().code, "signal_timeout");
}

#[tokio::test(start_paused = true)]
async fn a_sleep_takes_as_long_as_it_says() {
    let orchestrator = builder().start().unwrap();
    let begun = tokio::time::Instant::now();
    run(&orchestrator, dag("  - { id: nap, uses: wait/sleep, with: { duration: 90s } }\n")).await;
    assert!((90_000..90_500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_in_a_held_run_and_what_runs_goes_on() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let steps = r#"
  - { id: a, uses: fn/act, with: { millis: 1000 } }
  - { id: b, uses: fn/act, needs: [a] }
  - { id: c, uses: fn/act, needs: [b] }
"#;
    let run = submit(&orchestrator, dag(steps)).await;
    until(&orchestrator, run, "a", StepStatus::Running).await;
    assert_eq!(orchestrator.pause(&who(), run).await.unwrap().status, RunStatus::Paused);
    millis(200_000).await;
    let held = state(&orchestrator, run).await;
    assert_eq!(step(&held, "a").status, StepStatus::Succeeded);
    assert_eq!(witness.total(), 1);
    let begun = tokio::time::Instant::now();
    orchestrator.resume(&who(), run).await.unwrap();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
    assert!(begun.elapsed().as_millis() < 1_000);
}

#[tokio::test(start_paused = true)]
async fn holding_and_letting_go_in_quick_turns_loses_no_hint() {
    let settings = Settings { slots: 2, ..quick() };
    let orchestrator = builder().settings(settings).start().unwrap();
    let steps = "  - { id: each, uses: fn/sleep, forEach: { items: [1, 2, 3, 4, 5, 6, 7, 8] }, with: 10 }\n";
    let mut runs = Vec::new();
    for _ in 0..20 {
        runs.push(submit(&orchestrator, dag(steps)).await);
    }
    let begun = tokio::time::Instant::now();
    for round in 0..40 {
        for run in &runs {
            let paused = orchestrator.pause(&who(), *run).await;
            if paused.is_ok() {
                tokio::task::yield_now().await;
                orchestrator.resume(&who(), *run).await.unwrap();
            }
        }
        millis(round % 7).await;
    }
    for run in runs {
        assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
    }
    assert!(begun.elapsed().as_secs() < 20, "a hint was lost: {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_a_person_costs_nothing() {
    use orch_simulation::faulty::{FaultyStore, Rates};
    use std::sync::Arc;
    let store = FaultyStore::new(Arc::new(orch::store::MemoryStore::new()), 1, Rates::default());
    let orchestrator = builder().store(Arc::new(store.clone())).start().unwrap();
    let run = submit(&orchestrator, dag("  - { id: gate, uses: gate/approval }\n")).await;
    until(&orchestrator, run, "gate", StepStatus::Waiting).await;
    let paused = submit(
        &orchestrator,
        dag("  - { id: a, uses: fn/sleep, with: 10 }\n  - { id: b, uses: fn/echo, needs: [a] }\n"),
    )
    .await;
    orchestrator.pause(&who(), paused).await.unwrap();
    millis(1_000).await;
    let before = (store.calls("append"), store.calls("entries"));
    millis(3_600_000).await;
    assert_eq!((store.calls("append"), store.calls("entries")), before);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_after_the_gate_has_expired_is_refused_and_not_recorded() {
    // Nobody sweeps, so nothing but the verdict itself notices that the time is up.
    let settings = Settings { roles: Roles { schedule: false, ..Roles::ALL }, ..quick() };
    let orchestrator = builder().settings(settings).start().unwrap();
    let run = submit(&orchestrator, dag("  - { id: g, uses: gate/approval, timeout: 5s }\n")).await;
    until(&orchestrator, run, "g", StepStatus::Waiting).await;
    millis(6_000).await;
    let late = orchestrator.decide(&who(), run, key("g"), true).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Refused, "{late:?}");
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Failed);
    assert!(!types(&entries(&orchestrator, run).await).contains(&"gate.decided"));
}
