//! Task: let a run wait for a person's yes, and give up when nobody answers in time.
//!
//! ```sh
//! cargo run -p orch-examples --bin approvals
//! ```
//!
//! The program publishes one DAG and runs it three times: approved, rejected, and left alone until the gate expires.
//! Whoever decides does so through the same handle, from anywhere: here it is this program, watching the run's events.
#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use orch::engine::{DagRef, Identity, Orchestrator, Submit};
use orch::executor::{Builtins, Executors};
use orch::ledger::Event;
use orch::{DagId, Limits, RunId, TenantId};
use serde_json::json;

type Fallible<T = ()> = Result<T, Box<dyn std::error::Error>>;

const RELEASE: &str = "
apiVersion: orch/v1
kind: Dag
id: release
steps:
  - { id: sign-off, uses: gate/approval, timeout: 1s, with: { question: 'Ship ${{ inputs.version }}?' } }
  - { id: ship, uses: fn/echo, needs: [sign-off], with: 'shipped ${{ inputs.version }}' }
";

#[tokio::main]
async fn main() -> Fallible {
    let executors = Builtins::default().register(Executors::new());
    let orchestrator = Orchestrator::builder().executors(executors).start()?;
    let tenant = TenantId::new("acme")?;
    let developer = Identity::new(tenant.clone(), "ada");
    let manager = Identity::new(tenant, "grace");
    orchestrator.publish(&developer, orch::spec::parse("release.yaml", RELEASE, &Limits::default())?).await?;

    let approved = submit(&orchestrator, &developer, "1.0").await?;
    println!("1.0 asks: {}", question(&orchestrator, &manager, approved).await?);
    let because = manager.clone().because("tests are green");
    orchestrator.decide(&because, approved, "sign-off".parse()?, true).await?;
    report(&orchestrator, &developer, "1.0", approved).await?;

    let rejected = submit(&orchestrator, &developer, "2.0").await?;
    question(&orchestrator, &manager, rejected).await?;
    let because = manager.because("not on a Friday");
    orchestrator.decide(&because, rejected, "sign-off".parse()?, false).await?;
    report(&orchestrator, &developer, "2.0", rejected).await?;

    let ignored = submit(&orchestrator, &developer, "3.0").await?;
    report(&orchestrator, &developer, "3.0", ignored).await?;

    orchestrator.shutdown().await;
    Ok(())
}

async fn submit(orchestrator: &Orchestrator, who: &Identity, version: &str) -> Fallible<RunId> {
    let submit = Submit::new(DagRef::Latest(DagId::new("release")?), json!({ "version": version }));
    Ok(orchestrator.submit(who, submit).await?.run.run)
}

/// Follows the run until its gate asks.
async fn question(orchestrator: &Orchestrator, who: &Identity, run: RunId) -> Fallible<String> {
    let mut events = orchestrator.events(who, run, 0, true);
    while let Some((entry, _)) = events.next().await? {
        if let Event::GateRequested(request) = entry.event {
            return Ok(request.input.to_value()["question"].to_string());
        }
    }
    Err("the run ended without asking".into())
}

async fn report(orchestrator: &Orchestrator, who: &Identity, version: &str, run: RunId) -> Fallible {
    let row = orchestrator.wait(who, run).await?;
    let state = orchestrator.inspect(who, run).await?;
    let gate = state.find(&"sign-off".parse()?).and_then(|at| state.get(at)).ok_or("the gate is gone")?;
    match &gate.error {
        None => println!("{version} {}: {}", row.status, state.outputs()["ship"].get()),
        Some(why) => println!("{version} {}: {}: {}", row.status, why.code, why.message),
    }
    Ok(())
}
