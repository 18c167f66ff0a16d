//! Where in a stream a client is.

use std::fmt;
use std::str::FromStr;

use orch::RunId;

use crate::api::{ApiError, ApiResult};

/// The longest cursor, in bytes.
const CURSOR_BYTES_MAX: usize = 128;

/// Where in a stream a client is: after so many messages of an entry of a run's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) run: RunId,
    pub(crate) seq: u64,
    pub(crate) told: u32,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r~{}~{}~{}", self.run, self.seq, self.told)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split('~').collect();
        let ["r", run, seq, told] = parts[..] else { return Err(()) };
        let (run, seq) = (run.parse().map_err(drop)?, seq.parse().map_err(drop)?);
        Ok(Self { run, seq, told: told.parse().map_err(drop)? })
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
        let cursor = Cursor { run: RunId::MIN, seq: 7, told: 2 };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        let long = format!("r~{}~1~{}", RunId::MIN, "1".repeat(600));
        for wrong in ["", "r", "r~x~1~1", "x~1~1~1", "r~1", &long] {
            assert!(Cursor::read(wrong).is_err(), "{wrong}");
        }
    }
}
