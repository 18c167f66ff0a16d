//! The lock in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::*;
use crate::error::Error;

/// A [`Lock`] in memory. Clones share their content, as processes share a server.
#[derive(Clone, Default)]
pub struct MemoryLock(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The last fence granted. One count for all keys, so that nothing need be kept of a key nobody holds.
    fence: u64,
    keys: BTreeMap<(TenantId, String), BTreeMap<String, Grant>>,
    holders: BTreeMap<Holder, BTreeSet<String>>,
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
        f.debug_struct("MemoryLock").field("holders", &self.state().holders.len()).finish_non_exhaustive()
    }
}

impl State {
    fn grant(&self, holder: &Holder, key: &str) -> Option<Grant> {
        self.keys.get(&(holder.tenant.clone(), key.to_owned()))?.get(&holder.name).copied()
    }

    /// Whether `holder` holds anything, and everything it took.
    fn live(&self, holder: &Holder, now: Timestamp) -> bool {
        self.holders.get(holder).is_some_and(|keys| {
            keys.iter().all(|key| self.grant(holder, key).is_some_and(|grant| grant.lease_until > now))
        })
    }

    /// Frees the slots of `key` whose lease has ended. Their holders keep believing, so that `renew` tells them.
    fn expire(&mut self, tenant: &TenantId, key: &str, now: Timestamp) {
        let key = (tenant.clone(), key.to_owned());
        let Some(grants) = self.keys.get_mut(&key) else { return };
        let ended: Vec<_> =
            grants.extract_if(.., |_, grant| grant.lease_until <= now).map(|(name, _)| name).collect();
        if grants.is_empty() {
            self.keys.remove(&key);
        }
        for name in ended {
            self.forget_dead(&Holder { tenant: tenant.clone(), name }, now);
        }
    }

    /// Forgets `holder` if it holds nothing any more: what it takes from then on has nothing to do with before.
    fn forget_dead(&mut self, holder: &Holder, now: Timestamp) {
        let lasts = |key: &String| self.grant(holder, key).is_some_and(|grant| grant.lease_until > now);
        if !self.holders.get(holder).is_some_and(|keys| keys.iter().any(lasts)) {
            self.release(holder);
        }
    }

    fn room(&self, holder: &Holder, slot: &Slot) -> bool {
        let held = self.keys.get(&(holder.tenant.clone(), slot.key.clone()));
        held.is_none_or(|grants| grants.contains_key(&holder.name) || grants.len() < slot.capacity as usize)
            && slot.capacity > 0
    }

    fn take_slot(&mut self, holder: &Holder, key: &str, lease_until: Timestamp) -> Grant {
        let next = self.fence + 1;
        let grants = self.keys.entry((holder.tenant.clone(), key.to_owned())).or_default();
        let grant = grants.entry(holder.name.clone()).or_insert(Grant { fence: next, lease_until });
        grant.lease_until = lease_until;
        self.fence = self.fence.max(grant.fence);
        self.holders.entry(holder.clone()).or_default().insert(key.to_owned());
        *grant
    }

    fn release(&mut self, holder: &Holder) {
        for key in self.holders.remove(holder).unwrap_or_default() {
            let key = (holder.tenant.clone(), key);
            if let Some(grants) = self.keys.get_mut(&key) {
                grants.remove(&holder.name);
                if grants.is_empty() {
                    self.keys.remove(&key);
                }
            }
        }
    }
}

#[async_trait]
impl Lock for MemoryLock {
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        let mut state = self.state();
        let holder = &acquire.holder;
        state.forget_dead(holder, acquire.now);
        for slot in &acquire.slots {
            state.expire(&holder.tenant, &slot.key, acquire.now);
        }
        if !acquire.slots.iter().all(|slot| state.room(holder, slot)) {
            return Ok(None);
        }
        let until = acquire.now.plus(acquire.lease);
        Ok(Some(acquire.slots.iter().map(|slot| state.take_slot(holder, &slot.key, until)).collect()))
    }

    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>> {
        let mut state = self.state();
        let mut renew = |holder: &Holder| {
            if !state.live(holder, now) {
                return Err(Error::lease_lost("a slot was lost").with("holder", &holder.name));
            }
            for key in state.holders.get(holder).cloned().unwrap_or_default() {
                state.take_slot(holder, &key, until);
            }
            Ok(())
        };
        Ok(holders.iter().map(&mut renew).collect())
    }

    async fn release(&self, holders: &[Holder]) -> Result<()> {
        let mut state = self.state();
        holders.iter().for_each(|holder| state.release(holder));
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
