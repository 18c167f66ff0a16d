//! What goes wrong, and what to do about it.

use std::fmt;

use orch::Error;

use crate::address::Address;

/// An error with advice.
#[derive(Debug)]
pub struct Advised {
    /// What went wrong.
    pub error: Error,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Shorthand for a result with [`Advised`].
pub type Result<T, E = Advised> = std::result::Result<T, E>;

impl Advised {
    pub(crate) fn hint(self, text: impl Into<String>) -> Self {
        Self { hint: self.hint.or_else(|| Some(text.into())), ..self }
    }
}

impl From<Error> for Advised {
    fn from(error: Error) -> Self {
        Self { error, hint: None }
    }
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl std::error::Error for Advised {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

/// What to do about a backend that cannot be opened.
#[must_use]
pub fn advice(error: &Error, address: &Address) -> Option<String> {
    use orch::ErrorKind::{Corrupt, Refused, Unavailable, Unsupported};
    let advice = match (error.kind(), address.is_remote()) {
        (Refused | Unavailable, false) => {
            "orch needs a directory that it may write to, on a disk with room; --store names another file"
        }
        (Corrupt, false) => "restore the file from a backup; nothing was changed",
        (Unavailable, true) => "see that the server runs there and can be reached; `orch doctor` tries again",
        (Refused, true) => {
            "see to user, password and permissions of the address; ORCH_STORE, ORCH_QUEUE and ORCH_LOCK keep it out of \
             the list of processes"
        }
        (Unsupported, true) => "docs/backends tells which servers orch works with, and how they are set",
        _ => return None,
    };
    Some(advice.to_owned())
}
