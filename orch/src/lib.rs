//! An embeddable, deterministic, provable orchestration library.

pub mod artifact;
pub mod digest;
pub mod engine;
pub mod error;
pub mod executor;
pub mod expr;
pub mod graph;
pub mod id;
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

pub use artifact::Artifacts;
pub use digest::Digest;
pub use error::{Error, ErrorKind, Result};
pub use id::{DagId, QueueName, RunId, RunKey, StepId, StepKey, TenantId, WorkerId};
pub use limits::Limits;
pub use payload::Payload;
pub use time::{Clock, ManualClock, Span, SystemClock, Timestamp};
