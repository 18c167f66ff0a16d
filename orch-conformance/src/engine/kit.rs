//! What the cases are made of: a clock that can be set forward, tasks that are watched, two engines.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use orch::engine::{DagRef, Identity, Orchestrator, OrchestratorBuilder, Settings, Submit, Submitted};
use orch::executor::{Failure, StepContext};
use orch::ledger::{Entry, Event, StepStatus};
use orch::planner::{RunState, StepState};
use orch::proof::{VerifyOptions, verify_store};
use orch::spec::Dag;
use orch::store::RunRow;
use orch::{Clock, Limits, RunId, StepKey, TenantId, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Backends, Seams};

/// How long an attempt counts as alive.
pub(super) const LEASE: Duration = Duration::from_secs(3);
/// How often the sweep looks; four times that where the store cannot tell whether anybody has written.
pub(super) const SWEEP: Duration = Duration::from_millis(100);
/// How long a case waits for what must come, on a machine that is busy with other things.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Attempts that each engine executes at once.
pub(super) const SLOTS: usize = 4;

/// The time of tokio, which a case may set forward: leases and checks that take half a minute end at once.
#[derive(Clone, Debug)]
pub(super) struct Ahead {
    begun: Instant,
    micros: Arc<AtomicI64>,
}

impl Ahead {
    fn new() -> Self {
        Self { begun: Instant::now(), micros: Arc::default() }
    }

    pub(super) fn advance(&self, span: Duration) {
        self.micros.fetch_add(i64::try_from(span.as_micros()).unwrap(), Ordering::Relaxed);
    }
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        let ahead = u64::try_from(self.micros.load(Ordering::Relaxed)).unwrap();
        crate::fixture::at(0).plus(self.begun.elapsed() + Duration::from_micros(ahead))
    }
}

/// Who executed what, and how much of it at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Witness {
    seen: Arc<Mutex<Seen>>,
    /// While set, attempts that say so do not end.
    held: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Seen {
    attempts: BTreeMap<(RunId, String, u32), u32>,
    by_engine: BTreeMap<String, u32>,
    now: u32,
    most: u32,
}

/// What a step does.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Act {
    /// Works for so long.
    millis: u64,
    /// Goes on for as long as the witness holds it.
    held: bool,
    /// Fails while the attempt is not greater.
    fails: u32,
    value: Value,
}

/// One execution, from its begin to its end or until its process is gone.
struct Inside(Witness);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.seen().now -= 1;
    }
}

impl Witness {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn watch(&self, name: &'static str, builder: OrchestratorBuilder) -> OrchestratorBuilder {
        let witness = self.clone();
        builder.task("act", move |context: StepContext, act: Act| {
            let witness = witness.clone();
            async move { witness.act(name, &context, act).await }
        })
    }

    async fn act(&self, engine: &str, context: &StepContext, act: Act) -> Result<Value, Failure> {
        let _inside = self.enter(engine, context);
        tokio::time::sleep(Duration::from_millis(act.millis)).await;
        while act.held && self.held.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if context.attempt <= act.fails {
            return Err(Failure::retryable("flaky", "not yet"));
        }
        Ok(act.value)
    }

    fn enter(&self, engine: &str, context: &StepContext) -> Inside {
        let mut seen = self.seen();
        *seen.attempts.entry((context.run.run, context.step.to_string(), context.attempt)).or_default() += 1;
        *seen.by_engine.entry(engine.to_owned()).or_default() += 1;
        seen.now += 1;
        seen.most = seen.most.max(seen.now);
        Inside(self.clone())
    }

    /// Holds attempts that say so, or lets them end.
    pub(super) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// How many attempts execute.
    pub(super) fn running(&self) -> u32 {
        self.seen().now
    }

    /// How many attempts executed at once, at most.
    pub(super) fn most(&self) -> u32 {
        self.seen().most
    }

    /// Executions of all attempts.
    pub(super) fn total(&self) -> u32 {
        self.seen().attempts.values().sum()
    }

    /// Executions by each engine that had any.
    pub(super) fn by_engine(&self) -> BTreeMap<String, u32> {
        self.seen().by_engine.clone()
    }

    /// Attempts that were executed more than once.
    fn repeated(&self) -> Vec<(RunId, String, u32)> {
        let seen = self.seen();
        seen.attempts.iter().filter(|(_, count)| **count > 1).map(|(attempt, _)| attempt.clone()).collect()
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        slots: SLOTS,
        lease: LEASE,
        sweep_every: SWEEP,
        drain: Duration::from_secs(5),
        grace: Duration::from_secs(1),
        ..Settings::default()
    }
}

pub(super) fn who() -> Identity {
    Identity::new(TenantId::new("acme").unwrap(), "suite")
}

/// A document from its steps, in YAML.
pub(super) fn dag(id: &str, steps: &str) -> Dag {
    let text = format!("apiVersion: orch/v1\nkind: Dag\nid: {id}\nsteps:\n{steps}");
    orch::spec::parse("suite.yaml", &text, &Limits::default()).unwrap_or_else(|problems| panic!("{problems}"))
}

pub(super) fn key(step: &str) -> StepKey {
    step.parse().unwrap()
}

/// Two engines on the seams of two processes, with one clock.
pub(super) struct Fleet {
    pub(super) backends: Backends,
    pub(super) clock: Ahead,
    pub(super) witness: Witness,
    pub(super) engines: Vec<Orchestrator>,
}

impl Fleet {
    /// Two engines that work.
    pub(super) fn start(backends: Backends) -> Self {
        let mut fleet = Self::of_none(backends);
        fleet.engines.push(fleet.engine("first", &fleet.backends.first, settings()));
        fleet.engines.push(fleet.engine("second", &fleet.backends.second, settings()));
        fleet
    }

    /// No engine yet.
    pub(super) fn of_none(backends: Backends) -> Self {
        let (witness, engines) = Default::default();
        Self { backends, clock: Ahead::new(), witness, engines }
    }

    /// Starts one more engine on the runtime of the caller.
    pub(super) fn engine(&self, name: &'static str, seams: &Seams, settings: Settings) -> Orchestrator {
        let builder = Orchestrator::builder()
            .store(Arc::clone(&seams.store))
            .queue(Arc::clone(&seams.queue))
            .lock(Arc::clone(&seams.lock))
            .clock(Arc::new(self.clock.clone()))
            .label(name)
            .settings(settings);
        self.witness.watch(name, builder).start().unwrap()
    }

    /// One of the engines, by turns.
    pub(super) fn of(&self, turn: usize) -> &Orchestrator {
        &self.engines[turn % self.engines.len()]
    }

    /// Submits to one of the engines.
    pub(super) async fn submit(&self, turn: usize, dag: &Dag) -> RunId {
        submit(self.of(turn), dag, None).await.run.run
    }

    /// The row of a run once it has ended, as one of the engines sees it.
    pub(super) async fn ended(&self, turn: usize, run: RunId) -> RunRow {
        let wait = tokio::time::timeout(PATIENCE, self.of(turn).wait(&who(), run)).await;
        match wait {
            Ok(row) => row.unwrap(),
            Err(_) => panic!("run {run} does not end: {:#?}", entries(self.of(turn), run).await),
        }
    }

    pub(super) async fn state(&self, run: RunId) -> RunState {
        self.of(1).inspect(&who(), run).await.unwrap()
    }

    /// Waits until a step has a status.
    pub(super) async fn until(&self, run: RunId, step: &str, status: StepStatus) {
        let begun = Instant::now();
        loop {
            let state = self.state(run).await;
            if state.find(&key(step)).is_some_and(|at| state.get(at).unwrap().status == status) {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "`{step}` never is {status}: {:#?}",
                entries(self.of(1), run).await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many attempts execute.
    pub(super) async fn until_running(&self, count: u32) {
        let begun = Instant::now();
        while self.witness.running() != count {
            assert!(begun.elapsed() < PATIENCE, "{} attempts execute, not {count}", self.witness.running());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Shuts the engines down and holds everything against the invariants.
    pub(super) async fn finish(self) {
        for engine in &self.engines {
            engine.shutdown().await;
        }
        let store = self.backends.second.store.as_ref();
        let report = verify_store(store, &who().tenant, &VerifyOptions::default()).await.unwrap();
        assert_eq!(report.problems, [], "L1, L3, R1, R2, R3, R5");
        assert!(report.entries > 0, "there was something to verify");
        assert_eq!(self.witness.repeated(), [], "R1: no attempt is executed twice");
    }
}

pub(super) async fn submit(orchestrator: &Orchestrator, dag: &Dag, token: Option<&str>) -> Submitted {
    let mut submit = Submit::new(DagRef::Unpublished(Box::new(dag.clone())), json!({}));
    submit.run_token = token.map(str::to_owned);
    orchestrator.submit(&who(), submit).await.unwrap()
}

/// All entries of a run so far.
pub(super) async fn entries(orchestrator: &Orchestrator, run: RunId) -> Vec<Entry> {
    let mut events = orchestrator.events(&who(), run, 0, false);
    let mut all = Vec::new();
    while let Some((entry, _)) = events.next().await.unwrap() {
        all.push(entry);
    }
    all
}

/// The steps that succeeded, in the order of the ledger.
pub(super) fn succeeded(entries: &[Entry]) -> Vec<String> {
    let step = |entry: &Entry| match &entry.event {
        Event::StepSucceeded(success) => Some(success.step.to_string()),
        _ => None,
    };
    entries.iter().filter_map(step).collect()
}

/// Steps were started after those they need had succeeded, and each succeeded once.
pub(super) fn in_declared_order(dag: &Dag, entries: &[Entry]) {
    let done = succeeded(entries);
    let place = |wanted: &str, starts: bool| {
        let is = |entry: &Entry| match &entry.event {
            Event::StepStarted(started) => starts && started.step.to_string() == wanted,
            Event::StepSucceeded(success) => !starts && success.step.to_string() == wanted,
            _ => false,
        };
        entries.iter().position(is).unwrap_or_else(|| panic!("`{wanted}` is not there: {entries:#?}"))
    };
    for step in &dag.steps {
        let id = step.id.as_str();
        assert_eq!(
            done.iter().filter(|other| *other == id).count(),
            1,
            "R1: `{id}` succeeded once: {done:?}"
        );
        for need in &step.needs {
            assert!(place(need.as_str(), false) < place(id, true), "R3: `{id}` needs `{need}`: {entries:#?}");
        }
    }
}

pub(super) fn step<'a>(state: &'a RunState, id: &str) -> &'a StepState {
    state.get(state.find(&key(id)).unwrap()).unwrap()
}
