//! Hints that a step may be runnable.
//!
//! The ledger decides whether it is. Losing, repeating or reordering hints costs time, never correctness;
//! the sweep rebuilds them.

mod lanes;
mod memory;

use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::id::{DagId, QueueName, RunId, RunKey, StepKey, TenantId, WorkerId};
use crate::time::Timestamp;

pub use lanes::Lanes;
pub use memory::MemoryQueue;

/// At-least-once leases over hints, in deterministic order.
///
/// The order within a tenant's queue is (priority descending, ready time, DAG id, run id, plan index, step,
/// attempt); see [`Item::cmp`]. Tenants take turns, so that one tenant's backlog does not hide another's: a claim
/// takes one item of each tenant that has any, in order of tenant, and begins again until it has enough; the next
/// claim goes on with the tenant after the last one served.
#[async_trait]
pub trait Queue: fmt::Debug + Send + Sync + 'static {
    /// Adds items.
    ///
    /// # Guarantees
    /// Idempotent per tenant and [`Item::id`]: pushing an item that is queued or leased changes nothing.
    ///
    /// # Errors
    /// `Unavailable`, `Indeterminate`. Push again: it is idempotent.
    async fn push(&self, items: &[Item]) -> Result<()>;

    /// Leases up to `limit` items that are ready at `now`.
    ///
    /// # Guarantees
    /// - No item is leased twice at the same time; each delivery has a token of its own.
    /// - Q1: an item whose lease ended unsettled is delivered again.
    ///
    /// # Errors
    /// `Unavailable`.
    ///
    /// # Backend notes
    /// Whoever shares a queue with other processes is served better when what became ready together in one run is not divided
    /// between two claims: see [`Claim::limit`].
    async fn claim(&self, claim: &Claim) -> Result<Claimed>;

    /// Prolongs leases to `until`.
    ///
    /// # Errors
    /// Per delivery: `LeaseLost` when the lease ended or the item was delivered again.
    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>>;

    /// Ends deliveries: the item is done, or goes back.
    ///
    /// # Errors
    /// Per delivery: `LeaseLost` when the lease ended or the item was delivered again; nothing changes then.
    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>>;

    /// Returns when an item may have become claimable, or after `timeout`. A hint of a hint: it may return early
    /// or late.
    ///
    /// # Errors
    /// `Unavailable`, `Closed`.
    async fn wait(&self, timeout: Duration) -> Result<()>;

    /// How much is waiting in each of a tenant's queues, by queue name; queues that hold nothing are left out. For
    /// people and metrics: it may look at every item.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>>;
}

/// A hint: this attempt of this step may be runnable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Whose step.
    pub tenant: TenantId,
    /// The queue it belongs to.
    pub queue: QueueName,
    /// Higher goes first.
    pub priority: i32,
    /// Not before this instant.
    pub ready_at: Timestamp,
    /// The DAG of the run.
    pub dag: DagId,
    /// The run.
    pub run: RunId,
    /// Where the step stands in the plan.
    pub plan_index: u32,
    /// The step.
    pub step: StepKey,
    /// The attempt to start.
    pub attempt: u32,
}

impl Item {
    /// What makes it the same item however often it is pushed: run, step and attempt.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.run, self.step, self.attempt)
    }

    /// The run with its tenant.
    #[must_use]
    pub fn key(&self) -> RunKey {
        RunKey { tenant: self.tenant.clone(), run: self.run }
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |item: &Self| (std::cmp::Reverse(item.priority), item.ready_at);
        rank(self)
            .cmp(&rank(other))
            .then_with(|| self.dag.cmp(&other.dag))
            .then_with(|| self.run.cmp(&other.run))
            .then_with(|| self.plan_index.cmp(&other.plan_index))
            .then_with(|| self.step.cmp(&other.step))
            .then_with(|| self.attempt.cmp(&other.attempt))
            .then_with(|| self.tenant.cmp(&other.tenant))
            .then_with(|| self.queue.cmp(&other.queue))
    }
}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a worker asks for.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who asks.
    pub worker: WorkerId,
    /// Only these queues; nothing means every queue.
    pub queues: Option<Vec<QueueName>>,
    /// Only these tenants; nothing means every tenant.
    pub tenants: Option<Vec<TenantId>>,
    /// How many items at most. A queue may hand out fewer, though at least half, so that what became ready together in one
    /// run goes to one worker; it then says that there is [more](Claimed::more).
    pub limit: usize,
    /// How long the lease lasts from `now`.
    pub lease: Duration,
    /// The present instant.
    pub now: Timestamp,
}

/// What a worker got.
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// The deliveries, each tenant's in queue order.
    pub deliveries: Vec<Delivery>,
    /// When the next item of the asked queues becomes ready or comes back from a lease, if the queue knows; it may
    /// look at more tenants and queues than the asked ones.
    pub next_at: Option<Timestamp>,
    /// Whether more was ready, although fewer than asked for were handed out.
    pub more: bool,
}

/// The name of one delivery; every delivery of an item has another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeliveryToken(String);

impl DeliveryToken {
    /// Wraps a token of the backend.
    #[must_use]
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A leased item.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The item.
    pub item: Item,
    /// The name of this delivery.
    pub token: DeliveryToken,
    /// When the lease ends.
    pub lease_until: Timestamp,
    /// How often the item has been delivered, this time included.
    pub count: u32,
}

/// How a delivery ends.
#[derive(Clone, Debug)]
pub struct Settle {
    /// Which delivery.
    pub token: DeliveryToken,
    /// Nothing: the item is done. An instant: it goes back and is ready then.
    pub release_until: Option<Timestamp>,
}

impl Settle {
    /// The item is done.
    #[must_use]
    pub fn done(token: DeliveryToken) -> Self {
        Self { token, release_until: None }
    }

    /// The item goes back and is ready at `at`.
    #[must_use]
    pub fn release(token: DeliveryToken, at: Timestamp) -> Self {
        Self { token, release_until: Some(at) }
    }
}

/// How much is waiting in one queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Depth {
    /// The queue.
    pub queue: QueueName,
    /// Items ready now.
    pub ready: u64,
    /// Items ready later.
    pub delayed: u64,
    /// Items under lease.
    pub leased: u64,
    /// Since when the oldest ready item has been ready.
    pub oldest_at: Option<Timestamp>,
}
