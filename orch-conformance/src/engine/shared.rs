//! Two engines as two processes: they share the work, and one goes on when the other dies.

use std::sync::Arc;
use std::time::Duration;

use orch::engine::Settings;
use orch::ledger::RunStatus;
use orch::lock::Lock;
use orch::planner::HINT_CHECK;
use orch::queue::Queue;
use orch::store::Store;
use orch::{Orchestrator, Roles};
use tokio::time::Instant;

use super::kit::*;
use super::{Backends, Seams};
use crate::Counted;

/// R1: forty runs of four steps, submitted to two engines in turns, end with every step's success recorded once, and
/// both engines have had their share.
pub async fn r1_two_engines_share_forty_runs(backends: Backends) {
    let fleet = Fleet::start(backends);
    let work = dag(
        "work",
        r#"
  - { id: a, uses: fn/act, with: { millis: 5 } }
  - { id: b, uses: fn/act, needs: [a], with: { millis: 5 } }
  - { id: c, uses: fn/act, needs: [a], with: { fails: 1 }, retry: { maxAttempts: 5, backoff: 5ms } }
  - { id: d, uses: fn/act, needs: [b, c] }
"#,
    );
    let mut runs = Vec::new();
    for turn in 0..40 {
        runs.push(fleet.submit(turn, &work).await);
    }
    for (turn, run) in runs.into_iter().enumerate() {
        assert_eq!(fleet.ended(turn + 1, run).await.status, RunStatus::Completed);
        in_declared_order(&work, &entries(fleet.of(turn), run).await);
    }
    assert_eq!(fleet.witness.total(), 40 * 5);
    let shares = fleet.witness.by_engine();
    assert_eq!(shares.len(), 2, "both have worked: {shares:?}");
    fleet.finish().await;
}

/// R5: submitting the same token to both engines, again and again and at once, makes one run.
pub async fn r5_one_token_is_one_run_from_both_engines(backends: Backends) {
    let fleet = Fleet::start(backends);
    let one = dag("one", "  - { id: a, uses: fn/act }\n");
    let submits = (0..20).map(|turn| {
        let (engine, one) = (fleet.of(turn).clone(), one.clone());
        async move { submit(&engine, &one, Some("the-token")).await }
    });
    let submitted = crate::fixture::race(submits).await;
    let run = submitted[0].run.run;
    assert!(submitted.iter().all(|other| other.run.run == run), "{submitted:#?}");
    assert_eq!(submitted.iter().filter(|other| other.new).count(), 1, "one of them made it: {submitted:#?}");
    assert_eq!(fleet.ended(1, run).await.status, RunStatus::Completed);
    assert_eq!(fleet.witness.total(), 1);
    fleet.finish().await;
}

/// A1: a key with room for three is never held by more, over two engines with room for eight.
pub async fn a1_a_key_limits_steps_over_both_engines(backends: Backends) {
    let fleet = Fleet::start(backends);
    let keyed = dag(
        "keyed",
        r#"
  - { id: each, uses: fn/act, forEach: { items: [1, 2, 3, 4, 5, 6] }, with: { millis: 30 }, concurrency: [{ key: db, limit: 3 }] }
"#,
    );
    let mut runs = Vec::new();
    for turn in 0..4 {
        runs.push(fleet.submit(turn, &keyed).await);
    }
    for run in runs {
        assert_eq!(fleet.ended(0, run).await.status, RunStatus::Completed);
    }
    assert_eq!((fleet.witness.most(), fleet.witness.total()), (3, 24), "as many as may, and no more");
    fleet.finish().await;
}

/// R4: hints that the queue lost while their run was under way are made again by the sweep.
pub async fn r4_lost_hints_are_made_again(backends: Backends) {
    let mut fleet = Fleet::of_none(backends);
    // One place in each, so that hints wait behind what runs.
    for (name, seams) in [("first", &fleet.backends.first), ("second", &fleet.backends.second)] {
        fleet.engines.push(fleet.engine(name, seams, Settings { slots: 1, ..settings() }));
    }
    fleet.witness.hold(true);
    let fan = dag(
        "fan",
        "  - { id: each, uses: fn/act, forEach: { items: [1, 2, 3, 4, 5, 6, 7, 8] }, with: { held: true } }\n",
    );
    let run = fleet.submit(0, &fan).await;
    fleet.until_running(2).await;
    fleet.backends.lose_hints(orch::Clock::now(&fleet.clock)).await;
    fleet.witness.hold(false);
    fleet.until_running(0).await;
    // They are gone: nobody begins with them, although there are places.
    tokio::time::sleep(SWEEP * 8).await;
    assert_eq!(fleet.witness.total(), 2, "hints were lost");
    fleet.clock.advance(HINT_CHECK);
    let advanced = Instant::now();
    assert_eq!(fleet.ended(1, run).await.status, RunStatus::Completed);
    assert!(advanced.elapsed() < PATIENCE / 2, "{:?}", advanced.elapsed());
    assert_eq!(fleet.witness.total(), 8);
    fleet.finish().await;
}

/// R4: of two engines one dies in the middle, with its whole runtime and without a word; the other finishes all runs
/// within the lease of what was under way, or the half minute of what had been claimed, and a sweep.
pub async fn r4_what_a_killed_engine_left_is_finished_by_the_other(backends: Backends) {
    let mut fleet = Fleet::of_none(backends);
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let entered = doomed.enter();
    let dying = fleet.engine("dying", &fleet.backends.first, settings());
    drop(entered);
    let work = dag(
        "work",
        r#"
  - { id: a, uses: fn/act, with: { millis: 50, held: true } }
  - { id: b, uses: fn/act, needs: [a], with: { millis: 10 } }
"#,
    );
    fleet.witness.hold(true);
    let mut runs = Vec::new();
    for _ in 0..12 {
        runs.push(on(&doomed, &dying, &work).await);
    }
    fleet.until_running(u32::try_from(SLOTS).unwrap()).await;
    doomed.shutdown_background();
    fleet.until_running(0).await;
    drop(dying);
    fleet.witness.hold(false);
    let heir = fleet.engine("heir", &fleet.backends.second, settings());
    fleet.engines.extend([heir.clone(), heir]);
    // What nobody had claimed goes on at once; then nothing is left but what the dead has.
    let taken_up = Instant::now();
    while fleet.witness.total() < 4 + 8 * 2 && taken_up.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fleet.until_running(0).await;
    fleet.clock.advance(LEASE.max(HINT_CHECK));
    let advanced = Instant::now();
    for run in runs {
        assert_eq!(fleet.ended(0, run).await.status, RunStatus::Completed);
    }
    assert!(advanced.elapsed() < PATIENCE / 2, "{:?}", advanced.elapsed());
    let shares = fleet.witness.by_engine();
    assert_eq!(shares["dying"], 4, "it died in the middle: {shares:?}");
    assert!(shares["heir"] >= 24, "what was under way was executed again: {shares:?}");
    fleet.finish().await;
}

/// Submits on the runtime of an engine, as its process would.
async fn on(runtime: &tokio::runtime::Runtime, engine: &Orchestrator, dag: &orch::Dag) -> orch::RunId {
    let (engine, dag) = (engine.clone(), dag.clone());
    runtime.spawn(async move { submit(&engine, &dag, None).await.run.run }).await.unwrap()
}

/// An engine with nothing to do, as it comes, asks its backends six times a minute: three claims, and three looks at what
/// is due where the store cannot tell whether anybody has written.
pub async fn an_idle_engine_asks_six_times_a_minute(backends: Backends) {
    /// Long enough for a round of what comes by every twenty seconds.
    const WATCHED: Duration = Duration::from_secs(21);
    let store: Counted<dyn Store> = Counted::new(Arc::clone(&backends.first.store));
    let queue: Counted<dyn Queue> = Counted::new(Arc::clone(&backends.first.queue));
    let lock: Counted<dyn Lock> = Counted::new(Arc::clone(&backends.first.lock));
    let mut fleet = Fleet::of_none(backends);
    let seams = Seams {
        store: Arc::new(store.clone()),
        queue: Arc::new(queue.clone()),
        lock: Arc::new(lock.clone()),
    };
    let idle = fleet.engine("idle", &seams, Settings::default());
    fleet.engines.push(idle);
    // What it does at its start.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let began = (store.take_counts(), queue.take_counts(), lock.take_counts());
    assert!(began.0["due"] > 0 && began.1["claim"] > 0, "the counters count: {began:?}");
    tokio::time::sleep(WATCHED).await;
    let (store, queue, lock) = (store.take_counts(), queue.take_counts(), lock.take_counts());
    let told = fleet.backends.first.store.stamp().is_some();
    let count = |counts: &crate::Counts, method| counts.get(method).copied().unwrap_or_default();
    assert!(store.keys().all(|method| *method == "due"), "{store:?}");
    // A stamp may still have had to settle.
    assert!(count(&store, "due") <= if told { 1 } else { 2 }, "{store:?}");
    assert!(queue.keys().all(|method| ["claim", "wait"].contains(method)), "{queue:?}");
    assert!((1..=2).contains(&count(&queue, "claim")), "{queue:?}");
    assert!(lock.is_empty(), "{lock:?}");
    // Alive all the while; and there is something to verify.
    let submitter = Roles { submit: true, schedule: false, work: false };
    let other = fleet.engine("other", &fleet.backends.second, Settings { roles: submitter, ..settings() });
    fleet.engines.push(other);
    let run = fleet.submit(1, &dag("one", "  - { id: a, uses: fn/act }\n")).await;
    assert_eq!(fleet.ended(1, run).await.status, RunStatus::Completed);
    fleet.finish().await;
}
