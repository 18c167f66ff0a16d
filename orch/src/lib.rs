//! An embeddable, deterministic, provable orchestration library.

pub mod digest;
pub mod error;
pub mod expr;
pub mod id;
pub mod limits;
pub mod payload;
pub mod spec;
pub mod time;

pub use digest::Digest;
pub use error::{Error, ErrorKind, Result};
pub use id::{DagId, QueueName, RunId, RunKey, StepId, StepKey, TenantId, WorkerId};
pub use limits::Limits;
pub use payload::Payload;
pub use time::{Clock, ManualClock, Span, SystemClock, Timestamp};
