//! `/queues`: how much waits.

use axum::extract::State;
use http::StatusCode;
use orch::queue::Depth;
use orch::{QueueName, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;

use super::runs::millis;
use crate::App;
use crate::api::{Answer, ApiResult, Caller, Guard, Route, schema};
use crate::auth::Scope;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/queues", "listQueues", Guard::Scope(Scope::Read), list)
            .says("How much waits in each queue of the tenant, and for how long, by name.")
            .gives::<Queues>(StatusCode::OK),
    ]
}

/// The queues of a tenant.
#[derive(Debug, Serialize, JsonSchema)]
struct Queues {
    /// The queues that hold something, by name.
    items: Vec<QueueView>,
}

/// How much waits in a queue.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct QueueView {
    /// The queue.
    #[schemars(with = "schema::Slug")]
    queue: QueueName,
    /// Steps that may start now.
    ready: u64,
    /// Steps that may start later.
    delayed: u64,
    /// Steps that are being started.
    leased: u64,
    /// Since when the oldest ready step has been ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    oldest_utc: Option<Timestamp>,
    /// For how long, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_age_ms: Option<u64>,
}

async fn list(State(app): State<App>, caller: Caller) -> ApiResult<Answer<Queues>> {
    let now = app.orch.now();
    let mut depths = app.orch.depth(&caller.who).await?;
    depths.sort_by(|a, b| a.queue.cmp(&b.queue));
    let view = |depth: Depth| QueueView {
        queue: depth.queue,
        ready: depth.ready,
        delayed: depth.delayed,
        leased: depth.leased,
        oldest_utc: depth.oldest_at,
        oldest_age_ms: depth.oldest_at.map(|oldest| millis(now.since(oldest))),
    };
    Ok(Answer::ok(Queues { items: depths.into_iter().map(view).collect() }))
}
