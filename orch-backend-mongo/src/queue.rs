//! The queue.
//!
//! One document per hint. It is waiting or leased; a delivery is named by the claim that made it, and every change says in
//! its own condition which delivery it is about. What waits lies in segments ([`segments`]), in lanes of one tenant, queue and
//! priority, in the order of its key.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::ErrorKind as DriverKind;
use orch::queue::*;
use orch::{DagId, Error, QueueName, Result, RunId, StepId, StepKey, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::connect::Connection;
use crate::error::{DUPLICATE_KEY, Doing, writing};
use crate::indexes::QUEUE;

mod segments;
pub(crate) mod take;
mod watcher;

use segments::Local;
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
    local: Local,
    watcher: Watcher,
}

/// What [`Stored::state`] says.
pub(crate) const WAITING: i32 = 0;
pub(crate) const LEASED: i32 = 1;

/// A hint, as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    #[serde(rename = "_id")]
    id: String,
    state: i32,
    segment: i64,
    /// Tenant, queue and priority.
    lane: String,
    /// The rest of its place in the order, as text that sorts as it does.
    key: String,
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

/// The part of a key that says when an item is ready. Times are no earlier than 1970.
fn ready_key(micros: i64) -> String {
    format!("{micros:016x}")
}

/// Bytes of [`ready_key`].
const READY_KEY: i32 = 16;

impl Stored {
    fn of(item: &Item, segment: i64) -> Self {
        let (ready, plan, attempt) = (item.ready_at.as_micros(), item.plan_index, item.attempt);
        // A name ends with a blank, which comes before all that names are made of.
        let index = item.step.index.map_or(0, |index| u64::from(index) + 1);
        let key = format!(
            "{}{} {}{plan:08x}{} {index:09x}{attempt:08x}",
            ready_key(ready),
            item.dag,
            item.run,
            item.step.id
        );
        Self {
            id: format!("{}/{}", item.tenant, item.id()),
            state: WAITING,
            segment,
            lane: Lane { tenant: item.tenant.clone(), queue: item.queue.clone(), priority: item.priority }
                .name(),
            key,
            ready,
            dag: item.dag.clone(),
            run: item.run,
            plan: i64::from(plan),
            step: item.step.id.clone(),
            index: item.step.index.map_or(-1, i64::from),
            attempt: i64::from(attempt),
            at: ready,
            count: 0,
        }
    }

    fn item(&self) -> Result<Item> {
        let Lane { tenant, queue, priority } = Lane::parse(&self.lane)?;
        let number = |number: i64| {
            u32::try_from(number)
                .map_err(|_| Error::corrupt("number of a queued item is too big").with("key", &self.id))
        };
        Ok(Item {
            tenant,
            queue,
            priority,
            ready_at: Timestamp::from_micros(self.ready),
            dag: self.dag.clone(),
            run: self.run,
            plan_index: number(self.plan)?,
            step: StepKey { id: self.step.clone(), index: u32::try_from(self.index).ok() },
            attempt: number(self.attempt)?,
        })
    }
}

/// Items of one tenant, queue and priority.
#[derive(Clone, Debug)]
struct Lane {
    tenant: TenantId,
    queue: QueueName,
    priority: i32,
}

impl Lane {
    /// As it is stored: the highest priority comes first.
    fn name(&self) -> String {
        let rank = i64::from(i32::MAX) - i64::from(self.priority);
        format!("{}/{}/{rank:08x}", self.tenant, self.queue)
    }

    fn parse(name: &str) -> Result<Self> {
        let corrupt = || Error::corrupt("lane of a queued item does not read").with("lane", name);
        let mut parts = name.split('/');
        let (tenant, queue) = (parts.next().ok_or_else(corrupt)?, parts.next().ok_or_else(corrupt)?);
        let rank = parts.next().and_then(|rank| i64::from_str_radix(rank, 16).ok()).ok_or_else(corrupt)?;
        let priority = i32::try_from(i64::from(i32::MAX) - rank).map_err(|_| corrupt())?;
        Ok(Self { tenant: TenantId::new(tenant)?, queue: QueueName::new(queue)?, priority })
    }
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
        Self(Arc::new(Inner { connection, pushed, turn: Mutex::default(), local: Local::default(), watcher }))
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

    async fn push(&self, items: &[Item]) -> Result<()> {
        let segment = self.current().await?;
        let stored: Vec<_> = items.iter().map(|item| Stored::of(item, segment)).collect();
        let ids: Vec<_> = stored.iter().map(|stored| stored.id.clone()).collect();
        if let Err(error) = self.connection.collection(QUEUE).insert_many(stored).ordered(false).await {
            let known = there_already(error)?;
            self.bring_back(known.into_iter().filter_map(|at| ids.get(at).cloned()).collect()).await?;
        }
        self.keep_current(doc! {"_id": {"$in": ids}}, segment).await
    }

    /// Changes deliveries by one statement each, whose condition names the delivery, and answers which were changed. The
    /// changes mark what they change with `mark`, under `field`.
    async fn change(
        &self,
        field: &str,
        mark: ObjectId,
        statements: Vec<(String, Document)>,
    ) -> Result<HashSet<String>> {
        let (ids, mut statements): (Vec<_>, Vec<_>) = statements.into_iter().unzip();
        // Otherwise the server tries out for each of them whether another index is faster.
        statements.iter_mut().for_each(|statement| drop(statement.insert("hint", doc! {"_id": 1})));
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
        if !renewed.is_empty() {
            self.keep_end(until).await?;
        }
        let holds = |token: &DeliveryToken| parse(token).is_some_and(|(_, id)| renewed.contains(id));
        Ok(tokens.iter().map(|token| if holds(token) { Ok(()) } else { Err(lost(token)) }).collect())
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        let mark = ObjectId::new();
        let segment = self.current().await?;
        let statement = |settle: &Settle| {
            let change = match settle.release_until {
                None => Bson::from(doc! {"$set": {"end": mark, "mark": mark}}),
                Some(at) => back(at.as_micros(), segment, mark),
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
        let ids = |released: bool| -> Vec<&str> {
            let settles = settles.iter().filter(|settle| settle.release_until.is_some() == released);
            settles
                .filter_map(|settle| Some(parse(&settle.token)?.1))
                .filter(|id| ended.contains(*id))
                .collect()
        };
        let (done, released) = (ids(false), ids(true));
        if !released.is_empty() {
            self.keep_current(doc! {"_id": {"$in": released}}, segment).await?;
        }
        if !done.is_empty() {
            // What is marked is settled, and seen by nobody any more. Otherwise claims delete it when its lease has ended
            // long ago, so that nobody can have pushed it again by now. With any other condition beside the key, the server
            // would step over everything that was deleted behind it.
            let gone = done.iter().map(|id| doc! {"q": {"_id": id}, "limit": 1}).collect();
            if let Err(error) = self.connection.sweep_away(QUEUE, gone).await {
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
        let live = self.segments().await?.live;
        let lane = doc! {"$gte": format!("{tenant}/"), "$lt": format!("{tenant}0")};
        let counted = |filter: Document| {
            vec![
                doc! {"$match": filter},
                doc! {"$group": {
                    "_id": "$lane",
                    "ready": count(waiting("$lte")),
                    "delayed": count(waiting("$gt")),
                    "leased": count(leased.clone()),
                    "oldest": {"$min": oldest.clone()},
                }},
            ]
        };
        let queries = vec![
            counted(doc! {"state": WAITING, "segment": {"$in": live}, "lane": lane.clone()}),
            counted(doc! {"state": LEASED, "at": {"$gte": 0_i64}, "lane": lane, "end": null}),
        ];
        let found: Vec<Counted> = self.connection.union(QUEUE, queries).await?;
        let mut depths: BTreeMap<QueueName, Depth> = BTreeMap::new();
        for counted in found {
            let queue = Lane::parse(&counted.lane)?.queue;
            let empty = Depth { queue: queue.clone(), ready: 0, delayed: 0, leased: 0, oldest_at: None };
            let depth = depths.entry(queue).or_insert(empty);
            depth.ready += counted.ready.cast_unsigned();
            depth.delayed += counted.delayed.cast_unsigned();
            depth.leased += counted.leased.cast_unsigned();
            let oldest = counted.oldest.map(Timestamp::from_micros);
            depth.oldest_at = depth.oldest_at.into_iter().chain(oldest).min();
        }
        Ok(depths.into_values().collect())
    }

    /// The current segment, as far as this handle knows.
    async fn current(&self) -> Result<i64> {
        match self.local.segments().current {
            0 => Ok(self.segments().await?.current),
            current => Ok(current),
        }
    }
}

/// The change that lets an item wait again, ready at `at`.
fn back(at: i64, segment: i64, mark: ObjectId) -> Bson {
    let rest = doc! {"$substrBytes": ["$key", READY_KEY, -1]};
    let change = doc! {"$set": {
        "state": WAITING,
        "segment": segment,
        "ready": at,
        "at": at,
        "key": {"$concat": [ready_key(at), rest]},
        "by": "$$REMOVE",
        "mark": mark,
    }};
    Bson::Array(vec![change.into()])
}

/// The items of an insert that were there already, by number; every other failure is an error.
fn there_already(error: mongodb::error::Error) -> Result<Vec<usize>> {
    match error.kind.as_ref() {
        DriverKind::InsertMany(many) if many.write_concern_error.is_none() => {
            let refused = || many.write_errors.iter().flatten();
            match refused().find(|error| error.code != DUPLICATE_KEY) {
                Some(error) => Err(crate::error::of_statement(error.code, &error.message)),
                None => Ok(refused().map(|error| error.index).collect()),
            }
        }
        _ => Err(writing(error)),
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
        let items = items.to_vec();
        self.run(Doing::Writing, |inner| async move { inner.push(&items).await }).await?;
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
