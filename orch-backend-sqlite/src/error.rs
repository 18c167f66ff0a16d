//! What SQLite's errors mean to a caller: the one mapping.

use std::fmt;

use orch::{Error, ErrorKind};

/// An error of the driver, mapped. It can be told to everybody whose work was in the same transaction.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    kind: ErrorKind,
    message: &'static str,
    cause: Cause,
}

/// The driver's own words, without its type.
#[derive(Clone, Debug)]
struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

impl Failure {
    pub(crate) fn of(error: &sqlx::Error) -> Self {
        let (kind, message) = meaning(error);
        Self { kind, message, cause: Cause(error.to_string()) }
    }

    /// The failure of a commit: nobody knows whether it happened. A full disk is an exception: the record that makes
    /// the transaction valid was not written, and readers pass over what was.
    pub(crate) fn of_commit(error: &sqlx::Error) -> Self {
        if primary_code(error) == Some(FULL) {
            return Self::of(error);
        }
        let message = "commit failed; the changes may be there or not";
        Self { kind: ErrorKind::Indeterminate, message, cause: Cause(error.to_string()) }
    }

    pub(crate) fn to_error(&self) -> Error {
        Error::new(self.kind, self.message).caused_by(self.cause.clone())
    }
}

pub(crate) fn mapped(error: sqlx::Error) -> Error {
    Failure::of(&error).to_error()
}

/// Stored text or numbers that this crate did not write.
pub(crate) fn corrupt(what: &'static str) -> impl Fn(String) -> Error {
    move |cause| Error::corrupt(what).caused_by(Cause(cause))
}

pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(5 | 6))
}

/// `SQLITE_FULL`.
const FULL: i32 = 13;

fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    // The low byte is the primary result code (sqlite.org/rescode.html).
    Some(code & 0xff)
}

fn meaning(error: &sqlx::Error) -> (ErrorKind, &'static str) {
    match error {
        sqlx::Error::Database(_) => meaning_of_code(primary_code(error).unwrap_or(1)),
        sqlx::Error::Io(_) => (ErrorKind::Unavailable, "file cannot be read or written"),
        sqlx::Error::PoolTimedOut => (ErrorKind::Unavailable, "no connection became free in time"),
        sqlx::Error::WorkerCrashed => (ErrorKind::Unavailable, "connection thread ended"),
        sqlx::Error::PoolClosed => (ErrorKind::Closed, "database was closed"),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            (ErrorKind::Corrupt, "database holds a value of another type")
        }
        sqlx::Error::Configuration(_) => (ErrorKind::Invalid, "database settings are wrong"),
        _ => (ErrorKind::Internal, "unexpected error of the database driver"),
    }
}

/// Every primary result code of SQLite that is an error.
fn meaning_of_code(code: i32) -> (ErrorKind, &'static str) {
    match code {
        3 => (ErrorKind::Refused, "access to the database file is denied"),
        4 | 9 => (ErrorKind::Unavailable, "database operation was interrupted"),
        5 | 6 => (ErrorKind::Unavailable, "database is locked by another process"),
        7 => (ErrorKind::Unavailable, "out of memory"),
        8 => {
            (ErrorKind::Refused, "database is read-only; check the permissions of the file and its directory")
        }
        10 => (ErrorKind::Unavailable, "database file cannot be read or written"),
        11 => (ErrorKind::Corrupt, "database file is damaged; restore it from a backup"),
        FULL => (ErrorKind::Unavailable, "disk is full; make room and try again"),
        14 => (ErrorKind::Unavailable, "database file cannot be opened"),
        15 => (ErrorKind::Unavailable, "database locking failed; is the file on a network disk?"),
        18 => (ErrorKind::LimitExceeded, "value is too big for the database"),
        22 => (ErrorKind::Unsupported, "file system cannot hold a database this large"),
        23 => (ErrorKind::Refused, "database operation is not authorized"),
        26 => (ErrorKind::Corrupt, "file is not a database"),
        // ERROR, INTERNAL, NOTFOUND, EMPTY, SCHEMA, CONSTRAINT, MISMATCH, MISUSE, FORMAT, RANGE: our statements are
        // wrong. NOTICE, WARNING, ROW and DONE are no errors.
        _ => (ErrorKind::Internal, "unexpected answer of the database"),
    }
}
