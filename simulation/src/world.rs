//! The world of one seed: shared backends, processes on them, clocks that jump.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use orch::engine::{Identity, Orchestrator, Settings};
use orch::executor::{Executor, Executors, Failure, Outcome, StepContext};
use orch::proof::Observed;
use orch::queue::Queue;
use orch::store::Store;
use orch::{Clock, Payload, TenantId, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::bug::{Backend, Bug, Hints};
use crate::dice::Dice;
use crate::faulty::{FaultyLock, FaultyQueue, FaultyStore, Rates};
use crate::switch::Switch;
use crate::trace::Trace;

/// How long an attempt counts as alive.
pub(crate) const LEASE: Duration = Duration::from_millis(900);
/// How often the sweep looks.
pub(crate) const SWEEP: Duration = Duration::from_secs(1);

/// Whose runs there are.
pub(crate) fn tenants() -> [TenantId; 2] {
    ["acme", "other"].map(|name| TenantId::new(name).unwrap_or_else(|error| panic!("{error}")))
}

/// A tenant's user.
pub(crate) fn user(tenant: usize) -> Identity {
    Identity::new(tenants()[tenant].clone(), "user")
}

/// The clock of one process: virtual time, and how far it is off.
#[derive(Clone, Debug)]
pub(crate) struct SimClock {
    begun: Instant,
    off: Arc<AtomicI64>,
}

impl SimClock {
    pub(crate) fn jump_to(&self, off: i64) {
        self.off.store(off, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        // 2026-01-01T00:00:00Z.
        const BEGIN: i64 = 1_767_225_600_000_000;
        let passed = i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(BEGIN + passed + self.off.load(Ordering::Relaxed))
    }
}

/// What all processes share.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) backend: Backend,
    pub(crate) observed: Observed,
    pub(crate) dice: Dice,
    pub(crate) trace: Trace,
    store: Arc<dyn Store>,
    lock: Arc<dyn orch::lock::Lock>,
    /// The shared queue first, if there is one; then those that processes have of their own.
    hints: Arc<Mutex<Vec<Hints>>>,
    shared: Option<Arc<dyn Queue>>,
    begun: Instant,
    tokens: Arc<AtomicU64>,
    started: Arc<AtomicU64>,
    rates: Arc<Mutex<Rates>>,
    /// The store cannot tell whether anybody has written.
    untold: bool,
}

impl World {
    pub(crate) fn new(dice: Dice, bug: Option<Bug>, shared_queue: bool, rates: Rates, untold: bool) -> Self {
        let backend = Backend::new(bug, dice.clone());
        let observed = Observed::new();
        let mut world = Self {
            store: observed.store(Arc::new(backend.clone())),
            lock: observed.lock(Arc::new(backend.clone())),
            hints: Arc::default(),
            shared: None,
            begun: Instant::now(),
            tokens: Arc::default(),
            started: Arc::default(),
            rates: Arc::new(Mutex::new(rates)),
            untold,
            trace: Trace::begin(),
            backend,
            observed,
            dice,
        };
        world.shared = shared_queue.then(|| world.queue());
        world
    }

    fn queue(&self) -> Arc<dyn Queue> {
        let hints = Hints::new(&self.backend);
        self.hints().push(hints.clone());
        self.observed.queue(Arc::new(hints))
    }

    fn hints(&self) -> MutexGuard<'_, Vec<Hints>> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every queue loses everything.
    pub(crate) fn flush(&self) {
        self.dice.note("queue.flushed");
        self.hints().iter().for_each(Hints::flush);
        self.observed.flushed();
    }

    /// No process that starts from now on meets faults at its seams.
    pub(crate) fn calm(&self) {
        *self.rates() = self.calm_rates();
    }

    /// What goes wrong in calm times: nothing, but for one defect.
    fn calm_rates(&self) -> Rates {
        let dropped = if self.backend.bug == Some(Bug::HideDueRuns) { 100 } else { 0 };
        Rates { dropped, ..Rates::default() }
    }

    /// Starts a process.
    pub(crate) fn start(&self) -> Process {
        let name = format!("p{}", self.started.fetch_add(1, Ordering::Relaxed));
        let (switch, trace, mut rates) = (Switch::default(), self.trace.of(&name), *self.rates());
        if self.backend.bug == Some(Bug::HideDueRuns) {
            rates.dropped = 100;
        }
        let clock = SimClock { begun: self.begun, off: Arc::default() };
        let (dice, hold) = (self.dice.clone(), switch.clone());
        let store =
            FaultyStore::of(Arc::clone(&self.store), dice.clone(), rates, hold.clone(), trace.clone());
        if self.untold {
            store.tell(false);
        }
        let queue = self.shared.clone().unwrap_or_else(|| self.queue());
        let queue = FaultyQueue::of(queue, dice.clone(), rates, hold.clone(), trace.clone());
        let lock = FaultyLock::of(Arc::clone(&self.lock), dice, rates, hold.clone(), trace.clone());
        let act = Arc::new(Act { switch: hold, world: self.clone(), trace: trace.clone() });
        let tokens = Arc::clone(&self.tokens);
        let settings = Settings {
            lease: LEASE,
            sweep_every: SWEEP,
            slots: 3,
            drain: Duration::from_secs(2),
            grace: Duration::from_millis(300),
            sandbox: Some("none".to_owned()),
            ..Settings::default()
        };
        let orchestrator = Orchestrator::builder()
            .store(Arc::new(store.clone()))
            .queue(Arc::new(queue.clone()))
            .lock(Arc::new(lock.clone()))
            .executors(Executors::new().executor("fn/*", "1", act.clone()).executor("process", "1", act))
            .clock(Arc::new(clock.clone()))
            .tokens(move || format!("token-{}", tokens.fetch_add(1, Ordering::Relaxed)))
            .label(name.clone())
            .settings(settings)
            .start()
            .unwrap_or_else(|error| panic!("a process does not start: {error}"));
        Process { name, orchestrator, switch, clock, store, queue, lock }
    }
}

/// One process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) orchestrator: Orchestrator,
    pub(crate) switch: Switch,
    pub(crate) clock: SimClock,
    pub(crate) store: FaultyStore,
    queue: FaultyQueue,
    lock: FaultyLock,
}

impl Process {
    /// Its faults stop, its clock is right, and it goes on if it is not dead.
    pub(crate) fn heal(&self, world: &World) {
        self.store.stop_faults();
        self.queue.set_rates(world.calm_rates());
        self.lock.stop_faults();
        self.clock.jump_to(0);
        self.switch.hold(false);
    }
}

/// What every step does.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct With {
    /// Works for so long.
    millis: u64,
    /// Fails while the attempt is not greater.
    fails: u32,
    value: Value,
}

/// Executes steps, as far as its process lives.
#[derive(Debug)]
struct Act {
    switch: Switch,
    world: World,
    trace: Trace,
}

#[async_trait]
impl Executor for Act {
    async fn execute(&self, context: StepContext, input: Payload) -> Outcome {
        // Not a seam: nothing is counted here, but the dead do nothing.
        self.switch.go_on().await;
        let StepContext { run, step, attempt, .. } = &context;
        if context.network.is_some() && self.world.backend.bug != Some(Bug::StartWithoutSandbox) {
            return Failure::fatal("unenforceable", "the network cannot be held without a sandbox").into();
        }
        self.trace.note(format_args!("execute {run} {step} {attempt}"));
        self.world.observed.executed(&context, false);
        let with: With = serde_json::from_str(input.as_str()).unwrap_or_default();
        if with.millis > 0 {
            let work = Duration::from_millis(with.millis);
            if tokio::time::timeout(work, context.cancellation.cancelled()).await.is_ok() {
                return Outcome::Cancelled;
            }
        }
        self.switch.go_on().await;
        if *attempt <= with.fails {
            return Failure::retryable("flaky", "not yet").into();
        }
        match Payload::new(&with.value) {
            Ok(value) => Outcome::Succeeded(value),
            Err(error) => Failure::fatal("value", error.to_string()).into(),
        }
    }
}
