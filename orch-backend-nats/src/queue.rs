//! The queue: an image of the stream in memory, and compare-and-swap of single messages.

mod follow;
mod image;
mod message;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use orch::queue::*;
use orch::{Error, ErrorKind, Result, TenantId, Timestamp};

use crate::error;
use crate::link::{Link, Put};
use follow::Follower;
use image::{Delivered, Image, Pick, token};
use message::Stored;

/// How often a call tries again what others changed under its hands.
const TRIES: u32 = 32;

/// After how many seconds the end of an item goes from the stream. Whoever has not heard of it by then reads the
/// stream anew, so it need only outlast a moment's lag.
const END_SECONDS: u64 = 10;

/// Requests for single messages that are under way at once.
const REQUESTS: usize = 64;

/// A [`Queue`] in a JetStream stream. Cheap to clone; the clones share one image.
#[derive(Clone)]
pub struct NatsQueue(Arc<Shared>);

struct Shared {
    link: Arc<Link>,
    image: Arc<Image>,
    /// Started by the first call: who uses the lock alone has no image.
    follower: OnceLock<Follower>,
}

/// What is to become of a delivery.
#[derive(Clone, Copy)]
enum Change {
    Prolong(Timestamp),
    Done,
    Back(Timestamp),
}

/// A change, and how far it has come.
struct Asked<'a> {
    token: &'a DeliveryToken,
    change: Change,
    /// The message in whose place it was tried.
    tried: Option<u64>,
    answer: Option<Result<()>>,
}

impl<'a> Asked<'a> {
    fn new(&(token, change): &(&'a DeliveryToken, Change)) -> Self {
        Self { token, change, tried: None, answer: None }
    }
}

impl NatsQueue {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self(Arc::new(Shared { link, image: Arc::new(Image::new()), follower: OnceLock::new() }))
    }

    /// Wakes whoever waits, to be told that the connection was closed.
    pub(crate) fn closed(&self) {
        self.0.image.notify();
    }

    fn link(&self) -> &Link {
        &self.0.link
    }

    fn image(&self) -> Result<&Image> {
        self.link().ready()?;
        let Shared { link, image, follower } = &*self.0;
        follower.get_or_init(|| Follower::start(Arc::clone(link), Arc::clone(image)));
        Ok(image)
    }

    /// Waits until the image shows everything that was acknowledged before.
    async fn catch_up(&self) -> Result<()> {
        let image = self.image()?;
        let last = match self.link().last_sequence(&self.link().names.queue).await {
            Ok(last) => last,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // The stream was deleted; the follower makes it again.
                image.doubt();
                return Err(
                    Error::unavailable("stream of the queue is gone; it is made again").caused_by(error)
                );
            }
            Err(error) => return Err(error),
        };
        self.wait_until_seen(image, last).await
    }

    async fn wait_until_seen(&self, image: &Image, last: u64) -> Result<()> {
        let mut seen = image.seen();
        let seen = seen.wait_for(|seen| seen.is_some_and(|seen| seen >= last));
        match tokio::time::timeout(self.link().config.timeout, seen).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(error::closed()),
            Err(_) => {
                image.doubt();
                let error = Error::unavailable("image of the queue is not up to date").with("sequence", last);
                Err(match image.trouble() {
                    Some(trouble) => error.caused_by(trouble),
                    None => error,
                })
            }
        }
    }

    /// Writes what was picked. Answers the deliveries, and the picks that somebody else was faster with.
    async fn lease(&self, image: &Image, picks: Vec<Pick>) -> Result<(Vec<Delivery>, Vec<Pick>)> {
        let put = |pick: &Pick| Put {
            subject: pick.subject.clone(),
            expected: pick.of,
            payload: pick.stored.to_bytes(),
            seconds: None,
        };
        let written = self.link().put_all(picks.iter().map(put).collect()).await;
        let (mut deliveries, mut lost, mut failed) = (Vec::new(), Vec::new(), None);
        for (pick, written) in picks.into_iter().zip(written) {
            match written {
                Ok(Some(sequence)) => {
                    let token = token(&self.link().names, &pick.subject, pick.of);
                    let Stored { item, count, lease } = &pick.stored;
                    let lease_until = lease.map_or(Timestamp::EPOCH, |lease| lease.until);
                    deliveries.push(Delivery { item: Item::clone(item), token, lease_until, count: *count });
                    image.wrote(pick.subject, sequence, Some(pick.stored));
                }
                Ok(None) => lost.push(pick),
                Err(error) => {
                    // If it was written nevertheless, the stream will say so.
                    image.unpick(&pick);
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) if deliveries.is_empty() => Err(error),
            _ => Ok((deliveries, lost)),
        }
    }

    /// Carries out one change per token and answers each.
    async fn change(&self, changes: &[(&DeliveryToken, Change)], now: Timestamp) -> Result<Vec<Result<()>>> {
        let image = self.image()?;
        let mut asked: Vec<Asked<'_>> = changes.iter().map(Asked::new).collect();
        for turn in 0..TRIES {
            let mut writes = Vec::new();
            for (at, asked) in asked.iter_mut().enumerate().filter(|(_, asked)| asked.answer.is_none()) {
                writes.extend(self.plan(image, asked, now, turn > 0).map(|write| (at, write)));
            }
            let puts = writes.iter().map(|(_, (put, _))| put.clone()).collect();
            for ((at, (put, stored)), written) in writes.into_iter().zip(self.link().put_all(puts).await) {
                asked[at].answer = match written {
                    Ok(Some(sequence)) => {
                        image.wrote(put.subject, sequence, stored);
                        Some(Ok(()))
                    }
                    Ok(None) => None,
                    Err(error) => Some(Err(error)),
                }
            }
            if asked.iter().all(|asked| asked.answer.is_some()) {
                break;
            }
            self.catch_up().await?;
        }
        let busy = || Err(Error::conflict("delivery was changed by others again and again"));
        let mut answers: Vec<_> = asked.into_iter().map(|asked| asked.answer.unwrap_or_else(busy)).collect();
        // Nothing came through: that is about the call, not about single deliveries.
        let failed =
            |answer: &Result<()>| answer.as_ref().is_err_and(|error| error.kind() != ErrorKind::LeaseLost);
        match answers.iter().all(failed).then(|| answers.pop()).flatten() {
            Some(Err(error)) => Err(error),
            _ => Ok(answers),
        }
    }

    /// What is to be written for one delivery, or else its answer. `sure` is whether everything was seen.
    fn plan(
        &self,
        image: &Image,
        asked: &mut Asked<'_>,
        now: Timestamp,
        sure: bool,
    ) -> Option<(Put, Option<Stored>)> {
        match image.look(&self.link().names, asked.token, now) {
            Delivered::Unknown if !sure => return None,
            Delivered::Ended | Delivered::Unknown => {}
            Delivered::Lasts { subject, sequence, stored } if asked.tried != Some(sequence) => {
                asked.tried = Some(sequence);
                return Some(asked.change.apply(subject, sequence, stored));
            }
            Delivered::Lasts { subject, sequence, .. } => {
                // Everything was seen, and still the stream has another message or none.
                if image.forget_ghost(&subject, sequence) {
                    image.doubt();
                }
            }
        }
        asked.answer = Some(Err(ended(asked.token)));
        None
    }

    /// Puts items that were not there as far as the image knew; answers those that were.
    async fn add(&self, image: &Image, items: Vec<(Put, Stored)>) -> Result<Vec<(Put, Stored)>> {
        let puts = items.iter().map(|(put, _)| put.clone()).collect();
        let mut there = Vec::new();
        for ((put, stored), written) in items.into_iter().zip(self.link().put_all(puts).await) {
            match written? {
                Some(sequence) => image.wrote(put.subject, sequence, Some(stored)),
                None => there.push((put, stored)),
            }
        }
        Ok(there)
    }

    /// Finds out what is in the place of an item that the image does not know. Answers the item if it is to be put
    /// there: its end may still be in the stream.
    async fn look_up(&self, (mut put, stored): (Put, Stored)) -> Result<Option<(Put, Stored)>> {
        let last = self.link().last(&self.link().names.queue, &put.subject).await?;
        put.expected = match last {
            Some(last) if !last.payload.is_empty() => return Ok(None),
            Some(last) => last.sequence,
            None => 0,
        };
        Ok(Some((put, stored)))
    }
}

impl Change {
    /// What is to be written, and what the item is then.
    fn apply(self, subject: String, expected: u64, mut stored: Stored) -> (Put, Option<Stored>) {
        match self {
            Self::Done => {
                return (Put { subject, expected, payload: Vec::new(), seconds: Some(END_SECONDS) }, None);
            }
            Self::Prolong(until) => {
                if let Some(lease) = &mut stored.lease {
                    lease.until = until;
                }
            }
            Self::Back(ready_at) => {
                stored.item = Arc::new(Item { ready_at, ..Item::clone(&stored.item) });
                stored.lease = None;
            }
        }
        (Put { subject, expected, payload: stored.to_bytes(), seconds: None }, Some(stored))
    }
}

fn ended(token: &DeliveryToken) -> Error {
    Error::lease_lost("delivery is no longer leased").with("token", token.as_str())
}

#[async_trait]
impl Queue for NatsQueue {
    async fn push(&self, items: &[Item]) -> Result<()> {
        let image = self.image()?;
        // Only who sees everything knows whether there is room.
        self.wait_until_seen(image, 0).await?;
        let (mut fresh, mut there) = (Vec::new(), Vec::new());
        for item in items {
            let subject = self.link().names.item(item);
            let stored = Stored { item: Arc::new(item.clone()), count: 0, lease: None };
            let put = Put { subject, expected: 0, payload: stored.to_bytes(), seconds: None };
            // What is known to be there need not be sent, only looked at again.
            let list = if image.has(&put.subject) { &mut there } else { &mut fresh };
            list.push((put, stored));
        }
        image.check_room(
            fresh.iter().map(|(put, stored): &(Put, Stored)| (put.subject.as_str(), &*stored.item)),
        )?;
        for _ in 0..TRIES {
            there.extend(self.add(image, std::mem::take(&mut fresh)).await?);
            if there.is_empty() {
                return Ok(());
            }
            self.catch_up().await?;
            there.retain(|(put, _)| !image.has(&put.subject));
            let mut looked_up =
                stream::iter(there.drain(..).map(|item| self.look_up(item))).buffered(REQUESTS);
            while let Some(found) = looked_up.next().await {
                fresh.extend(found?);
            }
        }
        Err(Error::conflict("items were pushed and settled by others again and again"))
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let image = self.image()?;
        let unavailable = |error: Error| match error.kind() {
            // Nobody gets a delivery that was not answered, so there is nothing to be found out about it.
            ErrorKind::Indeterminate => Error::unavailable("leases were not acknowledged").caused_by(error),
            _ => error,
        };
        let (mut deliveries, mut lost) = (Vec::new(), Vec::new());
        for _ in 0..TRIES {
            match self.catch_up().await {
                Err(error) if deliveries.is_empty() => return Err(error),
                // What was leased must not get lost with the error.
                Err(_) => return Ok(Claimed { deliveries, ..Claimed::default() }),
                Ok(()) => {}
            }
            for pick in lost {
                let Pick { subject, of, .. } = &pick;
                if image.forget_ghost(subject, *of) {
                    tracing::warn!(%subject, "the stream does not hold an item that is in the image");
                    image.doubt();
                }
            }
            let asked = Claim { limit: claim.limit - deliveries.len(), ..claim.clone() };
            let picked = image.pick(&self.link().names, &asked);
            let (leased, lapsed) = (self.lease(image, picked.picks), self.lapse(image, picked.lapses));
            let (leased, ()) = futures::join!(leased, lapsed);
            let raced = match leased {
                Err(error) if deliveries.is_empty() => return Err(unavailable(error)),
                Err(_) => Vec::new(),
                Ok((leased, raced)) => {
                    deliveries.extend(leased);
                    raced
                }
            };
            if raced.is_empty() {
                return Ok(Claimed { deliveries, next_at: picked.next_at, more: false });
            }
            lost = raced;
        }
        // Others are faster again and again: there is something to come again for at once.
        Ok(Claimed { deliveries, next_at: Some(claim.now), more: false })
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        let changes: Vec<_> = tokens.iter().map(|token| (token, Change::Prolong(until))).collect();
        self.change(&changes, now).await
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        let change = |settle: &Settle| settle.release_until.map_or(Change::Done, Change::Back);
        let changes: Vec<_> = settles.iter().map(|settle| (&settle.token, change(settle))).collect();
        self.change(&changes, now).await
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        if self.link().is_closed() {
            return Err(error::closed());
        }
        // Without a connection there is nothing to be told of; with the next one everything is looked at again.
        let _ = self.image();
        // Either way the caller looks again.
        let _ = tokio::time::timeout(timeout, self.0.image.changed()).await;
        if self.link().is_closed() { Err(error::closed()) } else { Ok(()) }
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        self.catch_up().await?;
        Ok(self.image()?.depth(tenant, now))
    }
}

impl NatsQueue {
    /// Writes which leases were found ended. Whoever is faster with something else is right.
    async fn lapse(&self, image: &Image, lapses: Vec<(Put, Stored)>) {
        let puts = lapses.iter().map(|(put, _)| put.clone()).collect();
        for ((put, stored), written) in lapses.into_iter().zip(self.link().put_all(puts).await) {
            match written {
                Ok(Some(sequence)) => image.wrote(put.subject, sequence, Some(stored)),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "an ended lease is not recorded"),
            }
        }
    }
}

impl fmt::Debug for NatsQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsQueue").field("link", &self.0.link).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl NatsQueue {
    /// About how many bytes the items take.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.image.bytes()
    }
}

#[cfg(test)]
pub(crate) use message::tests as message_tests;
