//! Every fault of store and queue costs time and nothing else.

use std::sync::Arc;
use std::time::Duration;

use orch::engine::{Orchestrator, Settings};
use orch::ledger::{Event, RunStatus, StepStatus};
use orch::queue::MemoryQueue;
use orch::store::MemoryStore;
use orch_simulation::faulty::{FaultyQueue, FaultyStore, Rates, Strike};

use crate::kit::*;

const FAN: &str = r#"
  - { id: a, uses: fn/act, with: { value: 1 } }
  - { id: each, uses: fn/act, needs: [a], forEach: { items: [1, 2, 3, 4, 5, 6], maxParallel: 3 }, with: { millis: 20, value: "${{ item }}" } }
  - { id: retried, uses: fn/act, needs: [a], with: { fails: 1 }, retry: { maxAttempts: 3, backoff: 10ms } }
  - { id: z, uses: fn/act, needs: [each, retried], with: { value: "${{ steps.each.output }}" } }
"#;

fn patient() -> Settings {
    Settings { lease: Duration::from_secs(20), ..quick() }
}

/// Submits under faults: again with the same token until it is known to be there, as the contract says.
async fn submit_surely(orchestrator: &Orchestrator, token: &str) -> orch::RunId {
    use orch::engine::{DagRef, Submit};
    loop {
        let mut submit = Submit::new(DagRef::Unpublished(Box::new(dag(FAN))), serde_json::json!({}));
        submit.run_token = Some(token.to_owned());
        match orchestrator.submit(&who(), submit).await {
            Ok(submitted) => return submitted.run.run,
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
}

async fn all_end(orchestrator: &Orchestrator, witness: &Witness, runs: u32, calm: impl Fn()) {
    let mut submitted = Vec::new();
    for n in 0..runs {
        submitted.push(submit_surely(orchestrator, &format!("t{n}")).await);
    }
    for run in &submitted {
        for _ in 0..100_000 {
            let row = orchestrator.run(&who(), *run).await;
            if row.is_ok_and(|row| row.status.is_terminal()) {
                break;
            }
            millis(50).await;
        }
    }
    calm();
    for run in submitted {
        let row = ended(orchestrator, run).await;
        assert_eq!(row.status, RunStatus::Completed, "{row:?}");
        check(orchestrator, run).await;
    }
    assert_eq!(witness.repeated(), []);
}

async fn store_fault(rates: Rates, fault: &str) {
    let mut fired = 0;
    for seed in 1..=5 {
        let store = FaultyStore::new(Arc::new(MemoryStore::new()), seed, rates);
        let witness = Witness::default();
        let orchestrator =
            witness.watch(builder()).settings(patient()).store(Arc::new(store.clone())).start().unwrap();
        all_end(&orchestrator, &witness, 8, || store.stop_faults()).await;
        fired += store.dice.fired(fault);
        orchestrator.shutdown().await;
    }
    assert!(fired > 20, "{fault} fired {fired} times");
}

#[tokio::test(start_paused = true)]
async fn r4_a_store_that_is_away_now_and_then_delays_runs_only() {
    store_fault(Rates { unavailable: 20, ..Rates::default() }, "store.unavailable").await;
}

#[tokio::test(start_paused = true)]
async fn r1_answers_lost_after_the_deed_repeat_nothing() {
    store_fault(Rates { indeterminate: 25, ..Rates::default() }, "store.indeterminate").await;
}

#[tokio::test(start_paused = true)]
async fn l2_storms_of_lost_races_delay_runs_only() {
    store_fault(Rates { conflict: 40, ..Rates::default() }, "store.conflict").await;
}

#[tokio::test(start_paused = true)]
async fn r4_a_slow_store_delays_runs_only() {
    store_fault(Rates { delay: 50, ..Rates::default() }, "store.delay").await;
}

#[tokio::test(start_paused = true)]
async fn r4_all_faults_of_a_store_together_delay_runs_only() {
    let rates = Rates { unavailable: 8, indeterminate: 10, conflict: 10, delay: 20, ..Rates::default() };
    store_fault(rates, "store.indeterminate").await;
}

async fn queue_fault(rates: Rates, fault: &str) {
    let mut fired = 0;
    for seed in 1..=5 {
        let queue = FaultyQueue::new(Arc::new(MemoryQueue::new()), seed, rates);
        let witness = Witness::default();
        let orchestrator =
            witness.watch(builder()).settings(patient()).queue(Arc::new(queue.clone())).start().unwrap();
        all_end(&orchestrator, &witness, 8, || ()).await;
        fired += queue.dice.fired(fault);
        orchestrator.shutdown().await;
    }
    assert!(fired > 20, "{fault} fired {fired} times");
}

#[tokio::test(start_paused = true)]
async fn r4_lost_hints_are_made_again() {
    queue_fault(Rates { dropped: 40, ..Rates::default() }, "queue.dropped").await;
}

#[tokio::test(start_paused = true)]
async fn r1_a_hint_delivered_twice_starts_one_attempt() {
    queue_fault(Rates { twice: 60, ..Rates::default() }, "queue.twice").await;
}

#[tokio::test(start_paused = true)]
async fn r4_reordered_hints_change_no_outcome() {
    queue_fault(Rates { reordered: 50, ..Rates::default() }, "queue.reordered").await;
}

#[tokio::test(start_paused = true)]
async fn r4_a_queue_that_is_away_now_and_then_delays_runs_only() {
    queue_fault(Rates { unavailable: 30, ..Rates::default() }, "queue.unavailable").await;
}

/// Three processes whose backends all fail in every way, on one ledger and one queue.
async fn everything_at_once(seed: u64) -> u64 {
    let (world, witness) = (World::new(), Witness::default());
    let rates = Rates {
        unavailable: 6,
        indeterminate: 8,
        conflict: 8,
        delay: 30,
        dropped: 8,
        twice: 15,
        reordered: 20,
        ..Rates::default()
    };
    let mut processes = Vec::new();
    let mut stores = Vec::new();
    for n in 0..3 {
        let store = FaultyStore::new(Arc::clone(&world.store), seed * 10 + n, rates);
        let queue = FaultyQueue::new(Arc::clone(&world.queue), seed * 10 + n + 3, rates);
        let builder = witness.watch(world.process()).settings(patient()).store(Arc::new(store.clone()));
        processes.push(builder.queue(Arc::new(queue)).start().unwrap());
        stores.push(store);
    }
    let mut runs = Vec::new();
    for n in 0..9 {
        runs.push(submit_surely(&processes[n % 3], &format!("t{n}")).await);
    }
    millis(5_000).await;
    stores.iter().for_each(FaultyStore::stop_faults);
    for run in runs {
        let row = ended(&processes[0], run).await;
        // An attempt can be lost when its worker cannot prolong it; what is asserted is that nothing is done twice.
        assert!(row.status == RunStatus::Completed, "seed {seed}: {row:?}");
        check(&processes[0], run).await;
    }
    world.check(true).await;
    assert_eq!(witness.repeated(), [], "seed {seed}");
    for process in processes {
        process.shutdown().await;
    }
    stores
        .iter()
        .map(|store| store.dice.fired("store.indeterminate") + store.dice.fired("store.conflict"))
        .sum()
}

#[tokio::test(start_paused = true)]
async fn r1_three_processes_under_every_fault_do_everything_once() {
    let mut fired = 0;
    for seed in 1..=10 {
        fired += everything_at_once(seed).await;
    }
    assert!(fired > 50, "{fired}");
}

/// A struck store, an orchestrator on it and how long a run of `steps` takes there, in milliseconds.
async fn struck(steps: &str, text: &'static str, strike: Strike) -> (u128, Witness) {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()), 1, Rates::default());
    let witness = Witness::default();
    let orchestrator =
        witness.watch(builder()).settings(patient()).store(Arc::new(store.clone())).start().unwrap();
    store.strike(text, strike);
    let begun = tokio::time::Instant::now();
    let row = run(&orchestrator, dag(steps)).await;
    assert_eq!(row.status, RunStatus::Completed, "{row:?}");
    assert_eq!(store.dice.fired("store.strike"), 1);
    check(&orchestrator, row.run).await;
    let entries = entries(&orchestrator, row.run).await;
    assert!(!entries.iter().any(|entry| matches!(entry.event, Event::StepLost(_))), "{:?}", types(&entries));
    (begun.elapsed().as_millis(), witness)
}

#[tokio::test(start_paused = true)]
async fn r4_what_follows_from_an_append_whose_answer_was_lost_happens_at_once() {
    let chain = "  - { id: a, uses: fn/act }\n  - { id: b, uses: fn/act, needs: [a] }\n";
    for text in ["run.created", "step.started", "\"step\":\"a\"},\"prev\"", "step.succeeded"] {
        let (took, witness) = struck(chain, text, Strike::Indeterminate).await;
        assert!(took < 2_000, "{text}: {took} ms");
        assert_eq!((witness.executions("a"), witness.executions("b")), (1, 1), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn r4_an_append_that_did_not_happen_is_tried_again_at_once() {
    let chain = "  - { id: a, uses: fn/act }\n  - { id: b, uses: fn/act, needs: [a] }\n";
    for text in ["run.created", "step.started", "step.succeeded"] {
        let (took, witness) = struck(chain, text, Strike::Unavailable).await;
        assert!(took < 2_000, "{text}: {took} ms");
        assert_eq!(witness.total(), 2, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_slots_cannot_be_named_fails_instead_of_waiting_for_ever() {
    let orchestrator = builder().start().unwrap();
    let steps = r#"
  - { id: a, uses: fn/echo, with: {} }
  - { id: b, uses: fn/echo, needs: [a], concurrency: [{ key: "${{ steps.a.output.missing }}", limit: 1 }] }
"#;
    let row = run(&orchestrator, dag(steps)).await;
    assert_eq!(row.status, RunStatus::Failed);
    assert_eq!(step(&state(&orchestrator, row.run).await, "b").status, StepStatus::Failed);
}

#[tokio::test(start_paused = true)]
async fn r4_a_queue_that_hangs_does_not_keep_the_ledger_from_going_on() {
    let queue = FaultyQueue::new(Arc::new(MemoryQueue::new()), 1, Rates::default());
    let orchestrator = builder().queue(Arc::new(queue.clone())).start().unwrap();
    let gate = submit(
        &orchestrator,
        dag("  - { id: gate, uses: gate/approval }\n  - { id: a, uses: fn/echo, needs: [gate] }\n"),
    )
    .await;
    queue.freeze(true);
    let stuck = submit(&orchestrator, dag("  - { id: a, uses: fn/echo }\n")).await;
    let begun = tokio::time::Instant::now();
    orchestrator.decide(&who(), gate, key("gate"), true).await.unwrap();
    orchestrator.cancel(&who(), stuck).await.unwrap();
    assert_eq!(ended(&orchestrator, stuck).await.status, RunStatus::Cancelled);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    queue.freeze(false);
    assert_eq!(ended(&orchestrator, gate).await.status, RunStatus::Completed);
    assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn hints_that_a_queue_takes_late_are_not_given_up() {
    let queue = FaultyQueue::new(Arc::new(MemoryQueue::new()), 1, Rates::default());
    let orchestrator = builder().queue(Arc::new(queue.clone())).start().unwrap();
    queue.freeze(true);
    let run = submit(&orchestrator, dag("  - { id: a, uses: fn/echo }\n")).await;
    let begun = tokio::time::Instant::now();
    millis(6_000).await;
    queue.freeze(false);
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
    // Hints that are lost are made again after half a minute.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    // Nor does a shutdown wait for it.
    queue.freeze(true);
    submit(&orchestrator, dag("  - { id: a, uses: fn/echo }\n")).await;
    let begun = tokio::time::Instant::now();
    orchestrator.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn r4_an_attempt_whose_start_nobody_heard_of_is_given_back_although_its_run_goes_on() {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()), 1, Rates::default());
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).store(Arc::new(store.clone())).start().unwrap();
    // The end of `a` starts `b` in the same append, and its answer is lost for good; `long` keeps the lease.
    store.strike("\"type\":\"step.succeeded\"", Strike::Blinding);
    let steps = r#"
  - { id: long, uses: fn/act, with: { millis: 60000 } }
  - { id: a, uses: fn/act, with: { millis: 100 } }
  - { id: b, uses: fn/act, needs: [a] }
"#;
    let run = submit(&orchestrator, dag(steps)).await;
    millis(5_000).await;
    assert_eq!((store.dice.fired("store.blind"), witness.executions("b"), witness.running()), (3, 1, 1));
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
    let state = check(&orchestrator, run).await;
    assert_eq!(step(&state, "b").attempt, 2, "its first attempt had started and was lost");
}

#[tokio::test(start_paused = true)]
async fn r3_a_successor_does_not_overtake_a_hint_that_came_while_a_claim_was_on_its_way() {
    let queue =
        FaultyQueue::new(Arc::new(MemoryQueue::new()), 1, Rates { answers_after: 50, ..Rates::default() });
    let witness = Witness::default();
    let settings = Settings { slots: 2, ..patient() };
    let orchestrator = witness.watch(builder()).settings(settings).queue(Arc::new(queue)).start().unwrap();
    let chain =
        "  - { id: a, uses: fn/act, with: { millis: 70 } }\n  - { id: b, uses: fn/act, needs: [a] }\n";
    let chain = submit(&orchestrator, dag(chain)).await;
    while witness.running() == 0 {
        millis(1).await;
    }
    millis(20).await;
    let older = submit(&orchestrator, dag("  - { id: older, uses: fn/act }\n")).await;
    ended(&orchestrator, chain).await;
    ended(&orchestrator, older).await;
    assert_eq!(witness.order(), ["a", "older", "b"]);
}
