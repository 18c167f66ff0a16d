//! Task: run commands that are already on the machine as steps, and see what they said.
//!
//! ```sh
//! cargo run -p orch-examples --bin process-steps
//! ```
//!
//! The same DAG for the command line: `orch run --sandbox none examples/dags/process.yaml`.
#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::sync::Arc;

use orch::engine::{DagRef, Identity, Orchestrator, Settings, Submit};
use orch::executor::{Executors, LogLine, ProcessExecutor, ProcessSettings};
use orch::{Limits, TenantId};

const DAG: &str = include_str!("../../dags/process.yaml");

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Nothing confines these commands, which is why a program has to ask for it, and why every run records it.
    let processes = ProcessExecutor::unsandboxed(ProcessSettings::below(std::env::temp_dir()));
    let orchestrator = Orchestrator::builder()
        .executors(Executors::new().executor("process", "1", Arc::new(processes)))
        .settings(Settings { sandbox: Some("none".to_owned()), ..Settings::default() })
        .start()?;
    let who = Identity::new(TenantId::new("acme")?, "ada");
    let dag = orch::spec::parse("process.yaml", DAG, &Limits::default())?;
    let submit = Submit::new(DagRef::Unpublished(Box::new(dag)), serde_json::json!({}));
    let run = orchestrator.submit(&who, submit).await?.run.run;
    let row = orchestrator.wait(&who, run).await?;

    let state = orchestrator.inspect(&who, run).await?;
    for (step, spec) in state.steps().iter().zip(state.plan.steps()) {
        let output = step.output.as_ref().map(|output| output.get().to_string());
        println!("{} {}: {}", spec.id, step.status, output.unwrap_or_default());
        let Some(log) = &step.logs else { continue };
        let lines = orchestrator.artifacts().get(&who.tenant, &log.hash).await?;
        for line in serde_json::Deserializer::from_slice(&lines).into_iter::<LogLine>() {
            let line = line?;
            println!("  {:?}: {}", line.stream, line.line);
        }
    }
    println!("{} (sandbox: {})", row.status, state.created.sandbox.as_deref().unwrap_or("?"));
    orchestrator.shutdown().await;
    Ok(())
}
