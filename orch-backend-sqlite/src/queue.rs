//! The queue.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use orch::queue::*;
use orch::{Error, QueueName, Result, StepId, StepKey, TenantId, Timestamp};
use serde_json::json;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, SqliteConnection};
use tokio::sync::Notify;

use crate::Database;
use crate::error::mapped;
use crate::store::integer;
use crate::writer::Change;

mod statements;
pub(crate) use statements::*;

/// A [`Queue`] in a SQLite file. Cheap to clone; clones share whose turn it is.
#[derive(Clone, Debug)]
pub struct SqliteQueue {
    database: Arc<Database>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    pushed: Notify,
    /// The tenant that this process served last.
    turn: Mutex<Option<TenantId>>,
    /// Looks for commits of other processes while somebody waits.
    watcher: tokio::sync::Mutex<Option<PoolConnection<Sqlite>>>,
    /// What the watcher saw last.
    seen: AtomicI64,
}

/// How often a waiting queue looks for other processes' commits.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl SqliteQueue {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self { database, shared: Arc::default() }
    }

    fn notify(&self) {
        // Everybody who waits, and the next who comes: it may have looked just before.
        self.shared.pushed.notify_waiters();
        self.shared.pushed.notify_one();
    }

    /// Whether anybody has committed since the last look. Costs no look at the data (`PRAGMA data_version`).
    async fn changed(&self) -> Result<bool> {
        let mut watcher = self.shared.watcher.lock().await;
        if watcher.is_none() {
            *watcher = Some(self.database.readers.acquire().await.map_err(mapped)?);
        }
        let Some(connection) = watcher.as_mut() else { return Ok(true) };
        let version = sqlx::query(DATA_VERSION).fetch_one(&mut **connection).await;
        let version: i64 = version.and_then(|row| row.try_get(0)).map_err(mapped)?;
        Ok(self.shared.seen.swap(version, Ordering::Relaxed) != version)
    }

    /// Gives the connection of [`SqliteQueue::changed`] back: a pool closes when all of its connections are home.
    pub(crate) async fn stop_watching(&self) {
        *self.shared.watcher.lock().await = None;
    }
}

/// A delivery is named by the item's row and how often it was delivered; both only grow.
fn token(id: i64, count: u32) -> DeliveryToken {
    DeliveryToken::new(format!("{id}.{count}"))
}

/// The row and count that a token names, or a pair that names nothing.
fn parse(token: &DeliveryToken) -> (i64, u32) {
    let parts = token.as_str().split_once('.');
    parts.and_then(|(id, count)| Some((id.parse().ok()?, count.parse().ok()?))).unwrap_or((-1, 0))
}

struct Push(Vec<Item>);

struct Take {
    claim: Claim,
    shared: Arc<Shared>,
}

struct Renew {
    tokens: Vec<DeliveryToken>,
    until: Timestamp,
    now: Timestamp,
}

struct End {
    settles: Vec<Settle>,
    now: Timestamp,
}

#[async_trait]
impl Change for Push {
    type Answer = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> sqlx::Result<Result<()>> {
        let row = |item: &Item| {
            json!([
                item.tenant,
                item.queue,
                -i64::from(item.priority),
                item.ready_at.as_micros(),
                item.dag,
                item.run,
                item.plan_index,
                item.step.id,
                item.step.index.map_or(-1, i64::from),
                item.attempt
            ])
        };
        let rows: Vec<_> = self.0.iter().map(row).collect();
        sqlx::query(PUSH).bind(json!(rows).to_string()).execute(connection).await?;
        Ok(Ok(()))
    }
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
            let taken = self.rounds(connection, self.claim.limit - deliveries.len()).await?;
            if taken.is_empty() {
                break;
            }
            deliveries.extend(taken);
        }
        let next = sqlx::query(NEXT_AT).fetch_one(connection).await?;
        let next_at: Option<i64> = next.try_get(0)?;
        Ok(Ok(Claimed { deliveries, next_at: next_at.map(Timestamp::from_micros) }))
    }
}

impl Take {
    /// Serves the tenants in turn as long as what was read of each lasts, at most `limit` items.
    async fn rounds(&self, connection: &mut SqliteConnection, limit: usize) -> sqlx::Result<Vec<Delivery>> {
        let lanes = self.lanes(connection).await?;
        let mut tenants: BTreeMap<TenantId, VecDeque<Ready>> = BTreeMap::new();
        for (tenant, _) in &lanes {
            tenants.insert(tenant.clone(), VecDeque::new());
        }
        let quota = limit.div_ceil(tenants.len().max(1));
        let rows = sqlx::query(FIRST_OF_LANES)
            .bind(json!(lanes).to_string())
            .bind(self.claim.now.as_micros())
            .bind(integer(quota as u64))
            .fetch_all(&mut *connection)
            .await?;
        for row in &rows {
            let ready = ready(row)?;
            tenants.entry(ready.item.tenant.clone()).or_default().push_back(ready);
        }
        for ready in tenants.values_mut() {
            // Each lane is in order; a tenant's lanes are merged, and no further than all of them were read.
            ready.make_contiguous().sort_by(|one, other| one.item.cmp(&other.item));
            ready.truncate(quota);
        }
        let taken = self.take_turns(tenants, limit);
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

    fn take_turns(&self, mut tenants: BTreeMap<TenantId, VecDeque<Ready>>, limit: usize) -> Vec<Ready> {
        let mut turn = self.shared.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken: Vec<Ready> = Vec::new();
        tenants.retain(|_, ready| !ready.is_empty());
        while taken.len() < limit && !tenants.is_empty() {
            let next = match &*turn {
                Some(last) => tenants.keys().find(|tenant| *tenant > last),
                None => None,
            };
            let Some(tenant) = next.or_else(|| tenants.keys().next()).cloned() else { break };
            if let Some(ready) = tenants.get_mut(&tenant) {
                taken.extend(ready.pop_front());
            }
            tenants.retain(|_, ready| !ready.is_empty());
            *turn = Some(tenant);
        }
        taken
    }

    /// The asked pairs of tenant and queue that have ready items.
    async fn lanes(&self, connection: &mut SqliteConnection) -> sqlx::Result<Vec<(TenantId, QueueName)>> {
        let rows = sqlx::query(LANES)
            .bind(self.claim.tenants.as_ref().map(|tenants| json!(tenants).to_string()))
            .bind(self.claim.queues.as_ref().map(|queues| json!(queues).to_string()))
            .fetch_all(connection)
            .await?;
        rows.iter().map(|row| Ok((tenant(row, 0)?, queue(row, 1)?))).collect()
    }
}

fn decoded<T>(parsed: Result<T>) -> sqlx::Result<T> {
    parsed.map_err(|error| sqlx::Error::Decode(error.into()))
}

fn tenant(row: &SqliteRow, column: usize) -> sqlx::Result<TenantId> {
    decoded(TenantId::new(row.try_get::<&str, _>(column)?))
}

fn queue(row: &SqliteRow, column: usize) -> sqlx::Result<QueueName> {
    decoded(QueueName::new(row.try_get::<&str, _>(column)?))
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

fn lost(token: &DeliveryToken) -> Error {
    Error::lease_lost("delivery is no longer leased").with("token", token.as_str())
}

#[async_trait]
impl Change for Renew {
    type Answer = Vec<Result<()>>;

    async fn apply(&self, connection: &mut SqliteConnection) -> sqlx::Result<Result<Self::Answer>> {
        let live = live(connection, self.tokens.iter(), self.now).await?;
        let renewed: Vec<_> = live.keys().collect();
        let renew = sqlx::query(RENEW).bind(json!(renewed).to_string()).bind(self.until.as_micros());
        renew.execute(connection).await?;
        let holds = |token: &DeliveryToken| live.get(&parse(token).0) == Some(&parse(token).1);
        Ok(Ok(self.tokens.iter().map(|token| if holds(token) { Ok(()) } else { Err(lost(token)) }).collect()))
    }
}

/// Which of the tokens name a delivery whose lease lasts, as row and count.
async fn live(
    connection: &mut SqliteConnection,
    tokens: impl Iterator<Item = &DeliveryToken>,
    now: Timestamp,
) -> sqlx::Result<BTreeMap<i64, u32>> {
    let named: Vec<_> = tokens.map(parse).collect();
    let live = sqlx::query(LIVE).bind(json!(named).to_string()).bind(now.as_micros());
    let rows = live.fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

#[async_trait]
impl Change for End {
    type Answer = Vec<Result<()>>;

    async fn apply(&self, connection: &mut SqliteConnection) -> sqlx::Result<Result<Self::Answer>> {
        let tokens = self.settles.iter().map(|settle| &settle.token);
        let mut live = live(connection, tokens, self.now).await?;
        let (mut done, mut released, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for settle in &self.settles {
            let (id, count) = parse(&settle.token);
            // Removed, so that a delivery ends once in a batch too.
            if live.get(&id) != Some(&count) || live.remove(&id).is_none() {
                answers.push(Err(lost(&settle.token)));
                continue;
            }
            match settle.release_until {
                None => done.push(json!(id)),
                Some(at) => released.push(json!([id, at.as_micros()])),
            }
            answers.push(Ok(()));
        }
        for (sql, rows) in [(DONE, done), (RELEASE, released)] {
            if !rows.is_empty() {
                sqlx::query(sql).bind(json!(rows).to_string()).execute(&mut *connection).await?;
            }
        }
        Ok(Ok(answers))
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn push(&self, items: &[Item]) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        self.database.writer.change(Push(items.to_vec())).await?;
        self.notify();
        Ok(())
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.database.writer.change(Take { claim: claim.clone(), shared: Arc::clone(&self.shared) }).await
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        self.database.writer.change(Renew { tokens: tokens.to_vec(), until, now }).await
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        let answers = self.database.writer.change(End { settles: settles.to_vec(), now }).await?;
        if settles.iter().any(|settle| settle.release_until.is_some()) {
            self.notify();
        }
        Ok(answers)
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        let watch = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                match self.changed().await {
                    Ok(false) => {}
                    seen => return seen.map(drop),
                }
            }
        };
        tokio::select! {
            () = self.shared.pushed.notified() => Ok(()),
            () = tokio::time::sleep(timeout) => Ok(()),
            seen = watch => seen,
        }
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        let depth = sqlx::query(DEPTH).bind(tenant.as_str()).bind(now.as_micros());
        let rows = depth.fetch_all(&self.database.readers).await.map_err(mapped)?;
        let depth = |row: &SqliteRow| {
            let count = |column: usize| row.try_get::<i64, _>(column).map(i64::cast_unsigned);
            let oldest: Option<i64> = row.try_get(4)?;
            let oldest_at = oldest.map(Timestamp::from_micros);
            Ok(Depth {
                queue: queue(row, 0)?,
                ready: count(1)?,
                delayed: count(2)?,
                leased: count(3)?,
                oldest_at,
            })
        };
        rows.iter().map(depth).collect::<sqlx::Result<_>>().map_err(mapped)
    }
}
