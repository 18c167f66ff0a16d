//! What every test of the engine needs.

use std::time::Duration;

use orch::engine::{DagRef, Identity, Orchestrator, OrchestratorBuilder, Settings, Submit};
use orch::executor::Failure;
use orch::store::RunRow;
use orch::{Limits, TenantId};
use serde_json::{Value, json};

pub(crate) fn who() -> Identity {
    Identity::new(TenantId::new("acme").unwrap(), "tester")
}

/// A document from its steps in YAML flow style.
pub(crate) fn dag(steps: &str) -> orch::spec::Dag {
    document(&format!("steps:\n{steps}"))
}

/// A document from everything but its head.
pub(crate) fn document(rest: &str) -> orch::spec::Dag {
    let text = format!("apiVersion: orch/v1\nkind: Dag\nid: test\n{rest}");
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

pub(crate) async fn run(orchestrator: &Orchestrator, dag: orch::spec::Dag) -> RunRow {
    run_with(orchestrator, dag, json!({})).await
}

pub(crate) async fn run_with(orchestrator: &Orchestrator, dag: orch::spec::Dag, inputs: Value) -> RunRow {
    let submit = Submit::new(DagRef::Unpublished(Box::new(dag)), inputs);
    let run = orchestrator.submit(&who(), submit).await.unwrap().run.run;
    tokio::time::timeout(Duration::from_secs(20), orchestrator.wait(&who(), run))
        .await
        .expect("it ends")
        .unwrap()
}
