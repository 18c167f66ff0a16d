//! What every backend does the same way: checking requests, cursors, cutting chunks into pages.

use super::{Append, Capability, Expect, PutDoc, RunRow};
use crate::error::{Error, Result};
use crate::id::RunId;
use crate::ledger::{Head, Stream};
use crate::time::Timestamp;

/// The most rows in a page of any listing.
pub const PAGE_MAX: usize = 500;

/// Checks the size of a page.
///
/// # Errors
/// `LimitExceeded` unless it lies in 1 to [`PAGE_MAX`].
pub fn check_page(limit: usize) -> Result<()> {
    if (1..=PAGE_MAX).contains(&limit) {
        return Ok(());
    }
    Err(Error::limit_exceeded("page size lies outside 1 to 500").with("limit", limit))
}

impl Append {
    /// Checks what can be checked without looking at the stream.
    ///
    /// # Errors
    /// `Invalid` when lines, heads and row do not belong together; `LimitExceeded` when the lines are longer than
    /// the store takes.
    pub fn check(&self, capability: &Capability) -> Result<()> {
        let invalid = |what: &'static str| Err(Error::invalid(what).with("stream", self.stream));
        if self.lines.len() > capability.append_bytes {
            return Err(Error::limit_exceeded("append holds more bytes than the store takes")
                .with("bytes", self.lines.len())
                .with("limit", capability.append_bytes));
        }
        if !self.lines.is_empty() && !self.lines.ends_with('\n') {
            return invalid("the last line of an append has no newline");
        }
        let lines = memchr::memchr_iter(b'\n', self.lines.as_bytes()).count() as u64;
        if self.expected.seq.checked_add(lines) != Some(self.head.seq)
            || (lines == 0 && self.expected != self.head)
        {
            return invalid("lines do not lead from the expected head to the new one");
        }
        match &self.row {
            Some(row) if self.stream != Stream::Run(row.run) || row.tenant != self.tenant => {
                invalid("row belongs to another stream")
            }
            Some(row) if row.head != self.head => invalid("row has another head than its stream"),
            Some(row) if row.head == Head::EMPTY => invalid("row of a run without entries"),
            _ => Ok(()),
        }
    }
}

impl PutDoc {
    /// Checks [`PutDoc::expect`] against the version the document has, 0 when there is none.
    ///
    /// # Errors
    /// `Conflict` when it does not hold.
    pub fn check_version(&self, actual: u64) -> Result<()> {
        let holds = match self.expect {
            Expect::Any => true,
            Expect::Absent => actual == 0,
            Expect::Version(version) => actual == version && version != 0,
        };
        if holds {
            return Ok(());
        }
        Err(Error::conflict("document has another version than expected")
            .with("kind", self.key.kind)
            .with("key", &self.key.key)
            .with("actual", actual))
    }
}

/// The error of an append whose expected head is not the head of its stream.
#[must_use]
pub fn stale_head(append: &Append, actual: Head) -> Error {
    Error::conflict("stream has another head than expected")
        .with("stream", append.stream)
        .with("expected", append.expected.seq)
        .with("actual", actual.seq)
}

/// The part of a chunk that comes after the line numbered `after`; the chunk's first line is numbered `first`.
#[must_use]
pub fn lines_after(chunk: &str, first: u64, after: u64) -> &str {
    let skipped = usize::try_from((after + 1).saturating_sub(first)).unwrap_or(usize::MAX);
    let Some(last) = skipped.checked_sub(1) else { return chunk };
    match memchr::memchr_iter(b'\n', chunk.as_bytes()).nth(last) {
        Some(end) => &chunk[end + 1..],
        None => "",
    }
}

/// The place of a run in the listing of runs: after it the next page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunsCursor {
    /// When the run was created.
    pub created_at: Timestamp,
    /// The run.
    pub run: RunId,
}

impl RunsCursor {
    /// The place of `row`.
    #[must_use]
    pub fn of(row: &RunRow) -> Self {
        Self { created_at: row.created_at, run: row.run }
    }

    /// The cursor as callers carry it.
    #[must_use]
    pub fn to_text(self) -> String {
        format!("{}.{}", self.created_at.as_micros(), self.run)
    }

    /// Reads a cursor that a caller brought back.
    ///
    /// # Errors
    /// `Invalid` when it is not what [`RunsCursor::to_text`] writes.
    pub fn parse(text: &str) -> Result<Self> {
        text.split_once('.')
            .and_then(|(micros, run)| {
                let created_at = Timestamp::from_micros(micros.parse().ok()?);
                Some(Self { created_at, run: run.parse().ok()? })
            })
            .filter(|cursor| cursor.to_text() == text)
            .ok_or_else(|| Error::invalid("not a cursor of this listing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_cut_after_the_line_named() {
        let chunk = "a\nb\nc\n";
        for (after, rest) in [(0, chunk), (3, chunk), (4, "b\nc\n"), (5, "c\n"), (6, ""), (9, "")] {
            assert_eq!(lines_after(chunk, 4, after), rest, "after {after}");
        }
    }

    #[test]
    fn a_cursor_has_one_spelling() {
        let run = "0123456789abcdef0123456789abcdef";
        let text = format!("17.{run}");
        assert_eq!(RunsCursor::parse(&text).unwrap().to_text(), text);
        for wrong in
            [String::new(), format!("+17.{run}"), format!("-1.{run}"), format!("17.{run}0"), "17".into()]
        {
            assert!(RunsCursor::parse(&wrong).is_err(), "{wrong}");
        }
    }
}
