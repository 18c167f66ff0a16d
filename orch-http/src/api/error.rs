//! Errors as clients see them: one envelope, whatever went wrong.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use orch::spec::InputProblems;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::code::Code;

/// The most problems one answer lists.
pub(crate) const DETAILS_MAX: usize = 100;

/// One problem of a request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct Detail {
    /// Where: a JSON pointer (RFC 6901) into the body, `?name` for a parameter of the query, `{name}` for one of the path, or the
    /// name of a header followed by a colon.
    pub(crate) pointer: String,
    /// What is wrong there.
    pub(crate) message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

impl Detail {
    pub(crate) fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into(), hint: None }
    }
}

/// The body of every answer that is an error.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ErrorBody {
    /// What went wrong.
    pub(crate) error: ErrorFields,
}

/// What went wrong.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ErrorFields {
    /// A stable word for machines.
    pub(crate) code: &'static str,
    /// For people. May change.
    pub(crate) message: String,
    /// Finds the request in logs and traces: 32 hex digits.
    pub(crate) trace_id: String,
    /// Every problem with its place; absent where there is none to name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub(crate) details: Vec<Detail>,
}

/// Why a request is refused. It becomes a body where the trace id is known: in the outermost layer.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) details: Vec<Detail>,
    pub(crate) retry_after: Option<Duration>,
    /// Further headers, such as `WWW-Authenticate`.
    pub(crate) headers: Vec<(header::HeaderName, HeaderValue)>,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new(), retry_after: None, headers: Vec::new() }
    }

    /// A request that cannot be understood, with all that is wrong about it.
    pub(crate) fn invalid(mut details: Vec<Detail>) -> Self {
        let more = details.len().saturating_sub(DETAILS_MAX);
        details.truncate(DETAILS_MAX);
        let message = match (details.len(), more) {
            (1, _) => details[0].message.clone(),
            (count, 0) => format!("the request has {count} problems"),
            (_, more) => format!("the request has {} problems; {more} are not listed", DETAILS_MAX + more),
        };
        Self { details, ..Self::new(Code::InvalidRequest, message) }
    }

    /// One problem of a request.
    pub(crate) fn invalid_at(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(vec![Detail::new(pointer, message)])
    }

    /// What neither exists nor is admitted to exist.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no such {what}"))
    }

    /// When it makes sense to come again.
    #[must_use]
    pub(crate) fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    #[must_use]
    pub(crate) fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The answer itself.
    pub(crate) fn render(self, trace_id: &str, problem_json: bool) -> Response {
        let status = self.code.status();
        let (body, media) = if problem_json {
            (self.problem(status, trace_id), "application/problem+json")
        } else {
            let fields = ErrorFields {
                code: self.code.as_str(),
                message: self.message,
                trace_id: trace_id.to_owned(),
                details: self.details,
            };
            (serde_json::to_vec(&ErrorBody { error: fields }), "application/json")
        };
        let body = body.unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, media)], body).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        headers.extend(self.headers);
        response
    }

    /// As RFC 9457 spells it.
    fn problem(&self, status: StatusCode, trace_id: &str) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&json!({
            "type": format!("urn:orch:error:{}", self.code.as_str()),
            "title": self.code.meaning(),
            "status": status.as_u16(),
            "detail": self.message,
            "code": self.code.as_str(),
            "trace_id": trace_id,
            "errors": self.details,
        }))
    }
}

impl From<orch::Error> for ApiError {
    fn from(error: orch::Error) -> Self {
        let code = Code::from(error.kind());
        if code.is_internal() {
            // Told to operators; clients get what the code means.
            tracing::warn!(
                kind = error.kind().as_str(),
                operation = error.operation(),
                ?error,
                "a call failed"
            );
            let wait = Duration::from_secs(1);
            return Self::new(code, code.meaning()).retry_after_if(error.is_retryable(), wait);
        }
        let inputs =
            std::error::Error::source(&error).and_then(|source| source.downcast_ref::<InputProblems>());
        if let Some(InputProblems(problems)) = inputs {
            let at = |pointer: &str| format!("/inputs{pointer}");
            return Self::invalid(problems.iter().map(|p| Detail::new(at(&p.pointer), &p.message)).collect());
        }
        Self::new(code, error.sentence())
    }
}

impl ApiError {
    fn retry_after_if(self, really: bool, after: Duration) -> Self {
        if really { self.retry_after(after) } else { self }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}
