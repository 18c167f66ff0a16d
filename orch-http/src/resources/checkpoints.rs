//! `/checkpoints`: the heads of a tenant's streams, signed, so that nothing can be taken out of the record unnoticed.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};
use orch::ledger::{Head, Stream};
use orch::proof::{self, TakeCheckpoint};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::entries::{AskEntries, EntriesView, page};
use crate::App;
use crate::api::route::JSON;
use crate::api::{Answer, ApiResult, Caller, Checked, Guard, Query, Route, schema};
use crate::auth::Scope;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/checkpoints", "takeCheckpoint", Guard::Scope(Scope::Admin), take)
            .says("Name the heads of all finished runs and of the audit stream in an entry of the checkpoint stream, signed where the service has a key. Keep the answer elsewhere: what it names cannot be altered or deleted unnoticed.")
            .takes::<AskCheckpoint>()
            .like(r#"{"sinceLast":true}"#)
            .gives::<CheckpointView>(StatusCode::CREATED)
            .gives_as(StatusCode::NO_CONTENT, "", None),
        Route::get("/checkpoints", "listCheckpoints", Guard::Scope(Scope::Admin), list)
            .says("The entries of the tenant's checkpoint stream, oldest first, as they are chained.")
            .query::<AskEntries>()
            .gives::<EntriesView>(StatusCode::OK),
    ]
}

/// Which heads.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AskCheckpoint {
    /// Only those of runs that no checkpoint names yet.
    #[serde(default)]
    since_last: bool,
}

/// A checkpoint, as `orch ledger verify --checkpoint` reads it.
#[derive(Debug, JsonSchema)]
#[expect(dead_code, reason = "names the fields of a document that is copied")]
struct CheckpointView {
    /// Always `orch/checkpoint/v1`.
    format: String,
    /// The entries of the checkpoint stream that it is made of.
    #[schemars(with = "Vec<schema::Object>")]
    entries: (),
}

async fn take(
    State(app): State<App>,
    caller: Caller,
    Checked(asked): Checked<AskCheckpoint>,
) -> ApiResult<Response> {
    app.orch.audit(&caller.who, "ledger.checkpoint", "checkpoint", &json!({})).await?;
    let scope = if asked.since_last { proof::Scope::SinceLast } else { proof::Scope::All };
    let request = TakeCheckpoint {
        tenant: caller.who.tenant,
        actor: caller.who.actor,
        now: app.orch.now(),
        scope,
        key: app.settings.checkpoint_key.clone(),
    };
    Ok(match proof::take_checkpoint(app.orch.store().as_ref(), &request).await? {
        Some(taken) => (StatusCode::CREATED, [(header::CONTENT_TYPE, JSON)], taken.to_json()).into_response(),
        // Nothing has ended since.
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(asked): Query<AskEntries>,
) -> ApiResult<Answer<EntriesView>> {
    let found = page(&app, &caller, Stream::Checkpoint, "checkpoints", &asked).await?;
    Ok(Answer::ok(found.unwrap_or_else(|| EntriesView::empty(Head::EMPTY))))
}
