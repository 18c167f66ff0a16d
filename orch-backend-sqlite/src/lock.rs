//! The lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orch::lock::*;
use orch::{Error, Result, Timestamp};
use serde_json::json;
use sqlx::{Row as _, SqliteConnection};

use crate::Database;
use crate::writer::Change;

/// A [`Lock`] in a SQLite file. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SqliteLock(Arc<Database>);

impl SqliteLock {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self(database)
    }
}

/// Forgets the asker, and who has a lapsed slot of the keys, where they hold nothing any more.
const FORGET_DEAD: &str = "
    DELETE FROM slots WHERE tenant = ?1
        AND holder IN (
            SELECT ?4 UNION
            SELECT d.holder FROM json_each(?2) e CROSS JOIN slots d ON d.tenant = ?1 AND d.key = e.value
            WHERE d.lease_until <= ?3)
        AND NOT EXISTS (
            SELECT 1 FROM slots l WHERE l.tenant = ?1 AND l.holder = slots.holder AND l.lease_until > ?3)";

/// Forgets a few of the holders that ended first and never came back, of whatever tenant. A holder that lost slots but
/// holds others is left alone: it has yet to learn it.
const FORGET_LONG_DEAD: &str = "
    DELETE FROM slots
    WHERE (tenant, holder) IN (
            SELECT tenant, holder FROM slots WHERE lease_until > 0 AND lease_until <= ?1 ORDER BY lease_until LIMIT 16)
        AND NOT EXISTS (
            SELECT 1 FROM slots l
            WHERE l.tenant = slots.tenant AND l.holder = slots.holder AND l.lease_until > ?1)";

/// How long slots of a dead holder are kept when nobody asks for their keys, so that a process whose clock is fast does
/// no harm to others.
const LONG: Duration = Duration::from_secs(3_600);

/// Marks lapsed slots of the keys as lost, so that they stay lost if a clock goes backwards.
const LOSE_LAPSED: &str = "
    UPDATE slots SET lease_until = 0
    WHERE tenant = ?1 AND key IN (SELECT value FROM json_each(?2)) AND lease_until <= ?3";

const HELD: &str = "
    SELECT key, sum(holder <> ?3), max(fence) FILTER (WHERE holder = ?3) FROM slots
    WHERE tenant = ?1 AND key IN (SELECT value FROM json_each(?2)) AND lease_until > 0
    GROUP BY key";

const NEXT_FENCES: &str = "UPDATE fences SET last = last + ?1 RETURNING last";

const TAKE_SLOTS: &str = "
    INSERT INTO slots (tenant, key, holder, fence, lease_until)
    SELECT ?1, value ->> 0, ?3, value ->> 1, ?4 FROM json_each(?2) WHERE true
    ON CONFLICT DO UPDATE SET fence = excluded.fence, lease_until = excluded.lease_until";

const FIRST_TO_END: &str = "SELECT min(lease_until) FROM slots WHERE tenant = ?1 AND holder = ?2";
const RENEW: &str = "UPDATE slots SET lease_until = ?3 WHERE tenant = ?1 AND holder = ?2";

const RELEASE: &str = "
    DELETE FROM slots WHERE (tenant, holder) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))";

const BUCKET: &str = "SELECT parts, at FROM buckets WHERE tenant = ?1 AND key = ?2";

const PUT_BUCKET: &str = "
    INSERT INTO buckets (tenant, key, parts, at) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT DO UPDATE SET parts = excluded.parts, at = excluded.at";

#[cfg(test)]
pub(crate) const ALL: &[&str] = &[
    FORGET_DEAD,
    FORGET_LONG_DEAD,
    LOSE_LAPSED,
    HELD,
    NEXT_FENCES,
    TAKE_SLOTS,
    FIRST_TO_END,
    RENEW,
    RELEASE,
    BUCKET,
    PUT_BUCKET,
];

struct Renew {
    holders: Vec<Holder>,
    until: Timestamp,
    now: Timestamp,
}

struct Release(Vec<Holder>);

/// Who stands at a key: how many others, and the asker's own fence.
type Held = BTreeMap<String, (i64, Option<i64>)>;

async fn held(connection: &mut SqliteConnection, acquire: &Acquire) -> sqlx::Result<Held> {
    let keys: BTreeSet<_> = acquire.slots.iter().map(|slot| &slot.key).collect();
    let keys = json!(keys).to_string();
    let tenant = acquire.holder.tenant.as_str();
    let now = acquire.now.as_micros();
    let bound = |sql| sqlx::query(sql).bind(tenant).bind(keys.as_str()).bind(now);
    bound(FORGET_DEAD).bind(acquire.holder.name.as_str()).execute(&mut *connection).await?;
    bound(LOSE_LAPSED).execute(&mut *connection).await?;
    let long = i64::try_from(LONG.as_micros()).unwrap_or(i64::MAX);
    sqlx::query(FORGET_LONG_DEAD).bind(now.saturating_sub(long)).execute(&mut *connection).await?;
    let held = sqlx::query(HELD).bind(tenant).bind(keys.as_str()).bind(acquire.holder.name.as_str());
    let rows = held.fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)))).collect()
}

#[async_trait]
impl Change for Acquire {
    type Answer = Option<Vec<Grant>>;

    async fn apply(&self, connection: &mut SqliteConnection) -> sqlx::Result<Result<Self::Answer>> {
        if self.slots.is_empty() {
            return Ok(Ok(Some(Vec::new())));
        }
        let held = held(connection, self).await?;
        let room = |slot: &Slot| {
            let (others, own) = held.get(&slot.key).copied().unwrap_or_default();
            slot.capacity > 0 && (own.is_some() || others < i64::from(slot.capacity))
        };
        if !self.slots.iter().all(room) {
            return Ok(Ok(None));
        }
        let own = |slot: &Slot| held.get(&slot.key).and_then(|(_, own)| *own);
        let fresh = self.slots.iter().filter(|slot| own(slot).is_none()).count();
        let fences = sqlx::query(NEXT_FENCES).bind(i64::try_from(fresh).unwrap_or(i64::MAX));
        let mut fence = fences.fetch_one(&mut *connection).await?.try_get::<i64, _>(0)?;
        let mut taken: BTreeMap<&str, i64> = BTreeMap::new();
        for slot in &self.slots {
            taken.entry(&slot.key).or_insert_with(|| {
                own(slot).unwrap_or_else(|| {
                    fence -= 1;
                    fence + 1
                })
            });
        }
        let lease_until = self.now.plus(self.lease);
        sqlx::query(TAKE_SLOTS)
            .bind(self.holder.tenant.as_str())
            .bind(json!(taken.iter().collect::<Vec<_>>()).to_string())
            .bind(self.holder.name.as_str())
            .bind(lease_until.as_micros())
            .execute(connection)
            .await?;
        let grant = |slot: &Slot| Grant { fence: taken[slot.key.as_str()].cast_unsigned(), lease_until };
        Ok(Ok(Some(self.slots.iter().map(grant).collect())))
    }
}

#[async_trait]
impl Change for Renew {
    type Answer = Vec<Result<()>>;

    async fn apply(&self, connection: &mut SqliteConnection) -> sqlx::Result<Result<Self::Answer>> {
        let mut answers = Vec::new();
        for holder in &self.holders {
            let bound = |sql| sqlx::query(sql).bind(holder.tenant.as_str()).bind(holder.name.as_str());
            let row = bound(FIRST_TO_END).fetch_one(&mut *connection).await?;
            let ends: Option<i64> = row.try_get(0)?;
            if ends.is_none_or(|ends| ends <= self.now.as_micros()) {
                answers.push(Err(Error::lease_lost("a slot was lost").with("holder", &holder.name)));
                continue;
            }
            bound(RENEW).bind(self.until.as_micros()).execute(&mut *connection).await?;
            answers.push(Ok(()));
        }
        Ok(Ok(answers))
    }
}

#[async_trait]
impl Change for Release {
    type Answer = ();

    async fn apply(&self, connection: &mut SqliteConnection) -> sqlx::Result<Result<()>> {
        let holders: Vec<_> = self.0.iter().map(|holder| json!([holder.tenant, holder.name])).collect();
        sqlx::query(RELEASE).bind(json!(holders).to_string()).execute(connection).await?;
        Ok(Ok(()))
    }
}

#[async_trait]
impl Change for Take {
    type Answer = Taken;

    async fn apply(&self, connection: &mut SqliteConnection) -> sqlx::Result<Result<Taken>> {
        let bound = |sql| sqlx::query(sql).bind(self.tenant.as_str()).bind(self.key.as_str());
        let row = bound(BUCKET).fetch_optional(&mut *connection).await?;
        let before = match row {
            Some(row) => Some(Bucket { parts: row.try_get(0)?, at: Timestamp::from_micros(row.try_get(1)?) }),
            None => None,
        };
        let (after, taken) = match Bucket::take(before, self) {
            Ok(taken) => taken,
            Err(wrong) => return Ok(Err(wrong)),
        };
        if before != Some(after) {
            bound(PUT_BUCKET).bind(after.parts).bind(after.at.as_micros()).execute(connection).await?;
        }
        Ok(Ok(taken))
    }
}

#[async_trait]
impl Lock for SqliteLock {
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        self.0.writer()?.change(acquire.clone()).await
    }

    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>> {
        self.0.writer()?.change(Renew { holders: holders.to_vec(), until, now }).await
    }

    async fn release(&self, holders: &[Holder]) -> Result<()> {
        self.0.writer()?.change(Release(holders.to_vec())).await
    }

    async fn take(&self, take: &Take) -> Result<Taken> {
        self.0.writer()?.change(take.clone()).await
    }
}
