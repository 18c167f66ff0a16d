//! Several orchestrators on one store, as several processes are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use orch::engine::{Orchestrator, Settings};
use orch::ledger::{Event, RunStatus, StepStatus};
use orch::queue::MemoryQueue;
use orch::store::MemoryStore;
use orch::{Clock, RunId, SystemClock, Timestamp};
use orch_simulation::faulty::{FaultyStore, Rates};
use tokio::runtime::{Builder, Runtime};

use crate::kit::*;

const STEPS: &str = r#"
  - { id: a, uses: fn/act, with: { millis: 30 } }
  - { id: b, uses: fn/act, needs: [a], with: { millis: 30 } }
  - { id: c, uses: fn/act, needs: [a], with: { millis: 30 } }
  - { id: d, uses: fn/act, needs: [b, c], with: { millis: 30 } }
"#;

/// Starts a process on the world's store through a store of its own that can be frozen.
fn mortal(world: &World, witness: &Witness, shared_queue: bool) -> (Orchestrator, FaultyStore) {
    let store = FaultyStore::new(Arc::clone(&world.store), 1, Rates::default());
    let builder = if shared_queue { world.member() } else { world.process() };
    (witness.watch(builder).store(Arc::new(store.clone())).start().unwrap(), store)
}

async fn share(shared_queue: bool) {
    let (world, witness) = (World::new(), Witness::default());
    let processes: Vec<Orchestrator> = (0..3).map(|_| mortal(&world, &witness, shared_queue).0).collect();
    let mut runs = Vec::new();
    for n in 0..30 {
        runs.push(submit(&processes[n % 3], dag(STEPS)).await);
    }
    let begun = tokio::time::Instant::now();
    for run in runs {
        assert_eq!(ended(&processes[0], run).await.status, RunStatus::Completed);
        check(&processes[1], run).await;
    }
    world.check(true).await;
    assert_eq!(witness.repeated(), []);
    assert_eq!(witness.total(), 30 * 4);
    assert!(begun.elapsed() < Duration::from_secs(10), "hints were lost on the way: {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn r1_processes_with_queues_of_their_own_execute_each_step_once() {
    share(false).await;
}

#[tokio::test(start_paused = true)]
async fn r1_processes_that_share_a_queue_execute_each_step_once_and_without_delay() {
    share(true).await;
}

async fn carried_on(shared_queue: bool) {
    let (world, first, second) = (World::new(), Witness::default(), Witness::default());
    let (dying, store) = mortal(&world, &first, shared_queue);
    let mut runs: Vec<RunId> = Vec::new();
    for _ in 0..20 {
        runs.push(submit(&dying, dag(STEPS)).await);
    }
    millis(45).await;
    assert!(first.running() > 0);
    store.freeze(true);
    let (heir, _) = mortal(&world, &second, shared_queue);
    let begun = tokio::time::Instant::now();
    for run in runs {
        assert_eq!(ended(&heir, run).await.status, RunStatus::Completed);
        check(&heir, run).await;
    }
    world.check(true).await;
    // Lost hints are found within 30 s of the last word of a run, lost leases within a lease; then a sweep.
    assert!(begun.elapsed() < Duration::from_secs(35), "{:?}", begun.elapsed());
    assert!(second.total() > 0);
}

#[tokio::test(start_paused = true)]
async fn r4_runs_of_a_dead_process_are_carried_on_by_another() {
    carried_on(false).await;
}

#[tokio::test(start_paused = true)]
async fn r4_runs_of_a_dead_process_on_a_shared_queue_are_carried_on_by_another() {
    carried_on(true).await;
}

#[tokio::test(start_paused = true)]
async fn r2_a_zombie_records_nothing_of_what_it_lost() {
    let (world, witness) = (World::new(), Witness::default());
    let (zombie, store) = mortal(&world, &witness, false);
    let run = submit(&zombie, dag("  - { id: a, uses: fn/act, with: { millis: 5000, value: 1 } }\n")).await;
    until(&zombie, run, "a", StepStatus::Running).await;
    store.freeze(true);
    let (heir, _) = mortal(&world, &witness, false);
    millis(3_000).await;
    assert_eq!(until(&heir, run, "a", StepStatus::Running).await.running().count(), 1);
    assert_eq!(witness.stopped(), 1, "the zombie stops what it lost, although its store is silent");
    millis(4_000).await;
    store.freeze(false);
    assert_eq!(ended(&heir, run).await.status, RunStatus::Completed);
    millis(2_000).await;
    let state = check(&heir, run).await;
    world.check(true).await;
    assert_eq!(step(&state, "a").attempt, 2);
    let entries = entries(&heir, run).await;
    let lost = entries.iter().filter(|entry| matches!(entry.event, Event::StepLost(_))).count();
    assert_eq!(lost, 1, "{:?}", types(&entries));
}

#[tokio::test(start_paused = true)]
async fn r4_a_process_with_an_old_picture_of_a_run_carries_it_on_all_the_same() {
    let (world, witness) = (World::new(), Witness::default());
    let steps = r#"
  - { id: gate, uses: gate/approval }
  - { id: a, uses: fn/act, needs: [gate], with: { millis: 400 } }
"#;
    // The first has seen the run wait for a person; then it hears nothing of it.
    let (first, _) = mortal(&world, &witness, false);
    let run = submit(&first, dag(steps)).await;
    until(&first, run, "gate", StepStatus::Waiting).await;
    let (second, store) = mortal(&world, &witness, false);
    second.decide(&who(), run, key("gate"), true).await.unwrap();
    until(&second, run, "a", StepStatus::Running).await;
    store.freeze(true);
    let row = tokio::time::timeout(Duration::from_secs(40), first.wait(&who(), run)).await;
    assert_eq!(row.expect("it ends within lease and sweep").unwrap().status, RunStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn an_operation_is_judged_by_what_is_true_now_and_not_by_an_old_picture() {
    let (world, witness) = (World::new(), Witness::default());
    let (first, _) = mortal(&world, &witness, false);
    let (second, _) = mortal(&world, &witness, false);
    let steps = r#"
  - { id: one, uses: gate/approval }
  - { id: two, uses: gate/approval, needs: [one] }
"#;
    let run = submit(&first, dag(steps)).await;
    second.decide(&who(), run, key("one"), true).await.unwrap();
    // The first still sees `one` wait and `two` pending.
    first.decide(&who(), run, key("two"), true).await.unwrap();
    assert_eq!(ended(&second, run).await.status, RunStatus::Completed);
    let run = submit(&first, dag("  - { id: one, uses: gate/approval }\n")).await;
    second.pause(&who(), run).await.unwrap();
    assert_eq!(first.resume(&who(), run).await.unwrap().status, RunStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn cancelling_reaches_an_attempt_in_another_process_within_a_lease() {
    let (world, witness) = (World::new(), Witness::default());
    let (first, _) = mortal(&world, &witness, false);
    let run = submit(&first, dag("  - { id: a, uses: fn/act, with: { millis: 60000 } }\n")).await;
    until(&first, run, "a", StepStatus::Running).await;
    let (second, _) = mortal(&world, &witness, false);
    let begun = tokio::time::Instant::now();
    second.cancel(&who(), run).await.unwrap();
    assert_eq!(ended(&second, run).await.status, RunStatus::Cancelled);
    assert!(begun.elapsed() < Duration::from_millis(2_000), "{:?}", begun.elapsed());
    assert_eq!(witness.stopped(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drained_process_hands_long_attempts_to_another_at_once() {
    for shared_queue in [true, false] {
        let (world, first, second) = (World::new(), Witness::default(), Witness::default());
        let settings = Settings { lease: Duration::from_secs(30), ..quick() };
        let start = |witness: &Witness| {
            let builder = if shared_queue { world.member() } else { world.process() };
            witness.watch(builder).settings(settings.clone()).start().unwrap()
        };
        let leaving = start(&first);
        let run = submit(&leaving, dag("  - { id: a, uses: fn/act, with: { millis: 20000 } }\n")).await;
        until(&leaving, run, "a", StepStatus::Running).await;
        let staying = start(&second);
        leaving.shutdown().await;
        assert_eq!(first.stopped(), 1);
        millis(600).await;
        assert_eq!(second.running(), 1, "shared queue: {shared_queue}");
        assert_eq!(ended(&staying, run).await.status, RunStatus::Completed);
        check(&staying, run).await;
    }
}

/// A clock that runs twenty times as fast: half a minute of lost hints takes one and a half seconds.
#[derive(Clone, Debug)]
struct Fast(Timestamp);

impl Clock for Fast {
    fn now(&self) -> Timestamp {
        self.0.plus(SystemClock.now().since(self.0) * 20)
    }
}

/// A process of its own: a runtime on threads of its own, which can be killed.
fn process(world: &(MemoryStore, MemoryQueue, Fast), witness: &Witness) -> (Runtime, Orchestrator) {
    let (store, queue, clock) = world.clone();
    let settings = Settings { lease: Duration::from_secs(20), ..quick() };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let orchestrator = runtime.block_on(async {
        let builder = witness.watch(builder()).clock(Arc::new(clock)).settings(settings);
        builder.store(Arc::new(store)).queue(Arc::new(queue)).start().unwrap()
    });
    (runtime, orchestrator)
}

#[test]
fn r4_killed_processes_on_threads_of_their_own_lose_nothing() {
    let world = (MemoryStore::new(), MemoryQueue::new(), Fast(SystemClock.now()));
    let witness = Witness::default();
    let (first, dying) = process(&world, &witness);
    let (second, dying_too) = process(&world, &witness);
    let (third, heir) = process(&world, &witness);
    let mut runs = Vec::new();
    for n in 0..120 {
        let orchestrator = [&dying, &dying_too, &heir][n % 3];
        let runtime = [&first, &second, &third][n % 3];
        runs.push(runtime.block_on(submit(orchestrator, dag(STEPS))));
    }
    std::thread::sleep(Duration::from_millis(60));
    first.shutdown_background();
    std::thread::sleep(Duration::from_millis(60));
    second.shutdown_background();
    third.block_on(async {
        for run in runs {
            let wait = tokio::time::timeout(Duration::from_secs(60), heir.wait(&who(), run)).await;
            assert_eq!(wait.expect("it ends").unwrap().status, RunStatus::Completed);
            check(&heir, run).await;
        }
        heir.shutdown().await;
    });
    assert!(witness.stopped() > 0, "the killed had something under way");
    assert_eq!(witness.repeated(), []);
}

#[tokio::test(start_paused = true)]
async fn who_has_much_to_append_to_a_run_leaves_others_their_turn() {
    let world = World::new();
    let settings = Settings { slots: 16, ..Settings::default() };
    let member = || {
        let store = FaultyStore::new(Arc::clone(&world.store), 1, Rates::default());
        store.append_slowly(Duration::from_millis(10));
        store.answer_late(Duration::from_millis(3));
        world.member().store(Arc::new(store)).settings(settings.clone()).start().unwrap()
    };
    let first = member();
    let items: Vec<usize> = (0..5_000).collect();
    let wide = format!("  - {{ id: each, uses: fn/echo, forEach: {{ items: {items:?} }}, with: 1 }}\n");
    let run = submit(&first, dag(&wide)).await;
    millis(200).await;
    let others: Vec<Orchestrator> = (0..2).map(|_| member()).collect();
    assert_eq!(ended(&first, run).await.status, RunStatus::Completed);
    world.check(true).await;

    let (mut begun, mut took) = (BTreeMap::new(), BTreeMap::<_, Vec<Duration>>::new());
    for entry in entries(&first, run).await {
        match entry.event {
            Event::StepStarted(started) => drop(begun.insert(started.step, (started.worker, entry.at))),
            Event::StepSucceeded(succeeded) if succeeded.step.index.is_some() => {
                let (worker, at) = begun.remove(&succeeded.step).unwrap();
                took.entry(worker).or_default().push(entry.at.since(at));
            }
            _ => {}
        }
    }
    assert_eq!(took.len(), 3, "all of them work on it");
    for (worker, took) in took {
        let longest = took.iter().max().unwrap();
        assert!(*longest < Duration::from_secs(5), "{worker:?} waited {longest:?} to record an end");
        assert!(took.len() > 1_000, "{worker:?} did {} of 5000", took.len());
    }
    for orchestrator in others.into_iter().chain([first]) {
        orchestrator.shutdown().await;
    }
}
