//! `/runs/{runId}/steps`: what became of the steps of a run.

use axum::extract::State;
use http::StatusCode;
use orch::planner::{RunState, StepRef};
use orch::{RunId, StepKey, StepStatus, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::runs::millis;
use crate::App;
use crate::api::code::Code;
use crate::api::page::{self, Page};
use crate::api::{Answer, ApiError, ApiResult, At, Caller, Guard, Query, Route, schema};
use crate::auth::Scope;

const READ: Guard = Guard::Scope(Scope::Read);

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/runs/{runId}/steps", "listSteps", READ, list)
            .says("List the declared steps of a run, in the order in which they execute.")
            .query::<ListSteps>()
            .gives::<Page<StepView>>(StatusCode::OK)
            .may(&[Code::NotFound]),
    ]
}

/// Which steps.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListSteps {
    /// Only steps with this status.
    #[schemars(with = "Option<schema::StepStatus>")]
    status: Option<StepStatus>,
    /// Rows of the page.
    #[schemars(range(min = 1, max = 500))]
    page_size: Option<u32>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// A step as lists show it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct StepView {
    /// The step.
    #[schemars(with = "schema::StepKey")]
    step_id: StepKey,
    /// What runs it.
    uses: String,
    /// Where it stands.
    #[schemars(with = "schema::StepStatus")]
    status: StepStatus,
    /// The attempt scheduled last; 0 before the first.
    attempt: u32,
    /// SHA-256 of the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Hash>")]
    inputs_hash: Option<orch::Digest>,
    /// SHA-256 of the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Hash>")]
    outputs_hash: Option<orch::Digest>,
    /// The artifact that holds the log of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Hash>")]
    logs_ref: Option<orch::Digest>,
    /// Why the last attempt failed, or why the step was skipped: a stable word.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<String>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<String>,
    /// Who runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    /// The run that carries it out, for a step that is a DAG.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::RunId>")]
    child_run_id: Option<RunId>,
    /// When the last attempt started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    started_utc: Option<Timestamp>,
    /// When the step was settled or parked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    ended_utc: Option<Timestamp>,
    /// From the start of the last attempt to the end, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    /// How many children a `forEach` step has.
    #[serde(skip_serializing_if = "Option::is_none")]
    children: Option<u64>,
}

impl StepView {
    pub(super) fn of(state: &RunState, at: StepRef) -> Option<Self> {
        let step = state.get(at)?;
        let took = step.started_at.zip(step.ended_at).map(|(start, end)| millis(end.since(start)));
        Some(Self {
            step_id: state.key_of(at),
            uses: state.spec(at).uses.to_string(),
            status: step.status,
            attempt: step.attempt,
            inputs_hash: step.input_hash,
            outputs_hash: step.output_hash,
            logs_ref: step.logs.as_ref().map(|logs| logs.hash),
            error_code: step.error.as_ref().map(|error| error.code.clone()),
            error_message: step.error.as_ref().map(|error| error.message.clone()),
            worker: step.worker.as_ref().map(ToString::to_string),
            child_run_id: step.child_run,
            started_utc: step.started_at,
            ended_utc: step.ended_at,
            duration_ms: took,
            children: step.map.as_ref().map(|map| map.children.len() as u64),
        })
    }
}

async fn list(
    State(app): State<App>,
    caller: Caller,
    At(run): At<RunId>,
    Query(asked): Query<ListSteps>,
) -> ApiResult<Answer<Page<StepView>>> {
    let name = format!("steps/{run}?{:?}", asked.status);
    let page = page::asked(&name, asked.page_size, asked.page_token.as_deref())?;
    let begin: usize = match page.after {
        None => 0,
        Some(after) => {
            after.parse().map_err(|_| ApiError::invalid_at("?page_token", "the token is damaged"))?
        }
    };
    let state = app.orch.inspect(&caller.who, run).await?;
    let fits = |status| asked.status.is_none_or(|asked| asked == status);
    let mut found = (begin..).zip(state.steps().iter().skip(begin)).filter(|(_, step)| fits(step.status));
    let places: Vec<usize> = found.by_ref().take(page.size).map(|(place, _)| place).collect();
    let next = found.next().map(|(place, _)| page::token(&name, place.to_string()));
    let keys = places.iter().filter_map(|place| state.find(&state.plan.steps()[*place].id.clone().into()));
    let items = keys.filter_map(|at| StepView::of(&state, at)).collect();
    Ok(Answer::ok(Page { items, next_page_token: next }))
}
