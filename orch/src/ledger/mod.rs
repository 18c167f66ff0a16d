//! The ledger: what happened, in order, chained by hashes. Pure.

mod entry;
mod event;
mod status;
mod stream;
#[cfg(test)]
mod tests;

pub use entry::{Chain, ENTRY_VERSION, Entry, read_chain};
pub use event::*;
pub use status::{GateKind, RunStatus, StepCounts, StepStatus};
pub use stream::{Head, Stream};
