//! Task: use one DAG as a step of another, at a fixed version.
//!
//! ```sh
//! cargo run -p orch-examples --bin sub-dag
//! ```
//!
//! `uses: dag/ID@VERSION` starts a run of its own, with its own ledger stream. A later version of the inner DAG does not
//! change what the outer one does.
#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use orch::engine::{DagRef, Identity, Orchestrator, Submit};
use orch::executor::{Builtins, Executors};
use orch::{DagId, Limits, TenantId};
use serde_json::json;

/// Checks one file.
const SCAN: &str = "
apiVersion: orch/v1
kind: Dag
id: scan
inputs: { type: object, required: [file], properties: { file: { type: string } } }
steps:
  - { id: verdict, uses: fn/echo, with: 'checked ${{ inputs.file }}' }
";

/// Checks every file with version 1 of `scan`: the input of the step is the input of the inner run, and the outputs of the
/// inner run, by step, are the output of the step.
const SCAN_ALL: &str = "
apiVersion: orch/v1
kind: Dag
id: scan-all
steps:
  - id: scan
    uses: dag/scan@1
    forEach: { items: inputs.files }
    with: { file: '${{ item }}' }
  - id: verdicts
    uses: fn/echo
    needs: [scan]
    with: '${{ steps.scan.output.map(run, run.verdict) }}'
";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let executors = Builtins::default().register(Executors::new());
    let orchestrator = Orchestrator::builder().executors(executors).start()?;
    let who = Identity::new(TenantId::new("acme")?, "ada");
    let changed = SCAN.replace("checked", "changed");
    for text in [SCAN, SCAN_ALL, &changed] {
        let dag = orch::spec::parse("dag.yaml", text, &Limits::default())?;
        let id = dag.id.clone();
        println!("published {id}@{}", orchestrator.publish(&who, dag).await?.version);
    }

    let inputs = json!({ "files": ["a.txt", "b.txt"] });
    let submit = Submit::new(DagRef::Latest(DagId::new("scan-all")?), inputs);
    let row = orchestrator.submit(&who, submit).await?.run;
    let row = orchestrator.wait(&who, row.run).await?;

    let state = orchestrator.inspect(&who, row.run).await?;
    println!("{}: {}", row.status, state.outputs()["verdicts"].get());
    orchestrator.shutdown().await;
    Ok(())
}
