//! Locks that are wrong on purpose.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orch::lock::{Acquire, Grant, Holder, Lock, MemoryLock, Slot, Take, Taken};
use orch::{Result, TenantId, Timestamp};
use orch_conformance::Pair;

/// What a [`Wrong`] lock does wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// There is room for one more than there should be, of slots and of tokens.
    CountsWrongly,
    /// Keys are taken one after the other, and kept when the next is missing.
    TakesOneByOne,
    /// Leases last for ever.
    NeverEnds,
    /// Who asks again begins anew.
    ForgetsWhoAsks,
    /// Renewal says yes and does nothing.
    RenewsNothing,
    /// Nothing is given back.
    ReleasesNothing,
    /// Every fence is the same.
    ReusesFences,
    /// All tenants are one.
    MixesTenants,
    /// Who is refused is told to come again too early.
    HintsEarly,
    /// What could never be granted is granted.
    GrantsAnything,
}

#[derive(Debug)]
struct Wrong(MemoryLock, Fault);

fn wrong(fault: Fault) -> Pair<dyn Lock> {
    let lock = MemoryLock::new();
    Pair::new(Arc::new(Wrong(lock.clone(), fault)), Arc::new(Wrong(lock, fault)))
}

crate::guards! { lock, wrong, "lock_suite":
    CountsWrongly =>
        a1_no_more_slots_than_capacity
        a1_racing_acquires_share_the_capacity
        a1_a_smaller_capacity_counts_what_is_held
        buckets_grant_burst_and_inflow_only
        buckets_hold_in_a_race
        differs_nowhere_from_the_model;
    TakesOneByOne => a1_all_keys_or_none;
    NeverEnds => a1_a_dead_holders_slot_comes_back;
    ForgetsWhoAsks => a1_asking_again_keeps_slot_and_fence;
    RenewsNothing => a1_renewing_prolongs a1_renewing_after_any_loss_is_refused;
    ReleasesNothing => a1_releasing_frees_everything;
    ReusesFences => fences_increase_over_release_and_expiry;
    MixesTenants => t1_tenants_do_not_share_keys;
    HintsEarly => buckets_say_when_to_come_again;
    GrantsAnything => buckets_refuse_what_cannot_be;
}

impl Wrong {
    fn is(&self, fault: Fault) -> bool {
        self.1 == fault
    }

    fn tenant(&self, tenant: &TenantId) -> TenantId {
        if self.is(Fault::MixesTenants) { TenantId::new("all").unwrap() } else { tenant.clone() }
    }

    fn holders(&self, holders: &[Holder]) -> Vec<Holder> {
        let inside = |holder: &Holder| Holder { tenant: self.tenant(&holder.tenant), ..holder.clone() };
        holders.iter().map(inside).collect()
    }

    async fn acquire_one_by_one(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        let mut grants = Vec::new();
        for slot in &acquire.slots {
            let slots: Vec<Slot> = vec![slot.clone()];
            match self.0.acquire(&Acquire { slots, ..acquire.clone() }).await? {
                Some(grant) => grants.extend(grant),
                None => return Ok(None),
            }
        }
        Ok(Some(grants))
    }
}

#[async_trait]
impl Lock for Wrong {
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        let mut asked = acquire.clone();
        asked.holder.tenant = self.tenant(&asked.holder.tenant);
        match self.1 {
            Fault::TakesOneByOne => return self.acquire_one_by_one(acquire).await,
            Fault::CountsWrongly => asked.slots.iter_mut().for_each(|slot| slot.capacity += 1),
            Fault::NeverEnds => asked.lease = Duration::from_secs(1_000_000),
            Fault::ForgetsWhoAsks => self.0.release(std::slice::from_ref(&acquire.holder)).await?,
            _ => {}
        }
        let spoilt = |grant: Grant| Grant {
            fence: if self.is(Fault::ReusesFences) { 1 } else { grant.fence },
            lease_until: acquire.now.plus(acquire.lease),
        };
        Ok(self.0.acquire(&asked).await?.map(|grants| grants.into_iter().map(spoilt).collect()))
    }

    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>> {
        if self.is(Fault::RenewsNothing) {
            return Ok(holders.iter().map(|_| Ok(())).collect());
        }
        self.0.renew(&self.holders(holders), until, now).await
    }

    async fn release(&self, holders: &[Holder]) -> Result<()> {
        if self.is(Fault::ReleasesNothing) { Ok(()) } else { self.0.release(&self.holders(holders)).await }
    }

    async fn take(&self, take: &Take) -> Result<Taken> {
        let mut asked = Take { tenant: self.tenant(&take.tenant), ..take.clone() };
        asked.burst += u32::from(self.is(Fault::CountsWrongly));
        match self.0.take(&asked).await {
            Ok(Taken::RetryAt(at)) if self.is(Fault::HintsEarly) => {
                Ok(Taken::RetryAt(Timestamp::from_micros(at.as_micros() - 1)))
            }
            Err(_) if self.is(Fault::GrantsAnything) => Ok(Taken::Granted),
            answer => answer,
        }
    }
}
