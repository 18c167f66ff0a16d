//! One reader of a tenant's feed for all who listen to it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use orch::engine::{FeedEntries, RunFeed};
use orch::{Error, ErrorKind, Identity, Orchestrator, RunId, TenantId};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cursor::Cursor;
use super::message::{Known, Message};
use crate::App;
use crate::api::code::Code;
use crate::api::{ApiError, ApiResult};

/// Runs of which a reader remembers what it must know to tell of them; beyond that it looks them up again.
const KNOWN_MAX: usize = 50_000;

/// The hubs of the tenants that somebody listens to.
#[derive(Debug, Default)]
pub(crate) struct Hubs(Mutex<HashMap<TenantId, Weak<Hub>>>);

impl Hubs {
    /// Joins those who listen to a tenant: from now on, or from where a client was.
    pub(crate) async fn subscribe(
        &self,
        app: &App,
        who: &Identity,
        from: Option<(String, u32)>,
    ) -> ApiResult<Subscription> {
        let reader = Identity::new(who.tenant.clone(), who.actor.clone());
        let open = |hub: &Arc<Hub>| hub.lock().end.is_none();
        let known = self.lock().get(&who.tenant).and_then(Weak::upgrade).filter(open);
        let hub = match known {
            Some(hub) => hub,
            // Opened outside of the lock: two may do it at once, and one of the hubs is then read by one stream only.
            None => self.open(app, &reader).await?,
        };
        let Some((feed, told)) = from else {
            let next = hub.lock().end();
            return Ok(Subscription { hub, at: Place::Hub(next) });
        };
        let cursor = Cursor::Tenant { feed: feed.clone(), told }.to_string();
        let place = hub.lock().after(&cursor);
        if let Some(place) = place {
            return Ok(Subscription { hub, at: Place::Hub(place) });
        }
        let teller = Teller::open(&app.orch, &reader, feed, told as usize).await?;
        Ok(Subscription { hub, at: Place::Ledger(Box::new(CatchUp { teller, ready: VecDeque::new() })) })
    }

    async fn open(&self, app: &App, reader: &Identity) -> ApiResult<Arc<Hub>> {
        let teller = Teller::now(&app.orch, reader).await?;
        let reading = CancellationToken::new();
        let hub = Arc::new(Hub {
            ring: Mutex::new(Ring {
                messages: VecDeque::new(),
                by_cursor: HashMap::new(),
                first: 0,
                end: None,
            }),
            most: app.settings.streams.buffer.clamp(16, 65_536),
            told: Notify::new(),
            _reading: reading.clone().drop_guard(),
        });
        tokio::spawn(read(teller, Arc::downgrade(&hub), reading));
        let mut hubs = self.lock();
        hubs.retain(|_, hub| hub.strong_count() > 0);
        hubs.insert(reader.tenant.clone(), Arc::downgrade(&hub));
        Ok(hub)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Weak<Hub>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads for as long as somebody listens.
async fn read(mut teller: Teller, hub: Weak<Hub>, reading: CancellationToken) {
    loop {
        let told = tokio::select! {
            told = teller.next() => told,
            () = reading.cancelled() => return,
        };
        let Some(hub) = hub.upgrade() else { return };
        match told {
            Ok(messages) => hub.push(messages),
            Err(error) => return hub.end(error),
        }
    }
}

/// The last messages of a tenant, for all who listen.
#[derive(Debug)]
pub(crate) struct Hub {
    ring: Mutex<Ring>,
    /// How many are kept.
    most: usize,
    told: Notify,
    /// Ends the reading when nobody listens any more.
    _reading: DropGuard,
}

#[derive(Debug)]
struct Ring {
    messages: VecDeque<Arc<Message>>,
    /// The number of the message after the one that bears a cursor.
    by_cursor: HashMap<String, u64>,
    /// The number of the first message that is kept.
    first: u64,
    /// Why there will be no more.
    end: Option<Arc<Error>>,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, messages: Vec<Message>) {
        let mut ring = self.lock();
        for message in messages {
            let after = ring.end() + 1;
            ring.by_cursor.insert(message.cursor.clone(), after);
            ring.messages.push_back(Arc::new(message));
        }
        while ring.messages.len() > self.most {
            if let Some(old) = ring.messages.pop_front() {
                ring.by_cursor.remove(&old.cursor);
                ring.first += 1;
            }
        }
        drop(ring);
        self.told.notify_waiters();
    }

    fn end(&self, error: Error) {
        self.lock().end = Some(Arc::new(error));
        self.told.notify_waiters();
    }
}

impl Ring {
    /// The number of the message to come.
    fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    /// The number of the message after the one that bears this cursor, if that is kept.
    fn after(&self, cursor: &str) -> Option<u64> {
        self.by_cursor.get(cursor).copied()
    }

    /// A message by its number; nothing while it is still to come.
    fn get(&self, number: u64) -> orch::Result<Option<Arc<Message>>> {
        let place = number.checked_sub(self.first).ok_or_else(|| {
            Error::limit_exceeded("the stream was read too slowly: messages it has not seen are kept no more")
        })?;
        match (self.messages.get(usize::try_from(place).unwrap_or(usize::MAX)), &self.end) {
            (Some(message), _) => Ok(Some(Arc::clone(message))),
            (None, None) => Ok(None),
            (None, Some(end)) => Err(Error::new(end.kind(), end.message().to_owned())),
        }
    }
}

/// One who listens to a tenant.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    at: Place,
}

#[derive(Debug)]
enum Place {
    /// Up with the others: the number of the message to come.
    Hub(u64),
    /// Still reading what the hub does not have any more.
    Ledger(Box<CatchUp>),
}

#[derive(Debug)]
struct CatchUp {
    teller: Teller,
    ready: VecDeque<Message>,
}

impl Subscription {
    pub(crate) async fn next(&mut self) -> orch::Result<Arc<Message>> {
        loop {
            match &mut self.at {
                Place::Hub(number) => {
                    let mut told = std::pin::pin!(self.hub.told.notified());
                    // Registered before looking, so that what comes after the look is not missed.
                    told.as_mut().enable();
                    let found = self.hub.lock().get(*number)?;
                    if let Some(message) = found {
                        *number += 1;
                        return Ok(message);
                    }
                    told.await;
                }
                Place::Ledger(behind) => {
                    if let Some(message) = behind.ready.pop_front() {
                        if let Some(number) = self.hub.lock().after(&message.cursor) {
                            self.at = Place::Hub(number);
                        }
                        return Ok(Arc::new(message));
                    }
                    behind.ready = behind.teller.next().await?.into();
                }
            }
        }
    }
}

/// Turns the feed of a tenant into messages.
struct Teller {
    orch: Orchestrator,
    who: Identity,
    feed: RunFeed,
    /// What was read and is not told yet, so that whoever stops waiting loses nothing.
    pending: Option<FeedEntries>,
    /// From where the feed is to be opened to get what comes next.
    cursor: String,
    /// Messages of what comes next that have been told before.
    skip: usize,
    known: HashMap<RunId, Known>,
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Teller").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl Teller {
    /// Tells what comes from now on.
    async fn now(orch: &Orchestrator, who: &Identity) -> ApiResult<Self> {
        let feed = orch.feed(who, None).await?;
        let cursor = feed.end().to_owned();
        Ok(Self::new(orch, who, feed, cursor, 0))
    }

    /// Tells what comes after a cursor, but for the first messages.
    async fn open(orch: &Orchestrator, who: &Identity, cursor: String, skip: usize) -> ApiResult<Self> {
        let feed = orch.feed(who, Some(cursor.clone())).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => ApiError::new(Code::CursorExpired, error.sentence()),
            ErrorKind::Invalid => ApiError::invalid_at("?cursor", error.sentence()),
            _ => error.into(),
        })?;
        Ok(Self::new(orch, who, feed, cursor, skip))
    }

    fn new(orch: &Orchestrator, who: &Identity, feed: RunFeed, cursor: String, skip: usize) -> Self {
        Self {
            orch: orch.clone(),
            who: who.clone(),
            feed,
            pending: None,
            cursor,
            skip,
            known: HashMap::new(),
        }
    }

    /// The messages of the next append.
    async fn next(&mut self) -> orch::Result<Vec<Message>> {
        let next = match &self.pending {
            Some(next) => next,
            None => {
                let next = self.feed.next().await?;
                self.pending.insert(next)
            }
        };
        let (run, first) = (next.run, next.entries.first());
        if !self.known.contains_key(&run)
            && let Some(first) = first
        {
            let known = match Known::of_first(first) {
                Some(known) => Some(known),
                None => before(&self.orch, &self.who, run, first.seq).await?,
            };
            if self.known.len() >= KNOWN_MAX {
                self.known.clear();
            }
            self.known.extend(known.map(|known| (run, known)));
        }
        Ok(self.tell(run))
    }

    /// Tells what was read.
    fn tell(&mut self, run: RunId) -> Vec<Message> {
        let Some(FeedEntries { entries, cursor, .. }) = self.pending.take() else { return Vec::new() };
        let (feed, skip) = (std::mem::replace(&mut self.cursor, cursor), std::mem::take(&mut self.skip));
        // Nothing is known of a run that was pruned meanwhile, and nothing is left to tell.
        let Some(known) = self.known.get_mut(&run) else { return Vec::new() };
        let mut told = 0;
        let mut messages = Vec::new();
        for entry in &entries {
            let more = known.messages(entry, run, |place| {
                Cursor::Tenant { feed: feed.clone(), told: told + place + 1 }.to_string()
            });
            told += u32::try_from(more.len()).unwrap_or(u32::MAX);
            messages.extend(more);
        }
        if known.has_ended() {
            // Should it be retried, it is looked up again.
            self.known.remove(&run);
        }
        messages.drain(..skip.min(messages.len()));
        messages
    }
}

/// What is known of a run before one of its entries; nothing of one that was pruned.
async fn before(orch: &Orchestrator, who: &Identity, run: RunId, seq: u64) -> orch::Result<Option<Known>> {
    let mut events = orch.events(who, run, 0, false);
    let mut known: Option<Known> = None;
    loop {
        let entry = match events.next().await {
            Ok(Some((entry, _))) if entry.seq < seq => entry,
            Ok(_) => return Ok(known),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match &mut known {
            Some(known) => known.see(&entry),
            none => *none = Known::of_first(&entry),
        }
    }
}
