//! The feed of a tenant: appends in the order of the server's log, which change streams tell.
//!
//! A cursor is a resume token of the server's. A change stream stays open between two pages of a reader, so that whoever
//! follows neither opens one again nor has the server look through its log again.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mongodb::bson::{Document, deserialize_from_document, doc, serialize_to_document};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::{ChangeStreamEvent, OperationType, ResumeToken};
use mongodb::error::ErrorKind as DriverKind;
use orch::ledger::Stream;
use orch::store::{FeedItem, FeedPage, FeedQuery};
use orch::{Error, Result, TenantId};

use super::Inner;
use super::chunk::Chunk;
use crate::error::reading;
use crate::indexes::APPENDS;

/// How long the server looks for further changes before it says that there are none.
const HELD: Duration = Duration::from_millis(5);
/// Streams that stay open: one for each tenant that somebody follows in this process.
const OPEN_MAX: usize = 64;
/// What the server answers to a token that it has not made.
const BAD_TOKEN: [i32; 4] = [2, 9, 260, 50_811];
/// The same to one whose place is not in its log any more, or is in none.
const LOST_PLACE: [i32; 3] = [136, 280, 286];

type Changes = ChangeStream<ChangeStreamEvent<Document>>;

/// Change streams that are open, by whose appends they tell of and the cursor that they stand at.
#[derive(Default)]
pub(super) struct Feeds(Mutex<VecDeque<(TenantId, String, Changes)>>);

impl fmt::Debug for Feeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Feeds")
    }
}

impl Feeds {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(TenantId, String, Changes)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, tenant: &TenantId, cursor: &str) -> Option<Changes> {
        let mut open = self.lock();
        let at = open.iter().position(|(whose, at, _)| whose == tenant && at == cursor)?;
        open.remove(at).map(|(_, _, changes)| changes)
    }

    fn keep(&self, tenant: &TenantId, cursor: &str, changes: Changes) {
        let mut open = self.lock();
        open.push_back((tenant.clone(), cursor.to_owned(), changes));
        // The one that nobody has asked for the longest goes.
        if open.len() > OPEN_MAX {
            drop(open.pop_front());
        }
    }

    /// Closes all of them.
    pub(super) fn close(&self) {
        self.lock().clear();
    }
}

impl Inner {
    pub(super) async fn feed(&self, query: &FeedQuery) -> Result<FeedPage> {
        if !self.connection.tells {
            return Err(Error::unsupported(
                "a server on its own keeps no order over all runs: make it a replica set",
            ));
        }
        let token = query.after.as_deref().map(token).transpose()?;
        let kept = query.after.as_deref().and_then(|after| self.feeds.take(&query.tenant, after));
        let mut changes = match kept {
            Some(changes) => changes,
            None => self.open(&query.tenant, token).await?,
        };
        let mut items = Vec::new();
        let mut end = None;
        while query.after.is_some() && items.len() < query.limit {
            match changes.next_if_any().await.map_err(of_feed)? {
                Some(change) => items.push(item(change)?),
                None if !changes.is_alive() => return Err(lost()),
                // That nothing was found in time does not say that nothing follows: it has to have looked far enough.
                None => {
                    let end = match end {
                        Some(end) => end,
                        None => *end.insert(self.present().await?),
                    };
                    if changes.resume_token().as_ref().and_then(time).is_none_or(|at| at >= end) {
                        break;
                    }
                }
            }
        }
        let next = changes.resume_token().as_ref().map(text).transpose()?;
        let next = next.or(query.after.clone()).ok_or_else(lost)?;
        self.feeds.keep(&query.tenant, &next, changes);
        Ok(FeedPage { more: items.len() >= query.limit, items, next })
    }

    /// The present end of the server's log.
    async fn present(&self) -> Result<(u32, u32)> {
        let answer = self.connection.database.run_command(doc! {"ping": 1}).await.map_err(reading)?;
        let now = answer.get_timestamp("operationTime");
        now.map(|now| (now.time, now.increment)).map_err(|cause| {
            Error::unsupported("the server does not tell its time").caused_by(cause.to_string())
        })
    }

    async fn open(&self, tenant: &TenantId, after: Option<ResumeToken>) -> Result<Changes> {
        let pipeline = [
            doc! {"$match": {"$or": [
                {
                    "operationType": "insert",
                    "documentKey._id": {"$gte": format!("{tenant}/run/"), "$lt": format!("{tenant}/run0")},
                },
                {"operationType": {"$in": ["drop", "dropDatabase", "rename", "invalidate"]}},
            ]}},
            doc! {"$project": {
                "operationType": 1, "ns": 1, "fullDocument._id": 1, "fullDocument.life": 1, "fullDocument.lines": 1,
            }},
        ];
        let appends = self.connection.collection::<Document>(APPENDS);
        let watch = appends.watch().pipeline(pipeline).max_await_time(HELD);
        let watch = match after {
            Some(token) => watch.resume_after(token),
            None => watch,
        };
        watch.await.map_err(of_feed)
    }
}

/// What an error of a change stream means.
fn of_feed(error: mongodb::error::Error) -> Error {
    match error.kind.as_ref() {
        DriverKind::Command(refused) if BAD_TOKEN.contains(&refused.code) => not_a_cursor(),
        DriverKind::Command(refused) if LOST_PLACE.contains(&refused.code) => lost(),
        _ => reading(error),
    }
}

fn not_a_cursor() -> Error {
    Error::invalid("not a cursor of a feed")
}

fn lost() -> Error {
    Error::not_found("the feed does not reach to this cursor any more: begin anew")
}

/// A resume token as a cursor: `m` and its data, which is hexadecimal.
fn text(token: &ResumeToken) -> Result<String> {
    let document = serialize_to_document(token)
        .map_err(|cause| Error::internal("a token is no document").caused_by(cause.to_string()))?;
    let data = document.get_str("_data");
    data.map(|data| format!("m{data}")).map_err(|cause| {
        Error::unsupported("the server's tokens are of another kind").caused_by(cause.to_string())
    })
}

/// The place in the log that a token is about: after a byte that says so, seconds and a number within them.
fn time(token: &ResumeToken) -> Option<(u32, u32)> {
    let text = text(token).ok()?;
    let part = |from: usize| u32::from_str_radix(text.get(from..from + 8)?, 16).ok();
    text.starts_with("m82").then_some((part(3)?, part(11)?))
}

fn token(cursor: &str) -> Result<ResumeToken> {
    let data = cursor.strip_prefix('m').filter(|data| data.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let data = data.filter(|data| !data.is_empty() && data.len() % 2 == 0).ok_or_else(not_a_cursor)?;
    deserialize_from_document(doc! {"_data": data}).map_err(|_| not_a_cursor())
}

fn item(change: ChangeStreamEvent<Document>) -> Result<FeedItem> {
    let cursor = text(&change.id)?;
    if change.operation_type != OperationType::Insert {
        return Err(lost());
    }
    let shape = |cause: String| Error::corrupt("an append is of another shape").caused_by(cause);
    let document = change.full_document.ok_or_else(|| shape("it has no document".to_owned()))?;
    let chunk: Chunk = deserialize_from_document(document).map_err(|cause| shape(cause.to_string()))?;
    let (name, after) = chunk.name_and_after()?;
    let stream = name.split_once('/').and_then(|(_, stream)| stream.parse().ok());
    let Some(Stream::Run(run)) = stream else {
        return Err(Error::corrupt("a stream has no such name").with("name", name));
    };
    Ok(FeedItem { run, first: after + 1, lines: chunk.lines.unwrap_or_default(), cursor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written_and_nothing_else_is() {
        let cursor = "m8263F8E5A3000000012B0429296E1404";
        assert_eq!(text(&token(cursor).unwrap()).unwrap(), cursor);
        assert_eq!(time(&token(cursor).unwrap()), Some((0x63F8_E5A3, 1)));
        for wrong in ["", "m", "m0", "mxy", "s1.2.3", "82"] {
            assert!(token(wrong).is_err(), "{wrong}");
        }
    }
}
