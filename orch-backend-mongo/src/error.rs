//! What MongoDB's errors mean to a caller: the one mapping.

use mongodb::error::{Error as DriverError, ErrorKind as DriverKind, WriteFailure};
use orch::{Error, ErrorKind};

/// What a call was about to do: a write whose answer was lost may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    Reading,
    Writing,
}

/// The code of a key that is there already.
pub(crate) const DUPLICATE_KEY: i32 = 11_000;

/// Maps the error of a call that only reads.
pub(crate) fn reading(error: DriverError) -> Error {
    mapped(&error, Doing::Reading)
}

/// Maps the error of a call that writes.
pub(crate) fn writing(error: DriverError) -> Error {
    mapped(&error, Doing::Writing)
}

pub(crate) fn mapped(error: &DriverError, doing: Doing) -> Error {
    let (kind, message) = meaning(error, doing);
    Error::new(kind, message).caused_by(error.to_string())
}

/// Maps the error of the first call. Only here a certificate tells more than that servers cannot be reached: later, one
/// server's must not make the outage of others look final.
pub(crate) fn of_opening(error: &DriverError, encrypted: bool) -> Error {
    let text = error.to_string();
    let says = |part: &str| text.contains(part);
    let (kind, message) = match error.kind.as_ref() {
        // The driver speaks to 4.4 and later, too, and does not say by its kind of error that a server is older.
        DriverKind::ServerSelection { .. } if says("driver requires at least") => {
            (ErrorKind::Unsupported, TOO_OLD)
        }
        DriverKind::ServerSelection { .. } | DriverKind::Io(_)
            if says("invalid peer certificate") || says("received fatal alert") =>
        {
            (
                ErrorKind::Refused,
                "certificate of the server, or the client's own, is not accepted; check `tlsCAFile` and \
                 `tlsCertificateKeyFile`",
            )
        }
        DriverKind::ServerSelection { .. } | DriverKind::Io(_)
            if encrypted && !says("Connection refused") =>
        {
            (
                ErrorKind::Unavailable,
                "no server of the database answers over TLS; does it speak TLS, and does it want a client's certificate \
             (`tlsCertificateKeyFile`)?",
            )
        }
        DriverKind::ServerSelection { .. } | DriverKind::Io(_) if !says("Connection refused") => (
            ErrorKind::Unavailable,
            "no server of the database answers; is it running, is it the primary, and does it want TLS (`tls=true`)?",
        ),
        _ => return mapped(error, Doing::Reading),
    };
    Error::new(kind, message).caused_by(text)
}

/// One statement of a batch that the server refused.
pub(crate) fn of_statement(code: i32, message: &str) -> Error {
    let (kind, what) = meaning_of_code(code, Doing::Writing);
    Error::new(kind, what).caused_by(message.to_owned())
}

/// Stored values that this crate did not write.
pub(crate) fn corrupt(what: &'static str, cause: impl std::fmt::Display) -> Error {
    Error::corrupt(what).caused_by(cause.to_string())
}

/// The answer to a write whose answer did not come in time.
pub(crate) fn late(doing: Doing) -> Error {
    match doing {
        Doing::Reading => Error::unavailable("database did not answer in time"),
        Doing::Writing => Error::indeterminate(LOST),
    }
}

/// Whether the server refused a document because its key is there already, and nothing else went wrong.
pub(crate) fn is_duplicate(error: &DriverError) -> bool {
    match error.kind.as_ref() {
        DriverKind::Write(WriteFailure::WriteError(error)) => error.code == DUPLICATE_KEY,
        DriverKind::Command(error) => error.code == DUPLICATE_KEY,
        _ => false,
    }
}

/// 4.4 is the oldest with `$unionWith`.
const TOO_OLD: &str = "server is too old; MongoDB 4.4 or later is needed";
const LOST: &str = "answer of the database was lost; the changes may be there or not";

/// What a lost connection means.
fn lost(doing: Doing) -> (ErrorKind, &'static str) {
    match doing {
        Doing::Reading => (ErrorKind::Unavailable, "connection to the database was lost"),
        Doing::Writing => (ErrorKind::Indeterminate, LOST),
    }
}

fn meaning(error: &DriverError, doing: Doing) -> (ErrorKind, &'static str) {
    match error.kind.as_ref() {
        DriverKind::Command(error) => meaning_of_code(error.code, doing),
        DriverKind::Write(WriteFailure::WriteError(error)) => meaning_of_code(error.code, doing),
        DriverKind::Write(WriteFailure::WriteConcernError(_)) => (ErrorKind::Indeterminate, LOST),
        DriverKind::InsertMany(error) => match error.write_errors.as_deref() {
            Some([first, ..]) if error.write_concern_error.is_none() => meaning_of_code(first.code, doing),
            _ => (ErrorKind::Indeterminate, LOST),
        },
        DriverKind::Io(_) | DriverKind::ConnectionPoolCleared { .. } => lost(doing),
        DriverKind::ServerSelection { .. } => (
            ErrorKind::Unavailable,
            "no server of the database answers; is it running, and is it the primary?",
        ),
        DriverKind::DnsResolve { .. } => (ErrorKind::Unavailable, "address of the database does not resolve"),
        DriverKind::Authentication { .. } => {
            (ErrorKind::Refused, "database refused user and password; check them and `authSource`")
        }
        DriverKind::InvalidTlsConfig { .. } => (ErrorKind::Invalid, "settings of TLS are wrong"),
        DriverKind::InvalidArgument { .. } => (ErrorKind::Invalid, "settings of the database are wrong"),
        DriverKind::IncompatibleServer { .. } => (ErrorKind::Unsupported, TOO_OLD),
        DriverKind::Shutdown => (ErrorKind::Closed, "database was closed"),
        DriverKind::Bson(_) if doing == Doing::Reading => {
            (ErrorKind::Corrupt, "database holds a document of another shape")
        }
        DriverKind::InvalidResponse { .. } | DriverKind::Bson(_) => lost(doing),
        _ => (ErrorKind::Internal, "unexpected error of the database driver"),
    }
}

/// The codes that a command may be answered with (error_codes.yml of the server).
fn meaning_of_code(code: i32, doing: Doing) -> (ErrorKind, &'static str) {
    match code {
        13 => (ErrorKind::Refused, "user lacks a permission on the database; it needs the role `readWrite`"),
        18 => (ErrorKind::Refused, "database refused user and password; check them and `authSource`"),
        20 | 59 | 115 | 40_415 | 40_573 => (ErrorKind::Unsupported, "server cannot do what is asked"),
        26 | 43 | 134 | 237 | 280 | 286 => (ErrorKind::Unavailable, "database cannot answer now"),
        24 | 46 | 112 | 251 | 462 => (ErrorKind::Unavailable, "database is busy"),
        85 | 86 => (
            ErrorKind::Refused,
            "collections have other indexes; does the database belong to another program?",
        ),
        121 | 166 => (
            ErrorKind::Refused,
            "collections have rules of their own; does the database belong to another program?",
        ),
        DUPLICATE_KEY | 11_001 | 12_582 => (ErrorKind::Conflict, "key is there already"),
        10_334 | 17_280 | 17_419 | 17_420 => {
            (ErrorKind::LimitExceeded, "document is too big for the database")
        }
        14_031 => (ErrorKind::Unavailable, "disk of the database is full; make room and try again"),
        // Interrupted, timed out, not or no longer the primary, shutting down, a write concern that was not met: parts may
        // have been written, and a part of what was written may be rolled back.
        6 | 7 | 50 | 63 | 64 | 79 | 89 | 91 | 100 | 133 | 150 | 189 | 202 | 234 | 262 | 9_001 | 10_058
        | 10_107 | 11_600 | 11_601 | 11_602 | 13_388 | 13_435 | 13_436 => lost(doing),
        // Our own commands are wrong.
        _ => (ErrorKind::Internal, "unexpected answer of the database"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_tells_what_to_do() {
        use ErrorKind::*;
        for (code, reading, writing) in [
            (13, Refused, Refused),
            (18, Refused, Refused),
            (20, Unsupported, Unsupported),
            (50, Unavailable, Indeterminate),
            (64, Unavailable, Indeterminate),
            (85, Refused, Refused),
            (91, Unavailable, Indeterminate),
            (112, Unavailable, Unavailable),
            (134, Unavailable, Unavailable),
            (189, Unavailable, Indeterminate),
            (262, Unavailable, Indeterminate),
            (10_107, Unavailable, Indeterminate),
            (10_334, LimitExceeded, LimitExceeded),
            (11_000, Conflict, Conflict),
            (11_600, Unavailable, Indeterminate),
            (11_602, Unavailable, Indeterminate),
            (13_435, Unavailable, Indeterminate),
            (14_031, Unavailable, Unavailable),
            (40_573, Unsupported, Unsupported),
            (2, Internal, Internal),
        ] {
            assert_eq!(meaning_of_code(code, Doing::Reading).0, reading, "reading {code}");
            assert_eq!(meaning_of_code(code, Doing::Writing).0, writing, "writing {code}");
        }
    }

    #[test]
    fn a_lost_connection_leaves_a_write_in_doubt() {
        let error = || DriverError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert_eq!(reading(error()).kind(), ErrorKind::Unavailable);
        assert_eq!(writing(error()).kind(), ErrorKind::Indeterminate);
        assert_eq!(late(Doing::Writing).kind(), ErrorKind::Indeterminate);
        assert!(std::error::Error::source(&writing(error())).is_some(), "the driver's words are kept");
    }
}
