//! Around everything: a trace for every request, one form for every error, and headers that keep browsers careful.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use http::{HeaderMap, HeaderValue, Method, header};
use orch::Timestamp;

use super::code::Code;
use super::error::ApiError;
use super::guard::Seen;
use super::idempotency;
use super::trace::Trace;
use crate::App;
use crate::observe::Answered;

/// Tells the client under which trace its request is found.
const TRACE_HEADER: &str = "x-stella-trace-id";

pub(crate) async fn every(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let trace = sampled(&app, Trace::of(request.headers()));
    let problem_json = wants_problem_json(request.headers());
    let (method, began) = (request.method().clone(), app.orch.now());
    request.extensions_mut().insert(trace.clone());
    let response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!(trace_id = trace.id, "a handler panicked");
            ApiError::from(orch::Error::internal("a handler panicked")).into_response()
        }
    };
    let code = response.extensions().get::<ApiError>().map(|error| error.code);
    let mut response = render(response, &trace, problem_json);
    let ended = app.orch.now();
    let took = ended.since(began);
    span(&app, &response, &trace, &method, (began, ended));
    told(&response, &trace, &method, took);
    count(&app, &response, code, took);
    let headers = response.headers_mut();
    headers.extend([(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))]);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&trace.id) {
        headers.insert(TRACE_HEADER, id);
    }
    response
}

/// Of traces that begin here, only a share is recorded.
#[cfg(feature = "otel")]
fn sampled(app: &App, trace: Trace) -> Trace {
    let Some((traces, place)) = app.settings.traces.as_ref().zip(trace.place()) else { return trace };
    let sampled = if trace.parent.is_some() { trace.sampled } else { traces.samples(&place.trace) };
    Trace { sampled, ..trace }
}

#[cfg(not(feature = "otel"))]
fn sampled(_: &App, trace: Trace) -> Trace {
    trace
}

/// Tells traces of a request.
#[cfg(feature = "otel")]
fn span(app: &App, response: &Response, trace: &Trace, method: &Method, (from, to): (Timestamp, Timestamp)) {
    let Some(traces) = &app.settings.traces else { return };
    let seen = response.extensions().get::<Seen>();
    traces.answered(&crate::observe::AnsweredRequest {
        trace,
        method,
        route: seen.map(|seen| format!("{}{}", crate::BASE, seen.route)),
        tenant: seen.and_then(|seen| seen.tenant.as_ref()).map(ToString::to_string),
        status: response.status(),
        from,
        to,
    });
}

#[cfg(not(feature = "otel"))]
fn span(_: &App, _: &Response, _: &Trace, _: &Method, _: (Timestamp, Timestamp)) {}

/// Tells the log of a request. Reading that went well is told in detail only: there is much of it.
fn told(response: &Response, trace: &Trace, method: &Method, took: Duration) {
    macro_rules! tell {
        ($level:ident) => {{
            let seen = response.extensions().get::<Seen>();
            tracing::$level!(
                trace_id = trace.id,
                tenant = seen.and_then(|seen| seen.tenant.as_ref()).map(ToString::to_string),
                operation = seen.map(|seen| seen.operation),
                method = method.as_str(),
                status = response.status().as_u16(),
                micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                "request"
            );
        }};
    }
    if method == Method::GET && !response.status().is_client_error() && !response.status().is_server_error() {
        tell!(debug);
    } else {
        tell!(info);
    }
}

fn count(app: &App, response: &Response, code: Option<Code>, took: Duration) {
    let seen = response.extensions().get::<Seen>();
    app.settings.metrics.answered(&Answered {
        operation: seen.map(|seen| seen.operation),
        status: response.status(),
        code,
        replayed: response.headers().contains_key(idempotency::REPLAYED),
        took: seen.filter(|seen| seen.telling).map(|_| took),
    });
}

/// Gives an error its body.
fn render(mut response: Response, trace: &Trace, problem_json: bool) -> Response {
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    let seen = response.extensions_mut().remove::<Seen>();
    let mut rendered = error.render(&trace.id, problem_json);
    if let Some(seen) = seen {
        rendered.extensions_mut().insert(seen);
    }
    rendered
}

fn wants_problem_json(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|media| media.trim().starts_with("application/problem+json"))
}
