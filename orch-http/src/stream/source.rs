//! Where the messages of one stream come from.

use std::collections::VecDeque;

use orch::engine::RunEvents;
use orch::{Identity, RunId, RunStatus};

use super::cursor::Cursor;
use super::message::{Known, Message};
use crate::App;
use crate::api::code::Code;
use crate::api::{ApiError, ApiResult};

/// The messages of one run: from its first entry, or from after a cursor.
#[derive(Debug)]
pub(crate) struct Source {
    run: RunId,
    /// Only messages after which the run has this status.
    status: Option<RunStatus>,
    events: RunEvents,
    known: Option<Known>,
    ready: VecDeque<Message>,
    /// The last message that the client has: the number of its entry, and how many of that entry's it has.
    seen: (u64, u32),
}

impl Source {
    /// Opens the stream of a run.
    pub(crate) async fn open(
        app: &App,
        who: &Identity,
        run: RunId,
        status: Option<RunStatus>,
        cursor: Option<&str>,
    ) -> ApiResult<Self> {
        let seen = match cursor.map(Cursor::read).transpose()? {
            None => (0, 0),
            Some(cursor) if cursor.run == run => (cursor.seq, cursor.told),
            Some(_) => return Err(ApiError::invalid_at("?cursor", "the cursor was not made by this stream")),
        };
        let row = app.orch.run(who, run).await?;
        if seen.0 > row.head.seq {
            return Err(ApiError::new(Code::CursorExpired, "the record does not reach to this cursor"));
        }
        // From the beginning, so that every message says what it said the first time.
        let events = app.orch.events(who, run, 0, true);
        Ok(Self { run, status, events, known: None, ready: VecDeque::new(), seen })
    }

    /// The next message, or nothing when no more will come. Whoever stops waiting loses nothing.
    ///
    /// # Errors
    /// `Closed`, `Unavailable`, `Corrupt`.
    pub(crate) async fn next(&mut self) -> orch::Result<Option<Message>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                if self.status.is_none_or(|status| status == message.status) {
                    return Ok(Some(message));
                }
                continue;
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
                known.messages(&entry, run, |place| Cursor { run, seq, told: place + 1 }.to_string());
            let told = match self.seen.0.cmp(&seq) {
                std::cmp::Ordering::Less => 0,
                std::cmp::Ordering::Equal => self.seen.1 as usize,
                std::cmp::Ordering::Greater => messages.len(),
            };
            self.ready.extend(messages.into_iter().skip(told));
        }
    }
}
