//! Backends that are away, for long: they are asked now and then and no more, whoever waits goes on when they are back,
//! and what was seen of it can be read. And what an engine asks of backends that are there, when it has nothing to do.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use orch::engine::{Orchestrator, Settings};
use orch::ledger::RunStatus;
use orch::lock::{Acquire, Grant, Holder, Lock, MemoryLock, Take, Taken};
use orch::planner::HINT_CHECK;
use orch::queue::{Claim, Claimed, DeliveryToken, Depth, Item, MemoryQueue, Queue, Settle};
use orch::store::{MemoryStore, Store};
use orch::{Error, Limits, Result, TenantId, Timestamp};
use orch_conformance::{Counted, Counts};
use orch_simulation::faulty::{FaultyStore, Rates};
use tokio::time::Instant;

use crate::kit::*;

/// Calls of a backend that is away that one process may make in a second, over ten minutes.
const A_SECOND: f64 = 3.0;
const TEN_MINUTES: Duration = Duration::from_secs(600);

const ONE: &str = "  - { id: a, uses: fn/act }\n";
const CHAIN: &str =
    "  - { id: a, uses: fn/act, with: { millis: 1000 } }\n  - { id: b, uses: fn/act, needs: [a] }\n";

/// A queue and a lock that can be away, or cannot be waited on.
#[derive(Clone, Debug, Default)]
struct Moody {
    queue: MemoryQueue,
    lock: MemoryLock,
    away: Arc<AtomicBool>,
    /// Who holds slots.
    holders: Arc<Mutex<BTreeSet<String>>>,
    /// What every wait answers at once, if it does.
    deaf: Arc<Mutex<Option<Deaf>>>,
    pushes_lost: Arc<AtomicU64>,
    /// Hints that were pushed, however often.
    pushed: Arc<AtomicU64>,
    lock_millis: u64,
}

#[derive(Clone, Copy, Debug)]
enum Deaf {
    Fails,
    Wakes,
}

impl Moody {
    fn go(&self) -> Result<()> {
        match self.away.load(Ordering::Relaxed) {
            true => Err(Error::unavailable("it is away")),
            false => Ok(()),
        }
    }

    fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    fn set_deaf(&self, deaf: Option<Deaf>) {
        *self.deaf.lock().unwrap() = deaf;
    }
}

#[async_trait]
impl Queue for Moody {
    async fn push(&self, items: &[Item]) -> Result<()> {
        if self.pushes_lost.try_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
            return Err(Error::unavailable("it is away for pushes"));
        }
        self.go()?;
        self.pushed.fetch_add(items.len() as u64, Ordering::Relaxed);
        self.queue.push(items).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.go()?;
        self.queue.claim(claim).await
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        self.queue.renew(tokens, until, now).await
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        self.go()?;
        self.queue.settle(settles, now).await
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        let deaf = *self.deaf.lock().unwrap();
        match deaf {
            None => self.queue.wait(timeout).await,
            Some(Deaf::Fails) => Err(Error::unavailable("no word comes")),
            Some(Deaf::Wakes) => Ok(()),
        }
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        self.queue.depth(tenant, now).await
    }
}

#[async_trait]
impl Lock for Moody {
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        self.go()?;
        let grants = self.lock.acquire(acquire).await?;
        if grants.is_some() {
            self.holders.lock().unwrap().insert(acquire.holder.name.clone());
        }
        Ok(grants)
    }

    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>> {
        self.go()?;
        millis(self.lock_millis).await;
        self.lock.renew(holders, until, now).await
    }

    async fn release(&self, holders: &[Holder]) -> Result<()> {
        self.go()?;
        millis(self.lock_millis).await;
        self.holders.lock().unwrap().retain(|name| holders.iter().all(|holder| holder.name != *name));
        self.lock.release(holders).await
    }

    async fn take(&self, take: &Take) -> Result<Taken> {
        self.lock.take(take).await
    }
}

/// An engine whose every call is counted, and which has the times of a real one.
struct Watched {
    orchestrator: Orchestrator,
    witness: Witness,
    moody: Moody,
    store: FaultyStore,
    counted: (Counted<dyn Store>, Counted<dyn Queue>, Counted<dyn Lock>),
}

impl Watched {
    fn start(moody: Moody) -> Self {
        let witness = Witness::default();
        let store = FaultyStore::new(Arc::new(MemoryStore::new()), 1, Rates::default());
        store.tell(false);
        let counted: (Counted<dyn Store>, Counted<dyn Queue>, Counted<dyn Lock>) = (
            Counted::new(Arc::new(store.clone())),
            Counted::new(Arc::new(moody.clone())),
            Counted::new(Arc::new(moody.clone())),
        );
        let builder = witness.watch(builder()).settings(Settings { slots: 64, ..Settings::default() });
        let builder = builder.store(Arc::new(counted.0.clone())).queue(Arc::new(counted.1.clone()));
        let orchestrator = builder.lock(Arc::new(counted.2.clone())).start().unwrap();
        Self { orchestrator, witness, moody, store, counted }
    }

    fn take_counts(&self) -> [Counts; 3] {
        [self.counted.0.take_counts(), self.counted.1.take_counts(), self.counted.2.take_counts()]
    }

    async fn completes_one(&self) {
        assert_eq!(run(&self.orchestrator, dag(ONE)).await.status, RunStatus::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_asks_a_store_that_cannot_tell_and_a_queue_that_can_six_times_a_minute() {
    let watched = Watched::start(Moody::default());
    watched.completes_one().await;
    // The check for lost hints of the run that has just ended comes by once.
    tokio::time::sleep(HINT_CHECK * 2).await;
    watched.take_counts();
    tokio::time::sleep(TEN_MINUTES).await;
    let [store, queue, lock] = watched.take_counts();
    assert_eq!(store.keys().copied().collect::<Vec<_>>(), ["due"], "{store:?}");
    assert_eq!(queue.keys().copied().collect::<Vec<_>>(), ["claim", "wait"], "{queue:?}");
    assert!(lock.is_empty(), "{lock:?}");
    // Waiting for a word is no question.
    let asked = store["due"] + queue["claim"];
    assert!((50..=60).contains(&asked), "{asked} in ten minutes: {store:?} {queue:?}");
}

#[tokio::test(start_paused = true)]
async fn r4_a_store_that_tells_when_it_is_quiet_is_swept_as_often_while_it_is_not() {
    let watched = Watched::start(Moody::default());
    watched.store.tell(true);
    watched.completes_one().await;
    tokio::time::sleep(HINT_CHECK * 2).await;
    watched.take_counts();
    tokio::time::sleep(TEN_MINUTES).await;
    assert!(watched.take_counts()[0].is_empty(), "nobody has written");
    watched.store.tell(false);
    tokio::time::sleep(TEN_MINUTES).await;
    let [store, ..] = watched.take_counts();
    assert!((118..=121).contains(&store["due"]), "every five seconds: {store:?}");
}

fn bounded(count: u64) {
    let a_second = count as f64 / TEN_MINUTES.as_secs_f64();
    assert!(a_second < A_SECOND, "{count} calls in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn r4_a_queue_that_is_away_for_long_is_asked_now_and_then_and_all_goes_on_when_it_is_back() {
    let watched = Watched::start(Moody::default());
    watched.completes_one().await;
    watched.moody.set_away(true);
    let run = submit(&watched.orchestrator, dag(CHAIN)).await;
    millis(100).await;
    watched.take_counts();
    tokio::time::sleep(TEN_MINUTES).await;
    let [store, queue, _] = watched.take_counts();
    bounded(queue.values().sum());
    bounded(store.values().sum());
    let stats = watched.orchestrator.stats();
    assert_eq!(stats.trouble.as_deref(), Some("hints cannot be claimed: it is away"));
    assert!(stats.failures.queue > 100 && stats.failures.store == 0, "{stats:?}");
    watched.moody.set_away(false);
    let back = Instant::now();
    assert_eq!(ended(&watched.orchestrator, run).await.status, RunStatus::Completed);
    // The hint is made again by a sweep: the next one is due at most so long after the last.
    let bound = HINT_CHECK + watched.orchestrator.settings().sweep_every * 4;
    assert!(back.elapsed() < bound, "{:?}", back.elapsed());
    assert_eq!((watched.witness.repeated(), watched.orchestrator.stats().trouble), (Vec::new(), None));
}

#[tokio::test(start_paused = true)]
async fn r4_a_store_that_is_away_for_long_is_asked_now_and_then_and_all_goes_on_when_it_is_back() {
    let watched = Watched::start(Moody::default());
    let run = submit(&watched.orchestrator, dag(CHAIN)).await;
    // In the middle of the first step.
    millis(500).await;
    watched.store.set_rates(Rates { unavailable: 100, ..Rates::default() });
    watched.take_counts();
    tokio::time::sleep(TEN_MINUTES).await;
    let [store, queue, _] = watched.take_counts();
    bounded(store.values().sum());
    bounded(queue.values().sum());
    let stats = watched.orchestrator.stats();
    assert!(stats.failures.store > 100 && stats.failures.queue == 0, "{stats:?}");
    assert!(stats.trouble.is_some(), "{stats:?}");
    watched.store.stop_faults();
    let back = Instant::now();
    assert_eq!(ended(&watched.orchestrator, run).await.status, RunStatus::Completed);
    let bound = HINT_CHECK + watched.orchestrator.settings().sweep_every * 4;
    assert!(back.elapsed() < bound, "{:?}", back.elapsed());
    watched.completes_one().await;
    assert_eq!(watched.orchestrator.stats().trouble, None);
}

#[tokio::test(start_paused = true)]
async fn r4_a_queue_that_cannot_be_waited_on_is_asked_now_and_then_and_runs_go_on() {
    for deaf in [Deaf::Fails, Deaf::Wakes] {
        let watched = Watched::start(Moody::default());
        watched.completes_one().await;
        watched.moody.set_deaf(Some(deaf));
        millis(100).await;
        watched.take_counts();
        tokio::time::sleep(TEN_MINUTES).await;
        let [_, queue, _] = watched.take_counts();
        let most = match deaf {
            // Every five seconds or sooner, and never sooner than half of that once it has failed for a while.
            Deaf::Fails => 300,
            // As often as false alarms are believed.
            Deaf::Wakes => 600_000 / 64 + 20,
        };
        assert!(queue["wait"] <= most, "{deaf:?}: {queue:?}");
        assert!(queue["claim"] <= queue["wait"] + 1, "{deaf:?}: {queue:?}");
        let begun = Instant::now();
        watched.completes_one().await;
        assert!(begun.elapsed() <= Duration::from_secs(6), "{deaf:?}: {:?}", begun.elapsed());
        watched.moody.set_deaf(None);
        watched.completes_one().await;
    }
}

#[tokio::test(start_paused = true)]
async fn r4_hints_that_could_not_be_pushed_are_made_again_within_the_bound() {
    let watched = Watched::start(Moody::default());
    watched.completes_one().await;
    let begun = Instant::now();
    watched.moody.pushes_lost.store(1, Ordering::Relaxed);
    watched.completes_one().await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "it was lost: {:?}", begun.elapsed());
    let bound = HINT_CHECK + watched.orchestrator.settings().sweep_every;
    assert!(begun.elapsed() <= bound, "{:?}", begun.elapsed());
    assert_eq!(watched.orchestrator.stats().failures.queue, 1);
    assert_eq!(watched.orchestrator.stats().trouble, None);
}

/// Twenty runs, each with a step that holds a slot of a key with room for all.
async fn twenty_with_slots(watched: &Watched, millis: u64) -> Vec<orch::RunId> {
    let steps = format!(
        "  - {{ id: a, uses: fn/act, with: {{ millis: {millis} }}, concurrency: [{{ key: db, limit: 50 }}] }}\n"
    );
    let mut runs = Vec::new();
    for _ in 0..20 {
        runs.push(submit(&watched.orchestrator, dag(&steps)).await);
    }
    runs
}

#[tokio::test(start_paused = true)]
async fn slots_of_many_runs_are_prolonged_in_one_call_a_tick_and_given_back_in_few() {
    let watched = Watched::start(Moody { lock_millis: 20, ..Moody::default() });
    let runs = twenty_with_slots(&watched, 65_000).await;
    // The lease is 30 s: prolonged at 10 s, 20 s and so on.
    millis(64_000).await;
    assert_eq!(watched.moody.holders.lock().unwrap().len(), 20);
    let [_, _, lock] = watched.take_counts();
    assert_eq!((lock["acquire"], lock["renew"]), (20, 6), "{lock:?}");
    for run in runs {
        assert_eq!(ended(&watched.orchestrator, run).await.status, RunStatus::Completed);
    }
    millis(100).await;
    let [_, _, lock] = watched.take_counts();
    assert!(lock["release"] <= 3, "{lock:?}");
    assert_eq!(*watched.moody.holders.lock().unwrap(), BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn a_long_step_without_keys_asks_the_lock_nothing() {
    let watched = Watched::start(Moody::default());
    let run =
        submit(&watched.orchestrator, dag("  - { id: a, uses: fn/act, with: { millis: 120000 } }\n")).await;
    assert_eq!(ended(&watched.orchestrator, run).await.status, RunStatus::Completed);
    let [_, _, lock] = watched.take_counts();
    assert!(lock.is_empty(), "{lock:?}");
}

#[tokio::test(start_paused = true)]
async fn a1_slots_are_given_back_once_the_lock_is_there_again() {
    let watched = Watched::start(Moody::default());
    let runs = twenty_with_slots(&watched, 2_000).await;
    millis(1_000).await;
    watched.moody.set_away(true);
    for run in runs {
        assert_eq!(ended(&watched.orchestrator, run).await.status, RunStatus::Completed);
    }
    watched.take_counts();
    millis(10_000).await;
    let [_, _, lock] = watched.take_counts();
    assert!((3..40).contains(&lock["release"]), "{lock:?}");
    watched.moody.set_away(false);
    millis(2_500).await;
    // Well before their leases end.
    assert_eq!(*watched.moody.holders.lock().unwrap(), BTreeSet::new());
    assert!(watched.orchestrator.stats().failures.lock >= 3);
}

thread_local! {
    /// What this thread told: as grave as a warning, and that something works again.
    static TOLD: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Counts what is told. One for the process: which threads are listened to is decided only once per place in the code.
struct Told;

impl tracing::Subscriber for Told {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("orch::")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let (warned, again) = TOLD.get();
        match *event.metadata().level() {
            tracing::Level::WARN | tracing::Level::ERROR => TOLD.set((warned + 1, again)),
            tracing::Level::INFO => TOLD.set((warned, again + 1)),
            _ => {}
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_at_once_then_once_a_minute_and_so_is_its_end() {
    // The tasks of this test have its thread for themselves.
    tracing::subscriber::set_global_default(Told).unwrap();
    let watched = Watched::start(Moody::default());
    let mut runs = twenty_with_slots(&watched, 1).await;
    millis(500).await;
    assert_eq!(TOLD.get().0, 0, "all is well");
    watched.moody.set_away(true);
    runs.extend(twenty_with_slots(&watched, 1).await);
    millis(1_000).await;
    let first = TOLD.get().0;
    assert!((1..=6).contains(&first), "{first}");
    tokio::time::sleep(TEN_MINUTES).await;
    let warned = TOLD.get().0;
    // A minute, ten times, for each kind of call: claims and pushes.
    assert!((first + 9..=first + 25).contains(&warned), "{warned} after {first}");
    assert_eq!(TOLD.get().1, 0);
    watched.moody.set_away(false);
    for run in runs {
        assert_eq!(ended(&watched.orchestrator, run).await.status, RunStatus::Completed);
    }
    millis(1_000).await;
    let again = TOLD.get().1;
    assert!((1..=4).contains(&again), "{again}");
    assert_eq!(TOLD.get().0, warned, "nothing is told any more");
}

#[tokio::test(start_paused = true)]
async fn each_step_of_a_run_that_takes_many_appends_to_schedule_is_hinted_at_once() {
    let moody = Moody::default();
    let rates = Rates { delay: 100, ..Rates::default() };
    let store = FaultyStore::new(Arc::new(MemoryStore::new()), 1, rates);
    let limits = Limits { append_entries: 50, ..Limits::default() };
    let builder = builder().settings(Settings { limits, ..Settings::default() });
    let orchestrator = builder.store(Arc::new(store)).queue(Arc::new(moody.clone())).start().unwrap();
    let items: Vec<usize> = (0..2_000).collect();
    let wide =
        format!("  - {{ id: each, uses: fn/echo, forEach: {{ items: {items:?} }}, with: {{ n: 1 }} }}\n");
    assert_eq!(run(&orchestrator, dag(&wide)).await.status, RunStatus::Completed);
    assert_eq!(moody.pushed.load(Ordering::Relaxed), 2_000);
    orchestrator.shutdown().await;
}
