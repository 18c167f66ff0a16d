//! Counted slots and token buckets: the place of throttles.
//!
//! No safety property rests on it; the ledger's compare-and-swap carries those.

mod bucket;
mod memory;
mod slots;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::id::TenantId;
use crate::time::Timestamp;

pub use bucket::Bucket;
pub use memory::MemoryLock;
pub use slots::Slots;

/// Slots with expiry and fences, and token buckets.
#[async_trait]
pub trait Lock: fmt::Debug + Send + Sync + 'static {
    /// Takes slots: all of the request's keys or none. Answers one grant per key, in order, or nothing when a slot
    /// is missing.
    ///
    /// # Guarantees
    /// - A1: at no time are more than `capacity` live slots of a key held. Slots are lease rows, never counters; a
    ///   dead holder's slot is free once its lease has ended.
    /// - Fences of a key strictly increase from grant to grant, also across expiry and release.
    /// - A holder that asks again for a key it holds keeps its slot and fence; the lease is prolonged.
    ///
    /// # Errors
    /// `Unavailable`, `Indeterminate` (ask again: it is idempotent per holder).
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>>;

    /// Prolongs the leases of everything each holder holds to `until`.
    ///
    /// # Errors
    /// Per holder: `LeaseLost` when the lease of any of its slots has ended or it holds none; nothing is prolonged
    /// then. A holder that has lost everything and acquires again begins anew.
    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>>;

    /// Gives back everything each holder holds. Giving back what is not held is not an error.
    ///
    /// # Errors
    /// `Unavailable`; the leases end by themselves.
    async fn release(&self, holders: &[Holder]) -> Result<()>;

    /// Takes tokens from a bucket that refills steadily (token bucket).
    ///
    /// # Guarantees
    /// Over any span T no more than `burst + rate × T` tokens are granted.
    ///
    /// # Errors
    /// `Invalid` when more tokens are asked for than the burst or the rate is no number from 0; `Unavailable`.
    async fn take(&self, take: &Take) -> Result<Taken>;
}

/// Who holds slots: a name unique within its tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// Whose slots.
    pub tenant: TenantId,
    /// The holder's name.
    pub name: String,
}

/// A request for slots.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// Who asks.
    pub holder: Holder,
    /// The keys and how many holders each has room for; 1 makes a mutex.
    pub slots: Vec<Slot>,
    /// How long the lease lasts from `now`.
    pub lease: Duration,
    /// The present instant.
    pub now: Timestamp,
}

/// One key and its room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// The key, within the holder's tenant.
    pub key: String,
    /// How many holders it has room for.
    pub capacity: u32,
}

/// A slot held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Higher than every fence granted before for the key.
    pub fence: u64,
    /// When the lease ends.
    pub lease_until: Timestamp,
}

/// A request for tokens.
#[derive(Clone, Debug)]
pub struct Take {
    /// Whose bucket.
    pub tenant: TenantId,
    /// Which bucket.
    pub key: String,
    /// How many tokens.
    pub tokens: u32,
    /// Tokens that flow in per second.
    pub rate: f64,
    /// How many tokens the bucket holds; a new bucket is full.
    pub burst: u32,
    /// The present instant.
    pub now: Timestamp,
}

/// The answer to a request for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// They were taken.
    Granted,
    /// There were too few; there will be enough at this instant if nobody else takes them.
    RetryAt(Timestamp),
}
