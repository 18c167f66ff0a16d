//! The lock in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::*;

/// A [`Lock`] in memory. Clones share their content, as processes share a server.
#[derive(Clone, Default)]
pub struct MemoryLock(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The last fence granted to anybody, so that nothing need be kept of a tenant that holds nothing.
    last: u64,
    tenants: BTreeMap<TenantId, Slots>,
    buckets: BTreeMap<(TenantId, String), Bucket>,
}

impl MemoryLock {
    /// A lock with nothing held.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below panics halfway through a change, so a poisoned state is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLock").field("tenants", &self.state().tenants.len()).finish_non_exhaustive()
    }
}

impl State {
    /// Changes the slots of `tenant`; one that holds nothing afterwards is forgotten.
    fn change<T>(&mut self, tenant: &TenantId, change: impl FnOnce(&mut Slots) -> T) -> T {
        let slots = self.tenants.entry(tenant.clone()).or_insert_with(|| Slots::after(self.last));
        let answer = change(slots);
        self.last = self.last.max(slots.last());
        if slots.is_empty() {
            self.tenants.remove(tenant);
        }
        answer
    }
}

#[async_trait]
impl Lock for MemoryLock {
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        Ok(self.state().change(&acquire.holder.tenant, |slots| slots.acquire(acquire)))
    }

    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>> {
        let mut state = self.state();
        let renew =
            |holder: &Holder| state.change(&holder.tenant, |slots| slots.renew(&holder.name, until, now));
        Ok(holders.iter().map(renew).collect())
    }

    async fn release(&self, holders: &[Holder]) -> Result<()> {
        let mut state = self.state();
        for holder in holders {
            state.change(&holder.tenant, |slots| slots.release(&holder.name));
        }
        Ok(())
    }

    async fn take(&self, take: &Take) -> Result<Taken> {
        let mut state = self.state();
        let key = (take.tenant.clone(), take.key.clone());
        let (after, taken) = Bucket::take(state.buckets.get(&key).copied(), take)?;
        state.buckets.insert(key, after);
        Ok(taken)
    }
}
