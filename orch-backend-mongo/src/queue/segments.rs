//! Segments: where hints wait, so that a claim need not look past those that are gone.
//!
//! A server remembers what was deleted for some minutes, and whoever looks for the first item of an index steps over all
//! that was taken before it. So what comes to wait is put into the current segment only, which is closed after a thousand
//! items were taken from it. From a closed one things only go: a claim remembers where it found the first one, and an empty one is
//! looked at no more. One document says which segments there are, and when a lease may end next. Whoever adds something looks
//! at this document afterwards; whoever changes it looks for what was added afterwards; so one of them sees the other.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mongodb::bson::{Document, doc};
use orch::{Result, Timestamp};
use serde::Deserialize;

use super::{Inner, LEASED, Named, WAITING};
use crate::indexes::{META, QUEUE, SEGMENTS};

/// Items taken from the current segment after which it is closed.
const TAKEN_MAX: usize = 1_000;

/// Segments beyond which one that holds little is emptied into the current one.
const LIVE_MAX: usize = 12;

/// Microseconds after the end of its lease when a settled item is deleted by others than who settled it. Longer than any call
/// takes.
const LONG: i64 = 3_600_000_000;

/// The document that all processes share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Segments {
    pub(super) current: i64,
    /// Those in which something may wait, the current one among them.
    pub(super) live: Vec<i64>,
    /// No lease ends before; nothing when there is none.
    pub(super) end: Option<i64>,
}

/// What this handle knows of it.
#[derive(Debug, Default)]
pub(super) struct Local(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    segments: Segments,
    /// The key of the first item that waited in a lane of a closed segment.
    firsts: HashMap<(i64, String), String>,
    /// Items taken from the current segment.
    taken: usize,
}

impl Local {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Every change below is whole before the next begins.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn segments(&self) -> Segments {
        self.seen().segments.clone()
    }

    fn learn(&self, segments: &Segments) {
        let mut seen = self.seen();
        if seen.segments.current != segments.current {
            seen.taken = 0;
        }
        if seen.segments.live != segments.live {
            seen.firsts.retain(|(segment, _), _| segments.live.contains(segment));
        }
        seen.segments.clone_from(segments);
    }

    /// Where to begin in a lane.
    pub(super) fn first(&self, segment: i64, lane: &str) -> String {
        self.seen().firsts.get(&(segment, lane.to_owned())).cloned().unwrap_or_default()
    }

    /// Notes where the first item was found.
    pub(super) fn found(&self, segment: i64, lane: &str, key: &str) {
        let mut seen = self.seen();
        if segment != seen.segments.current {
            seen.firsts.insert((segment, lane.to_owned()), key.to_owned());
        }
    }

    /// Begins at the beginning again: nothing was found, so there is time for what somebody left behind.
    pub(super) fn forget(&self) {
        self.seen().firsts.clear();
    }

    /// Counts items taken from a segment; answers whether it is to be closed.
    pub(super) fn took(&self, segment: i64, count: usize) -> bool {
        let mut seen = self.seen();
        if segment == seen.segments.current {
            seen.taken += count;
        }
        seen.taken >= TAKEN_MAX
    }
}

impl Inner {
    /// Reads the document.
    pub(super) async fn segments(&self) -> Result<Segments> {
        let found: Vec<Segments> =
            self.connection.find(META, doc! {"_id": SEGMENTS}, doc! {"_id": 0}).await?;
        self.known(found.into_iter().next())
    }

    /// Notes what was read.
    pub(super) fn known(&self, segments: Option<Segments>) -> Result<Segments> {
        let gone = || orch::Error::unavailable("database of the queue was emptied; open it anew");
        let segments = segments.ok_or_else(gone)?;
        self.local.learn(&segments);
        Ok(segments)
    }

    async fn change_segments(&self, only_if: Document, change: Document) -> Result<()> {
        let mut filter = doc! {"_id": SEGMENTS};
        filter.extend(only_if);
        self.connection.update(META, vec![doc! {"q": filter, "u": change}]).await?;
        Ok(())
    }

    /// Sees to it that what was put into a segment is in one that was current afterwards. `which` names it.
    pub(super) async fn keep_current(&self, which: Document, mut segment: i64) -> Result<()> {
        loop {
            let current = self.segments().await?.current;
            if current == segment {
                return Ok(());
            }
            let mut left_behind = which.clone();
            left_behind.extend(doc! {"state": WAITING, "segment": segment});
            let change = doc! {"$set": {"segment": current}};
            self.connection.update(QUEUE, vec![doc! {"q": left_behind, "u": change, "multi": true}]).await?;
            segment = current;
        }
    }

    /// Moves items that wait where nobody looks: their process died before it saw that the segment was no longer live.
    pub(super) async fn bring_back(&self, ids: Vec<String>) -> Result<()> {
        let Segments { current, live, .. } = self.segments().await?;
        let lost = doc! {"_id": {"$in": &ids}, "state": WAITING, "segment": {"$nin": live}};
        let change = doc! {"$set": {"segment": current}};
        let moved = self.connection.update(QUEUE, vec![doc! {"q": lost, "u": change, "multi": true}]).await?;
        if moved.matched > 0 {
            self.keep_current(doc! {"_id": {"$in": ids}}, current).await?;
        }
        Ok(())
    }

    /// Sees to it that everybody knows of leases until `until`, after they were made.
    pub(super) async fn keep_end(&self, until: Timestamp) -> Result<()> {
        let until = until.as_micros();
        if self.segments().await?.end.is_none_or(|end| end > until) {
            self.change_segments(doc! {}, doc! {"$min": {"end": until}}).await?;
        }
        Ok(())
    }

    /// Lets what was leased until `now` wait again, and deletes what was settled but for its deletion.
    pub(super) async fn end_leases(&self, now: Timestamp) -> Result<()> {
        self.change_segments(doc! {}, doc! {"$unset": {"end": 1}}).await?;
        let long_ago = now.as_micros().saturating_sub(LONG);
        let settled = doc! {"state": LEASED, "at": {"$lte": long_ago}, "end": {"$exists": true}};
        self.connection.delete(QUEUE, vec![doc! {"q": settled, "limit": 0}]).await?;
        let current = self.local.segments().current;
        let unsettled = doc! {"state": LEASED, "at": {"$lte": now.as_micros()}, "end": {"$exists": false}};
        let wait = doc! {"$set": {"state": WAITING, "segment": current, "at": "$ready", "by": "$$REMOVE", "back": now.as_micros()}};
        self.connection.update(QUEUE, vec![doc! {"q": unsettled, "u": [wait], "multi": true}]).await?;
        self.keep_current(doc! {"back": now.as_micros()}, current).await?;
        let next: Vec<Lease> = self
            .connection
            .union(
                QUEUE,
                vec![vec![
                    doc! {"$match": {"state": LEASED, "at": {"$gt": now.as_micros()}, "end": null}},
                    doc! {"$sort": {"at": 1}},
                    doc! {"$limit": 1},
                    doc! {"$project": {"at": 1}},
                ]],
            )
            .await?;
        match next.first() {
            Some(lease) => self.change_segments(doc! {}, doc! {"$min": {"end": lease.at}}).await,
            None => Ok(()),
        }
    }

    /// Closes the current segment.
    pub(super) async fn close_segment(&self) -> Result<()> {
        let current = self.local.segments().current;
        let next = doc! {"$set": {"current": current + 1}, "$addToSet": {"live": current + 1}};
        self.change_segments(doc! {"current": current}, next).await?;
        self.segments().await.map(drop)
    }

    /// Looks no more at segments that were found empty, and empties one that holds little when there are many.
    pub(super) async fn tidy(&self, empty: &[i64]) -> Result<()> {
        if !empty.is_empty() {
            self.forget_empty(empty).await?;
        }
        self.empty_one().await
    }

    async fn forget_empty(&self, empty: &[i64]) -> Result<()> {
        self.change_segments(doc! {"current": {"$nin": empty}}, doc! {"$pull": {"live": {"$in": empty}}})
            .await?;
        for segment in empty {
            // Somebody whose process was slow may have put something there, and been content with what it saw.
            let waits = doc! {"state": WAITING, "segment": segment};
            let found: Vec<Named> = self.connection.find(QUEUE, waits, doc! {"_id": 1}).await?;
            if !found.is_empty() {
                self.change_segments(doc! {}, doc! {"$addToSet": {"live": segment}}).await?;
            }
        }
        self.segments().await.map(drop)
    }

    async fn empty_one(&self) -> Result<()> {
        let Segments { current, live, .. } = self.local.segments();
        if live.len() <= LIVE_MAX {
            return Ok(());
        }
        for segment in live.into_iter().filter(|segment| *segment != current) {
            let waits = doc! {"state": WAITING, "segment": segment};
            let most = i64::try_from(TAKEN_MAX).unwrap_or(i64::MAX);
            let count =
                vec![doc! {"$match": &waits}, doc! {"$limit": most + 1}, doc! {"$project": {"_id": 1}}];
            let ids: Vec<Named> = self.connection.union(QUEUE, vec![count]).await?;
            if ids.len() <= TAKEN_MAX {
                let change = doc! {"$set": {"segment": current}};
                self.connection.update(QUEUE, vec![doc! {"q": waits, "u": change, "multi": true}]).await?;
                let ids: Vec<_> = ids.into_iter().map(|named| named.id).collect();
                return self.keep_current(doc! {"_id": {"$in": ids}}, current).await;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
struct Lease {
    at: i64,
}
