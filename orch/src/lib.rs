//! An embeddable, deterministic, provable orchestration library.
//!
//! Declare a DAG of steps, submit runs. Every run executes in one deterministic order, and everything that happens to
//! it becomes an entry of an append-only ledger, chained by hashes. The default needs no server: one process, and
//! everything in memory, or in one SQLite file with the crate `orch-backend-sqlite`.
//!
//! # Example
//!
//! ```
//! use orch::{DagRef, Failure, Identity, Limits, Orchestrator, RunStatus, StepContext, Submit, TenantId};
//!
//! const DAG: &str = "
//! apiVersion: orch/v1
//! kind: Dag
//! id: bill
//! steps:
//!   - { id: price, uses: fn/price, forEach: { items: inputs.orders }, with: '${{ item }}' }
//!   - { id: total, uses: fn/sum, needs: [price], with: '${{ steps.price.output }}' }
//! ";
//!
//! #[derive(serde::Deserialize)]
//! struct Order { item: String, count: u64 }
//!
//! async fn price(_: StepContext, order: Order) -> Result<u64, Failure> {
//!     match order.item.as_str() {
//!         "tea" => Ok(order.count * 4),
//!         other => Err(Failure::fatal("unknown_item", format!("no price for {other}"))),
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let sum = |_: StepContext, prices: Vec<u64>| async move { Ok::<_, Failure>(prices.iter().sum::<u64>()) };
//!     let orchestrator = Orchestrator::builder().task("price", price).task("sum", sum).start()?;
//!     let who = Identity::new(TenantId::new("cafe")?, "waiter");
//!     let dag = orch::spec::parse("bill.yaml", DAG, &Limits::default())?;
//!     let inputs = serde_json::json!({ "orders": [{ "item": "tea", "count": 2 }, { "item": "tea", "count": 1 }] });
//!
//!     let submitted = orchestrator.submit(&who, Submit::new(DagRef::Unpublished(Box::new(dag)), inputs)).await?;
//!     let run = orchestrator.wait(&who, submitted.run.run).await?;
//!     assert_eq!(run.status, RunStatus::Completed);
//!     let state = orchestrator.inspect(&who, run.run).await?;
//!     assert_eq!(*state.outputs()["total"].get(), 12);
//!     orchestrator.shutdown().await;
//!     Ok(())
//! }
//! ```
//!
//! # Rooms
//!
//! A room uses those above it in this table. The exceptions are plain types of the seams: the ledger names the parent
//! of a run as the store does, and the planner reads the outcomes of executors.
//!
//! | room | what it is | pure |
//! |---|---|---|
//! | [`id`], [`digest`], [`error`], [`invariant`], [`time`], [`payload`], [`limits`] | the vocabulary of all rooms | yes |
//! | [`expr`] | conditions and `${{ }}` expressions: compiled, bounded, the same result everywhere | yes |
//! | [`spec`] | the author's document: reading YAML and JSON, all problems at once, with places | yes |
//! | [`ledger`] | what can happen, and the chain of entries that says it did | yes |
//! | [`planner`] | the order of steps, the state of a run as a fold of its entries, what comes next | yes |
//! | [`proof`] | verifying, exporting, signing, pruning and comparing what the ledger holds | but for reading the store |
//! | [`graph`] | layout and pictures of a DAG | yes |
//! | [`store`], [`queue`], [`lock`], [`executor`] | the four seams: a contract each, and what needs no server | no |
//! | [`artifact`] | bytes kept outside the ledger, named by their content | no |
//! | [`engine`] | the only room with tasks, channels and timers; [`Orchestrator`] is its handle | no |
//!
//! Pure means: no I/O, no clock, no randomness, no async. The folder `docs/` of the repository holds the longer texts:
//! `dag-reference.md` (writing DAGs), `embedding.md` (this library in a program), `writing-a-backend.md`,
//! `architecture.md` and `guarantees.md`.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `builtins` | yes | [`Builtins`]: `fn/echo`, `fn/read`, `fn/parse`, `fn/template` and so on |
//! | `process` | yes | `executor::ProcessExecutor`: child processes without a sandbox; on Unix |

pub mod artifact;
pub mod digest;
pub mod engine;
pub mod error;
pub mod executor;
pub mod expr;
pub mod graph;
pub mod id;
pub mod invariant;
pub mod ledger;
pub mod limits;
pub mod lock;
pub mod payload;
pub mod planner;
pub mod proof;
pub mod queue;
pub mod spec;
pub mod store;
pub mod time;
pub mod trace;

pub use artifact::Artifacts;
pub use digest::Digest;
pub use engine::{
    DagRef, Identity, Orchestrator, OrchestratorBuilder, Resubmit, Roles, Settings, Submit, Submitted,
};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "builtins")]
pub use executor::Builtins;
pub use executor::{Executor, Executors, Failure, Outcome, Secret, StepContext};
pub use id::{DagId, QueueName, RunId, RunKey, StepId, StepKey, TenantId, WorkerId};
pub use invariant::Invariant;
pub use ledger::{RunStatus, StepStatus};
pub use limits::Limits;
pub use payload::Payload;
pub use spec::Dag;
pub use store::RunRow;
pub use time::{Clock, ManualClock, Span, SystemClock, Timestamp};
