//! Starting, draining, restarting; memory and clocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use orch::engine::{Resubmit, Roles, Settings};
use orch::ledger::{RunStatus, StepStatus};
use orch::proof::{PruneRuns, prune_runs};
use orch::store::MemoryStore;
use orch::{Clock, ErrorKind, Timestamp};
use orch_simulation::faulty::{FaultyStore, Rates};

use crate::kit::*;

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_attempts_end_and_starts_no_more() {
    let (world, witness) = (World::new(), Witness::default());
    let orchestrator = witness.watch(world.member()).start().unwrap();
    let steps =
        "  - { id: a, uses: fn/act, with: { millis: 1000 } }\n  - { id: b, uses: fn/act, needs: [a] }\n";
    let run = submit(&orchestrator, dag(steps)).await;
    until(&orchestrator, run, "a", StepStatus::Running).await;
    orchestrator.shutdown().await;
    let state = check(&orchestrator, run).await;
    assert_eq!(step(&state, "a").status, StepStatus::Succeeded);
    assert_eq!(step(&state, "b").status, StepStatus::Queued);
    assert_eq!(witness.total(), 1);
    let next = witness.watch(world.process()).start().unwrap();
    assert_eq!(ended(&next, run).await.status, RunStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_although_a_start_lands_when_all_was_told_to_stop() {
    let witness = Witness::default();
    for thaw in [1_900, 2_000, 2_050, 2_300, 2_900] {
        let store = FaultyStore::new(Arc::new(MemoryStore::new()), 1, Rates::default());
        let orchestrator = witness.watch(builder()).store(Arc::new(store.clone())).start().unwrap();
        store.freeze_at("step.started");
        let run = submit(&orchestrator, dag("  - { id: a, uses: fn/act, with: { millis: 900000 } }\n")).await;
        while !store.is_frozen() {
            tokio::task::yield_now().await;
        }
        let begun = tokio::time::Instant::now();
        let leaving = tokio::spawn({
            let orchestrator = orchestrator.clone();
            async move { orchestrator.shutdown().await }
        });
        millis(thaw).await;
        store.freeze(false);
        leaving.await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10), "thawed at {thaw}: {:?}", begun.elapsed());
        assert_eq!(witness.running(), 0);
        check(&orchestrator, run).await;
    }
}

#[tokio::test(start_paused = true)]
async fn r4_a_restart_makes_the_hints_of_a_queue_in_memory_again() {
    let (world, witness) = (World::new(), Witness::default());
    let idle = Settings { roles: Roles { work: false, ..Roles::ALL }, ..quick() };
    let first = witness.watch(world.process()).settings(idle).start().unwrap();
    let mut runs = Vec::new();
    for _ in 0..700 {
        runs.push(
            submit(&first, dag("  - { id: a, uses: fn/act }\n  - { id: b, uses: fn/act, needs: [a] }\n"))
                .await,
        );
    }
    first.shutdown().await;
    // The store is away when the next process starts, for a while.
    let store = FaultyStore::new(Arc::clone(&world.store), 1, Rates { unavailable: 100, ..Rates::default() });
    let second = witness.watch(world.process()).store(Arc::new(store.clone())).start().unwrap();
    millis(1_000).await;
    store.stop_faults();
    let begun = tokio::time::Instant::now();
    for run in runs {
        assert_eq!(ended(&second, run).await.status, RunStatus::Completed);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(store.dice.fired("store.unavailable") > 0);
    assert_eq!(witness.total(), 1_400);
}

#[tokio::test(start_paused = true)]
async fn two_thousand_runs_of_five_steps_end_and_leave_memory() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let steps = r#"
  - { id: a, uses: fn/act }
  - { id: b, uses: fn/act, needs: [a] }
  - { id: c, uses: fn/act, needs: [a] }
  - { id: d, uses: fn/act, needs: [b, c] }
  - { id: e, uses: fn/act, needs: [d] }
"#;
    let mut runs = Vec::new();
    for _ in 0..2_000 {
        runs.push(submit(&orchestrator, dag(steps)).await);
    }
    for run in runs {
        assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
    }
    millis(1_000).await;
    assert_eq!(witness.total(), 10_000);
    let stats = orchestrator.stats();
    assert_eq!((stats.loaded_runs, stats.watched_runs, stats.active_attempts), (0, 0, 0), "{stats:?}");
    assert_eq!(stats.free_slots, quick().slots);
}

#[tokio::test(start_paused = true)]
async fn waiting_runs_beyond_the_cache_are_dropped_and_read_again() {
    let settings = Settings { cached_runs: 50, ..quick() };
    let orchestrator = builder().settings(settings).start().unwrap();
    let mut runs = Vec::new();
    for _ in 0..500 {
        runs.push(submit(&orchestrator, dag("  - { id: gate, uses: gate/approval }\n")).await);
    }
    assert!(orchestrator.stats().loaded_runs <= 50, "{:?}", orchestrator.stats());
    for run in runs {
        orchestrator.decide(&who(), run, key("gate"), true).await.unwrap();
        assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_that_comes_while_its_run_is_being_read_is_not_held_against_what_was_read_before() {
    let world = World::new();
    let idle = Settings { roles: Roles { work: false, ..Roles::ALL }, ..quick() };
    let front = world.member().settings(idle).start().unwrap();
    let store = FaultyStore::new(Arc::clone(&world.store), 1, Rates::default());
    let worker = world.member().store(Arc::new(store.clone())).start().unwrap();
    let steps = "  - { id: gate, uses: gate/approval }\n  - { id: a, uses: fn/echo, needs: [gate] }\n";
    let run = submit(&front, dag(steps)).await;
    until(&front, run, "gate", StepStatus::Waiting).await;
    store.answer_late(Duration::from_secs(1));
    let asked = tokio::spawn({
        let worker = worker.clone();
        async move { worker.decide(&who(), run, key("a"), true).await }
    });
    // It looks into the audit stream first, and then reads the run for a second.
    millis(1_500).await;
    let begun = tokio::time::Instant::now();
    front.decide(&who(), run, key("gate"), true).await.unwrap();
    assert_eq!(ended(&front, run).await.status, RunStatus::Completed);
    // Lost hints are made again, but that takes its time.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(asked.await.unwrap().unwrap_err().kind(), ErrorKind::Refused, "`a` is no gate");
    world.check(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_pruned_and_begun_anew_elsewhere_is_read_from_its_beginning() {
    let world = World::new();
    let idle = Settings { roles: Roles { work: false, ..Roles::ALL }, ..quick() };
    let front = world.member().settings(idle).start().unwrap();
    let steps = "  - { id: gate, uses: gate/approval }\n  - { id: a, uses: fn/echo, needs: [gate] }\n";
    let order = || {
        let dag = orch::DagRef::Unpublished(Box::new(dag(steps)));
        let token = Some("again".to_owned());
        orch::Submit { run_token: token, ..orch::Submit::new(dag, serde_json::json!({})) }
    };
    let run = front.submit(&who(), order()).await.unwrap().run.run;
    until(&front, run, "gate", StepStatus::Waiting).await;
    // A lost race: from now on it keeps what the next one would cost it.
    let other = world.member().start().unwrap();
    other.pause(&who(), run).await.unwrap();
    front.pause(&who(), run).await.unwrap();
    // Elsewhere the run comes to its end, goes, and begins once more.
    other.resume(&who(), run).await.unwrap();
    other.decide(&who(), run, key("gate"), true).await.unwrap();
    assert_eq!(ended(&other, run).await.status, RunStatus::Completed);
    let prune =
        PruneRuns { tenant: who().tenant, runs: vec![run], actor: "test".into(), now: world.clock.now() };
    assert_eq!(prune_runs(world.store.as_ref(), &prune).await.unwrap(), 1);
    assert_eq!(other.submit(&who(), order()).await.unwrap().run.run, run);
    until(&other, run, "gate", StepStatus::Waiting).await;
    other.shutdown().await;
    front.cancel(&who(), run).await.unwrap();
    assert_eq!(ended(&front, run).await.status, RunStatus::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn roles_are_kept_to() {
    let world = World::new();
    let only = |submit, schedule, work| Settings { roles: Roles { submit, schedule, work }, ..quick() };
    let front = world.member().settings(only(true, false, false)).start().unwrap();
    let sweeper = world.member().settings(only(false, true, false)).start().unwrap();
    let worker = world.member().settings(only(false, false, true)).start().unwrap();
    let document = || {
        dag(
            "  - { id: nap, uses: wait/sleep, with: { duration: 3s } }\n  - { id: a, uses: fn/echo, needs: [nap] }\n",
        )
    };
    let submit_to_worker = orch::engine::Submit::new(
        orch::engine::DagRef::Unpublished(Box::new(document())),
        serde_json::json!({}),
    );
    let refused = worker.submit(&who(), submit_to_worker).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let run = submit(&front, document()).await;
    sweeper.shutdown().await;
    millis(10_000).await;
    assert_eq!(step(&state(&front, run).await, "nap").status, StepStatus::Waiting);
    let _sweeper = world.member().settings(only(false, true, false)).start().unwrap();
    assert_eq!(ended(&front, run).await.status, RunStatus::Completed);
    let refused = worker.replay(&who(), run, Resubmit::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
}

/// A clock that can be made to jump.
#[derive(Clone, Debug)]
struct Jumping(TokioClock, Arc<AtomicI64>);

impl Clock for Jumping {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.now().as_micros() + self.1.load(Ordering::SeqCst))
    }
}

#[tokio::test(start_paused = true)]
async fn r4_a_clock_that_jumps_costs_time_and_nothing_else() {
    const HOUR: i64 = 3_600_000_000;
    for jump in [HOUR, -HOUR, -10_000_000] {
        let witness = Witness::default();
        let clock = Jumping(TokioClock::new(), Arc::default());
        let orchestrator = witness.watch(builder()).clock(Arc::new(clock.clone())).start().unwrap();
        let steps =
            "  - { id: a, uses: fn/act, with: { millis: 1500 } }\n  - { id: b, uses: fn/act, needs: [a] }\n";
        let before = submit(&orchestrator, dag(steps)).await;
        millis(500).await;
        clock.1.store(jump, Ordering::SeqCst);
        let begun = tokio::time::Instant::now();
        let nap = "  - { id: nap, uses: wait/sleep, with: { duration: 5s } }\n  - { id: a, uses: fn/act, needs: [nap] }\n";
        let after = submit(&orchestrator, dag(nap)).await;
        for run in [before, after] {
            assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed, "{jump}");
            check(&orchestrator, run).await;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{jump}: {:?}", begun.elapsed());
        orchestrator.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_works_for_its_tenants_and_queues_only() {
    let world = World::new();
    let witness = Witness::default();
    let settings = Settings {
        tenants: Some(vec![stranger().tenant]),
        queues: Some(vec!["special".parse().unwrap()]),
        ..quick()
    };
    let picky = witness.watch(world.member()).settings(settings).start().unwrap();
    let document = || dag("  - { id: a, uses: fn/act }\n  - { id: b, uses: fn/act, queue: special }\n");
    let ours = submit(&picky, document()).await;
    let submit_theirs = orch::engine::Submit::new(
        orch::engine::DagRef::Unpublished(Box::new(document())),
        serde_json::json!({}),
    );
    let theirs = picky.submit(&stranger(), submit_theirs).await.unwrap().run.run;
    millis(60_000).await;
    assert_eq!(witness.total(), 1);
    let generous = witness.watch(world.member()).start().unwrap();
    assert_eq!(ended(&generous, ours).await.status, RunStatus::Completed);
    assert_eq!(generous.wait(&stranger(), theirs).await.unwrap().status, RunStatus::Completed);
    assert_eq!(witness.total(), 4);
}

#[tokio::test(start_paused = true)]
async fn trouble_with_the_store_can_be_seen_while_it_lasts() {
    let store =
        FaultyStore::new(Arc::new(MemoryStore::new()), 1, Rates { unavailable: 100, ..Rates::default() });
    let orchestrator = builder().store(Arc::new(store.clone())).start().unwrap();
    assert_eq!(orchestrator.stats().trouble, None);
    let steps = dag("  - { id: a, uses: fn/echo }\n");
    let submit = orch::Submit::new(orch::DagRef::Unpublished(Box::new(steps.clone())), serde_json::json!({}));
    let refused = orchestrator.submit(&who(), submit).await.unwrap_err();
    assert_eq!(orchestrator.stats().trouble, Some(format!("runs cannot be written: {refused}")));
    assert_eq!(orchestrator.stats().appends, 0);
    store.stop_faults();
    assert_eq!(run(&orchestrator, steps).await.status, RunStatus::Completed);
    assert_eq!(orchestrator.stats().trouble, None);
    assert!((1..=3).contains(&orchestrator.stats().appends), "{:?}", orchestrator.stats());
}

#[tokio::test(start_paused = true)]
async fn r4_a_decision_that_was_cut_off_between_two_appends_is_finished_by_another_process() {
    let (world, witness) = (World::new(), Witness::default());
    let mut settings = quick();
    settings.limits.append_entries = 20;
    let store = FaultyStore::new(Arc::clone(&world.store), 1, Rates::default());
    let first = witness.watch(world.process()).settings(settings.clone()).store(Arc::new(store.clone()));
    let first = first.start().unwrap();
    // In the third piece or so; whoever waits for the first process waits for ever.
    store.freeze_at("each[50]");
    let items: Vec<u32> = (0..100).collect();
    let steps =
        format!("  - {{ id: each, uses: fn/act, forEach: {{ items: {items:?} }}, with: {{ millis: 1 }} }}\n");
    let run = submit(&first, dag(&steps)).await;
    while !store.is_frozen() {
        millis(1).await;
    }
    let second = witness.watch(world.process()).settings(settings).start().unwrap();
    assert_eq!(ended(&second, run).await.status, RunStatus::Completed);
    check(&second, run).await;
}
