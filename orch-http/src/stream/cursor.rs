//! Where in a stream a client is.

use std::fmt;
use std::str::FromStr;

use orch::RunId;

use crate::api::{ApiError, ApiResult};

/// The longest cursor, in bytes.
const CURSOR_BYTES_MAX: usize = 2_048;

/// Where in a stream a client is: after the message that bore it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cursor {
    /// In the record of a run: after so many messages of an entry.
    Run { run: RunId, seq: u64, told: u32 },
    /// In the feed of a tenant: from where the feed is to be opened, after so many messages of what comes next there.
    Tenant { feed: String, told: u32 },
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run { run, seq, told } => write!(f, "r~{run}~{seq}~{told}"),
            Self::Tenant { feed, told } => write!(f, "t~{told}~{feed}"),
        }
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '~');
        let (kind, first, rest) = (parts.next().ok_or(())?, parts.next().ok_or(())?, parts.next().ok_or(())?);
        match kind {
            "r" => {
                let (seq, told) = rest.split_once('~').ok_or(())?;
                let run = first.parse().map_err(drop)?;
                Ok(Self::Run { run, seq: seq.parse().map_err(drop)?, told: told.parse().map_err(drop)? })
            }
            "t" => Ok(Self::Tenant { told: first.parse().map_err(drop)?, feed: rest.to_owned() }),
            _ => Err(()),
        }
    }
}

impl Cursor {
    /// Reads what a client gave.
    pub(crate) fn read(text: &str) -> ApiResult<Self> {
        let read = if text.len() > CURSOR_BYTES_MAX { Err(()) } else { text.parse() };
        read.map_err(|()| ApiError::invalid_at("?cursor", "this is not a cursor of a stream"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written_and_nothing_else_is() {
        let run = Cursor::Run { run: RunId::MIN, seq: 7, told: 2 };
        let tenant = Cursor::Tenant { feed: "a~b.c".to_owned(), told: 0 };
        for cursor in [run, tenant] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for wrong in ["", "r", "r~x~1~1", "t~x~y", "t~1", "x~1~y", &format!("t~1~{}", "x".repeat(2_100))] {
            assert!(Cursor::read(wrong).is_err(), "{wrong}");
        }
    }
}
