//! Task: try again what fails for a moment, and keep what fails for longer until a person has cured the cause.
//!
//! ```sh
//! cargo run -p orch-examples --bin retries-and-parking
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orch::engine::{DagRef, Identity, Orchestrator, Submit};
use orch::executor::{Failure, StepContext};
use orch::ledger::Event;
use orch::{Limits, TenantId};

const UPLOAD: &str = "
apiVersion: orch/v1
kind: Dag
id: upload
steps:
  # Fails once and then works: the second attempt is enough.
  - { id: fetch, uses: fn/flaky, retry: { maxAttempts: 3, backoff: 50ms } }
  # Fails for as long as the disk is full: after two attempts it is parked.
  - { id: store, uses: fn/store, needs: [fetch], retry: { maxAttempts: 2, backoff: 50ms, onExhausted: park } }
";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let disk_is_full = Arc::new(AtomicBool::new(true));
    let disk = Arc::clone(&disk_is_full);
    let orchestrator =
        Orchestrator::builder()
            .task("flaky", |context: StepContext, (): ()| async move {
                if context.attempt == 1 { Err(Failure::retryable("timeout", "no answer")) } else { Ok(()) }
            })
            .task("store", move |_: StepContext, (): ()| {
                let full = disk.load(Ordering::SeqCst);
                async move {
                    if full { Err(Failure::retryable("disk_full", "no space left")) } else { Ok("stored") }
                }
            })
            .start()?;
    let who = Identity::new(TenantId::new("acme")?, "ada");
    let dag = orch::spec::parse("upload.yaml", UPLOAD, &Limits::default())?;
    let submit = Submit::new(DagRef::Unpublished(Box::new(dag)), serde_json::json!({}));
    let run = orchestrator.submit(&who, submit).await?.run.run;

    // The run does not fail while a step is parked: it waits.
    let mut events = orchestrator.events(&who, run, 0, true);
    while let Some((entry, _)) = events.next().await? {
        match entry.event {
            Event::StepFailed(failed) => {
                println!("{} attempt {}: {}", failed.step, failed.attempt, failed.code);
            }
            Event::StepParked(parked) => {
                println!("{} parked: {}", parked.step, parked.code);
                disk_is_full.store(false, Ordering::SeqCst);
                let cured = who.clone().because("made room on the disk");
                orchestrator.retry(&cured, run, vec![parked.step]).await?;
            }
            Event::StepSucceeded(done) => println!("{} attempt {}: succeeded", done.step, done.attempt),
            _ => {}
        }
    }
    println!("{}", orchestrator.run(&who, run).await?.status);
    orchestrator.shutdown().await;
    Ok(())
}
