//! The feed of a tenant: appends in the order in which they were committed.
//!
//! There is one writer at a time, so the row ids of `appends` grow in the order of commits, and pruning sees to it that none
//! is given out again. A cursor also names the append that it stands after: where another is found in its place, or nothing
//! that late is there, it is a cursor of another file.

use orch::ledger::Stream;
use orch::store::{FeedItem, FeedPage, FeedQuery, check_page};
use orch::{Error, Result};
use sqlx::{Row as _, SqliteConnection};

use super::{SqliteStore, natural};
use crate::error::mapped;

/// The rows after `?1` in the order of their commits, with the lines of those of runs of the tenant `?2` only.
const FEED: &str = "SELECT a.rowid, a.stream, a.first_seq, a.last_seq, s.name, \
    CASE WHEN s.tenant = ?2 AND s.name LIKE 'run/%' THEN a.lines END \
    FROM appends a JOIN streams s ON s.id = a.stream WHERE a.rowid > ?1 ORDER BY a.rowid LIMIT ?3";
/// The append in a row.
const AT: &str = "SELECT stream, last_seq FROM appends WHERE rowid = ?";
/// The last row and its append.
const LAST: &str = "SELECT rowid, stream, last_seq FROM appends ORDER BY rowid DESC LIMIT 1";

/// After which append a page begins: its row, its stream, its last entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    row: i64,
    stream: i64,
    last: i64,
}

impl Cursor {
    fn read(text: &str) -> Result<Self> {
        let read = || {
            let mut parts = text.strip_prefix('s')?.split('.').map(str::parse);
            let (row, stream, last) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
            parts.next().is_none().then_some(Self { row, stream, last })
        };
        read().ok_or_else(|| Error::invalid("not a cursor of a feed"))
    }

    fn text(self) -> String {
        format!("s{}.{}.{}", self.row, self.stream, self.last)
    }

    /// Whether its place is still known.
    async fn is_known(self, connection: &mut SqliteConnection) -> sqlx::Result<bool> {
        if self.row == 0 {
            return Ok(true);
        }
        if let Some(at) = sqlx::query(AT).bind(self.row).fetch_optional(&mut *connection).await? {
            return Ok((at.try_get::<i64, _>(0)?, at.try_get::<i64, _>(1)?) == (self.stream, self.last));
        }
        // It was pruned.
        Ok(last(connection).await?.row > self.row)
    }
}

async fn last(connection: &mut SqliteConnection) -> sqlx::Result<Cursor> {
    let row = sqlx::query(LAST).fetch_optional(connection).await?;
    let read = |row: &sqlx::sqlite::SqliteRow| {
        Ok(Cursor { row: row.try_get(0)?, stream: row.try_get(1)?, last: row.try_get(2)? })
    };
    row.as_ref().map_or_else(|| Ok(Cursor::default()), read)
}

pub(super) async fn feed(store: &SqliteStore, query: &FeedQuery) -> Result<FeedPage> {
    check_page(query.limit)?;
    // What is looked at must be of one moment.
    let mut moment = store.0.readers.begin().await.map_err(mapped)?;
    let Some(after) = query.after.as_deref().map(Cursor::read).transpose()? else {
        let end = last(&mut moment).await.map_err(mapped)?;
        return Ok(FeedPage { items: Vec::new(), next: end.text(), more: false });
    };
    if !after.is_known(&mut moment).await.map_err(mapped)? {
        return Err(Error::not_found("the feed does not reach to this cursor any more: begin anew"));
    }
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    let rows = sqlx::query(FEED).bind(after.row).bind(query.tenant.as_str()).bind(limit);
    let rows = rows.fetch_all(&mut *moment).await.map_err(mapped)?;
    let (mut items, mut next) = (Vec::new(), after);
    for row in &rows {
        let place = |column| row.try_get::<i64, _>(column).map_err(mapped);
        next = Cursor { row: place(0)?, stream: place(1)?, last: place(3)? };
        let Some(lines) = row.try_get::<Option<String>, _>(5).map_err(mapped)? else { continue };
        let name = row.try_get::<&str, _>(4).map_err(mapped)?;
        let Ok(Stream::Run(run)) = name.parse() else {
            return Err(Error::corrupt("a stream has no such name"));
        };
        items.push(FeedItem { run, first: natural(row, 2).map_err(mapped)?, lines, cursor: next.text() });
    }
    Ok(FeedPage { items, next: next.text(), more: rows.len() >= query.limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written_and_nothing_else_is() {
        let cursor = Cursor { row: 7, stream: 3, last: 12 };
        assert_eq!(Cursor::read(&cursor.text()).unwrap(), cursor);
        for wrong in ["", "s", "s1", "s1.2", "s1.2.3.4", "m7", "s1.2.x"] {
            assert!(Cursor::read(wrong).is_err(), "{wrong}");
        }
    }
}
