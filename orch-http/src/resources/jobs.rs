//! `/jobs`: runs of one step, for whoever thinks in jobs.
//!
//! A job is a run of a document that is made here: `job.TYPE`, whose one step hands the payload to a worker. What the payload
//! holds is data: it travels as an input and no expression in it is ever evaluated.

use axum::extract::State;
use http::StatusCode;
use orch::engine::{DagRef, Submit, Submitted};
use orch::planner::{RunState, StepRef};
use orch::{Dag, Orchestrator, QueueName, RunId, RunStatus, StepId, StepStatus, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::runs::{ReplayRun, millis};
use crate::App;
use crate::api::code::Code;
use crate::api::error::Detail;
use crate::api::{Answer, ApiError, ApiResult, At, Body, Caller, Guard, Route, schema};
use crate::auth::Scope;

/// What the ids of documents made for jobs begin with.
const PREFIX: &str = "job.";
/// The one step.
const STEP: &str = "job";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/jobs", "submitJob", Guard::Scope(Scope::Write), submit)
            .says("Submit a job: a run of one step that a worker of this type carries out.")
            .takes::<SubmitJob>()
            .like(r#"{"jobType":"scan","payload":{"file":"a.tar"},"maxAttempts":3,"rationale":"weekly"}"#)
            .gives::<JobView>(StatusCode::CREATED)
            .gives::<JobView>(StatusCode::OK)
            .may(&[Code::LimitExceeded]),
        Route::get("/jobs/{runId}", "getJob", Guard::Scope(Scope::Read), get)
            .says("Look at a job.")
            .gives::<JobView>(StatusCode::OK)
            .may(&[Code::NotFound]),
        Route::post("/jobs/{runId}:replay", "replayJob", Guard::Scope(Scope::Operate), replay)
            .says("Submit the same job again, with the same payload.")
            .takes::<ReplayRun>()
            .like(r#"{"runToken":"once more"}"#)
            .gives::<JobView>(StatusCode::CREATED)
            .gives::<JobView>(StatusCode::OK)
            .may(&[Code::NotFound, Code::Conflict]),
    ]
}

/// A job to do.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SubmitJob {
    /// Which workers may do it: those that lease `worker/TYPE`.
    #[schemars(with = "schema::Slug", length(max = 124))]
    job_type: StepId,
    /// What the worker is given.
    #[serde(default)]
    #[schemars(with = "schema::Json")]
    payload: Value,
    /// Before others of the queue.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    priority: i32,
    /// Names the job: the same token, type and payload are one job.
    #[schemars(length(min = 1, max = 1024))]
    run_token: Option<String>,
    /// The queue it waits in; the one of its type without it.
    #[schemars(with = "Option<schema::Slug>")]
    queue: Option<QueueName>,
    /// Attempts at most.
    #[schemars(range(min = 1, max = 100))]
    max_attempts: Option<u32>,
    /// How long an attempt may take, such as `10m`.
    timeout: Option<String>,
    /// Why, for the record.
    #[schemars(length(min = 1, max = 1024))]
    rationale: Option<String>,
}

impl SubmitJob {
    /// The document that carries the job out.
    fn dag(&self, orch: &Orchestrator) -> ApiResult<Dag> {
        let mut step = json!({
            "id": STEP,
            "uses": format!("worker/{}", self.job_type),
            "with": "${{ inputs.payload }}",
        });
        if let Some(queue) = &self.queue {
            step["queue"] = json!(queue);
        }
        if let Some(attempts) = self.max_attempts {
            step["retry"] = json!({ "maxAttempts": attempts });
        }
        if let Some(timeout) = &self.timeout {
            step["timeout"] = json!(timeout);
        }
        let id = format!("{PREFIX}{}", self.job_type);
        let document = json!({ "apiVersion": "orch/v1", "kind": "Dag", "id": id, "steps": [step] });
        orch::spec::parse("job", &document.to_string(), &orch.settings().limits).map_err(|problems| {
            // The document is made here, so what is wrong with it is a field of the same name.
            let field = |path: &str| match path {
                "/id" => "/jobType".to_owned(),
                path => path.replace("/steps/0/retry/maxAttempts", "/maxAttempts").replace("/steps/0", ""),
            };
            let details = problems.problems.into_iter().map(|problem| Detail {
                hint: problem.hint,
                ..Detail::new(field(&problem.path), problem.message)
            });
            ApiError::invalid(details.collect())
        })
    }
}

/// A job.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct JobView {
    /// The job: the id of its run.
    #[schemars(with = "schema::RunId")]
    job_id: RunId,
    /// Which workers may do it.
    job_type: String,
    /// Where its run stands.
    #[schemars(with = "schema::RunStatus")]
    status: RunStatus,
    /// Where its one step stands.
    #[schemars(with = "schema::StepStatus")]
    step_status: StepStatus,
    /// The attempt scheduled last.
    attempt: u32,
    /// SHA-256 of the payload as canonical JSON (RFC 8785).
    #[schemars(with = "schema::Hash")]
    payload_digest: orch::Digest,
    /// The job that this one repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::RunId>")]
    replay_of: Option<RunId>,
    /// What it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Json>")]
    result: Option<Value>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<String>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<String>,
    /// Who does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    /// When it was submitted.
    #[schemars(with = "schema::Time")]
    created_utc: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    ended_utc: Option<Timestamp>,
    /// From its submission to its end, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
}

impl JobView {
    /// A run as a job; nothing if it is none.
    fn of(state: &RunState) -> Option<Self> {
        let job_type = state.created.dag_id.as_str().strip_prefix(PREFIX)?;
        let step = state
            .get(StepRef::top(0))
            .filter(|_| state.created.dag_version.is_none() && state.steps().len() == 1)?;
        let payload = state.created.inputs.to_value()["payload"].take();
        let row = state.row();
        Some(Self {
            job_id: row.run,
            job_type: job_type.to_owned(),
            status: row.status,
            step_status: step.status,
            attempt: step.attempt,
            payload_digest: orch::Payload::new(&payload).ok()?.digest(),
            replay_of: row.replay_of,
            result: step.output.as_ref().map(|output| output.get().clone()),
            error_code: step.error.as_ref().map(|error| error.code.clone()),
            error_message: step.error.as_ref().map(|error| error.message.clone()),
            worker: step.worker.as_ref().map(ToString::to_string),
            created_utc: row.created_at,
            ended_utc: row.ended_at,
            duration_ms: row.ended_at.map(|end| millis(end.since(row.created_at))),
        })
    }
}

async fn look(app: &App, caller: &Caller, run: RunId) -> ApiResult<JobView> {
    let state = app.orch.inspect(&caller.who, run).await;
    // A run that is no job is no job that could be found.
    let state = state.map_err(|error| match error.kind() {
        orch::ErrorKind::NotFound => ApiError::not_found("job"),
        _ => error.into(),
    })?;
    JobView::of(&state).ok_or_else(|| ApiError::not_found("job"))
}

async fn submit(
    State(app): State<App>,
    caller: Caller,
    Body(job): Body<SubmitJob>,
) -> ApiResult<Answer<JobView>> {
    let dag = job.dag(&app.orch)?;
    let submit = Submit {
        run_token: job.run_token.or_else(|| caller.run_token()),
        priority: job.priority,
        rationale: job.rationale,
        traceparent: Some(caller.trace.parent()),
        baggage: caller.trace.baggage.clone(),
        ..Submit::new(DagRef::Unpublished(Box::new(dag)), json!({ "payload": job.payload }))
    };
    submitted(&app, &caller, app.orch.submit(&caller.who, submit).await?).await
}

async fn submitted(app: &App, caller: &Caller, submitted: Submitted) -> ApiResult<Answer<JobView>> {
    let view = look(app, caller, submitted.run.run).await?;
    Ok(if submitted.new { Answer::created(view) } else { Answer::ok(view) })
}

async fn get(State(app): State<App>, caller: Caller, At(run): At<RunId>) -> ApiResult<Answer<JobView>> {
    look(&app, &caller, run).await.map(Answer::ok)
}

async fn replay(
    State(app): State<App>,
    caller: Caller,
    At(run): At<RunId>,
    Body(body): Body<ReplayRun>,
) -> ApiResult<Answer<JobView>> {
    look(&app, &caller, run).await?;
    let again = app.orch.replay(&caller.who, run, body.along(&caller)).await?;
    submitted(&app, &caller, again).await
}
