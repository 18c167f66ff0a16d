//! `/admin`: whether the service lives, and whether it should be sent work.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::App;
use crate::api::code::Code;
use crate::api::{Answer, ApiError, ApiResult, Body, Caller, Guard, Route};
use crate::auth::Scope;
use crate::observe;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/admin/health", "health", Guard::Open, health)
            .says("Whether the process lives.")
            .gives::<Health>(StatusCode::OK),
        Route::get("/admin/ready", "ready", Guard::Open, ready)
            .says("Whether the service can do its work: 503 while a backend is away or it is shutting down.")
            .gives::<Health>(StatusCode::OK)
            .may(&[Code::Unavailable]),
        Route::get("/admin/metrics", "metrics", Guard::Every(Scope::Admin), metrics)
            .says("What is counted and measured in this process, as OpenMetrics text.")
            .gives_as(StatusCode::OK, OPENMETRICS, None)
            .gives_as(StatusCode::OK, TEXT, None),
        Route::post("/admin/warm", "warm", Guard::Scope(Scope::Admin), warm)
            .says("Read the newest enabled version of every published DAG of the tenant, so that the first runs after a start need not.")
            .takes::<Warm>()
            .like(r#"{}"#)
            .gives::<Warmed>(StatusCode::OK),
    ]
}

/// How the service is.
#[derive(Debug, Serialize, JsonSchema)]
struct Health {
    /// `ok`.
    status: &'static str,
}

async fn health() -> Answer<Health> {
    Answer::ok(Health { status: "ok" })
}

async fn ready(State(app): State<App>) -> ApiResult<Answer<Health>> {
    if app.settings.closing.is_cancelled() {
        return Err(ApiError::new(Code::Unavailable, "the service is shutting down"));
    }
    // What is wrong is for operators: it stands in the log and in the metrics.
    match app.orch.stats().trouble {
        None => Ok(Answer::ok(Health { status: "ok" })),
        Some(_) => Err(ApiError::new(Code::Unavailable, "a backend is away")),
    }
}

/// The media type of OpenMetrics 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The older format of Prometheus, for whoever asks for plain text.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let text = app.settings.metrics.text(&app.orch).await;
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    match accepted.contains("text/plain") && !accepted.contains("application/openmetrics-text") {
        true => ([(header::CONTENT_TYPE, TEXT)], observe::plain(&text)).into_response(),
        false => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
    }
}

/// What to warm.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Warm {}

/// What was warmed.
#[derive(Debug, Serialize, JsonSchema)]
struct Warmed {
    /// How many DAGs were read.
    dags: u64,
}

async fn warm(
    State(app): State<App>,
    caller: Caller,
    Body(Warm {}): Body<Warm>,
) -> ApiResult<Answer<Warmed>> {
    let (mut after, mut dags) = (None, 0);
    loop {
        let (page, more) = app.orch.dags(&caller.who, after, 500).await?;
        for dag in &page {
            if let Some(newest) = dag.versions.iter().rev().find(|version| !version.disabled) {
                app.orch.dag_version(&caller.who, &dag.dag, Some(newest.version)).await?;
                dags += 1;
            }
        }
        after = page.last().map(|dag| dag.dag.to_string());
        if !more {
            return Ok(Answer::ok(Warmed { dags }));
        }
    }
}
