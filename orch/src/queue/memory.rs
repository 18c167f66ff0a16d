//! The queue in memory: the default of an embedded engine.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hashbrown::HashSet;
use tokio::sync::Notify;

use super::*;
use crate::error::Error;

/// A [`Queue`] in memory. Clones share their content, as processes share a server.
#[derive(Clone, Default)]
pub struct MemoryQueue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    pushed: Notify,
}

#[derive(Default)]
struct State {
    /// Everything queued or leased, by what makes it the same item.
    known: HashSet<Known>,
    lanes: Lanes,
}

/// An item compared by what [`Item::id`] and the tenant say, without spelling it.
struct Known(Arc<Item>);

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        let id = |item: &Item| (item.run, item.attempt);
        id(&self.0) == id(&other.0) && self.0.step == other.0.step && self.0.tenant == other.0.tenant
    }
}

impl Eq for Known {}

impl Hash for Known {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        // Tenants are left to `eq`: a run id is derived from its tenant.
        (self.0.run, self.0.attempt, self.0.step.index).hash(hasher);
        self.0.step.id.hash(hasher);
    }
}

impl State {
    fn push(&mut self, item: &Item) {
        let item = Arc::new(item.clone());
        if self.known.insert(Known(Arc::clone(&item))) {
            self.lanes.add(item, 0);
        }
    }

    /// The token's number, if its lease lasts.
    fn live(&self, token: &DeliveryToken, now: Timestamp) -> Result<u64> {
        let lease = token.as_str().parse().ok();
        lease
            .filter(|lease| self.lanes.lease_until(*lease).is_some_and(|until| until > now))
            .ok_or_else(|| Error::lease_lost("delivery is no longer leased").with("token", token.as_str()))
    }

    fn renew(&mut self, token: &DeliveryToken, until: Timestamp, now: Timestamp) -> Result<()> {
        let lease = self.live(token, now)?;
        self.lanes.prolong(lease, until);
        Ok(())
    }

    fn settle(&mut self, settle: &Settle, now: Timestamp) -> Result<()> {
        let lease = self.live(&settle.token, now)?;
        let Some((item, count)) = self.lanes.end(lease) else { return Ok(()) };
        match settle.release_until {
            Some(ready_at) => self.lanes.add(Arc::new(Item { ready_at, ..Item::clone(&item) }), count),
            None => drop(self.known.remove(&Known(item))),
        }
        Ok(())
    }
}

impl MemoryQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing above panics halfway through a change, so a poisoned state is whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        // Everybody who waits, and the next who comes: it may have looked just before.
        self.0.pushed.notify_waiters();
        self.0.pushed.notify_one();
    }
}

impl fmt::Debug for MemoryQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryQueue").field("items", &self.state().known.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    async fn push(&self, items: &[Item]) -> Result<()> {
        let mut state = self.state();
        items.iter().for_each(|item| state.push(item));
        drop(state);
        self.notify();
        Ok(())
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        Ok(self.state().lanes.claim(claim))
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        let mut state = self.state();
        Ok(tokens.iter().map(|token| state.renew(token, until, now)).collect())
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        let mut state = self.state();
        let settled = settles.iter().map(|settle| state.settle(settle, now)).collect();
        drop(state);
        if settles.iter().any(|settle| settle.release_until.is_some()) {
            self.notify();
        }
        Ok(settled)
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        // Either way the caller looks again.
        let _ = tokio::time::timeout(timeout, self.0.pushed.notified()).await;
        Ok(())
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        Ok(self.state().lanes.depth(tenant, now))
    }
}

#[cfg(test)]
mod tests;
