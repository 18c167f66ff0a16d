//! What every test of the engine needs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orch::engine::{DagRef, Identity, Orchestrator, OrchestratorBuilder, Settings, Submit};
use orch::executor::{Failure, StepContext};
use orch::ledger::{Entry, StepStatus, Stream};
use orch::lock::{Lock, MemoryLock};
use orch::planner::{RunState, StepState};
use orch::proof::{Observed, Outside, StreamVerifier};
use orch::queue::{MemoryQueue, Queue};
use orch::store::{MemoryStore, RunRow, Store};
use orch::{Clock, Limits, RunId, StepKey, TenantId, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

/// Time as tokio sees it: paused tests jump from timer to timer, so a wait of an hour costs nothing.
#[derive(Clone, Debug)]
pub(crate) struct TokioClock(tokio::time::Instant);

impl TokioClock {
    pub(crate) fn new() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap().plus(self.0.elapsed())
    }
}

/// The backends that several orchestrators share, as processes share servers.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) lock: Arc<dyn Lock>,
    observed: Observed,
    pub(crate) clock: TokioClock,
}

impl World {
    pub(crate) fn new() -> Self {
        let observed = Observed::new();
        Self {
            store: observed.store(Arc::new(MemoryStore::new())),
            queue: observed.queue(Arc::new(MemoryQueue::new())),
            lock: observed.lock(Arc::new(MemoryLock::new())),
            observed,
            clock: TokioClock::new(),
        }
    }

    /// Holds everything that was seen at the seams, and the whole ledger, against the invariants; with `calm`, every run
    /// must have ended.
    pub(crate) async fn check(&self, calm: bool) {
        let outside = Outside { calm, still: false };
        let report = self.observed.check(self.store.as_ref(), outside).await.unwrap();
        assert_eq!(report.problems, []);
    }

    /// One process on the shared store and lock, with a queue in its own memory.
    pub(crate) fn process(&self) -> OrchestratorBuilder {
        builder()
            .store(Arc::clone(&self.store))
            .lock(Arc::clone(&self.lock))
            .clock(Arc::new(self.clock.clone()))
    }

    /// One process on everything shared.
    pub(crate) fn member(&self) -> OrchestratorBuilder {
        self.process().queue(Arc::clone(&self.queue))
    }
}

/// Who executed what, and how much of it at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Witness(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    attempts: BTreeMap<(RunId, String, u32), u32>,
    order: Vec<String>,
    now: BTreeMap<String, u32>,
    most: BTreeMap<String, u32>,
    cancelled: u32,
}

/// What a witnessed task does.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Act {
    /// Sleeps so long.
    pub(crate) millis: u64,
    /// Counts under this name how many run at once.
    pub(crate) group: String,
    /// Fails while the attempt is not greater.
    pub(crate) fails: u32,
    pub(crate) value: Value,
}

struct Inside(Witness, String, bool);

impl Drop for Inside {
    fn drop(&mut self) {
        let mut seen = self.0.0.lock().unwrap();
        *seen.now.get_mut(&self.1).unwrap() -= 1;
        seen.cancelled += u32::from(!self.2);
    }
}

impl Witness {
    /// The builder with the task `fn/act`, which this witness watches.
    pub(crate) fn watch(&self, builder: OrchestratorBuilder) -> OrchestratorBuilder {
        let witness = self.clone();
        builder.task("act", move |context: StepContext, act: Act| {
            let witness = witness.clone();
            async move { witness.act(&context, act).await }
        })
    }

    async fn act(&self, context: &StepContext, act: Act) -> Result<Value, Failure> {
        let mut inside = self.enter(context, &act.group);
        tokio::time::sleep(Duration::from_millis(act.millis)).await;
        inside.2 = true;
        if context.attempt <= act.fails {
            return Err(Failure::retryable("flaky", "not yet"));
        }
        Ok(act.value)
    }

    fn enter(&self, context: &StepContext, group: &str) -> Inside {
        let mut seen = self.0.lock().unwrap();
        let attempt = (context.run.run, context.step.to_string(), context.attempt);
        *seen.attempts.entry(attempt).or_default() += 1;
        seen.order.push(context.step.to_string());
        let now = seen.now.entry(group.to_owned()).or_default();
        *now += 1;
        let now = *now;
        let most = seen.most.entry(group.to_owned()).or_default();
        *most = now.max(*most);
        Inside(self.clone(), group.to_owned(), false)
    }

    /// Executions of a step, over all attempts and runs.
    pub(crate) fn executions(&self, step: &str) -> u32 {
        let seen = self.0.lock().unwrap();
        seen.attempts.iter().filter(|((_, name, _), _)| name == step).map(|(_, count)| count).sum()
    }

    /// All executions.
    pub(crate) fn total(&self) -> u32 {
        self.0.lock().unwrap().attempts.values().sum()
    }

    /// Attempts that were executed more than once.
    pub(crate) fn repeated(&self) -> Vec<(RunId, String, u32)> {
        let seen = self.0.lock().unwrap();
        seen.attempts.iter().filter(|(_, count)| **count > 1).map(|(attempt, _)| attempt.clone()).collect()
    }

    pub(crate) fn most(&self, group: &str) -> u32 {
        self.0.lock().unwrap().most.get(group).copied().unwrap_or_default()
    }

    pub(crate) fn running(&self) -> u32 {
        self.0.lock().unwrap().now.values().sum()
    }

    /// Executions that were stopped before their end.
    pub(crate) fn stopped(&self) -> u32 {
        self.0.lock().unwrap().cancelled
    }

    pub(crate) fn order(&self) -> Vec<String> {
        self.0.lock().unwrap().order.clone()
    }
}

pub(crate) fn who() -> Identity {
    Identity::new(TenantId::new("acme").unwrap(), "tester")
}

/// Somebody of another tenant.
pub(crate) fn stranger() -> Identity {
    Identity::new(TenantId::new("other").unwrap(), "stranger")
}

/// A document from its steps in YAML flow style.
pub(crate) fn dag(steps: &str) -> orch::spec::Dag {
    document(&format!("steps:\n{steps}"))
}

/// A document from everything but its head.
pub(crate) fn document(rest: &str) -> orch::spec::Dag {
    named("test", rest)
}

pub(crate) fn named(id: &str, rest: &str) -> orch::spec::Dag {
    let text = format!("apiVersion: orch/v1\nkind: Dag\nid: {id}\n{rest}");
    orch::spec::parse("test.yaml", &text, &Limits::default()).unwrap_or_else(|problems| panic!("{problems}"))
}

pub(crate) fn quick() -> Settings {
    Settings {
        lease: Duration::from_millis(600),
        sweep_every: Duration::from_millis(200),
        drain: Duration::from_secs(2),
        grace: Duration::from_millis(500),
        ..Settings::default()
    }
}

pub(crate) fn builder() -> OrchestratorBuilder {
    Orchestrator::builder()
        .settings(quick())
        .clock(Arc::new(TokioClock::new()))
        .task("echo", |_, input: Value| async move { Ok::<_, Failure>(input) })
        .task("add", |_, (a, b): (i64, i64)| async move { Ok::<_, Failure>(a + b) })
        .task("boom", |_, _: Value| async move { Err::<(), _>(Failure::retryable("boom", "it went boom")) })
        .task("flaky", |context, fails: u32| async move {
            if context.attempt <= fails {
                Err(Failure::retryable("flaky", "not yet"))
            } else {
                Ok(context.attempt)
            }
        })
        .task("sleep", |_, millis: u64| async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            Ok::<_, Failure>(())
        })
}

pub(crate) fn key(step: &str) -> StepKey {
    step.parse().unwrap()
}

pub(crate) async fn submit(orchestrator: &Orchestrator, dag: orch::spec::Dag) -> RunId {
    let submit = Submit::new(DagRef::Unpublished(Box::new(dag)), json!({}));
    orchestrator.submit(&who(), submit).await.unwrap().run.run
}

/// The row of a run once it has ended; it must end within ten minutes.
pub(crate) async fn ended(orchestrator: &Orchestrator, run: RunId) -> RunRow {
    let wait = tokio::time::timeout(Duration::from_secs(600), orchestrator.wait(&who(), run)).await;
    match wait {
        Ok(row) => row.unwrap(),
        Err(_) => panic!("it does not end: {:#?}", types(&entries(orchestrator, run).await)),
    }
}

pub(crate) async fn run(orchestrator: &Orchestrator, dag: orch::spec::Dag) -> RunRow {
    let run = submit(orchestrator, dag).await;
    ended(orchestrator, run).await
}

pub(crate) async fn run_with(orchestrator: &Orchestrator, dag: orch::spec::Dag, inputs: Value) -> RunRow {
    let submit = Submit::new(DagRef::Unpublished(Box::new(dag)), inputs);
    let run = orchestrator.submit(&who(), submit).await.unwrap().run.run;
    ended(orchestrator, run).await
}

/// Waits until a step has a status; answers the run's state.
pub(crate) async fn until(
    orchestrator: &Orchestrator,
    run: RunId,
    step: &str,
    status: StepStatus,
) -> RunState {
    for _ in 0..60_000 {
        let state = orchestrator.inspect(&who(), run).await.unwrap();
        if state.find(&key(step)).is_some_and(|at| state.get(at).unwrap().status == status) {
            return state;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("`{step}` never is {status}: {:#?}", types(&entries(orchestrator, run).await));
}

pub(crate) async fn state(orchestrator: &Orchestrator, run: RunId) -> RunState {
    orchestrator.inspect(&who(), run).await.unwrap()
}

pub(crate) fn step<'a>(state: &'a RunState, id: &str) -> &'a StepState {
    state.get(state.find(&key(id)).unwrap()).unwrap()
}

/// All entries of a run so far.
pub(crate) async fn entries(orchestrator: &Orchestrator, run: RunId) -> Vec<Entry> {
    let mut events = orchestrator.events(&who(), run, 0, false);
    let mut all = Vec::new();
    while let Some((entry, _)) = events.next().await.unwrap() {
        all.push(entry);
    }
    all
}

pub(crate) fn types(entries: &[Entry]) -> Vec<&'static str> {
    entries.iter().map(|entry| entry.event.type_name()).collect()
}

pub(crate) async fn millis(span: u64) {
    tokio::time::sleep(Duration::from_millis(span)).await;
}

/// Holds a run and its row against every invariant that the ledger alone can show.
pub(crate) async fn check(orchestrator: &Orchestrator, run: RunId) -> RunState {
    let mut events = orchestrator.events(&who(), run, 0, false);
    let mut verifier = StreamVerifier::new(who().tenant, Stream::Run(run), Limits::default());
    while let Some((_, line)) = events.next().await.unwrap() {
        verifier.push(line.trim_end_matches('\n'));
    }
    let row = orchestrator.run(&who(), run).await.unwrap();
    assert_eq!(verifier.finish(Some(row.head)), None);
    assert_eq!(verifier.compare_row(&row), None);
    state(orchestrator, run).await
}
