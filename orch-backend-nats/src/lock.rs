//! The lock: all slots of a tenant are one message, a bucket is another, and each is compared and swapped.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use orch::lock::*;
use orch::{Error, ErrorKind, Result, TenantId, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::connect::LOCK_MESSAGE_MAX;
use crate::error;
use crate::link::{Link, Put, pause};

/// How often a change is tried again when other processes were faster.
const TRIES: u32 = 40;

/// How many cells are remembered between calls.
const CELLS: usize = 10_000;

/// How long a full bucket is kept, so that a process whose clock is slow does not find a new one too early.
const FULL_SECONDS: f64 = 3_600.0;

/// Beyond this a bucket is kept for ever.
const FOREVER_SECONDS: f64 = 1e9;

/// Bytes of a bucket's key as a subject has it.
const KEY_MAX: usize = 1_024;

/// A [`Lock`] in a JetStream stream. Cheap to clone.
#[derive(Clone)]
pub struct NatsLock(Arc<Shared>);

struct Shared {
    link: Arc<Link>,
    slots: Cells<Slots>,
    buckets: Cells<Level>,
}

/// What is in a bucket, if it was ever used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Level(Option<Parts>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Parts {
    /// Millionths of a token.
    parts: i64,
    /// When it held them, in microseconds since 1970.
    at: i64,
}

/// Values by subject, each as this process read or wrote it last.
type Cells<T> = Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<Known<T>>>>>>;

/// A value and the sequence of its message.
struct Known<T> {
    sequence: u64,
    value: T,
}

impl NatsLock {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self(Arc::new(Shared { link, slots: Mutex::default(), buckets: Mutex::default() }))
    }

    async fn slots<A>(
        &self,
        tenant: &TenantId,
        change: impl FnMut(&mut Slots) -> Result<A> + Send,
    ) -> Result<A>
    where
        A: Send,
    {
        let Shared { link, slots, .. } = &*self.0;
        let subject = link.names.slots(tenant);
        let changed = link.change(slots, subject, None, change).await;
        changed.map_err(|error| match error.kind() {
            ErrorKind::LimitExceeded => error.with("tenant", tenant),
            _ => error,
        })
    }
}

impl Link {
    /// Changes a value: reads it unless it is known, and writes it if it is still what it was, or tries again. One
    /// change at a time per process and value; an answer that changes nothing is given of a fresh read only.
    async fn change<T, A>(
        &self,
        cells: &Cells<T>,
        subject: String,
        seconds: Option<u64>,
        mut change: impl FnMut(&mut T) -> Result<A> + Send,
    ) -> Result<A>
    where
        T: Clone + Default + PartialEq + Serialize + DeserializeOwned + Send,
        A: Send,
    {
        let cell = cell(cells, &subject);
        let mine = tokio::time::timeout(self.config.timeout, cell.lock()).await;
        let mut mine =
            mine.map_err(|_| Error::unavailable("others of this process wait for the same slots or bucket"))?;
        for tries in 0..TRIES {
            // Taken out: if this call ends here, the next one reads.
            let (known, fresh) = match mine.take() {
                Some(known) => (known, false),
                None => (self.read(&subject).await?, true),
            };
            let mut value = known.value.clone();
            let answer = change(&mut value);
            if value == known.value {
                if fresh {
                    *mine = Some(known);
                    return answer;
                }
                continue;
            }
            let payload = serde_json::to_vec(&value).map_err(|cause| error::corrupt(&subject, cause))?;
            // The message's head and name take a little, too.
            if payload.len() + 2_048 > usize::try_from(LOCK_MESSAGE_MAX).unwrap_or(0) {
                return Err(Error::limit_exceeded(
                    "what is held does not fit into one message; hold fewer slots at once",
                )
                .with("bytes", payload.len())
                .with("limit", LOCK_MESSAGE_MAX));
            }
            let put = Put { subject: subject.clone(), expected: known.sequence, payload, seconds };
            if let Some(sequence) = self.put(put).await? {
                *mine = Some(Known { sequence, value });
                return answer;
            }
            tokio::time::sleep(pause(tries, Duration::from_millis(1), Duration::from_millis(100))).await;
        }
        Err(Error::unavailable("other processes change the same slots or bucket all the time")
            .with("subject", subject))
    }

    async fn read<T: Default + DeserializeOwned>(&self, subject: &str) -> Result<Known<T>> {
        match self.last(&self.names.lock, subject).await? {
            None => Ok(Known { sequence: 0, value: T::default() }),
            Some(last) => {
                let value =
                    serde_json::from_slice(&last.payload).map_err(|cause| error::corrupt(subject, cause))?;
                Ok(Known { sequence: last.sequence, value })
            }
        }
    }
}

fn cell<T>(cells: &Cells<T>, subject: &str) -> Arc<tokio::sync::Mutex<Option<Known<T>>>> {
    let mut cells = cells.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cell) = cells.get(subject) {
        return Arc::clone(cell);
    }
    if cells.len() >= CELLS {
        // Those in use stay: two cells of one value would only collide at the server, but why should they.
        cells.retain(|_, cell| Arc::strong_count(cell) > 1);
    }
    Arc::clone(cells.entry(subject.to_owned()).or_default())
}

/// After how many seconds a bucket is as good as none: when it is full again, and an hour later.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is positive and bounded")]
fn seconds(take: &Take) -> Option<u64> {
    let seconds = f64::from(take.burst) / take.rate + FULL_SECONDS;
    (seconds < FOREVER_SECONDS).then_some(seconds.ceil() as u64)
}

#[async_trait]
impl Lock for NatsLock {
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        if acquire.slots.is_empty() {
            return Ok(Some(Vec::new()));
        }
        self.slots(&acquire.holder.tenant, |slots| Ok(slots.acquire(acquire))).await
    }

    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>> {
        let renewed = by_tenant(holders).into_iter().map(|(tenant, places)| async move {
            let names: Vec<&str> = places.iter().map(|at| holders[*at].name.as_str()).collect();
            let renew =
                |slots: &mut Slots| Ok(names.iter().map(|name| slots.renew(name, until, now)).collect());
            let answers: Vec<Result<()>> = self.slots(tenant, renew).await?;
            Ok::<_, Error>(places.into_iter().zip(answers).collect::<Vec<_>>())
        });
        let mut answers = Vec::with_capacity(holders.len());
        for renewed in join_all(renewed).await {
            answers.extend(renewed?);
        }
        answers.sort_by_key(|(at, _)| *at);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    async fn release(&self, holders: &[Holder]) -> Result<()> {
        let released = by_tenant(holders).into_iter().map(|(tenant, places)| async move {
            let release = |slots: &mut Slots| {
                places.iter().for_each(|at| slots.release(&holders[*at].name));
                Ok(())
            };
            self.slots(tenant, release).await
        });
        join_all(released).await.into_iter().collect()
    }

    async fn take(&self, take: &Take) -> Result<Taken> {
        let Shared { link, buckets, .. } = &*self.0;
        let subject = link.names.bucket(&take.tenant, &take.key);
        if subject.len() > KEY_MAX {
            return Err(Error::limit_exceeded("name of a bucket is too long")
                .with("bytes", subject.len())
                .with("limit", KEY_MAX));
        }
        let change = |level: &mut Level| {
            let bucket = |parts: Parts| Bucket { parts: parts.parts, at: Timestamp::from_micros(parts.at) };
            let (after, taken) = Bucket::take(level.0.map(bucket), take)?;
            if taken == Taken::Granted {
                *level = Level(Some(Parts { parts: after.parts, at: after.at.as_micros() }));
            }
            Ok(taken)
        };
        link.change(buckets, subject, seconds(take), change).await
    }
}

/// The places of each tenant's holders.
fn by_tenant(holders: &[Holder]) -> BTreeMap<&TenantId, Vec<usize>> {
    let mut places: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (at, holder) in holders.iter().enumerate() {
        places.entry(&holder.tenant).or_default().push(at);
    }
    places
}

impl fmt::Debug for NatsLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsLock").field("link", &self.0.link).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_kept_until_it_is_full_and_an_hour_longer() {
        let take = |rate: f64, burst: u32| Take {
            tenant: TenantId::new("t").unwrap(),
            key: "k".into(),
            tokens: 1,
            rate,
            burst,
            now: Timestamp::EPOCH,
        };
        assert_eq!(seconds(&take(2.0, 100)), Some(3_650));
        assert_eq!(seconds(&take(0.3, 1)), Some(3_604));
        assert_eq!(seconds(&take(0.0, 1)), None, "it never fills");
        assert_eq!(seconds(&take(1e-9, 9)), None);
    }
}
