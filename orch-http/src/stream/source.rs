//! Where the messages of one stream come from.

use std::collections::VecDeque;
use std::sync::Arc;

use orch::engine::RunEvents;
use orch::{Identity, Orchestrator, RunId};

use super::cursor::Cursor;
use super::hub::Subscription;
use super::message::{Filter, Known, Message};
use crate::App;
use crate::api::code::Code;
use crate::api::{ApiError, ApiResult};

/// Which stream is asked for.
#[derive(Debug)]
pub(crate) struct Open {
    /// Only of this run.
    pub(crate) run: Option<RunId>,
    pub(crate) filter: Filter,
    /// After this message; from now on without it, or for a run from its beginning.
    pub(crate) cursor: Option<String>,
}

/// The messages of one stream.
#[derive(Debug)]
pub(crate) struct Source {
    filter: Filter,
    from: From,
}

#[derive(Debug)]
enum From {
    Run(Box<OfRun>),
    Tenant(Box<Subscription>),
}

impl Source {
    /// Opens a stream.
    pub(crate) async fn open(app: &App, who: &Identity, open: Open) -> ApiResult<Self> {
        let cursor = open.cursor.as_deref().map(Cursor::read).transpose()?;
        let foreign = || ApiError::invalid_at("?cursor", "the cursor was not made by this stream");
        let from = match (open.run, cursor) {
            (Some(run), Some(Cursor::Run { run: of, seq, told })) if run == of => {
                From::Run(Box::new(OfRun::open(&app.orch, who, run, (seq, told)).await?))
            }
            (Some(run), None) => From::Run(Box::new(OfRun::open(&app.orch, who, run, (0, 0)).await?)),
            (None, None) => From::Tenant(Box::new(app.hubs.subscribe(app, who, None).await?)),
            (None, Some(Cursor::Tenant { feed, told })) => {
                From::Tenant(Box::new(app.hubs.subscribe(app, who, Some((feed, told))).await?))
            }
            _ => return Err(foreign()),
        };
        Ok(Self { filter: open.filter, from })
    }

    /// The next message, or nothing when no more will come.
    ///
    /// # Errors
    /// `LimitExceeded` when this stream has fallen so far behind that messages it has not seen are kept no more;
    /// `Closed`, `Unavailable`, `Corrupt`.
    pub(crate) async fn next(&mut self) -> orch::Result<Option<Arc<Message>>> {
        loop {
            let next = match &mut self.from {
                From::Run(run) => run.next().await?,
                From::Tenant(tenant) => Some(tenant.next().await?),
            };
            if next.as_ref().is_none_or(|message| self.filter.wants(message)) {
                return Ok(next);
            }
        }
    }
}

/// The messages of one run.
#[derive(Debug)]
struct OfRun {
    run: RunId,
    events: RunEvents,
    known: Option<Known>,
    ready: VecDeque<Arc<Message>>,
    /// The last message that the client has: the number of its entry, and how many of that entry's it has.
    seen: (u64, u32),
}

impl OfRun {
    async fn open(orch: &Orchestrator, who: &Identity, run: RunId, seen: (u64, u32)) -> ApiResult<Self> {
        let row = orch.run(who, run).await?;
        if seen.0 > row.head.seq {
            return Err(ApiError::new(Code::CursorExpired, "the record does not reach to this cursor"));
        }
        // From the beginning, so that every message says what it said the first time.
        let events = orch.events(who, run, 0, true);
        Ok(Self { run, events, known: None, ready: VecDeque::new(), seen })
    }

    async fn next(&mut self) -> orch::Result<Option<Arc<Message>>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            let Some((entry, _)) = self.events.next().await? else { return Ok(None) };
            let known = match &mut self.known {
                Some(known) => known,
                none => none.insert(
                    Known::of_first(&entry)
                        .ok_or_else(|| orch::Error::corrupt("a run does not begin with its creation"))?,
                ),
            };
            let (run, seq) = (self.run, entry.seq);
            let messages =
                known.messages(&entry, run, |place| Cursor::Run { run, seq, told: place + 1 }.to_string());
            let told = match self.seen.0.cmp(&seq) {
                std::cmp::Ordering::Less => 0,
                std::cmp::Ordering::Equal => self.seen.1 as usize,
                std::cmp::Ordering::Greater => messages.len(),
            };
            self.ready.extend(messages.into_iter().skip(told).map(Arc::new));
        }
    }
}
