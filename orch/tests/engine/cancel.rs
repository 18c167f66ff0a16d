//! Ending runs early.

use std::sync::Arc;
use std::time::Duration;

use orch::engine::Settings;
use orch::executor::{Failure, StepContext};
use orch::ledger::{RunStatus, StepStatus};
use orch::store::MemoryStore;
use orch::{ErrorKind, Payload};
use orch_simulation::faulty::{FaultyStore, Rates};
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
async fn a_cancellation_that_lands_together_with_a_start_reaches_it() {
    let settings = Settings { lease: Duration::from_secs(60), ..quick() };
    let steps = "  - { id: nap, uses: wait/sleep, with: { duration: 1s } }\n  - { id: a, uses: fn/act, needs: [nap], with: { millis: 90000 } }\n";
    let mut started = 0;
    for turn in 0..300 {
        let witness = Witness::default();
        let rates = Rates { delay: 100, ..Rates::default() };
        let store = FaultyStore::new(Arc::new(MemoryStore::new()), turn, rates);
        let builder = witness.watch(builder()).settings(settings.clone());
        let orchestrator = builder.store(Arc::new(store)).start().unwrap();
        let run = submit(&orchestrator, dag(steps)).await;
        // Appends about the run are under way most of the time, so that others have to go together.
        let busy = orchestrator.clone();
        let noise =
            tokio::spawn(
                async move { while busy.signal(&who(), run, "noise", Payload::null()).await.is_ok() {} },
            );
        millis(400 + turn * 4).await;
        noise.abort();
        let begun = tokio::time::Instant::now();
        orchestrator.cancel(&who(), run).await.unwrap();
        assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Cancelled);
        assert!(begun.elapsed().as_millis() < 5_000, "turn {turn}: {:?}", begun.elapsed());
        started += witness.total();
        orchestrator.shutdown().await;
    }
    assert!((10..300).contains(&started), "some had started, some had not: {started}");
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
