//! Seams that fail on purpose: before the deed, after it, late, twice, in another order, or not at all until told.

mod lock;
mod queue;
mod store;

pub use lock::FaultyLock;
pub use queue::FaultyQueue;
pub use store::{FaultyStore, Strike};

/// What goes wrong, in percent of the calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Nothing happens, and the call says so.
    pub unavailable: u64,
    /// It happens, and the answer is lost.
    pub indeterminate: u64,
    /// A race is lost that nobody won.
    pub conflict: u64,
    /// It takes up to 300 ms.
    pub delay: u64,
    /// Hints vanish.
    pub dropped: u64,
    /// Deliveries come twice.
    pub twice: u64,
    /// Deliveries come in another order.
    pub reordered: u64,
    /// Answers to claims are on their way for so many milliseconds.
    pub answers_after: u64,
}
