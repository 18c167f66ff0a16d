//! `/admin`: whether the service lives, and whether it should be sent work.

use axum::extract::State;
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::App;
use crate::api::code::Code;
use crate::api::{Answer, ApiError, ApiResult, Guard, Route};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/admin/health", "health", Guard::Open, health)
            .says("Whether the process lives.")
            .gives::<Health>(StatusCode::OK),
        Route::get("/admin/ready", "ready", Guard::Open, ready)
            .says("Whether the service can do its work: 503 while a backend is away or it is shutting down.")
            .gives::<Health>(StatusCode::OK)
            .may(&[Code::Unavailable]),
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
    // What is wrong is for operators: it stands in the log and in the metrics.
    match app.orch.stats().trouble {
        None => Ok(Answer::ok(Health { status: "ok" })),
        Some(_) => Err(ApiError::new(Code::Unavailable, "a backend is away")),
    }
}
