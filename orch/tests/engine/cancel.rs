//! Ending runs early.

use orch::ErrorKind;
use orch::executor::{Failure, StepContext};
use orch::ledger::{RunStatus, StepStatus};
use serde_json::Value;

use crate::kit::*;

#[tokio::test(start_paused = true)]
async fn cancelling_stops_what_runs_promptly_and_starts_nothing() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let steps = r#"
  - { id: a, uses: fn/act, with: { millis: 60000 } }
  - { id: b, uses: fn/act, needs: [a] }
  - { id: gate, uses: gate/approval }
  - { id: each, uses: fn/act, forEach: { items: [1, 2, 3, 4], maxParallel: 2 }, with: { millis: 60000 } }
"#;
    let run = submit(&orchestrator, dag(steps)).await;
    until(&orchestrator, run, "each[1]", StepStatus::Running).await;
    let begun = tokio::time::Instant::now();
    orchestrator.cancel(&who().because("enough"), run).await.unwrap();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Cancelled);
    assert!(begun.elapsed().as_millis() < 100, "{:?}", begun.elapsed());
    assert_eq!((witness.stopped(), witness.total()), (3, 3));
    let state = check(&orchestrator, run).await;
    for id in ["a", "b", "gate", "each", "each[0]", "each[3]"] {
        assert_eq!(step(&state, id).status, StepStatus::Cancelled, "{id}");
    }
    assert_eq!(orchestrator.cancel(&who(), run).await.unwrap().status, RunStatus::Cancelled);
    let refused = orchestrator.pause(&who(), run).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_right_after_a_start_is_not_missed() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    for turn in 0..200 {
        let run = submit(&orchestrator, dag("  - { id: a, uses: fn/act, with: { millis: 60000 } }\n")).await;
        for _ in 0..turn % 25 {
            tokio::task::yield_now().await;
        }
        let begun = tokio::time::Instant::now();
        orchestrator.cancel(&who(), run).await.unwrap();
        assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Cancelled);
        assert!(begun.elapsed().as_millis() < 100, "turn {turn}: {:?}", begun.elapsed());
    }
    assert!(witness.stopped() > 20, "some had started: {}", witness.stopped());
}

#[tokio::test(start_paused = true)]
async fn a_held_run_and_a_waiting_one_can_be_cancelled() {
    let orchestrator = builder().start().unwrap();
    let held = submit(&orchestrator, dag("  - { id: gate, uses: gate/approval }\n")).await;
    orchestrator.pause(&who(), held).await.unwrap();
    orchestrator.cancel(&who(), held).await.unwrap();
    assert_eq!(ended(&orchestrator, held).await.status, RunStatus::Cancelled);
    let steps = "  - { id: a, uses: fn/boom, retry: { onExhausted: park } }\n";
    let parked = submit(&orchestrator, dag(steps)).await;
    until(&orchestrator, parked, "a", StepStatus::Parked).await;
    orchestrator.cancel(&who(), parked).await.unwrap();
    assert_eq!(ended(&orchestrator, parked).await.status, RunStatus::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn what_succeeds_although_told_to_stop_counts() {
    let orchestrator = builder()
        .task("stubborn", |context: StepContext, _: Value| async move {
            let token = context.cancellation.clone();
            tokio::spawn(async move { token.cancelled().await }).await.unwrap();
            Ok::<_, Failure>("done")
        })
        .start()
        .unwrap();
    let run = submit(&orchestrator, dag("  - { id: a, uses: fn/stubborn }\n")).await;
    until(&orchestrator, run, "a", StepStatus::Running).await;
    orchestrator.cancel(&who(), run).await.unwrap();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Cancelled);
    check(&orchestrator, run).await;
}
