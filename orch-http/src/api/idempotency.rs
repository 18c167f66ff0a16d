//! Idempotency keys: a request that is sent again is answered as it was the first time.
//!
//! A key is good for its tenant, subject and path, for the day it is first used on and the day after. The first request claims it in the
//! store and leaves its answer there; whoever comes meanwhile is told to wait. A claim whose process died is taken over
//! after [`CLAIM`] and done again: a run that it started is then found, because the key names it.
//!
//! An answer that flows is not kept. Such a request is never under way: it is done each time, and its handler knows by
//! [`Named`] what it has made of the first.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use orch::store::{Doc, DocKey, DocsQuery, Expect, PutDoc};
use orch::{Digest, ErrorKind, Timestamp};
use serde::{Deserialize, Serialize};

use super::body;
use super::code::Code;
use super::error::{ApiError, ApiResult};
use super::forget::forget;
use super::guard::Caller;
use crate::App;

const KIND: &str = "idempotency";
/// The header that names a request.
pub(crate) const HEADER: &str = "idempotency-key";
/// Says that an answer was given before.
pub(crate) const REPLAYED: &str = "idempotent-replayed";
/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;
/// The largest answer that is kept; a larger one is given once, and its key then answers with 409.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How long a request may be under way before its process counts as dead.
const CLAIM: Duration = Duration::from_secs(120);

/// What is kept of a request.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// SHA-256 of its body.
    body: Digest,
    /// When it was claimed.
    at: Timestamp,
    answer: Option<KeptAnswer>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptAnswer {
    status: u16,
    media: Option<String>,
    text: String,
}

/// What a request with a key meets.
pub(crate) enum Met {
    /// It is the first: it is to be done, and its answer to be kept with this claim.
    First(Box<(Request, Claim)>),
    /// It was answered before.
    Answered(Response),
}

/// A request with a key, for good: the same however often it is done.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    /// When it was first asked for.
    pub(crate) at: Timestamp,
}

/// The right to do a request.
#[derive(Debug)]
pub(crate) struct Claim {
    key: DocKey,
    version: u64,
    kept: Kept,
    /// Whether the answer flows.
    flows: bool,
    /// Whether nobody has asked for this before.
    first: bool,
}

impl Claim {
    pub(crate) fn named(&self) -> Named {
        Named { name: format!("idempotency/{}", self.key.key), at: self.kept.at }
    }
}

/// Claims the key of a request, or finds its answer.
pub(crate) async fn claim(
    app: &App,
    caller: &Caller,
    path: &str,
    request: Request,
    flows: bool,
) -> ApiResult<Met> {
    let wrong = || {
        ApiError::invalid_at(
            "Idempotency-Key:",
            format!("must hold 1 to {KEY_BYTES_MAX} visible ASCII characters"),
        )
    };
    let key = request.headers().get(HEADER).and_then(|value| value.to_str().ok());
    let key = key.filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len())).ok_or_else(wrong)?.to_owned();
    let (parts, whole) = request.into_parts();
    let bytes = body::collect(Request::new(whole), app.settings.limits.body_bytes).await?;
    let now = app.orch.now();
    let kept = Kept { body: Digest::of(&bytes), at: now, answer: None };
    let name = Digest::of_parts(&[path.as_bytes(), caller.who.actor.as_bytes(), key.as_bytes()]);
    let request = Request::from_parts(parts, Body::from(bytes));
    let today = day(now);
    let place =
        |day: i64| DocKey { tenant: caller.who.tenant.clone(), kind: KIND, key: format!("{day:06}-{name}") };
    for _ in 0..4 {
        let mut known = None;
        for day in [today, today - 1] {
            known = app.orch.store().doc(&place(day)).await?.map(|doc| (place(day), doc));
            if known.is_some() {
                break;
            }
        }
        let (key, expect) = match known {
            None => (place(today), Expect::Absent),
            Some((key, doc)) if flows => {
                let (version, kept) = (doc.version, read(&doc, &kept)?);
                return Ok(Met::First(Box::new((
                    request,
                    Claim { key, version, kept, flows, first: false },
                ))));
            }
            Some((key, doc)) => match look(&doc, &kept, now)? {
                Some(answer) => return Ok(Met::Answered(answer)),
                None => (key, Expect::Version(doc.version)),
            },
        };
        match app.orch.store().put_doc(&put(&key, expect, &kept)?).await {
            Ok(version) => {
                clear(app, caller, today).await?;
                return Ok(Met::First(Box::new((request, Claim { key, version, kept, flows, first: true }))));
            }
            // Somebody else was faster.
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(under_way())
}

fn day(at: Timestamp) -> i64 {
    at.as_micros() / (24 * 60 * 60 * 1_000_000)
}

fn under_way() -> ApiError {
    ApiError::new(Code::IdempotencyInProgress, "a request with this key is under way")
        .retry_after(Duration::from_secs(1))
}

fn put(key: &DocKey, expect: Expect, kept: &Kept) -> ApiResult<PutDoc> {
    let body = serde_json::to_string(kept)
        .map_err(|cause| orch::Error::internal("an answer that is kept is no json").caused_by(cause))?;
    Ok(PutDoc { key: key.clone(), expect, body: Some(body) })
}

/// What is kept of the request that first had the key of this one.
fn read(doc: &Doc, asked: &Kept) -> ApiResult<Kept> {
    let known: Kept = serde_json::from_str(&doc.body).map_err(|cause| {
        orch::Error::corrupt("an answer that was kept has another shape").caused_by(cause)
    })?;
    if known.body != asked.body {
        return Err(ApiError::new(Code::IdempotencyKeyReused, "this key was used with another body"));
    }
    Ok(known)
}

/// The answer that was kept; nothing when the request is to be done (again).
fn look(doc: &Doc, asked: &Kept, now: Timestamp) -> ApiResult<Option<Response>> {
    let known = read(doc, asked)?;
    match known.answer {
        None if now.since(known.at) < CLAIM => Err(under_way()),
        None => Ok(None),
        Some(kept) => {
            let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = (status, kept.text).into_response();
            response.headers_mut().remove(header::CONTENT_TYPE);
            if let Some(media) = kept.media.and_then(|media| HeaderValue::from_str(&media).ok()) {
                response.headers_mut().insert(header::CONTENT_TYPE, media);
            }
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            Ok(Some(response))
        }
    }
}

/// Keeps the answer of a request that was done. One that was refused or failed is not kept: it may be sent again.
pub(crate) async fn keep(app: &App, claim: Claim, response: Response) -> Response {
    let Claim { key, version, kept, flows, first } = claim;
    // What may have happened keeps its claim: nobody does it again at once.
    let code = response.extensions().get::<ApiError>().map(|error| error.code);
    if matches!(code, Some(Code::Indeterminate | Code::RequestTimeout)) {
        return response;
    }
    // What was refused is refused anew, with the trace of whoever asks again; what failed here may go well then.
    if code.is_some() || response.status().is_server_error() {
        if first {
            release(app, &key, version).await;
        }
        return response;
    }
    if flows {
        return response;
    }
    let (parts, body) = response.into_parts();
    let bytes = match body.collect().await {
        Ok(whole) => whole.to_bytes(),
        Err(error) => {
            tracing::warn!(%error, "an answer was not made whole");
            return ApiError::new(Code::Internal, Code::Internal.meaning()).into_response();
        }
    };
    let text = std::str::from_utf8(&bytes).ok().filter(|text| text.len() <= ANSWER_BYTES_MAX);
    if let Some(text) = text {
        let media = parts.headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok());
        let answer = KeptAnswer {
            status: parts.status.as_u16(),
            media: media.map(str::to_owned),
            text: text.to_owned(),
        };
        let kept = Kept { answer: Some(answer), ..kept };
        if let Ok(put) = put(&key, Expect::Version(version), &kept)
            && let Err(error) = app.orch.store().put_doc(&put).await
        {
            // The request is done all the same; who asks again is told to wait until the claim is old.
            tracing::warn!(%error, "an answer was not kept for its idempotency key");
        }
    }
    Response::from_parts(parts, Body::from(bytes))
}

async fn release(app: &App, key: &DocKey, version: u64) {
    let put = PutDoc { key: key.clone(), expect: Expect::Version(version), body: None };
    if let Err(error) = app.orch.store().put_doc(&put).await {
        tracing::warn!(%error, "an idempotency key was not freed");
    }
}

/// Clears old keys away: they come first in the order of the listing.
async fn clear(app: &App, caller: &Caller, today: i64) -> ApiResult<()> {
    let (store, tenant) = (app.orch.store().as_ref(), &caller.who.tenant);
    let query = DocsQuery { tenant: tenant.clone(), kind: KIND, after: None, limit: 1 };
    let old = |doc: &Doc| {
        doc.key.split('-').next().and_then(|day| day.parse::<i64>().ok()).is_none_or(|day| day < today - 1)
    };
    if store.docs(&query).await?.docs.first().is_some_and(old) {
        forget(store, tenant, KIND, None, old).await?;
    }
    Ok(())
}
