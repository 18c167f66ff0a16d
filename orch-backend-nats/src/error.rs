//! What the errors of NATS mean to a caller: the one mapping.

use std::error::Error as _;
use std::fmt;

use async_nats::jetstream::context::{PublishError, PublishErrorKind, RequestError, RequestErrorKind};
use async_nats::{ConnectError, ConnectErrorKind, jetstream};
use orch::{Error, ErrorKind};

/// The driver's own words, without its type.
#[derive(Debug)]
struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

/// An error of `kind` with the driver's words as its cause.
fn error(kind: ErrorKind, message: &'static str, cause: impl fmt::Display) -> Error {
    Error::new(kind, message).caused_by(Cause(cause.to_string()))
}

const NO_JETSTREAM: &str =
    "jetstream is off; start the server with `--jetstream`, or enable it for the account";
const NO_ANSWER: &str = "nats server did not answer in time";
const NO_TLS: (ErrorKind, &str) =
    (ErrorKind::Refused, "encrypted connection cannot be made; check the certificates and `ca`");
const BROKEN: &str = "connection to the nats server broke";

/// Stored text that this crate did not write.
pub(crate) fn corrupt(subject: &str, cause: impl fmt::Display) -> Error {
    error(ErrorKind::Corrupt, "stream holds a message of another form", cause).with("subject", subject)
}

pub(crate) fn closed() -> Error {
    Error::closed("connection to nats was closed")
}

pub(crate) fn of_connect(cause: &ConnectError) -> Error {
    let source = cause.source().map(|source| format!(": {source}")).unwrap_or_default();
    // The driver takes most of what goes wrong with certificates for a broken connection.
    let about_certificates =
        source.contains("invalid peer certificate") || source.contains("received fatal alert");
    let (kind, message) = match cause.kind() {
        ConnectErrorKind::AuthorizationViolation => {
            (ErrorKind::Refused, "nats server refuses the client; check user, password, token or credentials")
        }
        ConnectErrorKind::Authentication => {
            (ErrorKind::Refused, "client cannot prove who it is; check the nkey or the credentials")
        }
        ConnectErrorKind::Tls => NO_TLS,
        ConnectErrorKind::Io if about_certificates => NO_TLS,
        ConnectErrorKind::ServerParse => (ErrorKind::Invalid, "address of the nats server does not parse"),
        ConnectErrorKind::Dns => (ErrorKind::Unavailable, "host of the nats server is not known"),
        ConnectErrorKind::TimedOut => (ErrorKind::Unavailable, NO_ANSWER),
        ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => {
            (ErrorKind::Unavailable, "nats server cannot be reached; is it running, and is this its port?")
        }
    };
    error(kind, message, format!("{}{source}", cause.kind()))
}

/// A request that got no answer, or none that is understood.
pub(crate) fn of_request(cause: &RequestError) -> Error {
    let source = cause.source().map(ToString::to_string).unwrap_or_default();
    let (kind, message) = match cause.kind() {
        // Nobody listens to requests to JetStream where it is off, or the cluster has no leader.
        RequestErrorKind::NoResponders => {
            (ErrorKind::Unavailable, "nats server has no jetstream at the moment")
        }
        RequestErrorKind::TimedOut => (ErrorKind::Unavailable, NO_ANSWER),
        RequestErrorKind::InvalidSubject => (ErrorKind::Internal, "subject is not legal"),
        RequestErrorKind::Other if source.contains("invalid type") || source.contains("missing field") => {
            (ErrorKind::Unsupported, "nats server answers in another form")
        }
        RequestErrorKind::Other => (ErrorKind::Unavailable, BROKEN),
    };
    error(kind, message, format!("{} {source}", cause.kind()))
}

/// Whether nobody answers requests to JetStream: where a connection has just been made, because it is off.
pub(crate) fn is_without_jetstream(cause: &RequestError) -> bool {
    cause.kind() == RequestErrorKind::NoResponders
}

pub(crate) fn without_jetstream() -> Error {
    Error::unsupported(NO_JETSTREAM)
}

/// A message that was not acknowledged; nothing when another message was first.
pub(crate) fn of_publish(cause: &PublishError) -> Option<Error> {
    let told = cause.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    let (kind, message) = match cause.kind() {
        PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId => return None,
        PublishErrorKind::Other if told.is_some_and(|told| LOST.contains(&told.error_code().0)) => {
            return None;
        }
        PublishErrorKind::Other => match told {
            Some(told) => return Some(of_api(told)),
            None => (ErrorKind::Indeterminate, BROKEN),
        },
        PublishErrorKind::TimedOut => {
            (ErrorKind::Indeterminate, "nats server did not acknowledge in time; the write may have happened")
        }
        PublishErrorKind::BrokenPipe => {
            (ErrorKind::Indeterminate, "connection broke before the write was acknowledged")
        }
        PublishErrorKind::StreamNotFound => (ErrorKind::Unavailable, "stream is not there at the moment"),
        PublishErrorKind::MaxAckPending => (ErrorKind::Unavailable, "too many writes wait for their answer"),
        PublishErrorKind::MaxPayloadExceeded => {
            (ErrorKind::LimitExceeded, "message is larger than the nats server takes")
        }
    };
    let source = cause.source().map(|source| format!(": {source}")).unwrap_or_default();
    Some(error(kind, message, format!("{}{source}", cause.kind())))
}

/// Whether nobody takes a message: its stream is gone, or JetStream is not up.
pub(crate) fn is_without_stream(cause: &PublishError) -> bool {
    cause.kind() == PublishErrorKind::StreamNotFound
}

/// The codes that say that another message was first: wrong last sequence, with and without saying which, and one that
/// is being written at the moment.
const LOST: [u64; 3] = [10_071, 10_164, 10_163];

/// What JetStream itself answered.
pub(crate) fn of_api(told: &jetstream::Error) -> Error {
    let description = told.to_string();
    let (kind, message) = meaning_of_code(told.error_code().0, told.code(), &description);
    error(kind, message, description)
}

/// JetStream's error codes (nats-server, `server/errors.json`), and for those that need no word of their own what their
/// status says, which is one of HTTP's.
fn meaning_of_code(code: u64, status: usize, description: &str) -> (ErrorKind, &'static str) {
    const SPACE: &str = "nats server has no room left for the account; make room or raise its limits";
    match code {
        10_039 | 10_076 => (ErrorKind::Unsupported, NO_JETSTREAM),
        10_071 | 10_163 | 10_164 => (ErrorKind::Conflict, "another message was first"),
        10_002 | 10_023 | 10_028 | 10_047 => (ErrorKind::LimitExceeded, SPACE),
        10_077 if description.contains("maximum") => {
            (ErrorKind::LimitExceeded, "stream is full; wait until work is done, or raise its `max_bytes`")
        }
        10_077 => (ErrorKind::Unavailable, "nats server cannot write the stream"),
        10_054 => (ErrorKind::LimitExceeded, "message is larger than the stream takes"),
        10_026 | 10_027 => (ErrorKind::LimitExceeded, "account may have no more streams or consumers"),
        10_113 | 10_120 | 10_122 => {
            (ErrorKind::LimitExceeded, "account does not allow a stream of this size; see `maxBytes`")
        }
        10_074 => (ErrorKind::Unsupported, "only a cluster keeps replicas; see `replicas`"),
        10_005 => (ErrorKind::Unavailable, "cluster has too few servers for the replicas; see `replicas`"),
        10_058 | 10_065 => (
            ErrorKind::Refused,
            "a stream of another form has the name or the subjects; delete it or use another namespace",
        ),
        10_165 | 10_166 => {
            (ErrorKind::Refused, "stream does not let single messages end; it needs `allow_msg_ttl`")
        }
        10_109 => (ErrorKind::Refused, "stream is sealed"),
        10_014 | 10_059 => (ErrorKind::NotFound, "stream or consumer is not there"),
        10_037 => (ErrorKind::NotFound, "there is no such message"),
        10_035 => (ErrorKind::Refused, "account is not known"),
        10_185 => (ErrorKind::Unsupported, "nats server is too old for this"),
        _ => match status {
            401 | 403 => (ErrorKind::Refused, "nats server does not allow it"),
            404 => (ErrorKind::NotFound, "nats server does not know it"),
            400 => (ErrorKind::Internal, "nats server does not understand the request"),
            _ => (ErrorKind::Unavailable, "jetstream cannot serve at the moment"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: u64, status: u16, description: &str) -> jetstream::Error {
        let text = serde_json::json!({ "code": status, "err_code": code, "description": description });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn codes_of_jetstream_say_what_to_do() {
        for (code, status, description, kind) in [
            (10_076, 503, "JetStream not enabled", ErrorKind::Unsupported),
            (10_039, 503, "JetStream not enabled for account", ErrorKind::Unsupported),
            (10_071, 400, "wrong last sequence: 7", ErrorKind::Conflict),
            (10_077, 503, "maximum bytes exceeded", ErrorKind::LimitExceeded),
            (10_077, 503, "no space left on device", ErrorKind::Unavailable),
            (10_047, 500, "insufficient storage resources available", ErrorKind::LimitExceeded),
            (10_054, 400, "message size exceeds maximum allowed", ErrorKind::LimitExceeded),
            (10_058, 400, "stream name already in use with a different configuration", ErrorKind::Refused),
            (10_059, 404, "stream not found", ErrorKind::NotFound),
            (10_074, 500, "replicas > 1 not supported in non-clustered mode", ErrorKind::Unsupported),
            (10_166, 400, "per-message TTL is disabled", ErrorKind::Refused),
            (10_008, 503, "JetStream system temporarily unavailable", ErrorKind::Unavailable),
            (10_025, 400, "invalid JSON", ErrorKind::Internal),
            (1, 403, "no", ErrorKind::Refused),
        ] {
            let error = of_api(&told(code, status, description));
            assert_eq!(error.kind(), kind, "{code}");
            assert!(
                format!("{error:?}").contains(description),
                "the server's words are the cause: {error:?}"
            );
        }
    }

    #[test]
    fn a_write_without_an_answer_may_have_happened() {
        let kind = |kind| of_publish(&PublishError::new(kind)).map(|error| error.kind());
        assert_eq!(kind(PublishErrorKind::TimedOut), Some(ErrorKind::Indeterminate));
        assert_eq!(kind(PublishErrorKind::BrokenPipe), Some(ErrorKind::Indeterminate));
        assert_eq!(kind(PublishErrorKind::StreamNotFound), Some(ErrorKind::Unavailable));
        assert_eq!(kind(PublishErrorKind::MaxPayloadExceeded), Some(ErrorKind::LimitExceeded));
        assert_eq!(kind(PublishErrorKind::WrongLastSequence), None, "another one was first");
        let full =
            PublishError::with_source(PublishErrorKind::Other, told(10_077, 503, "maximum bytes exceeded"));
        assert_eq!(of_publish(&full).map(|error| error.kind()), Some(ErrorKind::LimitExceeded));
        let raced =
            PublishError::with_source(PublishErrorKind::Other, told(10_164, 400, "wrong last sequence"));
        assert!(of_publish(&raced).is_none());
    }

    #[test]
    fn what_cannot_be_reached_may_be_later_and_what_is_refused_may_not() {
        for (cause, kind) in [
            (ConnectErrorKind::Io, ErrorKind::Unavailable),
            (ConnectErrorKind::Dns, ErrorKind::Unavailable),
            (ConnectErrorKind::TimedOut, ErrorKind::Unavailable),
            (ConnectErrorKind::AuthorizationViolation, ErrorKind::Refused),
            (ConnectErrorKind::Authentication, ErrorKind::Refused),
            (ConnectErrorKind::Tls, ErrorKind::Refused),
        ] {
            assert_eq!(of_connect(&ConnectError::new(cause)).kind(), kind, "{cause:?}");
        }
        assert_eq!(of_request(&RequestError::new(RequestErrorKind::TimedOut)).kind(), ErrorKind::Unavailable);
        assert!(is_without_jetstream(&RequestError::new(RequestErrorKind::NoResponders)));
    }
}
