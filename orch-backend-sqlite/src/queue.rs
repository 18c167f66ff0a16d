//! The queue.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use orch::queue::*;
use orch::{Error, Result, TenantId, Timestamp};
use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use tokio::sync::Notify;

use crate::Database;
use crate::error::mapped;
use crate::writer::Change;

mod statements;
mod take;
mod watcher;

pub(crate) use statements::*;
use take::{Take, listed, queue};
use watcher::Watcher;

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
    /// The last claim found nothing, and nothing was pushed here since: look before taking the write lock.
    idle: AtomicBool,
    watcher: Watcher,
}

impl SqliteQueue {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self { database, shared: Arc::default() }
    }

    /// Ends watching; later waits answer `Closed`.
    pub(crate) async fn close(&self) {
        self.shared.watcher.close().await;
    }

    fn notify(&self) {
        self.shared.idle.store(false, Ordering::Relaxed);
        // Everybody who waits, and the next who comes: it may have looked just before.
        self.shared.pushed.notify_waiters();
        self.shared.pushed.notify_one();
    }

    /// Whether `claim` would find anything, and when the next one will; takes no lock.
    async fn look(&self, claim: &Claim) -> Result<(bool, Option<Timestamp>)> {
        let row = sqlx::query(CLAIMABLE)
            .bind(listed(claim.queues.as_ref()))
            .bind(listed(claim.tenants.as_ref()))
            .bind(claim.now.as_micros())
            .fetch_one(&self.database.readers)
            .await
            .map_err(mapped)?;
        let next_at: Option<i64> = row.try_get(1).map_err(mapped)?;
        Ok((row.try_get(0).map_err(mapped)?, next_at.map(Timestamp::from_micros)))
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
        self.database.writer()?.change(Push(items.to_vec())).await?;
        self.notify();
        Ok(())
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        if self.shared.idle.load(Ordering::Relaxed)
            && let (false, next_at) = self.look(claim).await?
        {
            return Ok(Claimed { next_at, ..Claimed::default() });
        }
        let take = Take { claim: claim.clone(), shared: Arc::clone(&self.shared) };
        let claimed = self.database.writer()?.change(take).await?;
        self.shared.idle.store(claimed.deliveries.is_empty(), Ordering::Relaxed);
        Ok(claimed)
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        self.database.writer()?.change(Renew { tokens: tokens.to_vec(), until, now }).await
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        let answers = self.database.writer()?.change(End { settles: settles.to_vec(), now }).await?;
        if settles.iter().any(|settle| settle.release_until.is_some()) {
            self.notify();
        }
        Ok(answers)
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        tokio::select! {
            () = self.shared.pushed.notified() => Ok(()),
            () = tokio::time::sleep(timeout) => Ok(()),
            seen = self.shared.watcher.changed(&self.database.config) => {
                // One of those who wait sees it; the others are told.
                self.shared.pushed.notify_waiters();
                seen
            }
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
