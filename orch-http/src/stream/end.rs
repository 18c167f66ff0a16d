//! Why streams end: as a close code, as an event, and in the metrics.

use orch::ErrorKind;

use crate::api::code::Code;

/// Why a stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The run has.
    Ended,
    /// The service is shutting down.
    GoingAway,
    /// The token is not valid any more.
    TokenEnded,
    /// The client took nothing for too long.
    TooSlow,
    /// The client went.
    Gone,
    /// It cannot go on.
    Failed(Code),
}

impl End {
    pub(super) fn of(error: &orch::Error) -> Self {
        match error.kind() {
            ErrorKind::Closed => Self::GoingAway,
            ErrorKind::LimitExceeded => Self::TooSlow,
            kind => {
                if !error.is_retryable() {
                    tracing::error!(?error, "a stream has failed");
                }
                Self::Failed(Code::from(kind))
            }
        }
    }

    /// Its name in the metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::GoingAway => "going_away",
            Self::TokenEnded => "token_ended",
            Self::TooSlow => "too_slow",
            Self::Gone => "client_gone",
            Self::Failed(Code::Unavailable | Code::Indeterminate) => "unavailable",
            Self::Failed(_) => "internal",
        }
    }

    /// Its close code, with the reason in words: codes below 4000 are those of RFC 6455, section 7.4.1. Nothing where
    /// nobody is left to hear it.
    pub(super) const fn close(self) -> Option<(u16, &'static str)> {
        match self {
            Self::Ended => Some((1000, "the run has ended")),
            Self::GoingAway => Some((1001, "the service is shutting down")),
            Self::TokenEnded => Some((4401, "the token has ended")),
            Self::TooSlow => Some((4408, "the stream was read too slowly")),
            Self::Gone => None,
            Self::Failed(Code::Unavailable | Code::Indeterminate) => Some((1013, "a backend is away")),
            Self::Failed(_) => Some((1011, "the stream has failed")),
        }
    }

    /// Its word in the last server-sent event; nothing where nobody is left to hear it.
    pub(super) const fn word(self) -> Option<&'static str> {
        match self {
            Self::Ended => Some("ENDED"),
            Self::GoingAway => Some("GOING_AWAY"),
            Self::TokenEnded => Some(Code::Unauthenticated.as_str()),
            Self::TooSlow => Some("TOO_SLOW"),
            Self::Gone => None,
            Self::Failed(code) => Some(code.as_str()),
        }
    }
}
