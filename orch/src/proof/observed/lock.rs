//! A lock that is watched, and the model of who holds what.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::Observed;
use crate::error::Result;
use crate::id::TenantId;
use crate::ledger::Stream;
use crate::lock::{Acquire, Grant, Holder, Lock, Take, Taken};
use crate::proof::Problem;
use crate::time::Timestamp;

/// One key of a tenant.
#[derive(Debug, Default)]
struct Key {
    held: BTreeMap<String, Grant>,
    /// The highest fence granted so far.
    fence: u64,
}

#[derive(Debug)]
pub(super) struct Watched {
    inner: Arc<dyn Lock>,
    observed: Observed,
    keys: Mutex<BTreeMap<(TenantId, String), Key>>,
    turn: tokio::sync::Mutex<()>,
}

impl Watched {
    pub(super) fn new(inner: Arc<dyn Lock>, observed: Observed) -> Self {
        Self { inner, observed, keys: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<(TenantId, String), Key>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wrong(&self, code: &'static str, message: String) {
        self.observed.report(Problem::new(Stream::Audit, 0, code, message));
    }

    fn granted(&self, acquire: &Acquire, grants: &[Grant]) {
        let (holder, mut found) = (&acquire.holder, Vec::new());
        let mut keys = self.keys();
        for (slot, grant) in acquire.slots.iter().zip(grants) {
            let key = keys.entry((holder.tenant.clone(), slot.key.clone())).or_default();
            let own = key.held.remove(&holder.name);
            // Its lease has ended, so that somebody else may hold the slot.
            key.held.retain(|_, other| other.lease_until > acquire.now);
            if key.held.len() >= slot.capacity as usize {
                let message = format!("`{}` is held {} times beyond its limit", slot.key, key.held.len() + 1);
                found.push(("too_many_slots", message));
            }
            let kept = own.is_some_and(|own| own.fence == grant.fence);
            if grant.fence <= key.fence && !kept {
                let message =
                    format!("fence {} of `{}` was granted after {}", grant.fence, slot.key, key.fence);
                found.push(("fence_reused", message));
            }
            key.fence = key.fence.max(grant.fence);
            key.held.insert(holder.name.clone(), *grant);
        }
        drop(keys);
        found.into_iter().for_each(|(code, message)| self.wrong(code, message));
    }

    /// A refusal is lawful if one of the keys is full.
    fn refused(&self, acquire: &Acquire) {
        let mut keys = self.keys();
        let full = acquire.slots.iter().any(|slot| {
            let key = keys.entry((acquire.holder.tenant.clone(), slot.key.clone())).or_default();
            let others = key
                .held
                .iter()
                .filter(|(name, grant)| **name != acquire.holder.name && grant.lease_until > acquire.now);
            others.count() >= slot.capacity as usize
        });
        drop(keys);
        if !full {
            let names: Vec<&str> = acquire.slots.iter().map(|slot| slot.key.as_str()).collect();
            self.wrong("slot_withheld", format!("`{}` has room, and was refused", names.join("`, `")));
        }
    }
}

#[async_trait]
impl Lock for Watched {
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        let _turn = self.turn.lock().await;
        let answer = self.inner.acquire(acquire).await?;
        match &answer {
            Some(grants) => self.granted(acquire, grants),
            None => self.refused(acquire),
        }
        Ok(answer)
    }

    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>> {
        let _turn = self.turn.lock().await;
        let answers = self.inner.renew(holders, until, now).await?;
        let mut keys = self.keys();
        for (holder, _) in holders.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()) {
            for (_, key) in keys.iter_mut().filter(|((tenant, _), _)| *tenant == holder.tenant) {
                if let Some(grant) = key.held.get_mut(&holder.name) {
                    grant.lease_until = until;
                }
            }
        }
        Ok(answers)
    }

    async fn release(&self, holders: &[Holder]) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.inner.release(holders).await?;
        let mut keys = self.keys();
        for holder in holders {
            for (_, key) in keys.iter_mut().filter(|((tenant, _), _)| *tenant == holder.tenant) {
                key.held.remove(&holder.name);
            }
        }
        Ok(())
    }

    async fn take(&self, take: &Take) -> Result<Taken> {
        self.inner.take(take).await
    }
}
