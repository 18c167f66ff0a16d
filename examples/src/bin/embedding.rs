//! Task: run a pipeline of your own async functions, with types, inside your own program, on one SQLite file.
//!
//! ```sh
//! cargo run -p orch-examples --bin embedding
//! ```
//!
//! Run it twice: the second time, the same submission finds the run that is already in `.orch/embedding.db`.
#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::sync::Arc;

use orch::engine::{DagRef, Identity, Orchestrator, Submit};
use orch::executor::{Failure, StepContext};
use orch::{Limits, TenantId};
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};
use serde_json::json;

/// The input of `fn/price`. What does not fit is refused before the function is called, and the field named.
#[derive(serde::Deserialize)]
struct Order {
    item: String,
    count: u64,
}

async fn price(_: StepContext, order: Order) -> Result<u64, Failure> {
    match order.item.as_str() {
        "tea" => Ok(order.count * 4),
        "cake" => Ok(order.count * 7),
        // Final: no further attempt would find the item.
        other => Err(Failure::fatal("unknown_item", format!("no price for {other}"))),
    }
}

async fn sum(_: StepContext, prices: Vec<u64>) -> Result<u64, Failure> {
    Ok(prices.iter().sum())
}

const BILL: &str = "
apiVersion: orch/v1
kind: Dag
id: bill
steps:
  - { id: price, uses: fn/price, forEach: { items: inputs.orders }, with: '${{ item }}' }
  - { id: total, uses: fn/sum, needs: [price], with: '${{ steps.price.output }}' }
";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sqlite = SqliteBackend::open(SqliteConfig::new(".orch/embedding.db")).await?;
    let store = Arc::new(sqlite.store());
    let orchestrator = Orchestrator::builder().store(store).task("price", price).task("sum", sum).start()?;

    let who = Identity::new(TenantId::new("cafe")?, "waiter");
    let bill = orch::spec::parse("bill.yaml", BILL, &Limits::default())?;
    let orders = json!({ "orders": [{ "item": "tea", "count": 2 }, { "item": "cake", "count": 1 }] });
    let submit = Submit::new(DagRef::Unpublished(Box::new(bill)), orders);
    // The token makes it one run, however often it is submitted.
    let submit = Submit { run_token: Some("table-7".to_owned()), ..submit };

    let submitted = orchestrator.submit(&who, submit).await?;
    let run = orchestrator.wait(&who, submitted.run.run).await?;
    let state = orchestrator.inspect(&who, run.run).await?;
    let total = state.outputs()["total"].get();
    println!("{}: total {total} ({})", run.status, if submitted.new { "new" } else { "known already" });

    orchestrator.shutdown().await;
    sqlite.close().await;
    Ok(())
}
