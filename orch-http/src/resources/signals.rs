//! `/runs/{runId}/signals`: what runs are told from outside.

use axum::extract::State;
use http::StatusCode;
use orch::{Payload, RunId, StepId};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::runs::RunView;
use crate::App;
use crate::api::code::Code;
use crate::api::{Answer, ApiResult, At, Body, Caller, Guard, Route, schema};
use crate::auth::Scope;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/runs/{runId}/signals", "sendSignal", Guard::Scope(Scope::Write), send)
            .says("Hand a run a signal. It is kept until a step waits for it.")
            .takes::<Signal>()
            .like(r#"{"name":"go","payload":{"ok":true}}"#)
            .gives::<RunView>(StatusCode::ACCEPTED)
            .may(&[Code::NotFound, Code::Refused, Code::LimitExceeded]),
    ]
}

/// A signal.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Signal {
    /// What steps wait for.
    #[schemars(with = "schema::Slug")]
    name: StepId,
    /// What the waiting step gets as its output.
    #[serde(default)]
    #[schemars(with = "schema::Json")]
    payload: Value,
}

async fn send(
    State(app): State<App>,
    caller: Caller,
    At(run): At<RunId>,
    Body(signal): Body<Signal>,
) -> ApiResult<Answer<RunView>> {
    let payload = Payload::new(&signal.payload)?;
    Ok(Answer::accepted(app.orch.signal(&caller.who, run, signal.name.as_str(), payload).await?.into()))
}
