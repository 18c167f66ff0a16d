//! What the server's and the driver's errors mean to a caller: the one mapping.

use std::fmt;

use orch::{Error, ErrorKind};
use redis::{ErrorKind as Kind, RedisError, ServerErrorKind};

/// Whether a call changes anything: then a lost answer leaves open whether it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// The driver's own words, without its type.
#[derive(Debug)]
struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

const NO_PERMISSION: (ErrorKind, &str) = (ErrorKind::Refused, "the user lacks a permission on the server");
const NO_CREDENTIALS: (ErrorKind, &str) = (ErrorKind::Refused, "the server does not accept the credentials");

const READONLY: &str = "READONLY ";

/// Whether a replica refused to write; before version 7 it says so within the error of a script.
pub(crate) fn is_read_only(error: &RedisError) -> bool {
    error.kind() == Kind::Server(ServerErrorKind::ReadOnly)
        || error.detail().is_some_and(|text| text.contains(READONLY))
}

pub(crate) fn mapped(error: &RedisError, access: Access) -> Error {
    let (kind, message) = meaning(error, access);
    Error::new(kind, message).caused_by(Cause(error.to_string()))
}

/// Maps the error of the first connection: a side that expects an encrypted wire often just hangs up on one that is not,
/// or on a client without a certificate.
pub(crate) fn of_opening(error: &RedisError, encrypted: bool) -> Error {
    if error.kind() != Kind::Io || error.is_connection_refusal() || is_about_certificates(error) {
        return mapped(error, Access::Read);
    }
    let message = match encrypted {
        true => {
            "no answer from the server over TLS; does it speak TLS here, and does it want a client's certificate?"
        }
        false => "no answer from the server; does it want TLS (rediss://)?",
    };
    Error::unavailable(message).caused_by(Cause(error.to_string()))
}

/// An answer that the scripts of this crate do not give.
pub(crate) fn unexpected(what: &'static str) -> Error {
    Error::corrupt("the server holds, or answered, what this version of orch does not write")
        .with("what", what)
}

fn meaning(error: &RedisError, access: Access) -> (ErrorKind, &'static str) {
    match error.kind() {
        Kind::Io if error.is_connection_refusal() => {
            (ErrorKind::Unavailable, "the server refuses connections; is it running?")
        }
        Kind::Io if is_about_certificates(error) => {
            (ErrorKind::Refused, "the certificate of the server, or the client's own, is not accepted (TLS)")
        }
        // The command may have been on its way.
        Kind::Io if access == Access::Write => {
            (ErrorKind::Indeterminate, "no answer from the server; the change may be there or not")
        }
        Kind::Io => (ErrorKind::Unavailable, "no answer from the server"),
        Kind::AuthenticationFailed => NO_CREDENTIALS,
        Kind::InvalidClientConfig => (ErrorKind::Invalid, "the settings of the connection are wrong"),
        Kind::Server(server) => meaning_of_reply(server, error),
        Kind::Extension => meaning_of_code(error.code().unwrap_or_default()),
        Kind::ClusterConnectionNotFound => (ErrorKind::Unavailable, "no node of the cluster can be reached"),
        Kind::MasterNameNotFoundBySentinel
        | Kind::NoValidReplicasFoundBySentinel
        | Kind::EmptySentinelList => (ErrorKind::Unavailable, "the sentinels name no server"),
        Kind::RESP3NotSupported => (ErrorKind::Unsupported, "the server is too old"),
        Kind::Parse | Kind::UnexpectedReturnType => {
            (ErrorKind::Corrupt, "the server's answer does not read; is it a redis server?")
        }
        Kind::Client => (ErrorKind::Unavailable, "the connection cannot be used"),
        _ => (ErrorKind::Internal, "unexpected error of the driver"),
    }
}

/// Whether either side turned down the other when the wire was to be encrypted: no command was read then.
fn is_about_certificates(error: &RedisError) -> bool {
    let text = error.to_string();
    text.contains("invalid peer certificate") || text.contains("received fatal alert")
}

/// Every kind of error reply that the driver knows.
fn meaning_of_reply(kind: ServerErrorKind, error: &RedisError) -> (ErrorKind, &'static str) {
    match kind {
        ServerErrorKind::BusyLoading => (ErrorKind::Unavailable, "the server is loading its data"),
        ServerErrorKind::ClusterDown => {
            (ErrorKind::Unavailable, "the cluster is down; some slots have no node")
        }
        ServerErrorKind::MasterDown => (ErrorKind::Unavailable, "the server's master is down"),
        ServerErrorKind::TryAgain | ServerErrorKind::Moved | ServerErrorKind::Ask => {
            (ErrorKind::Unavailable, "the cluster is moving slots")
        }
        ServerErrorKind::ReadOnly => {
            (ErrorKind::Unavailable, "the server is a replica, or was made one just now")
        }
        ServerErrorKind::NoPerm => NO_PERMISSION,
        ServerErrorKind::ResponseError => meaning_of_text(error),
        // Scripts are loaded when they are missing, and keep to one slot.
        _ => (ErrorKind::Internal, "unexpected answer of the server"),
    }
}

/// Replies that begin with a word of their own.
fn meaning_of_code(code: &str) -> (ErrorKind, &'static str) {
    match code {
        "OOM" => (ErrorKind::Unavailable, "the server has no memory left (maxmemory); make room"),
        "MISCONF" => (ErrorKind::Unavailable, "the server cannot write to its disk; make room"),
        "NOREPLICAS" => (ErrorKind::Unavailable, "the server has too few replicas"),
        "BUSY" => (ErrorKind::Unavailable, "the server is busy with somebody's script"),
        "NOAUTH" | "WRONGPASS" => NO_CREDENTIALS,
        "WRONGTYPE" => (ErrorKind::Corrupt, "keys of this namespace belong to another program"),
        "UNBLOCKED" => (ErrorKind::Unavailable, "the server has changed its role"),
        _ => (ErrorKind::Internal, "unexpected answer of the server"),
    }
}

/// `-ERR` with free text, among them errors raised within a script.
fn meaning_of_text(error: &RedisError) -> (ErrorKind, &'static str) {
    let text = error.detail().unwrap_or_default();
    let says = |part: &str| text.contains(part);
    if says("OOM ") || says("maxmemory") {
        meaning_of_code("OOM")
    } else if says("MISCONF") {
        meaning_of_code("MISCONF")
    } else if says("WRONGTYPE") {
        meaning_of_code("WRONGTYPE")
    } else if says(READONLY) {
        meaning_of_reply(ServerErrorKind::ReadOnly, error)
    } else if says("non local key") {
        meaning_of_reply(ServerErrorKind::TryAgain, error)
    } else if says("cluster is down") {
        meaning_of_reply(ServerErrorKind::ClusterDown, error)
    } else if says("NOREPLICAS") {
        meaning_of_code("NOREPLICAS")
    } else if says("NOPERM") || says("The user executing the script") || says("permission") {
        NO_PERMISSION
    } else if says("max number of clients") {
        (ErrorKind::Unavailable, "the server has too many clients")
    } else if says("invalid password") || says("AUTH") || says("WRONGPASS") {
        NO_CREDENTIALS
    } else if says("DB index is out of range") || says("SELECT is not allowed") {
        (ErrorKind::Invalid, "the server has no such database")
    } else {
        (ErrorKind::Internal, "unexpected answer of the server")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error that the driver makes of a server's reply.
    fn replied(reply: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("-{reply}\r\n").as_bytes()).expect("it reads");
        value.extract_error().expect_err("it is an error")
    }

    #[test]
    fn every_reply_of_a_server_has_its_meaning() {
        use ErrorKind::{Corrupt, Internal, Invalid, Refused, Unavailable};
        for (reply, kind) in [
            ("LOADING Redis is loading the dataset in memory", Unavailable),
            ("CLUSTERDOWN Hash slot not served", Unavailable),
            ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Unavailable),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Unavailable),
            ("MOVED 3999 127.0.0.1:6381", Unavailable),
            ("READONLY You can't write against a read only replica.", Unavailable),
            ("OOM command not allowed when used memory > 'maxmemory'.", Unavailable),
            ("MISCONF Errors writing to the AOF file: No space left on device", Unavailable),
            (
                "ERR Error running script: @user_script:9: OOM command not allowed when used memory",
                Unavailable,
            ),
            (
                "ERR Error running script (call to f_0): @user_script:9: READONLY You can't write against a read only \
                 replica.",
                Unavailable,
            ),
            ("ERR Script attempted to access a non local key in a cluster node script: f_0", Unavailable),
            (
                "ERR Script attempted execute a write command while the cluster is down and readonly",
                Unavailable,
            ),
            (
                "ERR Error running script (call to f_0): @user_script:9: NOREPLICAS Not enough good replicas",
                Unavailable,
            ),
            ("NOREPLICAS Not enough good replicas to write.", Unavailable),
            ("BUSY Redis is busy running a script.", Unavailable),
            ("ERR max number of clients reached", Unavailable),
            ("NOAUTH Authentication required.", Refused),
            ("WRONGPASS invalid username-password pair or user is disabled.", Refused),
            ("NOPERM this user has no permissions to run the 'hscan' command", Refused),
            ("ERR The user executing the script can't run this command or subcommand script", Refused),
            ("ERR The user executing the script can't publish to the channel mentioned", Refused),
            ("ERR DB index is out of range", Invalid),
            ("ERR SELECT is not allowed in cluster mode", Invalid),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Corrupt),
            ("ERR wrong number of arguments for 'get' command", Internal),
        ] {
            for access in [Access::Read, Access::Write] {
                assert_eq!(mapped(&replied(reply), access).kind(), kind, "{reply}");
            }
        }
    }

    #[test]
    fn a_lost_answer_leaves_open_only_what_a_write_did() {
        let lost = |kind: std::io::ErrorKind| RedisError::from(std::io::Error::from(kind));
        for kind in
            [std::io::ErrorKind::TimedOut, std::io::ErrorKind::BrokenPipe, std::io::ErrorKind::UnexpectedEof]
        {
            assert_eq!(mapped(&lost(kind), Access::Write).kind(), ErrorKind::Indeterminate);
            assert_eq!(mapped(&lost(kind), Access::Read).kind(), ErrorKind::Unavailable);
        }
        for told in ["invalid peer certificate: UnknownIssuer", "received fatal alert: CertificateRequired"] {
            let told = std::io::Error::new(std::io::ErrorKind::InvalidData, told);
            assert_eq!(mapped(&RedisError::from(told), Access::Write).kind(), ErrorKind::Refused);
        }
        let refused = lost(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(mapped(&refused, Access::Write).kind(), ErrorKind::Unavailable, "nothing was sent");
    }
}
