//! The lock.
//!
//! One document per tenant says who holds what, and one per token bucket what is in it. Both are read, changed in Rust and
//! written back if they still have the version that was read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mongodb::bson::doc;
use mongodb::bson::oid::ObjectId;
use orch::lock::*;
use orch::{Error, Result, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::connect::Connection;
use crate::error::{Doing, corrupt, is_duplicate, reading, writing};
use crate::indexes::{BUCKETS, LOCKS};

/// A [`Lock`] in a MongoDB database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MongoLock(Arc<Connection>);

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    #[serde(rename = "_id")]
    id: String,
    version: i64,
    body: String,
}

/// How often a change begins anew because somebody else was faster, and the longest rest before it: about ten seconds.
const TRIES: u32 = 200;
const REST_MAX: u32 = 100;

/// What the slots of all of a tenant may take: a document has 16 MiB.
const BODY_MAX: usize = 15 << 20;

impl MongoLock {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self(connection)
    }

    async fn run<T, W>(&self, work: impl FnOnce(Arc<Connection>) -> W) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        self.0.run(Doing::Writing, work(Arc::clone(&self.0))).await
    }
}

/// Reads a document, lets `change` say what it is to be, nothing if it may stay, and writes that.
async fn swap<S, T>(
    connection: &Connection,
    collection: &str,
    id: &str,
    change: impl Fn(Option<S>) -> Result<(Option<S>, T)> + Send + Sync,
) -> Result<T>
where
    S: Serialize + for<'de> Deserialize<'de> + Send,
    T: Send,
{
    let stored = connection.collection::<Stored>(collection);
    for tries in 0..TRIES {
        let found = stored.find_one(doc! {"_id": id}).await.map_err(reading)?;
        let read = |found: &Stored| {
            serde_json::from_str::<S>(&found.body)
                .map_err(|cause| corrupt("document of the lock does not read", cause))
        };
        let (after, answer) = change(found.as_ref().map(read).transpose()?)?;
        let Some(after) = after else { return Ok(answer) };
        let body = serde_json::to_string(&after)
            .map_err(|cause| Error::internal("document of the lock does not serialize").caused_by(cause))?;
        if body.len() > BODY_MAX {
            return Err(Error::limit_exceeded("tenant holds more slots than a document takes")
                .with("limit", BODY_MAX));
        }
        let written = match &found {
            None => {
                let new = Stored { id: id.to_owned(), version: 1, body };
                stored.insert_one(new).await.map(|_| true)
            }
            Some(found) => {
                let same = doc! {"_id": id, "version": found.version};
                let change = doc! {"$set": {"body": body}, "$inc": {"version": 1_i64}};
                stored.update_one(same, change).await.map(|updated| updated.matched_count == 1)
            }
        };
        match written {
            Ok(true) => return Ok(answer),
            Ok(false) => {}
            Err(error) if is_duplicate(&error) => {}
            Err(error) => return Err(writing(error)),
        }
        rest(tries).await;
    }
    Err(Error::unavailable("lock is asked for too often at once").with("key", id))
}

/// Rests for some milliseconds, by chance, the longer the more often others were faster.
async fn rest(tries: u32) {
    let chance = u32::from(ObjectId::new().bytes()[11]);
    let most = (2 << tries.min(6)).min(REST_MAX);
    tokio::time::sleep(Duration::from_millis(1) * most * chance / 256).await;
}

/// Changes the slots of one tenant.
async fn change_slots<T: Send>(
    connection: &Connection,
    tenant: &TenantId,
    change: impl Fn(&mut Slots) -> T + Send + Sync,
) -> Result<T> {
    swap(connection, LOCKS, tenant.as_str(), |before: Option<Slots>| {
        let before = before.unwrap_or_default();
        let mut after = before.clone();
        let answer = change(&mut after);
        Ok(((after != before).then_some(after), answer))
    })
    .await
}

/// The holders of each tenant, by their place in the request.
fn by_tenant(holders: &[Holder]) -> BTreeMap<TenantId, Vec<(usize, String)>> {
    let mut tenants: BTreeMap<TenantId, Vec<(usize, String)>> = BTreeMap::new();
    for (at, holder) in holders.iter().enumerate() {
        tenants.entry(holder.tenant.clone()).or_default().push((at, holder.name.clone()));
    }
    tenants
}

async fn renew(
    connection: &Connection,
    holders: &[Holder],
    until: Timestamp,
    now: Timestamp,
) -> Result<Vec<Result<()>>> {
    let mut answers: Vec<Result<()>> = holders.iter().map(|_| Ok(())).collect();
    for (tenant, holders) in by_tenant(holders) {
        let renewed = change_slots(connection, &tenant, |slots| {
            let renew = |(at, holder): &(usize, String)| (*at, slots.renew(holder, until, now));
            holders.iter().map(renew).collect::<Vec<_>>()
        });
        for (at, answer) in renewed.await? {
            answers[at] = answer;
        }
    }
    Ok(answers)
}

#[async_trait]
impl Lock for MongoLock {
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        if acquire.slots.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let acquire = acquire.clone();
        self.run(|connection| async move {
            change_slots(&connection, &acquire.holder.tenant, |slots| slots.acquire(&acquire)).await
        })
        .await
    }

    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>> {
        let holders = holders.to_vec();
        self.run(|connection| async move { renew(&connection, &holders, until, now).await }).await
    }

    async fn release(&self, holders: &[Holder]) -> Result<()> {
        let holders = holders.to_vec();
        self.run(|connection| async move {
            for (tenant, holders) in by_tenant(&holders) {
                change_slots(&connection, &tenant, |slots| {
                    holders.iter().for_each(|(_, holder)| slots.release(holder))
                })
                .await?;
            }
            Ok(())
        })
        .await
    }

    async fn take(&self, take: &Take) -> Result<Taken> {
        let take = take.clone();
        self.run(|connection| async move {
            let id = format!("{}/{}", take.tenant, take.key);
            swap(&connection, BUCKETS, &id, |before: Option<(i64, i64)>| {
                let bucket = before.map(|(parts, at)| Bucket { parts, at: Timestamp::from_micros(at) });
                let (after, taken) = Bucket::take(bucket, &take)?;
                Ok(((bucket != Some(after)).then_some((after.parts, after.at.as_micros())), taken))
            })
            .await
        })
        .await
    }
}
