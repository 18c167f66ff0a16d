//! One request and its answer: sent, sent again where that is safe, read, and understood when it is a refusal.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use orch::{Error, ErrorKind, Result, trace};
use reqwest::Response;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::form_urlencoded;

use super::Client;
use crate::api::code::Code;
use crate::api::error::Detail;
use crate::api::trace::{draw, hex};

/// How long a request may take beyond what it asks to wait for.
const TIME: Duration = Duration::from_secs(40);
/// How often a request is sent that may be sent again.
const TRIES: u32 = 5;
/// The rest before it is sent again; doubled each time.
const REST: Duration = Duration::from_millis(250);
/// The longest rest that a service may ask for and get.
const REST_MAX: Duration = Duration::from_secs(15);
/// The largest answer: an artifact may be that large.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// The largest error that is read.
const REFUSAL_BYTES_MAX: usize = 1 << 20;

/// What a service refused, as its answer says. It is the source of the error that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the answer.
    pub status: StatusCode,
    /// The stable word, such as `SCOPE_REQUIRED`; none where something else than orch has answered.
    pub code: Option<Code>,
    /// Finds the request in the logs of the service.
    pub trace_id: Option<String>,
}

impl Refusal {
    /// The refusal that an error is about, if one is.
    #[must_use]
    pub fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }

    /// Whether the token is not good for what was asked, or there is none.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the service answered {}", self.status.as_u16())?;
        if let Some(code) = self.code {
            write!(f, " {}", code.as_str())?;
        }
        match &self.trace_id {
            Some(trace) => write!(f, " (trace {trace})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

/// A request that is being made.
pub(super) struct Call<'a> {
    client: &'a Client,
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<(&'static str, Bytes)>,
    /// Makes it safe to send it again.
    key: Option<String>,
    traceparent: Option<String>,
    baggage: Option<String>,
    time: Duration,
}

impl Client {
    /// A question.
    pub(super) fn get(&self, path: impl Into<String>) -> Call<'_> {
        Call::new(self, Method::GET, path.into())
    }

    /// Something to do, once.
    pub(super) fn post(&self, path: impl Into<String>) -> Call<'_> {
        Call { key: Some(hex(draw::<16>())), ..Call::new(self, Method::POST, path.into()) }
    }
}

impl<'a> Call<'a> {
    fn new(client: &'a Client, method: Method, path: String) -> Self {
        Self {
            client,
            method,
            path,
            query: Vec::new(),
            body: None,
            key: None,
            traceparent: None,
            baggage: None,
            time: TIME,
        }
    }

    pub(super) fn query(mut self, name: &'static str, value: Option<impl fmt::Display>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    pub(super) fn json(self, body: &Value) -> Self {
        self.bytes("application/json", body.to_string())
    }

    pub(super) fn bytes(self, media: &'static str, body: impl Into<Bytes>) -> Self {
        Self { body: Some((media, body.into())), ..self }
    }

    /// Where it belongs, and what goes along with what it starts: headers of W3C Trace Context and W3C Baggage.
    pub(super) fn traced(self, traceparent: Option<&str>, baggage: Option<&str>) -> Result<Self> {
        trace::check(traceparent, baggage)?;
        Ok(Self { traceparent: traceparent.map(str::to_owned), baggage: baggage.map(str::to_owned), ..self })
    }

    /// What the request itself asks to wait for is added to its time.
    pub(super) fn waiting(self, span: Duration) -> Self {
        Self { time: self.time + span, ..self }
    }

    /// The answer as a type.
    pub(super) async fn answer<T: DeserializeOwned>(self) -> Result<T> {
        let (path, bytes) = (self.path.clone(), self.whole().await?.1);
        serde_json::from_slice(&bytes).map_err(|cause| {
            Error::invalid("the service answers in a way that this client does not understand")
                .with("path", path)
                .caused_by(cause)
        })
    }

    /// Status and bytes of the answer.
    pub(super) async fn whole(self) -> Result<(StatusCode, Bytes)> {
        let mut left = TRIES;
        loop {
            let response = self.send().await?;
            let status = response.status();
            left -= 1;
            match read(response, ANSWER_BYTES_MAX).await {
                Ok(bytes) => return Ok((status, bytes)),
                // An answer of which a part is missing is none.
                Err(error) if error.is_retryable() && self.is_safe() && left > 0 => {
                    tokio::time::sleep(REST).await;
                }
                Err(error) => return Err(if self.doubtful() { lost(error) } else { error }),
            }
        }
    }

    /// An answer that flows, for as long as it does.
    pub(super) async fn flow(self) -> Result<Response> {
        let never = Duration::from_secs(u64::from(u32::MAX));
        Self { time: never, ..self }.send().await
    }

    /// Whether it is not known what became of it when no answer arrives.
    fn doubtful(&self) -> bool {
        self.method != Method::GET
    }

    /// Whether it may be sent again.
    fn is_safe(&self) -> bool {
        !self.doubtful() || self.key.is_some()
    }

    async fn send(&self) -> Result<Response> {
        let mut rest = REST;
        for left in (0..TRIES).rev() {
            let (error, wished) = match self.once().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let wished = wished(response.headers());
                    let (error, again) = refusal(response).await;
                    if !again {
                        return Err(error);
                    }
                    (error, wished)
                }
                Err(cause) => (self.unanswered(cause), None),
            };
            if left == 0 || !self.is_safe() {
                return Err(error);
            }
            tokio::time::sleep(wished.unwrap_or(rest).min(REST_MAX)).await;
            rest *= 2;
        }
        Err(Error::internal("a request is sent at least once"))
    }

    async fn once(&self) -> reqwest::Result<Response> {
        let inner = &self.client.0;
        let mut address = format!("{}{}", inner.base, self.path);
        if !self.query.is_empty() {
            let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.query).finish();
            address = format!("{address}?{query}");
        }
        let mut request = inner.http.request(self.method.clone(), address);
        request = request.headers(inner.headers.clone()).header(ACCEPT, "application/json, */*");
        request = request.timeout(self.time);
        if let Some((media, body)) = &self.body {
            request = request.header(CONTENT_TYPE, *media).body(body.clone());
        }
        let named =
            [("idempotency-key", &self.key), ("traceparent", &self.traceparent), ("baggage", &self.baggage)];
        for (name, value) in named {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request.send().await
    }

    fn unanswered(&self, cause: reqwest::Error) -> Error {
        let error = match cause.is_connect() || !self.doubtful() {
            true => Error::unavailable("the service cannot be reached"),
            false => Error::indeterminate("the service did not answer"),
        };
        error.with("server", &self.client.0.base).caused_by(cause.without_url())
    }
}

/// What was asked for may have happened although the answer got lost.
fn lost(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unavailable => {
            Error::indeterminate("the answer of the service broke off").caused_by(error)
        }
        _ => error,
    }
}

/// The body of an answer, as far as it may be long.
async fn read(mut response: Response, most: usize) -> Result<Bytes> {
    let broken = |cause: reqwest::Error| {
        Error::unavailable("the answer of the service broke off").caused_by(cause.without_url())
    };
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if bytes.len() + chunk.len() > most {
            return Err(Error::limit_exceeded("the answer of the service is too large").with("limit", most));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

/// When a service wants to be asked again.
fn wished(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

#[derive(Deserialize)]
struct Envelope {
    error: Fields,
}

#[derive(Deserialize)]
struct Fields {
    code: String,
    message: String,
    trace_id: Option<String>,
    #[serde(default)]
    details: Vec<Detail>,
}

/// What an answer that is no success says, and whether it makes sense to ask again.
async fn refusal(response: Response) -> (Error, bool) {
    let status = response.status();
    let text = read(response, REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let Ok(Envelope { error }) = serde_json::from_slice(&text) else {
        let error = Error::new(kind_of(status), "what answers there is no service of orch");
        let refusal = Refusal { status, code: None, trace_id: None };
        return (error.with("status", status).caused_by(refusal), status.is_server_error());
    };
    let code = Code::ALL.iter().copied().find(|code| code.as_str() == error.code);
    let kind = code.map_or_else(|| kind_of(status), kind);
    let again = matches!(
        code,
        Some(Code::Unavailable | Code::Indeterminate | Code::RateLimited | Code::IdempotencyInProgress)
    );
    let mut told = Error::new(kind, error.message);
    match &error.details[..] {
        [] => {}
        [only] if only.pointer.is_empty() => {}
        [only] => told = told.with("at", &only.pointer),
        several => told = told.with("problems", problems(several)),
    }
    if let [Detail { hint: Some(hint), .. }] = &error.details[..] {
        told = told.with("hint", hint);
    }
    (told.caused_by(Refusal { status, code, trace_id: error.trace_id }), again)
}

fn problems(details: &[Detail]) -> String {
    let lines = details.iter().map(|Detail { pointer, message, hint }| {
        let hint = hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{pointer}: {message}{hint}")
    });
    lines.collect::<Vec<_>>().join("; ")
}

/// What a caller can do about a code.
fn kind(code: Code) -> ErrorKind {
    match code {
        Code::NotFound | Code::CursorExpired => ErrorKind::NotFound,
        Code::Conflict | Code::PreconditionFailed | Code::IdempotencyInProgress => ErrorKind::Conflict,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::LeaseLost => ErrorKind::LeaseLost,
        Code::Refused
        | Code::Unauthenticated
        | Code::TenantRequired
        | Code::TenantForbidden
        | Code::ScopeRequired
        | Code::OriginForbidden => ErrorKind::Refused,
        Code::BodyTooLarge | Code::LimitExceeded => ErrorKind::LimitExceeded,
        Code::Unsupported => ErrorKind::Unsupported,
        Code::Unavailable | Code::RateLimited | Code::RequestTimeout => ErrorKind::Unavailable,
        Code::Indeterminate => ErrorKind::Indeterminate,
        Code::LedgerCorrupt => ErrorKind::Corrupt,
        Code::Internal => ErrorKind::Internal,
        Code::InvalidRequest
        | Code::ReasonRequired
        | Code::MethodNotAllowed
        | Code::NotAcceptable
        | Code::UnsupportedMediaType
        | Code::IdempotencyKeyReused => ErrorKind::Invalid,
    }
}

/// The same where nothing but a status is known.
fn kind_of(status: StatusCode) -> ErrorKind {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::Refused,
        status if status.is_server_error() => ErrorKind::Unavailable,
        _ => ErrorKind::Invalid,
    }
}

/// A field of a body that is left out where there is nothing to say.
pub(super) fn said(body: &mut Value, name: &'static str, value: Option<impl Serialize>) {
    if let Some(value) = value {
        body[name] = serde_json::json!(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_comes_through_a_service_as_what_it_was() {
        let kinds = [
            ErrorKind::Conflict,
            ErrorKind::LeaseLost,
            ErrorKind::NotFound,
            ErrorKind::AlreadyExists,
            ErrorKind::Invalid,
            ErrorKind::Refused,
            ErrorKind::LimitExceeded,
            ErrorKind::Unsupported,
            ErrorKind::Unavailable,
            ErrorKind::Indeterminate,
            ErrorKind::Corrupt,
            ErrorKind::Internal,
        ];
        for expected in kinds {
            assert_eq!(kind(Code::from(expected)), expected);
        }
    }
}
