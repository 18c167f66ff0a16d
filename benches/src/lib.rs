//! The loads that benchmarks run: made of nothing but arithmetic, the same on every machine.

pub mod rules;

use std::time::Instant;

use orch::engine::{DagRef, Identity, Orchestrator, Settings, Submit};
use orch::executor::Failure;
use orch::ledger::RunStatus;
use orch::spec::{ApiVersion, Dag, ForEach, Items, Kind, Retry, Step, Uses};
use orch::{DagId, QueueName, RunId, StepId, TenantId};
use serde_json::{Value, json};

/// The allocator of the command `orch`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A step that does nothing and needs `needs`.
#[must_use]
pub fn step(id: &str, needs: Vec<StepId>) -> Step {
    Step {
        id: StepId::new(id).expect("bench ids fit the grammar"),
        uses: Uses::Function("noop".to_owned()),
        needs,
        with: Value::Null,
        when: None,
        for_each: None,
        retry: Retry::default(),
        timeout: None,
        total_timeout: None,
        queue: QueueName::default_queue(),
        priority: 0,
        concurrency: Vec::new(),
        limits: None,
        network: None,
        secrets: Vec::new(),
        cache: false,
    }
}

/// A document of these steps.
#[must_use]
pub fn dag(steps: Vec<Step>) -> Dag {
    Dag {
        api_version: ApiVersion::V1,
        kind: Kind::Dag,
        id: DagId::new("bench").expect("bench ids fit the grammar"),
        description: None,
        inputs: None,
        timeout: None,
        steps,
        edges: Vec::new(),
    }
}

fn id(number: usize) -> StepId {
    StepId::new(format!("s{number:07}")).expect("bench ids fit the grammar")
}

/// A chain of `length` steps.
#[must_use]
pub fn chain(length: usize) -> Dag {
    dag((0..length).map(|i| step(id(i).as_str(), if i == 0 { vec![] } else { vec![id(i - 1)] })).collect())
}

/// `width` steps without needs.
#[must_use]
pub fn wide(width: usize) -> Dag {
    dag((0..width).map(|i| step(id(i).as_str(), vec![])).collect())
}

/// One `forEach` step with `count` items.
#[must_use]
pub fn fan_out(count: usize) -> Dag {
    let mut each = step("each", vec![]);
    each.for_each =
        Some(ForEach { items: Items::List((0..count).map(Value::from).collect()), max_parallel: None });
    dag(vec![each])
}

/// Layers of `width` steps; each step needs three of the layer before, picked by a fixed pseudo-random sequence.
#[must_use]
pub fn layered(count: usize, width: usize) -> Dag {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut pick = move |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap_or(0) % bound
    };
    let steps = (0..count).map(|i| {
        let layer = i / width;
        let needs = if layer == 0 {
            Vec::new()
        } else {
            (0..3).map(|_| id((layer - 1) * width + pick(width))).collect()
        };
        step(id(i).as_str(), needs)
    });
    dag(steps.collect())
}

/// Who runs benchmarks.
#[must_use]
pub fn who() -> Identity {
    Identity::new(TenantId::new("bench").expect("bench ids fit the grammar"), "bench")
}

/// Settings for benchmarks: enough places that they are not what is measured.
#[must_use]
pub fn settings() -> Settings {
    Settings { slots: 1_024, limits: rules::limits(), ..Settings::default() }
}

/// An orchestrator builder that knows `fn/noop`.
#[must_use]
pub fn builder() -> orch::engine::OrchestratorBuilder {
    Orchestrator::builder().settings(settings()).task("noop", |_, _: Value| async { Ok::<_, Failure>(()) })
}

/// The time, for measuring.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "benchmarks measure")]
pub fn now() -> Instant {
    Instant::now()
}

/// Publishes `dag`, so that runs of it can be submitted.
pub async fn publish(orchestrator: &Orchestrator, dag: &Dag) -> DagRef {
    let version = orchestrator.publish(&who(), dag.clone()).await.expect("bench dags are valid").version;
    DagRef::Version(dag.id.clone(), version)
}

/// Submits `runs` runs at once; answers when all of them are recorded.
pub async fn submit(orchestrator: &Orchestrator, dag: &DagRef, runs: usize) -> Vec<RunId> {
    let submits = (0..runs).map(|_| {
        let (orchestrator, submit) = (orchestrator.clone(), Submit::new(dag.clone(), json!({})));
        tokio::spawn(async move {
            orchestrator.submit(&who(), submit).await.expect("bench runs are valid").run.run
        })
    });
    let mut ids = Vec::with_capacity(runs);
    for submit in submits.collect::<Vec<_>>() {
        ids.push(submit.await.expect("submitting does not panic"));
    }
    ids
}

/// Submits `runs` runs at once and waits for all of them.
pub async fn run_all(orchestrator: &Orchestrator, dag: &DagRef, runs: usize) {
    let who = who();
    for id in submit(orchestrator, dag, runs).await {
        let row = orchestrator.wait(&who, id).await.expect("bench runs end");
        assert_eq!(row.status, RunStatus::Completed);
    }
}

/// Publishes `dag`, submits `runs` runs of it at once and waits for all of them.
pub async fn drive(orchestrator: &Orchestrator, dag: &Dag, runs: usize) {
    let dag = publish(orchestrator, dag).await;
    run_all(orchestrator, &dag, runs).await;
}
