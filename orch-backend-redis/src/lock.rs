//! The lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use orch::lock::*;
use orch::{Error, Result, TenantId, Timestamp};

use crate::connect::Server;
use crate::error::unexpected;
use crate::order::instant;
use crate::script::{ACQUIRE, RELEASE, RENEW_SLOTS, SWAP};

/// A [`Lock`] on a Redis server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RedisLock(Arc<Server>);

/// How long what a dead holder had is kept when nobody asks for it, so that a process whose clock is fast does no harm to
/// others.
const LONG: Duration = Duration::from_secs(3_600);
/// Tries to change a bucket that others change, too.
const TRIES: u32 = 1_000;

impl RedisLock {
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Self(server)
    }

    fn slots(&self, tenant: &TenantId) -> String {
        format!("{{{}:lock:{tenant}}}", self.0.config.namespace)
    }

    async fn take_once(&self, take: &Take, key: &str) -> Result<Option<Taken>> {
        let mut get = redis::cmd("GET");
        get.arg(key);
        let text: String = self.0.read::<Option<String>>(&get).await?.unwrap_or_default();
        let before = if text.is_empty() { None } else { Some(read_bucket(&text)?) };
        let (after, taken) = Bucket::take(before, take)?;
        if before == Some(after) {
            return Ok(Some(taken));
        }
        let written = format!("{} {}", after.parts, after.at.as_micros());
        let mut swap = SWAP.on(&[key]);
        swap.arg(&text).arg(written).arg(bucket_life(take).map_or(String::new(), |life| life.to_string()));
        Ok((swap.send::<i64>(&self.0).await? == 1).then_some(taken))
    }
}

fn read_bucket(text: &str) -> Result<Bucket> {
    let parts = text.split_once(' ');
    let bucket = parts.and_then(|(parts, at)| Some((parts.parse().ok()?, at.parse().ok()?)));
    let (parts, at) = bucket.ok_or_else(|| unexpected("a bucket that does not read"))?;
    Ok(Bucket { parts, at: Timestamp::from_micros(at) })
}

/// Milliseconds after which a bucket is full whatever it held, and as good as a new one; nothing when it never is.
fn bucket_life(take: &Take) -> Option<u64> {
    let full = Duration::try_from_secs_f64(f64::from(take.burst) / take.rate).ok()?;
    u64::try_from((full + LONG).as_millis())
        .ok()
        .filter(|millis| i64::try_from(*millis).is_ok_and(|m| m < 1 << 50))
}

/// Milliseconds for which to keep what is held until `until`.
fn keep(until: Timestamp, now: Timestamp) -> u64 {
    u64::try_from((until.since(now) + LONG).as_millis()).unwrap_or(u64::MAX).min(1 << 50)
}

/// The holders of each tenant, with their places among all.
fn by_tenant(holders: &[Holder]) -> BTreeMap<&TenantId, Vec<(usize, &str)>> {
    let mut tenants: BTreeMap<&TenantId, Vec<(usize, &str)>> = BTreeMap::new();
    for (at, holder) in holders.iter().enumerate() {
        tenants.entry(&holder.tenant).or_default().push((at, &holder.name));
    }
    tenants
}

#[async_trait]
impl Lock for RedisLock {
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        if acquire.slots.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let lease_until = acquire.now.plus(acquire.lease);
        let mut call = ACQUIRE.on(&[&self.slots(&acquire.holder.tenant)]);
        call.arg(instant(acquire.now))
            .arg(instant(lease_until))
            .arg(&acquire.holder.name)
            .arg(keep(lease_until, acquire.now))
            .arg(acquire.now.as_micros());
        for slot in &acquire.slots {
            call.arg(&slot.key).arg(slot.capacity);
        }
        let fences: Vec<u64> = call.send(&self.0).await?;
        if fences.is_empty() {
            return Ok(None);
        }
        Ok(Some(fences.into_iter().map(|fence| Grant { fence, lease_until }).collect()))
    }

    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>> {
        let renew = |(tenant, own): (&TenantId, Vec<(usize, &str)>)| {
            let mut call = RENEW_SLOTS.on(&[&self.slots(tenant)]);
            call.arg(instant(now)).arg(instant(until)).arg(keep(until, now));
            for (_, name) in &own {
                call.arg(name);
            }
            let places: Vec<usize> = own.into_iter().map(|(at, _)| at).collect();
            async move { Ok::<_, Error>((places, call.send::<Vec<i64>>(&self.0).await?)) }
        };
        let renewed = try_join_all(by_tenant(holders).into_iter().map(renew)).await?;
        let lost = |holder: &Holder| Err(Error::lease_lost("a slot was lost").with("holder", &holder.name));
        let mut answers: Vec<_> = holders.iter().map(lost).collect();
        for (at, renewed) in renewed.into_iter().flat_map(|(places, renewed)| places.into_iter().zip(renewed))
        {
            if renewed == 1 {
                answers[at] = Ok(());
            }
        }
        Ok(answers)
    }

    async fn release(&self, holders: &[Holder]) -> Result<()> {
        let release = |(tenant, own): (&TenantId, Vec<(usize, &str)>)| {
            let mut call = RELEASE.on(&[&self.slots(tenant)]);
            for (_, name) in own {
                call.arg(name);
            }
            async move { call.send::<i64>(&self.0).await }
        };
        try_join_all(by_tenant(holders).into_iter().map(release)).await.map(|_| ())
    }

    async fn take(&self, take: &Take) -> Result<Taken> {
        let key = format!("{}:bucket:{}", self.slots(&take.tenant), take.key);
        for _ in 0..TRIES {
            if let Some(taken) = self.take_once(take, &key).await? {
                return Ok(taken);
            }
        }
        Err(Error::unavailable("a bucket is changed by too many at once").with("key", &take.key))
    }
}
