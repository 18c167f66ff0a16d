//! Claiming: which items are next, fairly between tenants.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::PoisonError;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use orch::queue::{Claim, Claimed, Delivery, Item};
use orch::{Error, Result, TenantId, Timestamp};
use serde::Deserialize;

use super::segments::Segments;
use super::{Inner, LEASED, Lane, Stored, WAITING, ready_key, token};
use crate::indexes::{META, QUEUE, SEGMENTS};

/// What one look finds: a lane in which something waits, or the instant at which something becomes ready.
#[derive(Debug, Deserialize)]
struct Seen {
    #[serde(default)]
    part: i32,
    lane: Option<String>,
    segment: Option<i64>,
    at: Option<i64>,
    /// The document of the segments.
    shared: Option<Segments>,
}

const LANE: i32 = 0;
const NEXT: i32 = 1;
const SHARED: i32 = 2;

/// A lane of one segment.
#[derive(Clone, Debug)]
struct Place {
    segment: i64,
    name: String,
}

/// The asked lanes in which each tenant has items that wait.
type Lanes = BTreeMap<TenantId, Vec<Place>>;

/// What is there to be claimed.
struct Look {
    lanes: Lanes,
    next: Option<i64>,
    segments: Segments,
    /// Segments in which nothing waits.
    empty: Vec<i64>,
}

/// An item that is ready.
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

/// How often a look is repeated because the segments have changed.
const LOOKS: usize = 8;

impl Inner {
    pub(super) async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let mut deliveries = Vec::new();
        let mut look = self.look(claim).await?;
        if look.segments.end.is_some_and(|end| end <= claim.now.as_micros()) {
            self.end_leases(claim.now).await?;
            look = self.look(claim).await?;
        }
        let next_at = look.next.into_iter().chain(look.segments.end).min().map(Timestamp::from_micros);
        let empty = std::mem::take(&mut look.empty);
        while deliveries.len() < claim.limit {
            let round = self.round(claim, &look.lanes, claim.limit - deliveries.len()).await?;
            let nothing = round.taken.is_empty();
            deliveries.extend(round.taken);
            if round.exhausted || nothing || deliveries.len() >= claim.limit {
                break;
            }
            look = self.look(claim).await?;
        }
        if deliveries.is_empty() {
            self.local.forget();
        } else {
            self.keep_end(deliveries[0].lease_until).await?;
        }
        if claim.limit > 0 && (!empty.is_empty() || !deliveries.is_empty()) {
            self.tidy(&empty).await?;
        }
        let end = deliveries.first().map(|delivery| delivery.lease_until);
        Ok(Claimed { deliveries, next_at: next_at.into_iter().chain(end).min(), more: false })
    }

    /// The segments, the asked lanes in which anything waits, and when something becomes ready.
    async fn look(&self, claim: &Claim) -> Result<Look> {
        let mut segments = self.local.segments();
        for _ in 0..LOOKS {
            let mut queries = vec![vec![
                doc! {"$match": {"state": WAITING, "at": {"$gt": claim.now.as_micros()}}},
                doc! {"$sort": {"at": 1}},
                doc! {"$limit": 1},
                doc! {"$project": {"_id": 0, "at": 1, "part": {"$literal": NEXT}}},
                doc! {"$unionWith": {"coll": META, "pipeline": [
                    {"$match": {"_id": SEGMENTS}},
                    {"$project": {"_id": 0, "part": {"$literal": SHARED}, "shared": "$$ROOT"}},
                ]}},
            ]];
            if claim.limit > 0 {
                queries.extend(segments.live.iter().map(|segment| waiting_lanes(*segment)));
            }
            let mut seen: Vec<Seen> = self.connection.union(QUEUE, queries).await?;
            let shared = seen.iter_mut().find_map(|seen| seen.shared.take());
            let shared = self.known(shared)?;
            let same = shared.live == segments.live;
            segments = shared;
            if same {
                return look_of(claim, &seen, segments);
            }
        }
        Err(Error::unavailable("segments of the queue change too fast"))
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
            let current = self.local.segments().current;
            let from_current = wanted.iter().filter(|ready| ready.stored.segment == current).count();
            let served = tenants.len() == order.len();
            let all = wanted.len();
            let taken = self.lease(claim, wanted).await?;
            let exhausted = exhausted && served && taken.len() == all;
            if self.local.took(current, from_current) {
                self.close_segment().await?;
            }
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
        let asked: Vec<_> = tenants.iter().filter_map(|tenant| lanes.get(tenant)).flatten().collect();
        let quota = limit.div_ceil(tenants.len().max(1)).max(limit.min(AHEAD / asked.len().max(1)));
        let query = |place: &&Place| {
            let first = self.local.first(place.segment, &place.name);
            ready_in(place.segment, &place.name, &first, claim.now, quota)
        };
        let found: Vec<Stored> = self.connection.union(QUEUE, asked.iter().map(query).collect()).await?;
        let mut firsts: HashSet<(i64, &str)> = HashSet::new();
        for stored in &found {
            if firsts.insert((stored.segment, &stored.lane)) {
                self.local.found(stored.segment, &stored.lane, &stored.key);
            }
        }
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
            let Stored { id, lane, key, count, .. } = &ready.stored;
            let same = doc! {"_id": id, "state": WAITING, "lane": lane, "key": key, "count": count};
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

/// What was seen, as far as it was asked for.
fn look_of(claim: &Claim, seen: &[Seen], segments: Segments) -> Result<Look> {
    let mut lanes = Lanes::new();
    let mut full = HashSet::new();
    for seen in seen.iter().filter(|seen| seen.part == LANE) {
        let (Some(name), Some(segment)) = (&seen.lane, seen.segment) else { continue };
        full.insert(segment);
        let Lane { tenant, queue, .. } = Lane::parse(name)?;
        let asked = claim.queues.as_ref().is_none_or(|queues| queues.contains(&queue))
            && claim.tenants.as_ref().is_none_or(|tenants| tenants.contains(&tenant));
        if asked {
            lanes.entry(tenant).or_default().push(Place { segment, name: name.clone() });
        }
    }
    let closed = segments.live.iter().filter(|segment| **segment != segments.current);
    let empty = closed.filter(|segment| claim.limit > 0 && !full.contains(segment)).copied().collect();
    let next = seen.iter().filter(|seen| seen.part == NEXT).find_map(|seen| seen.at);
    Ok(Look { lanes, next, segments, empty })
}

/// The lanes of a segment in which anything waits: one look-up for each (a distinct scan), however much it is.
pub(crate) fn waiting_lanes(segment: i64) -> Vec<Document> {
    vec![
        doc! {"$match": {"state": WAITING, "segment": segment}},
        doc! {"$group": {"_id": "$lane"}},
        doc! {"$project": {
            "_id": 0, "lane": "$_id", "segment": {"$literal": segment}, "part": {"$literal": LANE},
        }},
    ]
}

/// The first `quota` items of a lane that are ready, beginning with the key `first`.
pub(crate) fn ready_in(segment: i64, lane: &str, first: &str, now: Timestamp, quota: usize) -> Vec<Document> {
    let keys = doc! {"$gte": first, "$lt": ready_key(now.as_micros().saturating_add(1))};
    vec![
        doc! {"$match": {"state": WAITING, "segment": segment, "lane": lane, "key": keys}},
        doc! {"$sort": {"key": 1}},
        doc! {"$limit": i64::try_from(quota).unwrap_or(i64::MAX)},
    ]
}
