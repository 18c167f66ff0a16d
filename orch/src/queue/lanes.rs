//! The order of a queue, and what is under a lease: pure.
//!
//! An item whose time has not come waits in `delayed` and moves to its lane's `ready` set when a claim comes after its
//! ready time, and from there under a lease. Every move costs a logarithm; a claim looks at no item it does not deliver
//! and at no queue or tenant it does not ask for, unless clocks go backwards. What waits is counted lane by lane as it
//! moves.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;

use super::*;

/// What a queue holds, in its order: the whole of [`MemoryQueue`] but for knowing what was pushed before, and what a
/// backend keeps that has an image of its queue in memory. It neither waits nor locks.
///
/// An item either waits here or is under a lease; the caller sees to it that it is here once. A lease has a number of
/// its own, which the [`DeliveryToken`] of a claim spells.
#[derive(Default)]
pub struct Lanes {
    pub(super) tenants: BTreeMap<TenantId, Tenant>,
    /// Who has ready items, and in which queue.
    pub(super) ready: BTreeSet<TenantId>,
    pub(super) ready_in: BTreeMap<QueueName, BTreeSet<TenantId>>,
    pub(super) delayed: BTreeSet<(Timestamp, Queued)>,
    pub(super) leases: HashMap<u64, Lease>,
    /// The leases by when they end.
    pub(super) ends: BTreeSet<(Timestamp, u64)>,
    last_token: u64,
    /// The tenant that was served last.
    turn: Option<TenantId>,
    /// The latest time that anybody claimed at.
    latest: Timestamp,
}

/// One tenant's lanes, of which none is empty.
#[derive(Default)]
pub(super) struct Tenant {
    pub(super) lanes: BTreeMap<QueueName, Lane>,
    /// The first ready item of each lane that has any.
    pub(super) firsts: BTreeSet<Queued>,
}

/// One tenant's items of one queue.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) ready: BTreeSet<Queued>,
    /// How many items wait for or since an instant, ready or delayed.
    waiting: BTreeMap<Timestamp, u64>,
    /// How many these are together.
    count: u64,
    leased: u64,
}

/// An item in its place in the order, and how often it has been delivered.
#[derive(Clone)]
pub(super) struct Queued {
    item: Arc<Item>,
    count: u32,
}

pub(super) struct Lease {
    queued: Queued,
    until: Timestamp,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.item == other.item
    }
}

impl Eq for Queued {}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        self.item.cmp(&other.item)
    }
}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Lane {
    fn wait(&mut self, ready_at: Timestamp) {
        *self.waiting.entry(ready_at).or_default() += 1;
        self.count += 1;
    }

    fn stop_waiting(&mut self, ready_at: Timestamp) {
        if let Entry::Occupied(mut count) = self.waiting.entry(ready_at) {
            self.count -= 1;
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn first(&self, now: Timestamp) -> Option<&Queued> {
        self.ready.iter().find(|queued| queued.item.ready_at <= now)
    }

    /// Counts what waits: what lies in the future is added up, the rest is what is left.
    fn depth(&self, queue: &QueueName, now: Timestamp) -> Depth {
        let delayed =
            self.waiting.range((Bound::Excluded(now), Bound::Unbounded)).map(|(_, count)| count).sum();
        let oldest_at = self.waiting.first_key_value().map(|(at, _)| *at).filter(|at| *at <= now);
        Depth { queue: queue.clone(), ready: self.count - delayed, delayed, leased: self.leased, oldest_at }
    }
}

impl Tenant {
    /// The first item that is ready at `now` over the asked lanes. Only a clock that went backwards finds ready items
    /// that are not.
    fn first(&self, queues: Option<&[QueueName]>, now: Timestamp) -> Option<&Queued> {
        match queues {
            Some(queues) => {
                let lanes = queues.iter().filter_map(|queue| self.lanes.get(queue));
                lanes.filter_map(|lane| lane.first(now)).min()
            }
            None => {
                let first = self.firsts.first().filter(|queued| queued.item.ready_at <= now);
                first.or_else(|| self.lanes.values().filter_map(|lane| lane.first(now)).min())
            }
        }
    }
}

impl Lanes {
    fn lane(&mut self, item: &Item) -> &mut Lane {
        if !self.tenants.contains_key(&item.tenant) {
            self.tenants.insert(item.tenant.clone(), Tenant::default());
        }
        let tenant = self.tenants.get_mut(&item.tenant).expect("it was inserted just now");
        if !tenant.lanes.contains_key(&item.queue) {
            tenant.lanes.insert(item.queue.clone(), Lane::default());
        }
        tenant.lanes.get_mut(&item.queue).expect("it was inserted just now")
    }

    /// Forgets the lane of `item` if nothing is in it, and its tenant with the last lane.
    fn forget_empty(&mut self, item: &Item) {
        let Some(tenant) = self.tenants.get_mut(&item.tenant) else { return };
        if tenant.lanes.get(&item.queue).is_some_and(|lane| lane.count == 0 && lane.leased == 0) {
            tenant.lanes.remove(&item.queue);
        }
        if tenant.lanes.is_empty() {
            self.tenants.remove(&item.tenant);
        }
    }

    /// Puts an item where it waits: among the ready ones, unless its time has not come for whoever claimed last. `count`
    /// is how often it has been delivered.
    pub fn add(&mut self, item: Arc<Item>, count: u32) {
        let queued = Queued { item, count };
        let ready_at = queued.item.ready_at;
        self.lane(&queued.item).wait(ready_at);
        if ready_at <= self.latest {
            self.add_ready(queued);
        } else {
            self.delayed.insert((ready_at, queued));
        }
    }

    /// Puts into its lane what waits there already.
    fn add_ready(&mut self, queued: Queued) {
        let Item { tenant: id, queue, .. } = &*queued.item;
        let Some(tenant) = self.tenants.get_mut(id) else { return };
        let Some(lane) = tenant.lanes.get_mut(queue) else { return };
        match lane.ready.first() {
            Some(first) if *first < queued => {}
            Some(first) => {
                tenant.firsts.remove(first);
                tenant.firsts.insert(queued.clone());
            }
            None => {
                if tenant.firsts.is_empty() {
                    self.ready.insert(id.clone());
                }
                tenant.firsts.insert(queued.clone());
                self.ready_in.entry(queue.clone()).or_default().insert(id.clone());
            }
        }
        lane.ready.insert(queued);
    }

    fn take_ready(&mut self, queued: &Queued) {
        let Item { tenant: id, queue, ready_at, .. } = &*queued.item;
        let Some(tenant) = self.tenants.get_mut(id) else { return };
        let Some(lane) = tenant.lanes.get_mut(queue) else { return };
        lane.ready.remove(queued);
        lane.stop_waiting(*ready_at);
        if tenant.firsts.remove(queued) {
            tenant.firsts.extend(lane.ready.first().cloned());
        }
        if lane.ready.is_empty()
            && let Some(tenants) = self.ready_in.get_mut(queue)
        {
            tenants.remove(id);
            if tenants.is_empty() {
                self.ready_in.remove(queue);
            }
        }
        if tenant.firsts.is_empty() {
            self.ready.remove(id);
        }
    }

    /// Makes ready what is due at `now`: delayed items, and leased ones whose lease has ended, which it answers. Those
    /// leases are gone from then on.
    pub fn promote(&mut self, now: Timestamp) -> Vec<Arc<Item>> {
        let mut ended = Vec::new();
        while self.delayed.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, queued)) = self.delayed.pop_first() {
                self.add_ready(queued);
            }
        }
        while self.ends.first().is_some_and(|(until, _)| *until <= now) {
            let lease = self.ends.pop_first().and_then(|(_, token)| self.leases.remove(&token));
            if let Some(Lease { queued, .. }) = lease {
                let lane = self.lane(&queued.item);
                lane.leased -= 1;
                lane.wait(queued.item.ready_at);
                ended.push(Arc::clone(&queued.item));
                self.add_ready(queued);
            }
        }
        ended
    }

    /// Leases what a claim asks for, as [`Queue::claim`] says, after [`promote`](Self::promote).
    pub fn claim(&mut self, claim: &Claim) -> Claimed {
        self.latest = self.latest.max(claim.now);
        self.promote(claim.now);
        let mut deliveries = Vec::new();
        while deliveries.len() < claim.limit && self.round(claim, &mut deliveries) {}
        let delayed = self.delayed.first().map(|(at, _)| *at);
        let ends = self.ends.first().map(|(until, _)| *until);
        Claimed { deliveries, next_at: delayed.into_iter().chain(ends).min(), more: false }
    }

    /// Serves every tenant once, beginning with the one after the last served; answers whether any was.
    fn round(&mut self, claim: &Claim, deliveries: &mut Vec<Delivery>) -> bool {
        let before = deliveries.len();
        let (start, mut after, mut wrapped) = (self.turn.clone(), self.turn.clone(), false);
        while deliveries.len() < claim.limit {
            let Some(tenant) = self.next_tenant(claim, after.as_ref()) else {
                if wrapped || start.is_none() {
                    break;
                }
                (after, wrapped) = (None, true);
                continue;
            };
            if wrapped && Some(&tenant) > start.as_ref() {
                break;
            }
            if let Some(delivery) = self.serve(claim, &tenant) {
                deliveries.push(delivery);
                self.turn = Some(tenant.clone());
            }
            after = Some(tenant);
        }
        deliveries.len() > before
    }

    /// The first asked tenant after `after` that may have something in the asked queues.
    fn next_tenant(&self, claim: &Claim, after: Option<&TenantId>) -> Option<TenantId> {
        if let Some(tenants) = &claim.tenants {
            return tenants.iter().filter(|tenant| Some(*tenant) > after).min().cloned();
        }
        let beyond = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let next = |tenants: &BTreeSet<TenantId>| tenants.range::<TenantId, _>(beyond).next().cloned();
        match &claim.queues {
            None => next(&self.ready),
            Some(queues) => queues.iter().filter_map(|queue| self.ready_in.get(queue).and_then(next)).min(),
        }
    }

    /// Leases the first ready item of `tenant` over the asked queues.
    fn serve(&mut self, claim: &Claim, tenant: &TenantId) -> Option<Delivery> {
        let queued = self.tenants.get(tenant)?.first(claim.queues.as_deref(), claim.now)?.clone();
        self.take_ready(&queued);
        let (lease_until, count) = (claim.now.plus(claim.lease), queued.count + 1);
        let item = Item::clone(&queued.item);
        let lease = self.lease(queued.item, count, lease_until);
        Some(Delivery { item, token: DeliveryToken::new(lease.to_string()), lease_until, count })
    }

    /// Puts an item under a lease that ends at `until`, and answers the number of the lease.
    pub fn lease(&mut self, item: Arc<Item>, count: u32, until: Timestamp) -> u64 {
        self.lane(&item).leased += 1;
        self.last_token += 1;
        self.ends.insert((until, self.last_token));
        self.leases.insert(self.last_token, Lease { queued: Queued { item, count }, until });
        self.last_token
    }

    /// When a lease ends, if it has not been found ended.
    #[must_use]
    pub fn lease_until(&self, lease: u64) -> Option<Timestamp> {
        self.leases.get(&lease).map(|lease| lease.until)
    }

    /// Prolongs a lease that is here.
    pub fn prolong(&mut self, lease: u64, until: Timestamp) {
        let Some(found) = self.leases.get_mut(&lease) else { return };
        let old = std::mem::replace(&mut found.until, until);
        self.ends.remove(&(old, lease));
        self.ends.insert((until, lease));
    }

    /// Takes out an item that is under a lease; answers it and how often it has been delivered.
    pub fn end(&mut self, lease: u64) -> Option<(Arc<Item>, u32)> {
        let Lease { queued, until } = self.leases.remove(&lease)?;
        self.ends.remove(&(until, lease));
        self.lane(&queued.item).leased -= 1;
        self.forget_empty(&queued.item);
        Some((queued.item, queued.count))
    }

    /// Takes out an item that waits.
    pub fn remove(&mut self, item: &Arc<Item>) {
        let queued = Queued { item: Arc::clone(item), count: 0 };
        let lane = self.tenants.get(&item.tenant).and_then(|tenant| tenant.lanes.get(&item.queue));
        if lane.is_some_and(|lane| lane.ready.contains(&queued)) {
            self.take_ready(&queued);
        } else if self.delayed.remove(&(item.ready_at, queued)) {
            self.lane(item).stop_waiting(item.ready_at);
        }
        self.forget_empty(item);
    }

    /// How much is waiting, as [`Queue::depth`] says.
    #[must_use]
    pub fn depth(&self, tenant: &TenantId, now: Timestamp) -> Vec<Depth> {
        let lanes = self.tenants.get(tenant).into_iter().flat_map(|tenant| &tenant.lanes);
        let mut depths: Vec<_> = lanes.map(|(queue, lane)| lane.depth(queue, now)).collect();
        // Leases that have ended and were not claimed again wait, too.
        let ended = self.ends.iter().take_while(|(until, _)| *until <= now);
        for item in ended.filter_map(|(_, token)| self.leases.get(token)).map(|lease| &lease.queued.item) {
            let found = depths.binary_search_by(|depth| depth.queue.cmp(&item.queue));
            if let Ok(at) = found.and_then(|at| if item.tenant == *tenant { Ok(at) } else { Err(at) }) {
                depths[at].add_ended(item.ready_at, now);
            }
        }
        depths
    }
}

impl Depth {
    /// Counts an item whose lease has ended as one that waits.
    fn add_ended(&mut self, ready_at: Timestamp, now: Timestamp) {
        self.leased -= 1;
        if ready_at > now {
            self.delayed += 1;
        } else {
            self.ready += 1;
            self.oldest_at = Some(self.oldest_at.map_or(ready_at, |oldest| oldest.min(ready_at)));
        }
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tenants, leases) = (self.tenants.len(), self.leases.len());
        f.debug_struct("Lanes").field("tenants", &tenants).field("leases", &leases).finish_non_exhaustive()
    }
}
