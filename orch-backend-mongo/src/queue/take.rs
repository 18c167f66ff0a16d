//! Claiming: which items are next, fairly between tenants.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::PoisonError;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use orch::queue::{Claim, Claimed, Delivery, Item};
use orch::{QueueName, Result, TenantId, Timestamp};
use serde::Deserialize;

use super::{Inner, LEASED, Stored, WAITING, lane, token};
use crate::indexes::QUEUE;

/// What one look finds: a lane in which something waits, or an instant.
#[derive(Debug, Deserialize)]
struct Seen {
    part: i32,
    lane: Option<String>,
    at: Option<i64>,
}

const LANE: i32 = 0;
const ENDED: i32 = 1;
const NEXT: i32 = 2;

/// The asked queues in which each tenant has items that wait.
type Lanes = BTreeMap<TenantId, Vec<QueueName>>;

/// An item that is ready, and how often it has been delivered.
struct Ready {
    stored: Stored,
    item: Item,
}

/// What a round took, and whether there is certainly nothing left.
struct Round {
    taken: Vec<Delivery>,
    exhausted: bool,
}

/// Items read ahead in a round, over all lanes.
const AHEAD: usize = 1_024;

impl Inner {
    pub(super) async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let mut deliveries = Vec::new();
        let mut seen = self.look(claim).await?;
        if seen.iter().any(|seen| seen.part == ENDED) {
            self.end_leases(claim.now).await?;
            seen = self.look(claim).await?;
        }
        let next = seen.iter().filter(|seen| seen.part == NEXT).filter_map(|seen| seen.at).min();
        let mut next_at = next.map(Timestamp::from_micros);
        while deliveries.len() < claim.limit {
            let lanes = lanes(claim, &seen)?;
            let round = self.round(claim, &lanes, claim.limit - deliveries.len()).await?;
            let nothing = round.taken.is_empty();
            deliveries.extend(round.taken);
            if round.exhausted || nothing || deliveries.len() >= claim.limit {
                break;
            }
            seen = self.look(claim).await?;
        }
        let end = deliveries.first().map(|delivery| delivery.lease_until);
        next_at = next_at.into_iter().chain(end).min();
        Ok(Claimed { deliveries, next_at })
    }

    /// The lanes in which anything waits, one lease that has ended if there is any, and when something happens next.
    async fn look(&self, claim: &Claim) -> Result<Vec<Seen>> {
        let now = claim.now.as_micros();
        let first = |filter: Document, part: i32| {
            vec![
                doc! {"$match": filter},
                doc! {"$sort": {"at": 1}},
                doc! {"$limit": 1},
                doc! {"$project": {"_id": 0, "at": 1, "part": {"$literal": part}}},
            ]
        };
        let mut queries = vec![
            first(doc! {"state": LEASED, "at": {"$lte": now}}, ENDED),
            first(doc! {"state": WAITING, "at": {"$gt": now}}, NEXT),
            first(doc! {"state": LEASED, "at": {"$gt": now}}, NEXT),
        ];
        if claim.limit > 0 {
            queries.push(waiting_lanes());
        }
        self.connection.union(QUEUE, queries).await
    }

    /// Lets what was leased until `now` wait again, and deletes what was settled but for its deletion.
    async fn end_leases(&self, now: Timestamp) -> Result<()> {
        let ended = doc! {"state": LEASED, "at": {"$lte": now.as_micros()}};
        let mut settled = ended.clone();
        settled.insert("end", doc! {"$exists": true});
        self.connection.delete(QUEUE, vec![doc! {"q": settled, "limit": 0}]).await?;
        let mut unsettled = ended;
        unsettled.insert("end", doc! {"$exists": false});
        let wait = doc! {"$set": {"state": WAITING, "at": "$ready", "by": "$$REMOVE"}};
        self.connection.update(QUEUE, vec![doc! {"q": unsettled, "u": [wait], "multi": true}]).await?;
        Ok(())
    }

    /// Serves the tenants in turn as long as what was read of each lasts, at most `limit` items.
    async fn round(&self, claim: &Claim, lanes: &Lanes, limit: usize) -> Result<Round> {
        let order = self.in_turn(lanes);
        // As many tenants as items are wanted have enough, unless nothing of theirs is ready yet.
        for tenants in order.chunks(limit) {
            let (found, exhausted) = self.first_of(claim, lanes, tenants, limit).await?;
            let wanted = self.take_turns(found, limit);
            if wanted.is_empty() {
                continue;
            }
            let served = tenants.len() == order.len();
            let all = wanted.len();
            let taken = self.lease(claim, wanted).await?;
            let exhausted = exhausted && served && taken.len() == all;
            return Ok(Round { taken, exhausted });
        }
        Ok(Round { taken: Vec::new(), exhausted: true })
    }

    /// The tenants, beginning with the one after the last served.
    fn in_turn(&self, lanes: &Lanes) -> Vec<TenantId> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let after = turn.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let later = lanes.range::<TenantId, _>((after, Bound::Unbounded)).map(|(tenant, _)| tenant);
        let earlier = lanes.keys().take_while(|tenant| turn.as_ref().is_some_and(|turn| *tenant <= turn));
        later.chain(earlier).cloned().collect()
    }

    /// The first ready items of each of the tenants, and whether there are no more of them.
    async fn first_of(
        &self,
        claim: &Claim,
        lanes: &Lanes,
        tenants: &[TenantId],
        limit: usize,
    ) -> Result<(BTreeMap<TenantId, VecDeque<Ready>>, bool)> {
        let asked: Vec<_> = tenants
            .iter()
            .flat_map(|tenant| {
                lanes.get(tenant).into_iter().flatten().map(move |queue| format!("{tenant}/{queue}"))
            })
            .collect();
        let quota = limit.div_ceil(tenants.len().max(1)).max(limit.min(AHEAD / asked.len().max(1)));
        let query = |lane: &String| ready_in(lane, claim.now, quota);
        let found: Vec<Stored> = self.connection.union(QUEUE, asked.iter().map(query).collect()).await?;
        let mut tenants: BTreeMap<TenantId, VecDeque<Ready>> = BTreeMap::new();
        for stored in found {
            let item = stored.item()?;
            tenants.entry(item.tenant.clone()).or_default().push_back(Ready { stored, item });
        }
        let mut exhausted = true;
        for ready in tenants.values_mut() {
            exhausted &= ready.len() < quota;
            // Each lane is in order; a tenant's lanes are merged, and no further than all of them were read.
            ready.make_contiguous().sort_by(|one, other| one.item.cmp(&other.item));
            ready.truncate(quota);
        }
        Ok((tenants, exhausted))
    }

    /// Who gets what, at most `limit` items, one of each tenant in turn.
    fn take_turns(&self, mut tenants: BTreeMap<TenantId, VecDeque<Ready>>, limit: usize) -> Vec<Ready> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken: Vec<Ready> = Vec::new();
        while taken.len() < limit {
            let after = turn.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let later = tenants.range::<TenantId, _>((after, Bound::Unbounded)).next();
            let Some(tenant) = later.or_else(|| tenants.first_key_value()).map(|(tenant, _)| tenant.clone())
            else {
                break;
            };
            let Some(ready) = tenants.get_mut(&tenant) else { break };
            taken.extend(ready.pop_front());
            if ready.is_empty() {
                tenants.remove(&tenant);
            }
            *turn = Some(tenant);
        }
        taken
    }

    /// Leases what still waits: other processes want the same items.
    async fn lease(&self, claim: &Claim, wanted: Vec<Ready>) -> Result<Vec<Delivery>> {
        let (by, lease_until) = (ObjectId::new(), claim.now.plus(claim.lease));
        let statement = |ready: &Ready| {
            let Stored { id, rank, ready, count, .. } = &ready.stored;
            let same = doc! {"_id": id, "state": WAITING, "rank": rank, "ready": ready, "count": count};
            let change = doc! {"$set": {"state": LEASED, "at": lease_until.as_micros(), "by": by}, "$inc": {"count": 1_i64}};
            (id.clone(), doc! {"q": same, "u": change})
        };
        let won: HashSet<String> = self.change("by", by, wanted.iter().map(statement).collect()).await?;
        let deliver = |ready: Ready| Delivery {
            token: token(by, &ready.stored.id),
            item: ready.item,
            lease_until,
            count: u32::try_from(ready.stored.count + 1).unwrap_or(u32::MAX),
        };
        Ok(wanted.into_iter().filter(|ready| won.contains(&ready.stored.id)).map(deliver).collect())
    }
}

/// The asked lanes of those in which something waits.
fn lanes(claim: &Claim, seen: &[Seen]) -> Result<Lanes> {
    let mut lanes = Lanes::new();
    for text in seen.iter().filter_map(|seen| seen.lane.as_deref()) {
        let (tenant, queue) = lane(text)?;
        let asked = claim.queues.as_ref().is_none_or(|queues| queues.contains(&queue))
            && claim.tenants.as_ref().is_none_or(|tenants| tenants.contains(&tenant));
        if asked {
            lanes.entry(tenant).or_default().push(queue);
        }
    }
    Ok(lanes)
}

/// The lanes in which anything waits: one look-up for each (a distinct scan), however much it is.
pub(crate) fn waiting_lanes() -> Vec<Document> {
    vec![
        doc! {"$match": {"state": WAITING}},
        doc! {"$group": {"_id": "$lane"}},
        doc! {"$project": {"_id": 0, "lane": "$_id", "part": {"$literal": LANE}}},
    ]
}

/// The first `quota` items of a lane that are ready: in the order of the index, past what is not ready yet.
pub(crate) fn ready_in(lane: &str, now: Timestamp, quota: usize) -> Vec<Document> {
    vec![
        doc! {"$match": {"state": WAITING, "lane": lane, "ready": {"$lte": now.as_micros()}}},
        doc! {"$sort": {"rank": 1, "ready": 1, "dag": 1, "run": 1, "plan": 1, "step": 1, "index": 1, "attempt": 1}},
        doc! {"$limit": i64::try_from(quota).unwrap_or(i64::MAX)},
    ]
}
