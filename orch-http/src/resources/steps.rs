//! `/runs/{runId}/steps`: what became of the steps of a run.

use axum::extract::State;
use http::StatusCode;
use orch::ledger::{ArtifactRef, Entry, Event};
use orch::planner::{RunState, StepRef};
use orch::{RunId, StepId, StepKey, StepStatus, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
            .says("List the steps of a run in the order in which they execute, or the children of a `forEach` step in the order of its items.")
            .query::<ListSteps>()
            .gives::<Page<StepView>>(StatusCode::OK)
            .may(&[Code::NotFound]),
        Route::get("/runs/{runId}/steps/{stepId}", "getStep", READ, get)
            .says("Look at a step: its input, its output, and each of its attempts.")
            .gives::<StepDetail>(StatusCode::OK)
            .may(&[Code::NotFound]),
    ]
}

/// Which steps.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListSteps {
    /// The children of this step instead of the declared steps.
    #[schemars(with = "Option<schema::Slug>")]
    parent: Option<StepId>,
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
    let name = format!("steps/{run}?{:?}&{:?}", asked.parent, asked.status);
    let page = page::asked(&name, asked.page_size, asked.page_token.as_deref())?;
    let damaged = |_| ApiError::invalid_at("?page_token", "the token is damaged");
    let begin: usize = page.after.map_or(Ok(0), |after| after.parse()).map_err(damaged)?;
    let state = app.orch.inspect(&caller.who, run).await?;
    let parent = match &asked.parent {
        None => None,
        Some(step) => Some(state.find(&step.clone().into()).ok_or_else(|| ApiError::not_found("step"))?),
    };
    let places: Box<dyn Iterator<Item = StepRef> + Send> = match parent {
        None => Box::new((0..).map(StepRef::top).take(state.steps().len())),
        Some(at) => {
            let children =
                state.get(at).and_then(|step| step.map.as_ref()).map_or(0, |map| map.children.len());
            Box::new((0..).take(children).map(move |child| StepRef { child: Some(child), ..at }))
        }
    };
    let fits = |at: &StepRef| {
        state.get(*at).is_some_and(|step| asked.status.is_none_or(|asked| asked == step.status))
    };
    let mut found = places.enumerate().skip(begin).filter(|(_, at)| fits(at));
    let items = found.by_ref().take(page.size).filter_map(|(_, at)| StepView::of(&state, at)).collect();
    let next = found.next().map(|(place, _)| page::token(&name, place.to_string()));
    Ok(Answer::ok(Page { items, next_page_token: next }))
}

/// A step with all that became of it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct StepDetail {
    #[serde(flatten)]
    step: StepView,
    /// What it was given, where expressions made it and it is small enough to be recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Json>")]
    input: Option<Value>,
    /// What it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Json>")]
    output: Option<Value>,
    /// The earliest start of the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    not_before_utc: Option<Timestamp>,
    /// Its attempts, oldest first.
    attempts: Vec<AttemptView>,
}

/// An attempt.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct AttemptView {
    /// Its number, from 1.
    attempt: u32,
    /// `running`, `succeeded`, `failed`, `lost`, `cancelled` or `parked`.
    status: &'static str,
    /// Who ran it.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    /// When it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    started_utc: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    ended_utc: Option<Timestamp>,
    /// From start to end, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    /// Why it failed: a stable word.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<String>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<String>,
    /// Whether another attempt could have ended better.
    #[serde(skip_serializing_if = "Option::is_none")]
    retryable: Option<bool>,
    /// The artifact that holds its log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Hash>")]
    logs_ref: Option<orch::Digest>,
}

async fn get(
    State(app): State<App>,
    caller: Caller,
    At(run): At<RunId>,
    At(key): At<StepKey>,
) -> ApiResult<Answer<StepDetail>> {
    let state = app.orch.inspect(&caller.who, run).await?;
    let at = state.find(&key).ok_or_else(|| ApiError::not_found("step"))?;
    let step = state.get(at).ok_or_else(|| ApiError::not_found("step"))?;
    let mut attempts = Attempts::default();
    let mut events = app.orch.events(&caller.who, run, 0, false);
    while let Some((entry, _)) = events.next().await? {
        attempts.see(&key, entry);
    }
    Ok(Answer::ok(StepDetail {
        step: StepView::of(&state, at).ok_or_else(|| ApiError::not_found("step"))?,
        input: step.input.as_ref().map(orch::Payload::to_value),
        output: step.output.as_ref().map(|output| output.get().clone()),
        not_before_utc: step.not_before,
        attempts: attempts.0,
    }))
}

/// The attempts of one step, as its run's entries tell of them.
#[derive(Default)]
struct Attempts(Vec<AttemptView>);

impl Attempts {
    fn see(&mut self, step: &StepKey, entry: Entry) {
        let at = entry.at;
        match entry.event {
            Event::StepStarted(e) if e.step == *step => self.0.push(AttemptView {
                attempt: e.attempt,
                status: "running",
                worker: e.worker.map(|worker| worker.to_string()),
                started_utc: Some(at),
                ..AttemptView::default()
            }),
            Event::StepSucceeded(e) if e.step == *step => _ = self.end(e.attempt, "succeeded", at, e.logs),
            Event::StepFailed(e) if e.step == *step => {
                let attempt = self.end(e.attempt, "failed", at, e.logs);
                (attempt.error_code, attempt.error_message) = (Some(e.code), Some(e.message));
                attempt.retryable = Some(e.retryable);
            }
            Event::StepParked(e) if e.step == *step => {
                let attempt = self.end(e.attempt, "parked", at, e.logs);
                (attempt.error_code, attempt.error_message) = (Some(e.code), Some(e.message));
            }
            Event::StepLost(e) if e.step == *step => _ = self.end(e.attempt, "lost", at, None),
            Event::StepCancelled(e) if e.step == *step && e.attempt > 0 => {
                _ = self.end(e.attempt, "cancelled", at, e.logs)
            }
            _ => {}
        }
    }

    /// The attempt that ends; one whose output was taken over has no beginning.
    fn end(
        &mut self,
        attempt: u32,
        status: &'static str,
        at: Timestamp,
        logs: Option<ArtifactRef>,
    ) -> &mut AttemptView {
        let place = self.0.iter().rposition(|known| known.attempt == attempt).unwrap_or_else(|| {
            self.0.push(AttemptView { attempt, ..AttemptView::default() });
            self.0.len() - 1
        });
        let known = &mut self.0[place];
        (known.status, known.ended_utc) = (status, Some(at));
        known.duration_ms = known.started_utc.map(|start| millis(at.since(start)));
        known.logs_ref = logs.map(|logs| logs.hash);
        known
    }
}
