//! Claiming: which items are next, fairly between tenants.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use orch::queue::*;
use orch::{QueueName, Result, StepId, StepKey, TenantId, Timestamp};
use serde::Serialize;
use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{Shared, statements::*, token};
use crate::store::integer;
use crate::writer::Change;

pub(super) struct Take {
    pub(super) claim: Claim,
    pub(super) shared: Arc<Shared>,
}

/// A ready item of one lane: its row and how often it has been delivered.
struct Ready {
    id: i64,
    count: u32,
    item: Item,
}

#[async_trait]
impl Change for Take {
    type Answer = Claimed;

    async fn apply(&self, connection: &mut SqliteConnection) -> sqlx::Result<Result<Claimed>> {
        let now = self.claim.now.as_micros();
        for sql in [PROMOTE_DELAYED, PROMOTE_LEASED] {
            sqlx::query(sql).bind(now).execute(&mut *connection).await?;
        }
        let mut deliveries = Vec::new();
        while deliveries.len() < self.claim.limit {
            let taken = self.round(connection, self.claim.limit - deliveries.len()).await?;
            if taken.is_empty() {
                break;
            }
            deliveries.extend(taken);
        }
        let next = sqlx::query(NEXT_AT).fetch_one(connection).await?;
        let next_at: Option<i64> = next.try_get(0)?;
        Ok(Ok(Claimed { deliveries, next_at: next_at.map(Timestamp::from_micros), more: false }))
    }
}

/// The asked queues in which each tenant has ready items; nothing means all.
type Lanes = BTreeMap<TenantId, Vec<Option<QueueName>>>;

impl Take {
    /// Serves the tenants in turn as long as what was read of each lasts, at most `limit` items.
    async fn round(&self, connection: &mut SqliteConnection, limit: usize) -> sqlx::Result<Vec<Delivery>> {
        let mut taken = Vec::new();
        // As many tenants as items are wanted have enough, unless a clock went backwards: then what is ready for one
        // process is not for another.
        for tenants in [limit, usize::MAX] {
            let lanes = self.lanes(connection, tenants).await?;
            taken = self.first_of(connection, &lanes, limit).await?;
            if !taken.is_empty() || lanes.len() < tenants {
                break;
            }
        }
        let ids: Vec<_> = taken.iter().map(|ready| ready.id).collect();
        let lease_until = self.claim.now.plus(self.claim.lease);
        let lease = sqlx::query(LEASE).bind(json!(ids).to_string()).bind(lease_until.as_micros());
        lease.execute(connection).await?;
        let deliver = |ready: Ready| {
            let count = ready.count + 1;
            Delivery { token: token(ready.id, count), item: ready.item, lease_until, count }
        };
        Ok(taken.into_iter().map(deliver).collect())
    }

    /// The asked lanes of at most `limit` tenants, those whose turn is next.
    async fn lanes(&self, connection: &mut SqliteConnection, limit: usize) -> sqlx::Result<Lanes> {
        let turn = self.shared.turn.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut lanes = self.lanes_after(connection, turn.as_ref(), limit).await?;
        if turn.is_some() && lanes.len() < limit {
            let room = limit - lanes.len();
            lanes.extend(self.lanes_after(connection, None, room).await?);
        }
        Ok(lanes)
    }

    async fn lanes_after(
        &self,
        connection: &mut SqliteConnection,
        after: Option<&TenantId>,
        limit: usize,
    ) -> sqlx::Result<Lanes> {
        let queues = listed(self.claim.queues.as_ref());
        let rows = match (&self.claim.tenants, queues.is_some()) {
            (Some(tenants), false) => sqlx::query(TENANTS_OF).bind(queues).bind(listed(Some(tenants))),
            (Some(tenants), true) => sqlx::query(LANES_OF).bind(queues).bind(listed(Some(tenants))),
            (None, by_queue) => {
                let after = after.map_or("", TenantId::as_str).to_owned();
                let query = sqlx::query(if by_queue { LANES } else { TENANTS });
                query.bind(queues).bind(after).bind(integer(limit as u64))
            }
        };
        let mut lanes = Lanes::new();
        for row in rows.fetch_all(connection).await? {
            let tenant = tenant(&row, 0)?;
            if Some(&tenant) > after {
                lanes
                    .entry(tenant)
                    .or_default()
                    .push(row.try_get::<Option<&str>, _>(1)?.map(named).transpose()?);
            }
        }
        // Beyond the first few, not every lane was read.
        if let Some(beyond) = lanes.keys().nth(limit).cloned() {
            lanes.split_off(&beyond);
        }
        Ok(lanes)
    }

    /// What the tenants get, at most `limit` items, in the order in which they get it.
    async fn first_of(
        &self,
        connection: &mut SqliteConnection,
        lanes: &Lanes,
        limit: usize,
    ) -> sqlx::Result<Vec<Ready>> {
        let quota = limit.div_ceil(lanes.len().max(1));
        let pairs = lanes.iter().flat_map(|(tenant, queues)| queues.iter().map(move |queue| (queue, tenant)));
        let by_queue = self.claim.queues.is_some();
        let rows = sqlx::query(if by_queue { FIRST_OF_LANES } else { FIRST_OF_TENANTS })
            .bind(json!(pairs.collect::<Vec<_>>()).to_string())
            .bind(self.claim.now.as_micros())
            .bind(integer(quota as u64))
            .fetch_all(connection)
            .await?;
        let mut tenants: BTreeMap<TenantId, VecDeque<Ready>> = BTreeMap::new();
        for row in &rows {
            let ready = ready(row)?;
            tenants.entry(ready.item.tenant.clone()).or_default().push_back(ready);
        }
        for ready in tenants.values_mut() {
            // Each lane is in order; a tenant's lanes are merged, and no further than all of them were read.
            ready.make_contiguous().sort_by(|one, other| one.item.cmp(&other.item));
            ready.truncate(quota);
        }
        Ok(self.take_turns(tenants, limit))
    }

    fn take_turns(&self, mut tenants: BTreeMap<TenantId, VecDeque<Ready>>, limit: usize) -> Vec<Ready> {
        let mut turn = self.shared.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken: Vec<Ready> = Vec::new();
        while taken.len() < limit {
            let after = turn.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let next = tenants
                .range::<TenantId, _>((after, Bound::Unbounded))
                .next()
                .or_else(|| tenants.first_key_value());
            let Some(tenant) = next.map(|(tenant, _)| tenant.clone()) else { break };
            let Some(ready) = tenants.get_mut(&tenant) else { break };
            taken.extend(ready.pop_front());
            if ready.is_empty() {
                tenants.remove(&tenant);
            }
            *turn = Some(tenant);
        }
        taken
    }
}

/// A list as `json_each` takes it; nothing stays nothing.
pub(super) fn listed<T: Serialize>(list: Option<&Vec<T>>) -> Option<String> {
    list.map(|list| json!(list).to_string())
}

fn decoded<T>(parsed: Result<T>) -> sqlx::Result<T> {
    parsed.map_err(|error| sqlx::Error::Decode(error.into()))
}

fn tenant(row: &SqliteRow, column: usize) -> sqlx::Result<TenantId> {
    decoded(TenantId::new(row.try_get::<&str, _>(column)?))
}

pub(super) fn queue(row: &SqliteRow, column: usize) -> sqlx::Result<QueueName> {
    named(row.try_get::<&str, _>(column)?)
}

fn named(queue: &str) -> sqlx::Result<QueueName> {
    decoded(QueueName::new(queue))
}

fn ready(row: &SqliteRow) -> sqlx::Result<Ready> {
    let index: i64 = row.try_get(10)?;
    let step =
        StepKey { id: decoded(StepId::new(row.try_get::<&str, _>(9)?))?, index: u32::try_from(index).ok() };
    let priority: i64 = row.try_get(4)?;
    let item = Item {
        tenant: tenant(row, 2)?,
        queue: queue(row, 3)?,
        priority: i32::try_from(-priority).map_err(|error| sqlx::Error::Decode(error.into()))?,
        ready_at: Timestamp::from_micros(row.try_get(5)?),
        dag: decoded(row.try_get::<&str, _>(6)?.parse())?,
        run: decoded(row.try_get::<&str, _>(7)?.parse())?,
        plan_index: row.try_get(8)?,
        step,
        attempt: row.try_get(11)?,
    };
    Ok(Ready { id: row.try_get(0)?, count: row.try_get(1)?, item })
}
