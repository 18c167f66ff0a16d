//! The stable codes of errors: one table, from which answers, the OpenAPI document and `docs/http.md` follow.

use http::StatusCode;
use orch::ErrorKind;

macro_rules! codes {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $status:literal $word:literal, )*) => {
        /// What went wrong, for machines. The words and their statuses never change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $( $(#[doc = $doc])+ $variant, )* }

        impl Code {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word that answers carry.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }

            /// The status that goes with it.
            ///
            /// # Panics
            /// Never: a test reads every row of the table.
            #[must_use]
            pub fn status(self) -> StatusCode {
                let number = match self { $( Self::$variant => $status, )* };
                StatusCode::from_u16(number).expect("the table holds statuses of HTTP")
            }

            /// When it is answered, in words.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $( Self::$variant => concat!($($doc),+), )* }.trim()
            }
        }
    };
}

codes! {
    /// The request cannot be understood; `details` lists every problem with its place.
    InvalidRequest = 400 "INVALID_REQUEST",
    /// The action needs a reason, or a ticket, that was not given or is too long.
    ReasonRequired = 400 "REASON_REQUIRED",
    /// There is no token, or none that is valid here.
    Unauthenticated = 401 "UNAUTHENTICATED",
    /// The header that names the tenant is missing.
    TenantRequired = 403 "TENANT_REQUIRED",
    /// The token does not speak for this tenant.
    TenantForbidden = 403 "TENANT_FORBIDDEN",
    /// The token lacks the scope of this action.
    ScopeRequired = 403 "SCOPE_REQUIRED",
    /// A page of another origin may not open this stream.
    OriginForbidden = 403 "ORIGIN_FORBIDDEN",
    /// It does not exist, or belongs to another tenant.
    NotFound = 404 "NOT_FOUND",
    /// The resource does not know this method.
    MethodNotAllowed = 405 "METHOD_NOT_ALLOWED",
    /// Nothing can be answered in any of the media types that were asked for.
    NotAcceptable = 406 "NOT_ACCEPTABLE",
    /// The request took too long to arrive or to be answered.
    RequestTimeout = 408 "REQUEST_TIMEOUT",
    /// Somebody else changed it at the same time.
    Conflict = 409 "CONFLICT",
    /// It exists already.
    AlreadyExists = 409 "ALREADY_EXISTS",
    /// It cannot be done in this state, or policy forbids it.
    Refused = 409 "REFUSED",
    /// The lease is over: stop the work and drop its result.
    LeaseLost = 409 "LEASE_LOST",
    /// A request with the same idempotency key is under way.
    IdempotencyInProgress = 409 "IDEMPOTENCY_IN_PROGRESS",
    /// The cursor leads to where nothing is kept any more: start anew.
    CursorExpired = 410 "CURSOR_EXPIRED",
    /// `If-Match` names another state than the present one.
    PreconditionFailed = 412 "PRECONDITION_FAILED",
    /// The body is larger than the limit.
    BodyTooLarge = 413 "BODY_TOO_LARGE",
    /// The body is of a media type or an encoding that is not understood here.
    UnsupportedMediaType = 415 "UNSUPPORTED_MEDIA_TYPE",
    /// The idempotency key was used with another request.
    IdempotencyKeyReused = 422 "IDEMPOTENCY_KEY_REUSED",
    /// A documented limit would be exceeded.
    LimitExceeded = 422 "LIMIT_EXCEEDED",
    /// Too many requests: `Retry-After` says when to come again.
    RateLimited = 429 "RATE_LIMITED",
    /// A defect; the trace id finds it in the log.
    Internal = 500 "INTERNAL",
    /// The stored record does not verify.
    LedgerCorrupt = 500 "LEDGER_CORRUPT",
    /// This installation cannot do it.
    Unsupported = 501 "UNSUPPORTED",
    /// A backend is away, or the service is shutting down or overloaded: try again.
    Unavailable = 503 "UNAVAILABLE",
    /// It may have happened: look before trying again, or try again with the same idempotency key or run token.
    Indeterminate = 503 "INDETERMINATE",
}

impl From<ErrorKind> for Code {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::LeaseLost => Self::LeaseLost,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::AlreadyExists => Self::AlreadyExists,
            ErrorKind::Invalid => Self::InvalidRequest,
            ErrorKind::Refused => Self::Refused,
            ErrorKind::LimitExceeded => Self::LimitExceeded,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::Unavailable | ErrorKind::Closed => Self::Unavailable,
            ErrorKind::Indeterminate => Self::Indeterminate,
            ErrorKind::Corrupt => Self::LedgerCorrupt,
            _ => Self::Internal,
        }
    }
}

impl Code {
    /// Whether the message of an error with this code may hold what only operators should read.
    pub(crate) const fn is_internal(self) -> bool {
        matches!(self, Self::Internal | Self::LedgerCorrupt | Self::Unavailable | Self::Indeterminate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_has_a_word_of_its_own_a_status_of_an_error_and_a_meaning() {
        let words: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code:?}");
            assert!(code.meaning().ends_with('.'), "{code:?}");
        }
    }
}
