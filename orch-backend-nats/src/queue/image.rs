//! What the queue's stream holds, in memory and in order.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use orch::queue::{Claim, DeliveryToken, Depth, Item, Lanes};
use orch::{Error, Result, TenantId, Timestamp};
use tokio::sync::{Notify, watch};

use super::message::{Lease, Stored};
use crate::error::corrupt;
use crate::link::Put;
use crate::names::Names;

/// The image of one process, kept up by [`follow`](super::follow) and by what the process writes itself.
pub(crate) struct Image {
    state: Mutex<State>,
    /// How far the stream has been seen; nothing until it has been seen whole.
    seen: watch::Sender<Option<u64>>,
    /// Something may be claimable.
    changed: Notify,
    /// Something does not fit: the stream is to be read anew.
    doubted: Notify,
    /// Why it is not kept up at the moment.
    trouble: Mutex<Option<String>>,
    /// How many bytes of the stream may be items.
    room: AtomicU64,
}

#[derive(Default)]
struct State {
    lanes: Lanes,
    /// Every subject that has a message.
    entries: HashMap<String, Entry>,
    /// The last message that the stream itself told of.
    told: u64,
    /// About how many bytes of the stream are items.
    bytes: u64,
}

/// The last message of a subject.
struct Entry {
    sequence: u64,
    /// Nothing when the item was settled here and the stream has not told of it yet.
    known: Option<Known>,
}

struct Known {
    item: Arc<Item>,
    count: u32,
    lease: Option<Lease>,
    /// The number of the lease in the lanes: the stored one or one that is being written.
    number: Option<u64>,
}

/// An item that is to be leased.
#[derive(Clone, Debug)]
pub(crate) struct Pick {
    pub(crate) subject: String,
    pub(crate) of: u64,
    number: u64,
    pub(crate) stored: Stored,
    /// How often it had been delivered before.
    before: u32,
}

/// What there is to be leased, and what is to be written that has ended.
#[derive(Debug, Default)]
pub(crate) struct Picked {
    pub(crate) picks: Vec<Pick>,
    pub(crate) lapses: Vec<(Put, Stored)>,
    pub(crate) next_at: Option<Timestamp>,
}

/// What the image says about a delivery.
#[derive(Clone, Debug)]
pub(crate) enum Delivered {
    /// It lasts; the last message of its item.
    Lasts { subject: String, sequence: u64, stored: Stored },
    /// It has ended.
    Ended,
    /// The image knows of none; it may lag behind.
    Unknown,
}

/// A delivery token: the part of its item's subject that is its own, and the sequence of the message that the lease was
/// taken of. A message is replaced once, so no other delivery has it.
pub(crate) fn token(names: &Names, subject: &str, of: u64) -> DeliveryToken {
    DeliveryToken::new(format!("{}@{of}", subject.strip_prefix(&names.items).unwrap_or(subject)))
}

fn parts(names: &Names, token: &DeliveryToken) -> Option<(String, u64)> {
    let (tail, of) = token.as_str().rsplit_once('@')?;
    Some((format!("{}{tail}", names.items), of.parse().ok()?))
}

impl Image {
    pub(crate) fn new() -> Self {
        let (state, seen) = (Mutex::default(), watch::Sender::new(None));
        let (changed, doubted, trouble) = (Notify::new(), Notify::new(), Mutex::default());
        Self { state, seen, changed, doubted, trouble, room: AtomicU64::new(u64::MAX) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below panics halfway through a change, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything: the stream is read from the beginning.
    pub(crate) fn begin(&self) {
        *self.state() = State::default();
        self.seen.send_replace(None);
    }

    /// Takes over what the stream tells, in its order.
    pub(crate) fn told(&self, messages: impl IntoIterator<Item = (String, u64, Option<Stored>)>) {
        let mut state = self.state();
        let mut waits = false;
        for (subject, sequence, stored) in messages {
            waits |= stored.as_ref().is_some_and(|stored| stored.lease.is_none());
            state.told = state.told.max(sequence);
            state.set(subject, sequence, stored, true);
        }
        drop(state);
        if waits {
            self.notify();
        }
    }

    /// The stream has been seen as far as `sequence`.
    pub(crate) fn saw(&self, sequence: u64) {
        self.seen.send_replace(Some(sequence));
    }

    /// Remembers why the stream cannot be read, or that it can.
    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over what this process wrote, which the stream will tell of later.
    pub(crate) fn wrote(&self, subject: String, sequence: u64, stored: Option<Stored>) {
        let waits = stored.as_ref().is_some_and(|stored| stored.lease.is_none());
        let mut state = self.state();
        // What the stream has told of is newer or the same.
        if sequence > state.told {
            state.set(subject, sequence, stored, false);
        }
        drop(state);
        if waits {
            self.notify();
        }
    }

    pub(crate) fn notify(&self) {
        // Everybody who waits, and the next who comes: it may have looked just before.
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn doubt(&self) {
        self.doubted.notify_one();
    }

    pub(crate) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    pub(crate) fn seen(&self) -> watch::Receiver<Option<u64>> {
        self.seen.subscribe()
    }

    /// Says how many bytes of the stream may be items.
    pub(crate) fn set_room(&self, bytes: u64) {
        self.room.store(bytes, Ordering::Relaxed);
    }

    /// Whether items of these names find room.
    ///
    /// # Errors
    /// `LimitExceeded`.
    pub(crate) fn check_room<'a>(&self, items: impl Iterator<Item = (&'a str, &'a Item)>) -> Result<()> {
        let (held, room) = (self.state().bytes, self.room.load(Ordering::Relaxed));
        let wanted: u64 = items.map(|(subject, item)| size(subject, item)).sum();
        if held.saturating_add(wanted) <= room {
            return Ok(());
        }
        let full = Error::limit_exceeded(
            "queue is full; wait until work is done, or raise the stream's `max_bytes`",
        );
        Err(full.with("held", held).with("wanted", wanted).with("limit", room))
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// Whether an item is queued or leased, as far as is known.
    pub(crate) fn has(&self, subject: &str) -> bool {
        self.state().entries.get(subject).is_some_and(|entry| entry.known.is_some())
    }

    /// Leases here what a claim asks for; it holds once it is written.
    pub(crate) fn pick(&self, names: &Names, claim: &Claim) -> Picked {
        let mut state = self.state();
        let ended = state.lanes.promote(claim.now);
        let claimed = state.lanes.claim(claim);
        let mut picked = Picked { next_at: claimed.next_at, ..Picked::default() };
        for delivery in claimed.deliveries {
            let subject = names.item(&delivery.item);
            let number = delivery.token.as_str().parse().ok();
            let entry = state
                .entries
                .get_mut(&subject)
                .and_then(|entry| Some((entry.sequence, entry.known.as_mut()?)));
            // An item in the lanes has an entry, and a token there is a number.
            let (Some((of, known)), Some(number)) = (entry, number) else { continue };
            known.number = Some(number);
            let lease = Some(Lease { of, until: delivery.lease_until });
            let stored = Stored { item: Arc::clone(&known.item), count: delivery.count, lease };
            picked.picks.push(Pick { subject, of, number, stored, before: known.count });
        }
        for item in ended {
            picked.lapses.extend(state.lapse(names, &item));
        }
        picked
    }

    /// An item was not leased after all: it waits again, unless the stream has told of something else.
    pub(crate) fn unpick(&self, pick: &Pick) {
        let mut state = self.state();
        let State { lanes, entries, .. } = &mut *state;
        let entry = entries.get_mut(&pick.subject).filter(|entry| entry.sequence == pick.of);
        if let Some(known) = entry.and_then(|entry| entry.known.as_mut())
            && known.number == Some(pick.number)
        {
            known.number = None;
            if lanes.end(pick.number).is_some() {
                lanes.add(Arc::clone(&known.item), pick.before);
            }
        }
        drop(state);
        self.notify();
    }

    /// Forgets what the stream was found not to hold, though everything was seen: it went while nobody listened.
    pub(crate) fn forget_ghost(&self, subject: &str, sequence: u64) -> bool {
        let mut state = self.state();
        let ghost = state.entries.get(subject).is_some_and(|entry| entry.sequence == sequence);
        if ghost {
            state.take_out(subject);
        }
        ghost
    }

    pub(crate) fn look(&self, names: &Names, token: &DeliveryToken, now: Timestamp) -> Delivered {
        let Some((subject, of)) = parts(names, token) else { return Delivered::Ended };
        let state = self.state();
        let Some(Entry { sequence, known }) = state.entries.get(&subject) else { return Delivered::Unknown };
        let newer = if *sequence > of { Delivered::Ended } else { Delivered::Unknown };
        let Some(known) = known else { return newer };
        let Some(lease) = known.lease.filter(|lease| lease.of == of) else { return newer };
        let kept = known.number.is_some_and(|number| state.lanes.lease_until(number).is_some());
        if !kept || lease.until <= now {
            // Another process may have prolonged it.
            return Delivered::Unknown;
        }
        let stored = Stored { item: Arc::clone(&known.item), count: known.count, lease: Some(lease) };
        Delivered::Lasts { subject, sequence: *sequence, stored }
    }

    pub(crate) fn depth(&self, tenant: &TenantId, now: Timestamp) -> Vec<Depth> {
        self.state().lanes.depth(tenant, now)
    }
}

impl State {
    /// Puts the last message of a subject where it belongs, unless a later one is known.
    fn set(&mut self, subject: String, sequence: u64, stored: Option<Stored>, told: bool) {
        match self.entries.get(&subject) {
            Some(entry) if entry.sequence > sequence => return,
            Some(Entry { sequence: same, known: Some(_) }) if *same == sequence => return,
            _ => {}
        }
        self.take_out(&subject);
        let known = match stored {
            Some(Stored { item, count, lease }) => {
                let number = lease.map(|lease| self.lanes.lease(Arc::clone(&item), count, lease.until));
                if number.is_none() {
                    self.lanes.add(Arc::clone(&item), count);
                }
                self.bytes += size(&subject, &item);
                Some(Known { item, count, lease, number })
            }
            // Kept until the stream tells of it: it may tell of older messages first.
            None if !told => None,
            None => return,
        };
        self.entries.insert(subject, Entry { sequence, known });
    }

    fn take_out(&mut self, subject: &str) {
        let Some(known) = self.entries.remove(subject).and_then(|entry| entry.known) else { return };
        self.bytes = self.bytes.saturating_sub(size(subject, &known.item));
        let leased = known.number.and_then(|number| self.lanes.end(number));
        if leased.is_none() {
            self.lanes.remove(&known.item);
        }
    }

    /// What is to be written of an item whose lease was found ended and that nobody leased now: others must know, or
    /// whoever had it could go on if its clock is slow.
    fn lapse(&mut self, names: &Names, item: &Item) -> Option<(Put, Stored)> {
        let subject = names.item(item);
        let entry = self.entries.get_mut(&subject)?;
        let (expected, known) = (entry.sequence, entry.known.as_mut()?);
        let again = known.number.is_some_and(|number| self.lanes.lease_until(number).is_some());
        if again || known.lease.is_none() {
            return None;
        }
        let stored = Stored { item: Arc::clone(&known.item), count: known.count, lease: None };
        let put = Put { subject, expected, payload: stored.to_bytes(), seconds: None };
        Some((put, stored))
    }
}

/// About how many bytes a message takes in the stream: its frame, its head and the fixed parts of its text, its name, and
/// the names in it.
fn size(subject: &str, item: &Item) -> u64 {
    let names = [item.tenant.as_str(), item.queue.as_str(), item.dag.as_str(), item.step.id.as_str()];
    let names: usize = names.iter().map(|name| name.len()).sum();
    u64::try_from(FIXED + subject.len() + names).unwrap_or(u64::MAX)
}

/// The bytes of a message beside the names.
const FIXED: usize = 340;

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.state().entries.len();
        f.debug_struct("Image").field("entries", &entries).finish_non_exhaustive()
    }
}

/// Reads a message of the stream; nothing in it is the end of what was there.
///
/// # Errors
/// `Corrupt` when it is no item, or one that belongs elsewhere: who may write for one tenant writes for no other.
pub(crate) fn read(names: &Names, subject: &str, payload: &[u8]) -> Result<Option<Stored>> {
    if payload.is_empty() {
        return Ok(None);
    }
    let stored = Stored::from_bytes(subject, payload)?;
    match names.item(&stored.item) == subject {
        true => Ok(Some(stored)),
        false => Err(corrupt(subject, "it is another item's")),
    }
}

#[cfg(test)]
mod tests;
