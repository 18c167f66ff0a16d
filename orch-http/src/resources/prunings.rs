//! `/prunings`: finished runs that are deleted, so that their heads remain.

use axum::extract::State;
use http::StatusCode;
use orch::Timestamp;
use orch::proof::{self, PruneRuns};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::App;
use crate::api::{Answer, ApiError, ApiResult, Body, Caller, Guard, Route, schema};
use crate::auth::Scope;

/// Runs of one request, about: what is left is for the next.
const RUNS: usize = 2_000;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/prunings", "pruneRuns", Guard::Scope(Scope::Admin), prune)
            .says("Delete runs that ended before an instant; their heads are recorded in the checkpoint stream first. About 2 000 a request: while `more` is answered, ask again.")
            .takes::<AskPruning>()
            .like(r#"{"endedBefore":"2020-01-01T00:00:00Z"}"#)
            .gives::<PruningView>(StatusCode::OK),
    ]
}

/// What is to go.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AskPruning {
    /// Runs that ended before; not later than now.
    #[schemars(with = "schema::Time")]
    ended_before: Timestamp,
}

/// What went.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
pub(crate) struct PruningView {
    /// How many runs.
    pub(crate) pruned: u64,
    /// Whether there may be more.
    pub(crate) more: bool,
}

async fn prune(
    State(app): State<App>,
    caller: Caller,
    Body(asked): Body<AskPruning>,
) -> ApiResult<Answer<PruningView>> {
    let (store, now) = (app.orch.store().as_ref(), app.orch.now());
    if asked.ended_before > now {
        return Err(ApiError::invalid_at("/endedBefore", "must not be later than now"));
    }
    let (runs, more) = proof::ended_before(store, &caller.who.tenant, asked.ended_before, RUNS).await?;
    if runs.is_empty() {
        return Ok(Answer::ok(PruningView { pruned: 0, more }));
    }
    app.orch.audit(&caller.who, "runs.prune", "runs", &json!({ "runs": runs.len() })).await?;
    let request = PruneRuns { tenant: caller.who.tenant, runs, actor: caller.who.actor, now };
    let pruned = proof::prune_runs(store, &request).await? as u64;
    Ok(Answer::ok(PruningView { pruned, more }))
}
