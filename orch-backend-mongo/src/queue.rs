//! The queue.
//!
//! One document per hint. It is waiting or leased; a delivery is named by the claim that made it, and every change says in
//! its own condition which delivery it is about.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use mongodb::error::ErrorKind as DriverKind;
use orch::queue::*;
use orch::{DagId, Error, QueueName, Result, RunId, StepId, StepKey, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::connect::Connection;
use crate::error::{DUPLICATE_KEY, Doing, writing};
use crate::indexes::QUEUE;

pub(crate) mod take;
mod watcher;

use watcher::Watcher;

/// A [`Queue`] in a MongoDB database. Cheap to clone; clones share whose turn it is.
#[derive(Clone, Debug)]
pub struct MongoQueue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Arc<Connection>,
    /// Wakes who waits here: at once for what is done here, and for what the watcher sees.
    pushed: Arc<Notify>,
    /// The tenant that this process served last.
    turn: Mutex<Option<TenantId>>,
    watcher: Watcher,
}

/// What [`Stored::state`] says.
pub(crate) const WAITING: i32 = 0;
pub(crate) const LEASED: i32 = 1;

/// A hint, as it is stored. The field names of its place in the order are those of the index.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    #[serde(rename = "_id")]
    id: String,
    state: i32,
    /// Tenant and queue: what can be asked for.
    lane: String,
    /// Lower goes first: the priority, negated.
    rank: i64,
    ready: i64,
    dag: DagId,
    run: RunId,
    plan: i64,
    step: StepId,
    /// -1 for a step that is no part of a map.
    index: i64,
    attempt: i64,
    /// Until when there is nothing to do for anybody: ready, or the end of the lease.
    at: i64,
    count: i64,
}

impl Stored {
    fn of(item: &Item) -> Self {
        Self {
            id: format!("{}/{}", item.tenant, item.id()),
            state: WAITING,
            lane: format!("{}/{}", item.tenant, item.queue),
            rank: -i64::from(item.priority),
            ready: item.ready_at.as_micros(),
            dag: item.dag.clone(),
            run: item.run,
            plan: i64::from(item.plan_index),
            step: item.step.id.clone(),
            index: item.step.index.map_or(-1, i64::from),
            attempt: i64::from(item.attempt),
            at: item.ready_at.as_micros(),
            count: 0,
        }
    }

    fn item(&self) -> Result<Item> {
        let (tenant, queue) = lane(&self.lane)?;
        let number = |number: i64| {
            u32::try_from(number)
                .map_err(|_| Error::corrupt("number of a queued item is too big").with("key", &self.id))
        };
        let priority = i32::try_from(-self.rank);
        Ok(Item {
            tenant,
            queue,
            priority: priority
                .map_err(|_| Error::corrupt("priority of a queued item is too big").with("key", &self.id))?,
            ready_at: Timestamp::from_micros(self.ready),
            dag: self.dag.clone(),
            run: self.run,
            plan_index: number(self.plan)?,
            step: StepKey { id: self.step.clone(), index: u32::try_from(self.index).ok() },
            attempt: number(self.attempt)?,
        })
    }
}

/// The tenant and queue of a lane.
fn lane(text: &str) -> Result<(TenantId, QueueName)> {
    let corrupt = || Error::corrupt("lane of a queued item does not read").with("lane", text);
    let (tenant, queue) = text.split_once('/').ok_or_else(corrupt)?;
    Ok((TenantId::new(tenant)?, QueueName::new(queue)?))
}

fn token(by: ObjectId, id: &str) -> DeliveryToken {
    DeliveryToken::new(format!("{by}.{id}"))
}

/// The claim and the item that a token names.
fn parse(token: &DeliveryToken) -> Option<(ObjectId, &str)> {
    let (by, id) = token.as_str().split_once('.')?;
    Some((ObjectId::parse_str(by).ok()?, id))
}

/// What a document must be to be the delivery that the token names, at `now`.
fn delivery(token: &DeliveryToken, now: Timestamp) -> Option<Document> {
    let (by, id) = parse(token)?;
    Some(doc! {"_id": id, "by": by, "state": LEASED, "end": null, "at": {"$gt": now.as_micros()}})
}

fn lost(token: &DeliveryToken) -> Error {
    Error::lease_lost("delivery is no longer leased").with("token", token.as_str())
}

impl MongoQueue {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        let pushed = Arc::new(Notify::new());
        let watcher = Watcher::new(Arc::clone(&connection), Arc::clone(&pushed));
        Self(Arc::new(Inner { connection, pushed, turn: Mutex::default(), watcher }))
    }

    /// Ends watching; who waits learns that the database was closed.
    pub(crate) fn stop_watching(&self) {
        self.0.watcher.stop();
        self.0.notify();
    }

    /// Does `work` in a task of its own.
    async fn run<T, W>(&self, doing: Doing, work: impl FnOnce(Arc<Inner>) -> W) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        self.0.connection.run(doing, work(Arc::clone(&self.0))).await
    }
}

impl Inner {
    fn notify(&self) {
        // Everybody who waits, and the next who comes: it may have looked just before.
        self.pushed.notify_waiters();
        self.pushed.notify_one();
    }

    async fn push(&self, items: Vec<Stored>) -> Result<()> {
        let Err(error) = self.connection.collection(QUEUE).insert_many(items).ordered(false).await else {
            return Ok(());
        };
        match error.kind.as_ref() {
            // What is there already stays as it is.
            DriverKind::InsertMany(many) if many.write_concern_error.is_none() => {
                let mut refused =
                    many.write_errors.iter().flatten().filter(|error| error.code != DUPLICATE_KEY);
                refused
                    .next()
                    .map_or(Ok(()), |error| Err(crate::error::of_statement(error.code, &error.message)))
            }
            _ => Err(writing(error)),
        }
    }

    /// Changes deliveries by one statement each, whose condition names the delivery, and answers which were changed. The
    /// changes mark what they change with `mark`, under `field`.
    async fn change(
        &self,
        field: &str,
        mark: ObjectId,
        statements: Vec<(String, Document)>,
    ) -> Result<HashSet<String>> {
        let (ids, statements): (Vec<_>, Vec<_>) = statements.into_iter().unzip();
        let outcome = self.connection.update(QUEUE, statements).await?;
        if outcome.matched == ids.len() {
            return Ok(ids.into_iter().collect());
        }
        let filter = doc! {"_id": {"$in": ids}, field: mark};
        let found: Vec<Named> = self.connection.find(QUEUE, filter, doc! {"_id": 1}).await?;
        Ok(found.into_iter().map(|named| named.id).collect())
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        let mark = ObjectId::new();
        let statement = |token: &DeliveryToken| {
            let change = doc! {"$set": {"at": until.as_micros(), "mark": mark}};
            Some((parse(token)?.1.to_owned(), doc! {"q": delivery(token, now)?, "u": change}))
        };
        let mut asked = HashSet::new();
        let statements: Vec<_> =
            tokens.iter().filter(|token| asked.insert(token.as_str())).filter_map(statement).collect();
        let renewed = if statements.is_empty() {
            HashSet::new()
        } else {
            self.change("mark", mark, statements).await?
        };
        let holds = |token: &DeliveryToken| parse(token).is_some_and(|(_, id)| renewed.contains(id));
        Ok(tokens.iter().map(|token| if holds(token) { Ok(()) } else { Err(lost(token)) }).collect())
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        let mark = ObjectId::new();
        let statement = |settle: &Settle| {
            let change = match settle.release_until {
                None => doc! {"$set": {"end": mark, "mark": mark}},
                Some(at) => {
                    let at = at.as_micros();
                    doc! {"$set": {"state": WAITING, "ready": at, "at": at, "mark": mark}, "$unset": {"by": 1}}
                }
            };
            let id = parse(&settle.token)?.1.to_owned();
            Some((id, doc! {"q": delivery(&settle.token, now)?, "u": change}))
        };
        let mut first = HashSet::new();
        let firsts: Vec<bool> = settles.iter().map(|settle| first.insert(settle.token.as_str())).collect();
        let asked = settles.iter().zip(&firsts).filter(|(_, first)| **first).map(|(settle, _)| settle);
        let statements: Vec<_> = asked.filter_map(statement).collect();
        let ended = if statements.is_empty() {
            HashSet::new()
        } else {
            self.change("mark", mark, statements).await?
        };
        let ids: Vec<&str> = settles
            .iter()
            .filter(|settle| settle.release_until.is_none())
            .filter_map(|settle| Some(parse(&settle.token)?.1))
            .filter(|id| ended.contains(*id))
            .collect();
        if !ids.is_empty() {
            // What is marked is settled, and seen by nobody any more. A claim deletes it when its lease would have ended.
            let gone = doc! {"q": {"_id": {"$in": ids}, "end": mark}, "limit": 0};
            if let Err(error) = self.connection.sweep_away(QUEUE, vec![gone]).await {
                tracing::debug!(%error, "settled items are deleted later");
            }
        }
        let answer = |(settle, first): (&Settle, &bool)| {
            let ended = *first && parse(&settle.token).is_some_and(|(_, id)| ended.contains(id));
            if ended { Ok(()) } else { Err(lost(&settle.token)) }
        };
        Ok(settles.iter().zip(&firsts).map(answer).collect())
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        let now = now.as_micros();
        let count = |condition: Document| doc! {"$sum": {"$cond": [condition, 1_i64, 0_i64]}};
        let leased = doc! {"$and": [{"$eq": ["$state", LEASED]}, {"$gt": ["$at", now]}]};
        let waiting =
            |compared: &str| doc! {"$and": [{"$not": [leased.clone()]}, {compared: ["$ready", now]}]};
        let oldest = doc! {"$cond": [waiting("$lte"), "$ready", null]};
        let pipeline = vec![
            doc! {"$match": {
                "state": {"$in": [WAITING, LEASED]},
                "lane": {"$gte": format!("{tenant}/"), "$lt": format!("{tenant}0")},
                "end": null,
            }},
            doc! {"$group": {
                "_id": "$lane",
                "ready": count(waiting("$lte")),
                "delayed": count(waiting("$gt")),
                "leased": count(leased.clone()),
                "oldest": {"$min": oldest},
            }},
        ];
        let found: Vec<Counted> = self.connection.union(QUEUE, vec![pipeline]).await?;
        let depth = |counted: Counted| {
            Ok(Depth {
                queue: lane(&counted.lane)?.1,
                ready: counted.ready.cast_unsigned(),
                delayed: counted.delayed.cast_unsigned(),
                leased: counted.leased.cast_unsigned(),
                oldest_at: counted.oldest.map(Timestamp::from_micros),
            })
        };
        let mut depths = found.into_iter().map(depth).collect::<Result<Vec<_>>>()?;
        depths.sort_by(|one, other| one.queue.cmp(&other.queue));
        Ok(depths)
    }
}

#[derive(Debug, Deserialize)]
struct Named {
    #[serde(rename = "_id")]
    id: String,
}

#[derive(Debug, Deserialize)]
struct Counted {
    #[serde(rename = "_id")]
    lane: String,
    ready: i64,
    delayed: i64,
    leased: i64,
    oldest: Option<i64>,
}

#[async_trait]
impl Queue for MongoQueue {
    async fn push(&self, items: &[Item]) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        let items: Vec<_> = items.iter().map(Stored::of).collect();
        self.run(Doing::Writing, |inner| async move { inner.push(items).await }).await?;
        self.0.notify();
        Ok(())
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let claim = claim.clone();
        // What was leased without anybody learning of it comes back when the lease ends.
        self.run(Doing::Reading, |inner| async move { inner.claim(&claim).await }).await
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        let tokens = tokens.to_vec();
        self.run(Doing::Writing, |inner| async move { inner.renew(&tokens, until, now).await }).await
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        let settles = settles.to_vec();
        let releases = settles.iter().any(|settle| settle.release_until.is_some());
        let answers =
            self.run(Doing::Writing, |inner| async move { inner.settle(&settles, now).await }).await?;
        if releases {
            self.0.notify();
        }
        Ok(answers)
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        let inner = &self.0;
        let waiting = inner.watcher.waiting();
        let bound = if waiting.is_told() { timeout } else { timeout.min(inner.connection.config.poll_every) };
        // Either way the caller looks again.
        let _ = tokio::time::timeout(bound, inner.pushed.notified()).await;
        if inner.connection.is_closed() {
            return Err(Error::closed("database was closed"));
        }
        Ok(())
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        let tenant = tenant.clone();
        self.run(Doing::Reading, |inner| async move { inner.depth(&tenant, now).await }).await
    }
}
