//! One entry: a canonical JSON line, chained to the one before by its hash.
//!
//! The hash of an entry is SHA-256 over exactly the bytes of its line, without the newline. What is hashed is
//! what is stored is what is exported, so anybody with `sha256sum` can check a chain.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

use super::event::Event;
use super::stream::{Head, Stream};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::payload::INTEGER_MAX;
use crate::time::Timestamp;

/// The version of the entry format.
pub const ENTRY_VERSION: u32 = 1;

/// An entry of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Who caused it.
    pub actor: String,
    /// When it was decided, by the clock of the process that appended it.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
    /// The hash of the entry before.
    pub prev: Digest,
    /// Its number in the stream, from 1.
    pub seq: u64,
    /// The stream.
    pub stream: Stream,
    /// Whose stream.
    pub tenant: TenantId,
}

/// The line as it stands on disk; borrowed, so that a chain can be checked without copying.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry<'a> {
    #[serde(borrow)]
    actor: Cow<'a, str>,
    at: Timestamp,
    #[serde(borrow)]
    data: &'a RawValue,
    prev: Digest,
    seq: u64,
    stream: Stream,
    tenant: TenantId,
    #[serde(borrow, rename = "type")]
    type_name: Cow<'a, str>,
    v: u32,
}

impl Entry {
    /// Reads an entry from its line (without the newline).
    ///
    /// # Errors
    /// `Corrupt` when it is not an entry of a known version and type.
    pub fn read(line: &str) -> Result<Self> {
        let raw: RawEntry<'_> = serde_json::from_str(line)
            .map_err(|cause| Error::corrupt("not a ledger entry").caused_by(cause))?;
        if raw.v != ENTRY_VERSION {
            return Err(Error::corrupt("entry has a version this build does not read").with("version", raw.v));
        }
        // Sequence numbers begin at 1, and like all integers in the ledger they are exact in every reader.
        if !(1..=INTEGER_MAX).contains(&raw.seq) {
            return Err(
                Error::corrupt("entry has a sequence number that no entry can have").with("seq", raw.seq)
            );
        }
        Ok(Self {
            event: Event::read(&raw.type_name, raw.data.get())?,
            actor: raw.actor.into_owned(),
            at: raw.at,
            prev: raw.prev,
            seq: raw.seq,
            stream: raw.stream,
            tenant: raw.tenant,
        })
    }

    /// The canonical line, without the newline.
    ///
    /// # Errors
    /// `Internal` when the event does not serialise, which no event of this crate does.
    pub fn to_line(&self) -> Result<String> {
        let mut chain =
            Chain::new(&self.tenant, self.stream, Head { hash: self.prev, seq: self.seq.saturating_sub(1) });
        chain.push(&self.actor, self.at, &self.event)?;
        let mut line = chain.lines;
        line.pop();
        String::from_utf8(line).map_err(|cause| Error::internal("entry is not utf-8").caused_by(cause))
    }
}

/// Writes consecutive entries of one stream.
///
/// The parts that do not change from entry to entry are encoded once.
#[derive(Debug)]
pub struct Chain {
    lines: Vec<u8>,
    head: Head,
    count: usize,
    stream: String,
    tenant: TenantId,
}

impl Chain {
    /// A writer that continues the stream at `head`.
    #[must_use]
    pub fn new(tenant: &TenantId, stream: Stream, head: Head) -> Self {
        Self { lines: Vec::new(), head, count: 0, stream: stream.to_string(), tenant: tenant.clone() }
    }

    /// Adds an entry and answers its sequence number.
    ///
    /// # Errors
    /// `Internal` when the event does not serialise.
    pub fn push(&mut self, actor: &str, at: Timestamp, event: &Event) -> Result<u64> {
        let start = self.lines.len();
        let out = &mut self.lines;
        out.extend_from_slice(b"{\"actor\":");
        serde_json::to_writer(&mut *out, actor)
            .map_err(|cause| Error::internal("actor does not serialise").caused_by(cause))?;
        out.extend_from_slice(b",\"at\":\"");
        out.extend_from_slice(&at.to_rfc3339());
        out.extend_from_slice(b"\",\"data\":");
        event.write_data(out)?;
        out.extend_from_slice(b",\"prev\":\"");
        out.extend_from_slice(&self.head.hash.to_hex());
        out.extend_from_slice(b"\",\"seq\":");
        let seq = self.head.seq + 1;
        out.extend_from_slice(itoa::Buffer::new().format(seq).as_bytes());
        // Streams, tenants and types are made of characters that JSON does not escape.
        for (name, value) in
            [("stream", &*self.stream), ("tenant", self.tenant.as_str()), ("type", event.type_name())]
        {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":\"");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\"");
        }
        out.extend_from_slice(b",\"v\":1}");
        self.head = Head { hash: Digest::of(&out[start..]), seq };
        out.push(b'\n');
        self.count += 1;
        Ok(seq)
    }

    /// The head after the last entry.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// How many entries were added.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Ends writing: the lines, each ended by a newline, and the head after them.
    ///
    /// # Errors
    /// `Internal` when an event wrote something that is not UTF-8, which no event does.
    pub fn finish(self) -> Result<(std::sync::Arc<str>, Head)> {
        let lines = String::from_utf8(self.lines)
            .map_err(|cause| Error::internal("entry is not utf-8").caused_by(cause))?;
        Ok((lines.into(), self.head))
    }
}

/// The entries in `lines`, each with its line; checks that each follows the one before, beginning at `head`.
///
/// # Errors
/// The iterator yields `Corrupt` at the first line that does not follow and ends there.
pub fn read_chain<'a>(
    head: Head,
    lines: &'a str,
) -> impl Iterator<Item = Result<(Entry, &'a str, Head)>> + use<'a> {
    let mut head = head;
    let mut broken = false;
    lines.split_terminator('\n').map_while(move |line| {
        if broken {
            return None;
        }
        let entry = Entry::read(line).and_then(|entry| {
            if Some(entry.seq) == head.seq.checked_add(1) && entry.prev == head.hash {
                Ok(entry)
            } else {
                Err(Error::corrupt("entry does not follow the one before")
                    .with("seq", entry.seq)
                    .with("after", head.seq))
            }
        });
        broken = entry.is_err();
        Some(entry.map(|entry| {
            head = Head { hash: Digest::of(line), seq: entry.seq };
            (entry, line, head)
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::RunStarted;

    #[test]
    fn a_sequence_number_that_no_entry_can_have_is_refused() {
        let mut chain = Chain::new(&TenantId::new("t").unwrap(), Stream::Audit, Head::EMPTY);
        chain.push("a", Timestamp::default(), &RunStarted {}.into()).unwrap();
        let (lines, _) = chain.finish().unwrap();
        let line = lines.trim_end();
        assert_eq!(Entry::read(line).unwrap().to_line().unwrap(), line);
        for seq in ["0", "9007199254740993", "18446744073709551615"] {
            let line = line.replace("\"seq\":1,", &format!("\"seq\":{seq},"));
            assert!(Entry::read(&line).unwrap_err().to_string().contains("sequence number"), "{seq}");
        }
        let head = Head { seq: u64::MAX, ..Head::EMPTY };
        assert!(read_chain(head, &lines).all(|entry| entry.is_err()));
    }
}
