//! An orchestrator as the command line builds it, over a fresh directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orch::engine::{DagRef, Identity, Orchestrator, Settings, Submit};
use orch::executor::{Builtins, Executors, ProcessExecutor, ProcessSettings};
use orch::ledger::RunStatus;
use orch::planner::RunState;
use orch::spec::Dag;
use orch::{Artifacts, Limits, RunId, TenantId};
use serde_json::Value;

/// Runs of examples, reading and writing below a directory that is gone afterwards.
pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) orchestrator: Orchestrator,
    pub(crate) who: Identity,
}

impl Bench {
    /// With the limits of the command line, whose payloads hold 4 MiB.
    pub(crate) fn new() -> Self {
        Self::with_limits(Limits { payload_bytes: 4 << 20, ..Limits::default() })
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let processes = ProcessExecutor::unsandboxed(ProcessSettings::below(&root));
        let builtins = Builtins { root: Some(root.clone()), output: Some(root) };
        let executors = builtins.register(Executors::new().executor("process", "1", Arc::new(processes)));
        let orchestrator = Orchestrator::builder()
            .executors(executors)
            .artifacts(Artifacts::memory())
            .settings(Settings { limits, sandbox: Some("none".to_owned()), ..Settings::default() })
            .start()
            .unwrap();
        let who = Identity::new(TenantId::new("default").unwrap(), "tester");
        Self { directory, orchestrator, who }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) async fn submit(&self, dag: &str, inputs: Value) -> RunId {
        let submit = Submit::new(DagRef::Unpublished(Box::new(example(dag))), inputs);
        self.orchestrator.submit(&self.who, submit).await.unwrap().run.run
    }

    pub(crate) async fn end(&self, run: RunId) -> (RunStatus, RunState) {
        let ended = tokio::time::timeout(Duration::from_secs(120), self.orchestrator.wait(&self.who, run));
        let row = ended.await.expect("the run ends").unwrap();
        (row.status, self.orchestrator.inspect(&self.who, run).await.unwrap())
    }

    pub(crate) async fn run(&self, dag: &str, inputs: Value) -> (RunStatus, RunState) {
        let run = self.submit(dag, inputs).await;
        self.end(run).await
    }
}

/// The folder of the examples.
pub(crate) fn dags() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dags")
}

/// An example by its name.
pub(crate) fn example(name: &str) -> Dag {
    let file = format!("{name}.yaml");
    let text = std::fs::read_to_string(dags().join(&file)).unwrap();
    orch::spec::parse(&file, &text, &Limits::default()).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The output of a step.
pub(crate) fn output<'s>(state: &'s RunState, step: &str) -> &'s Value {
    let step = state.get(state.find(&step.parse().unwrap()).unwrap()).unwrap();
    step.output.as_ref().unwrap_or_else(|| panic!("no output: {:?}", step.error)).get()
}
