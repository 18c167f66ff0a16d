//! `/runs/stream`: what happens, as it happens.

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use http::{HeaderMap, StatusCode, header};
use orch::{DagId, RunId, RunStatus};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::App;
use crate::api::code::Code;
use crate::api::route::{NDJSON, Shape};
use crate::api::{ApiError, ApiResult, Caller, Guard, Query, Route, schema};
use crate::auth::Scope;
use crate::stream::{Filter, MessageView, Open, Source, serve_events, serve_socket};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/runs/stream", "streamRuns", Guard::Scope(Scope::Read), stream)
            .says("Hear what happens to a run, or to all runs of the tenant, as it happens: over WebSocket, or as server-sent events for whoever accepts `text/event-stream`. The stream of a run begins with its first entry, that of all runs now; either goes on after a cursor.")
            .query::<AskStream>()
            .gives_as(StatusCode::OK, "text/event-stream", Some(Shape::of::<MessageView>()))
            .gives_as(StatusCode::SWITCHING_PROTOCOLS, NDJSON, None)
            .may(&[Code::NotFound, Code::CursorExpired, Code::OriginForbidden, Code::NotAcceptable, Code::Unsupported])
            .endless(),
    ]
}

/// What to hear of.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AskStream {
    /// Only this run, from its first entry on; without it all runs of the tenant, from now on.
    #[serde(rename = "runId")]
    #[schemars(with = "Option<schema::RunId>")]
    run_id: Option<RunId>,
    /// Only runs of this DAG.
    #[serde(rename = "dagId")]
    #[schemars(with = "Option<schema::Slug>")]
    dag_id: Option<DagId>,
    /// Only messages after which the run has this status.
    #[schemars(with = "Option<schema::RunStatus>")]
    status: Option<RunStatus>,
    /// Go on after the message that bore this cursor; `Last-Event-ID` says the same.
    cursor: Option<String>,
}

async fn stream(
    State(app): State<App>,
    caller: Caller,
    Query(asked): Query<AskStream>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    check_origin(&headers, &app.settings.streams.origins)?;
    let place =
        app.streams.enter(app.settings.streams.streams).filter(|_| !app.settings.closing.is_cancelled());
    let place = place.ok_or_else(|| {
        let busy = ApiError::new(Code::Unavailable, "no further stream can be opened now");
        busy.retry_after(std::time::Duration::from_secs(5))
    })?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let cursor = asked.cursor.or(last);
    let filter = Filter { dag: asked.dag_id, status: asked.status };
    let wanted = Open { run: asked.run_id, filter, cursor };
    let open = || Source::open(&app, &caller.who, wanted);
    let wants = |media: &str| {
        let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        accepted.is_none_or(|accepted| accepted.contains(media) || accepted.contains("*/*"))
    };
    let expires = caller.principal.expires;
    match upgrade {
        Ok(upgrade) => Ok(serve_socket(upgrade, app.clone(), open().await?, expires, place)),
        Err(rejected) if headers.contains_key(header::UPGRADE) => {
            Err(ApiError::new(Code::InvalidRequest, rejected.body_text()))
        }
        Err(_) if wants("text/event-stream") => Ok(serve_events(app.clone(), open().await?, expires, place)),
        Err(_) => Err(ApiError::new(Code::NotAcceptable, "a stream is a WebSocket or `text/event-stream`")),
    }
}

/// A page may listen to the service it comes from, and to those that name its origin; programs have none.
fn check_origin(headers: &HeaderMap, allowed: &[String]) -> ApiResult<()> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or("");
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let own = origin.split_once("://").map(|(_, authority)| authority);
    if (own.is_some() && own == host) || allowed.iter().any(|known| known == origin) {
        return Ok(());
    }
    Err(ApiError::new(Code::OriginForbidden, "a page of this origin may not open streams"))
}
