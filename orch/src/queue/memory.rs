//! The queue in memory: the default of an embedded engine.
//!
//! An item is pushed into `delayed`, moves to its tenant's `ready` set when a claim comes after its ready time, and
//! from there under a lease. Every move costs the logarithm of what waits in one queue; a claim looks at no item it
//! does not deliver, unless clocks go backwards.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
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
    rooms: BTreeMap<QueueName, Room>,
    leases: HashMap<u64, Lease>,
    last_token: u64,
    /// The tenant that was served last.
    turn: Option<TenantId>,
}

/// All tenants' items of one queue name.
#[derive(Default)]
struct Room {
    /// Never holds an empty set.
    ready: BTreeMap<TenantId, BTreeSet<Queued>>,
    delayed: BTreeSet<(Timestamp, Queued)>,
    leased: BTreeSet<(Timestamp, u64)>,
}

/// An item in its place in the order, and how often it has been delivered.
#[derive(Clone)]
struct Queued {
    item: Arc<Item>,
    count: u32,
}

struct Lease {
    queued: Queued,
    until: Timestamp,
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

impl Room {
    fn add_ready(&mut self, queued: Queued) {
        match self.ready.get_mut(&queued.item.tenant) {
            Some(set) => {
                set.insert(queued);
            }
            None => {
                self.ready.insert(queued.item.tenant.clone(), BTreeSet::from([queued]));
            }
        }
    }

    fn add_delayed(&mut self, queued: Queued) {
        self.delayed.insert((queued.item.ready_at, queued));
    }

    /// Makes ready what is due: delayed items, and leased ones whose lease has ended.
    fn promote(&mut self, leases: &mut HashMap<u64, Lease>, now: Timestamp) {
        while self.delayed.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, queued)) = self.delayed.pop_first() {
                self.add_ready(queued);
            }
        }
        while self.leased.first().is_some_and(|(until, _)| *until <= now) {
            let lease = self.leased.pop_first().and_then(|(_, token)| leases.remove(&token));
            if let Some(lease) = lease {
                self.add_ready(lease.queued);
            }
        }
    }

    /// The first item of `tenant` that is ready at `now`. Only a clock that went backwards finds items that are not.
    fn first_ready(&self, tenant: &TenantId, now: Timestamp) -> Option<&Queued> {
        self.ready.get(tenant)?.iter().find(|queued| queued.item.ready_at <= now)
    }

    fn take_ready(&mut self, queued: &Queued) {
        if let Entry::Occupied(mut set) = self.ready.entry(queued.item.tenant.clone()) {
            set.get_mut().remove(queued);
            if set.get().is_empty() {
                set.remove();
            }
        }
    }

    fn next_at(&self) -> Option<Timestamp> {
        let delayed = self.delayed.first().map(|(at, _)| *at);
        let leased = self.leased.first().map(|(until, _)| *until);
        delayed.into_iter().chain(leased).min()
    }

    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.delayed.is_empty() && self.leased.is_empty()
    }

    fn depth(
        &self,
        queue: &QueueName,
        tenant: &TenantId,
        leases: &HashMap<u64, Lease>,
        now: Timestamp,
    ) -> Depth {
        let mut depth = Depth { queue: queue.clone(), ready: 0, delayed: 0, leased: 0, oldest_at: None };
        let delayed =
            self.delayed.iter().map(|(_, queued)| queued).filter(|queued| queued.item.tenant == *tenant);
        let lapsed = self.leased.iter().filter_map(|(_, token)| leases.get(token)).filter(|lease| {
            let live = lease.until > now;
            let ours = lease.queued.item.tenant == *tenant;
            depth.leased += u64::from(live && ours);
            ours && !live
        });
        let lapsed: Vec<&Queued> = lapsed.map(|lease| &lease.queued).collect();
        for queued in self.ready.get(tenant).into_iter().flatten().chain(delayed).chain(lapsed) {
            let ready_at = queued.item.ready_at;
            if ready_at <= now {
                depth.ready += 1;
                depth.oldest_at = Some(depth.oldest_at.map_or(ready_at, |oldest| oldest.min(ready_at)));
            } else {
                depth.delayed += 1;
            }
        }
        depth
    }
}

impl State {
    fn room(&mut self, queue: &QueueName) -> &mut Room {
        if !self.rooms.contains_key(queue) {
            self.rooms.insert(queue.clone(), Room::default());
        }
        self.rooms.get_mut(queue).expect("it was inserted just now")
    }

    fn push(&mut self, item: &Item) {
        let item = Arc::new(item.clone());
        if self.known.insert(Known(Arc::clone(&item))) {
            self.room(&item.queue).add_delayed(Queued { count: 0, item: Arc::clone(&item) });
        }
    }

    fn claim(&mut self, claim: &Claim) -> Claimed {
        let mut asked: Vec<(QueueName, Room)> = match &claim.queues {
            None => std::mem::take(&mut self.rooms).into_iter().collect(),
            Some(queues) => queues.iter().filter_map(|queue| self.rooms.remove_entry(queue)).collect(),
        };
        for (_, room) in &mut asked {
            room.promote(&mut self.leases, claim.now);
        }
        let mut deliveries = Vec::new();
        while deliveries.len() < claim.limit && self.round(claim, &mut asked, &mut deliveries) {}
        let next_at = asked.iter().filter_map(|(_, room)| room.next_at()).min();
        self.rooms.extend(asked.into_iter().filter(|(_, room)| !room.is_empty()));
        Claimed { deliveries, next_at }
    }

    /// Serves every tenant once, beginning with the one after the last served; answers whether any was.
    fn round(
        &mut self,
        claim: &Claim,
        asked: &mut [(QueueName, Room)],
        deliveries: &mut Vec<Delivery>,
    ) -> bool {
        let before = deliveries.len();
        let (start, mut after, mut wrapped) = (self.turn.clone(), self.turn.clone(), false);
        while deliveries.len() < claim.limit {
            let Some(tenant) = next_tenant(asked, claim.tenants.as_deref(), after.as_ref()) else {
                if wrapped || start.is_none() {
                    break;
                }
                (after, wrapped) = (None, true);
                continue;
            };
            if wrapped && Some(&tenant) > start.as_ref() {
                break;
            }
            if let Some(delivery) = self.serve(claim, asked, &tenant) {
                deliveries.push(delivery);
                self.turn = Some(tenant.clone());
            }
            after = Some(tenant);
        }
        deliveries.len() > before
    }

    /// Leases the first ready item of `tenant` over the asked queues.
    fn serve(
        &mut self,
        claim: &Claim,
        asked: &mut [(QueueName, Room)],
        tenant: &TenantId,
    ) -> Option<Delivery> {
        let first = asked
            .iter()
            .enumerate()
            .filter_map(|(at, (_, room))| room.first_ready(tenant, claim.now).map(|queued| (queued, at)));
        let (queued, at) = first.min().map(|(queued, at)| (queued.clone(), at))?;
        let room = &mut asked[at].1;
        room.take_ready(&queued);
        let (lease_until, count) = (claim.now.plus(claim.lease), queued.count + 1);
        let item = Item::clone(&queued.item);
        self.last_token += 1;
        room.leased.insert((lease_until, self.last_token));
        let lease = Lease { queued: Queued { count, ..queued }, until: lease_until };
        self.leases.insert(self.last_token, lease);
        Some(Delivery { item, token: DeliveryToken::new(self.last_token.to_string()), lease_until, count })
    }

    /// The token's number, if its lease lasts.
    fn live(&self, token: &DeliveryToken, now: Timestamp) -> Result<u64> {
        let number = token.as_str().parse().ok();
        number
            .filter(|number| self.leases.get(number).is_some_and(|lease| lease.until > now))
            .ok_or_else(|| Error::lease_lost("delivery is no longer leased").with("token", token.as_str()))
    }

    fn renew(&mut self, token: &DeliveryToken, until: Timestamp, now: Timestamp) -> Result<()> {
        let number = self.live(token, now)?;
        let Some(lease) = self.leases.get_mut(&number) else { return Ok(()) };
        let old = std::mem::replace(&mut lease.until, until);
        if let Some(room) = self.rooms.get_mut(&lease.queued.item.queue) {
            room.leased.remove(&(old, number));
            room.leased.insert((until, number));
        }
        Ok(())
    }

    fn settle(&mut self, settle: &Settle, now: Timestamp) -> Result<()> {
        let number = self.live(&settle.token, now)?;
        let Some(Lease { queued, until }) = self.leases.remove(&number) else { return Ok(()) };
        let room = self.room(&queued.item.queue);
        room.leased.remove(&(until, number));
        match settle.release_until {
            Some(ready_at) => {
                let item = Arc::new(Item { ready_at, ..Item::clone(&queued.item) });
                room.add_delayed(Queued { item, count: queued.count });
            }
            None => {
                self.known.remove(&Known(queued.item));
            }
        }
        Ok(())
    }
}

/// The first tenant after `after` that has something in the asked queues.
fn next_tenant(
    asked: &[(QueueName, Room)],
    tenants: Option<&[TenantId]>,
    after: Option<&TenantId>,
) -> Option<TenantId> {
    if let Some(tenants) = tenants {
        return tenants.iter().filter(|tenant| Some(*tenant) > after).min().cloned();
    }
    let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
    let next = |room: &Room| {
        room.ready.range::<TenantId, _>((begin, Bound::Unbounded)).next().map(|(t, _)| t.clone())
    };
    asked.iter().filter_map(|(_, room)| next(room)).min()
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
        Ok(self.state().claim(claim))
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
        let state = self.state();
        let depths = state.rooms.iter().map(|(queue, room)| room.depth(queue, tenant, &state.leases, now));
        Ok(depths.filter(|depth| depth.ready + depth.delayed + depth.leased > 0).collect())
    }
}
