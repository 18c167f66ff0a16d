//! The engine: the only room with tasks, channels and timers.
//!
//! Data travels one way. A request about a run (submit, start, finish, cancel, …) goes to the committer
//! (`commit.rs`), which asks the pure rules (`change.rs`, [`planner`](crate::planner)) what it means, encodes the
//! events (`prepare.rs`) and appends them (`land.rs`); what follows from a durable append (`effects.rs`) goes out again: attempts
//! to be executed (`execute.rs`), runs of sub-DAGs (`sub_dag.rs`), hints to the queue, word to whoever waits
//! (`watch.rs`). Workers outside the process lease (`lease.rs`) what hints wait for them at the desk (`desk.rs`). The sweep (`sweep.rs`) comes by wherever that chain was cut.

mod active;
mod audit;
mod builder;
mod change;
mod commit;
mod core;
mod dags;
mod desk;
mod effects;
mod execute;
mod feed;
mod handle;
mod health;
mod known;
mod land;
mod lease;
mod load;
mod observe;
mod prepare;
mod results;
mod settings;
mod slots;
mod sub_dag;
mod submit;
mod sweep;
mod watch;
mod work;

pub use builder::OrchestratorBuilder;
pub use core::{SecretSource, TokenSource};
pub use dags::{DagVersion, PublishedDag, VERSIONS_MAX, VersionPlan};
pub use feed::{FeedEntries, RunFeed};
pub use handle::{Identity, Orchestrator, Stats};
pub use health::Failures;
pub use lease::{Lease, LeaseToken, Leased, Renewed};
pub use observe::{AttemptEnded, AttemptOutcome, Observer, RunEnded};
pub use settings::{Roles, Settings};
pub use submit::{DagRef, Resubmit, Submit, Submitted};
pub use watch::RunEvents;
