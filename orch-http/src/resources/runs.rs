//! `/runs`: start, list, look at, steer.

use axum::extract::State;
use http::StatusCode;
use orch::engine::{DagRef, Resubmit, Submit, Submitted};
use orch::ledger::Head;
use orch::store::{ParentStep, RunsQuery};
use orch::{DagId, RunId, RunRow, RunStatus, StepId, StepKey, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::App;
use crate::api::code::Code;
use crate::api::page::{self, Page};
use crate::api::{Answer, ApiResult, At, Body, Caller, Guard, Query, Route, schema};
use crate::auth::Scope;

const READ: Guard = Guard::Scope(Scope::Read);
const OPERATE: Guard = Guard::Scope(Scope::Operate);

pub(super) fn routes() -> Vec<Route> {
    let action = |route: Route| route.gives::<RunView>(StatusCode::OK).may(&[Code::NotFound, Code::Refused]);
    let again = |route: Route| {
        let route = route.gives::<Started>(StatusCode::CREATED).gives::<Started>(StatusCode::OK);
        route.may(&[Code::NotFound, Code::Refused, Code::Conflict])
    };
    vec![
        Route::post("/runs", "startRun", Guard::Scope(Scope::Write), start)
            .says("Start a run of a published DAG. With a `runToken`, the same token, DAG and inputs are one run however often they are sent.")
            .takes::<StartRun>()
            .like(r#"{"dagId":"hello","inputs":{"name":"you"},"rationale":"a try"}"#)
            .gives::<Started>(StatusCode::CREATED)
            .gives::<Started>(StatusCode::OK)
            .may(&[Code::NotFound, Code::Refused, Code::LimitExceeded, Code::Unsupported]),
        Route::get("/runs", "listRuns", READ, list)
            .says("List runs, newest first, then by id.")
            .query::<ListRuns>()
            .gives::<Page<RunView>>(StatusCode::OK),
        Route::get("/runs/{runId}", "getRun", READ, get)
            .says("Look at a run: where it stands, its outputs and the hashes that prove them.")
            .gives::<RunDetail>(StatusCode::OK)
            .may(&[Code::NotFound]),
        Route::get("/runs/{runId}/status", "getRunStatus", READ, status)
            .says("Where a run stands, without what it was given and made: the cheap way to look often.")
            .gives::<RunView>(StatusCode::OK)
            .may(&[Code::NotFound]),
        action(Route::post("/runs/{runId}:cancel", "cancelRun", OPERATE, cancel))
            .says("End a run early. Nothing new starts, and what runs is told to stop. Cancelling twice is cancelling once."),
        action(Route::post("/runs/{runId}:pause", "pauseRun", OPERATE, pause))
            .says("Hold a run: what runs goes on, nothing new starts."),
        action(Route::post("/runs/{runId}:resume", "resumeRun", OPERATE, resume)).says("Let a held run go on."),
        action(Route::post("/runs/{runId}:retry", "retryRun", OPERATE, retry))
            .says("Give failed and parked steps another round of attempts: those that are named, or all.")
            .takes::<RetryRun>()
            .like(r#"{"steps":["job"]}"#),
        again(Route::post("/runs/{runId}:replay", "replayRun", OPERATE, replay))
            .says("Start a new run of the same plan with the same inputs.")
            .takes::<ReplayRun>()
            .like(r#"{"runToken":"once more"}"#),
        again(Route::post("/runs/{runId}:rerun", "rerunRun", OPERATE, rerun))
            .says("Start a new run that begins at a step: what had succeeded and is not downstream of it keeps its output.")
            .takes::<RerunRun>()
            .like(r#"{"from":"greet"}"#),
    ]
}

/// What to run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StartRun {
    /// The DAG.
    #[schemars(with = "schema::Slug")]
    dag_id: DagId,
    /// The version; the newest enabled one without it.
    #[schemars(range(min = 1))]
    version: Option<u32>,
    /// The inputs, as the DAG's schema asks.
    #[serde(default = "empty")]
    #[schemars(with = "schema::Object")]
    inputs: Value,
    /// Names the run among those of the same DAG and inputs.
    #[schemars(length(min = 1, max = 1024))]
    run_token: Option<String>,
    /// Added to the priority of the steps.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    priority: i32,
    /// Why, for the record.
    #[schemars(length(min = 1, max = 1024))]
    rationale: Option<String>,
}

fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}

/// A started run.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Started {
    /// The run.
    #[schemars(with = "schema::RunId")]
    run_id: RunId,
    /// The trace that its steps belong to: 32 hex digits.
    trace_id: Option<String>,
    /// Whether this request made it; otherwise it was there already.
    created: bool,
    /// The run itself.
    run: RunView,
}

impl Started {
    pub(super) fn answer(submitted: Submitted) -> Answer<Self> {
        let Submitted { run, new } = submitted;
        let view = RunView::from(run);
        let started = Self { run_id: view.run_id, trace_id: view.trace_id.clone(), created: new, run: view };
        if new { Answer::created(started) } else { Answer::ok(started) }
    }
}

impl From<Started> for Submitted {
    fn from(started: Started) -> Self {
        Self { run: started.run.into(), new: started.created }
    }
}

/// A run as lists show it.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunView {
    /// The run.
    #[schemars(with = "schema::RunId")]
    run_id: RunId,
    /// Whose run it is.
    #[schemars(with = "schema::Slug")]
    tenant: orch::TenantId,
    /// The DAG.
    #[schemars(with = "schema::Slug")]
    dag_id: DagId,
    /// The published version; absent for a document that is not published.
    #[serde(skip_serializing_if = "Option::is_none")]
    dag_version: Option<u32>,
    /// Where it stands.
    #[schemars(with = "schema::RunStatus")]
    status: RunStatus,
    /// How many declared steps stand where.
    #[schemars(with = "schema::Object")]
    steps: orch::ledger::StepCounts,
    /// The token that names it.
    run_token: String,
    /// The trace that its steps belong to.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    /// The same with the span that it was started in (W3C Trace Context).
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    /// Who started it.
    actor: String,
    /// Its own priority.
    priority: i32,
    /// SHA-256 of the plan.
    #[schemars(with = "schema::Hash")]
    plan_hash: orch::Digest,
    /// SHA-256 of the inputs.
    #[schemars(with = "schema::Hash")]
    inputs_hash: orch::Digest,
    /// SHA-256 of the outputs, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Hash>")]
    outputs_hash: Option<orch::Digest>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The run that this one repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::RunId>")]
    replay_of: Option<RunId>,
    /// The run whose step this one carries out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::RunId>")]
    parent_run_id: Option<RunId>,
    /// That step.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_step: Option<ParentView>,
    /// When it was created.
    #[schemars(with = "schema::Time")]
    created_utc: Timestamp,
    /// When its first step started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    started_utc: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    ended_utc: Option<Timestamp>,
    /// When it is looked at next, whatever happens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    wake_utc: Option<Timestamp>,
    /// From its creation to its end, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    /// How many entries its record has.
    head_seq: u64,
    /// The hash of the last of them.
    #[schemars(with = "schema::Hash")]
    head_hash: orch::Digest,
}

/// The step that a run carries out.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ParentView {
    /// The step.
    #[schemars(with = "schema::StepKey")]
    step_id: StepKey,
    /// Which attempt of it.
    attempt: u32,
    /// How many runs stand above, the direct parent included.
    depth: u32,
}

impl From<RunRow> for RunView {
    fn from(row: RunRow) -> Self {
        let trace = row.traceparent.as_deref().and_then(|text| text.split('-').nth(1));
        Self {
            run_id: row.run,
            trace_id: trace.map(str::to_owned),
            tenant: row.tenant,
            dag_id: row.dag,
            dag_version: row.dag_version,
            status: row.status,
            steps: row.steps,
            run_token: row.run_token,
            actor: row.actor,
            priority: row.priority,
            plan_hash: row.plan_hash,
            inputs_hash: row.inputs_hash,
            outputs_hash: row.outputs_hash,
            error: row.error,
            replay_of: row.replay_of,
            traceparent: row.traceparent,
            parent_run_id: row.parent.as_ref().map(|parent| parent.run),
            parent_step: row.parent.map(|parent| ParentView {
                step_id: parent.step,
                attempt: parent.attempt,
                depth: parent.depth,
            }),
            wake_utc: row.wake_at,
            created_utc: row.created_at,
            started_utc: row.started_at,
            ended_utc: row.ended_at,
            duration_ms: row.ended_at.map(|end| millis(end.since(row.created_at))),
            head_seq: row.head.seq,
            head_hash: row.head.hash,
        }
    }
}

impl From<RunView> for RunRow {
    fn from(view: RunView) -> Self {
        let parent = view.parent_run_id.zip(view.parent_step);
        Self {
            tenant: view.tenant,
            run: view.run_id,
            dag: view.dag_id,
            dag_version: view.dag_version,
            status: view.status,
            steps: view.steps,
            priority: view.priority,
            actor: view.actor,
            run_token: view.run_token,
            plan_hash: view.plan_hash,
            inputs_hash: view.inputs_hash,
            outputs_hash: view.outputs_hash,
            error: view.error,
            traceparent: view.traceparent,
            replay_of: view.replay_of,
            parent: parent.map(|(run, ParentView { step_id, attempt, depth })| ParentStep {
                attempt,
                depth,
                run,
                step: step_id,
            }),
            created_at: view.created_utc,
            started_at: view.started_utc,
            ended_at: view.ended_utc,
            wake_at: view.wake_utc,
            head: Head { hash: view.head_hash, seq: view.head_seq },
        }
    }
}

/// Whole milliseconds.
pub(super) fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A run with what it made.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RunDetail {
    #[serde(flatten)]
    run: RunView,
    /// Why it was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    rationale: Option<String>,
    /// What it was given.
    #[schemars(with = "schema::Object")]
    inputs: Value,
    /// The outputs of the steps that nothing needs, by step.
    #[schemars(with = "schema::Object")]
    outputs: Value,
}

/// Which runs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListRuns {
    /// Only runs of this DAG.
    #[serde(rename = "dagId")]
    #[schemars(with = "Option<schema::Slug>")]
    dag_id: Option<DagId>,
    /// Only runs with this status.
    #[schemars(with = "Option<schema::RunStatus>")]
    status: Option<RunStatus>,
    /// Only runs created at or after.
    #[schemars(with = "Option<schema::Time>")]
    from: Option<Timestamp>,
    /// Only runs created before.
    #[schemars(with = "Option<schema::Time>")]
    to: Option<Timestamp>,
    /// Rows of the page.
    #[schemars(range(min = 1, max = 500))]
    page_size: Option<u32>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

async fn start(
    State(app): State<App>,
    caller: Caller,
    Body(body): Body<StartRun>,
) -> ApiResult<Answer<Started>> {
    let StartRun { dag_id, version, inputs, run_token, priority, rationale } = body;
    let dag = version
        .map_or_else(|| DagRef::Latest(dag_id.clone()), |version| DagRef::Version(dag_id.clone(), version));
    let (traceparent, run_token) = (Some(caller.trace.parent()), run_token.or_else(|| caller.run_token()));
    let baggage = caller.trace.baggage;
    let submit = Submit { dag, inputs, run_token, priority, rationale, traceparent, baggage };
    Ok(Started::answer(app.orch.submit(&caller.who, submit).await?))
}

async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(asked): Query<ListRuns>,
) -> ApiResult<Answer<Page<RunView>>> {
    let ListRuns { dag_id, status, from, to, page_size, page_token } = asked;
    let name = format!("runs?{dag_id:?}&{status:?}&{from:?}&{to:?}");
    let page = page::asked(&name, page_size, page_token.as_deref())?;
    let all = RunsQuery::all(caller.who.tenant.clone());
    let query = RunsQuery { dag: dag_id, status, from, to, limit: page.size, cursor: page.after, ..all };
    let found = app.orch.runs(&caller.who, query).await?;
    let items = found.runs.into_iter().map(Into::into).collect();
    Ok(Answer::ok(Page { items, next_page_token: found.next.map(|next| page::token(&name, next)) }))
}

async fn get(State(app): State<App>, caller: Caller, At(run): At<RunId>) -> ApiResult<Answer<RunDetail>> {
    let state = app.orch.inspect(&caller.who, run).await?;
    let outputs = state.outputs().into_iter().map(|(step, output)| (step.to_owned(), output.get().clone()));
    Ok(Answer::ok(RunDetail {
        run: state.row().into(),
        rationale: state.created.rationale.clone(),
        inputs: state.created.inputs.to_value(),
        outputs: Value::Object(outputs.collect()),
    }))
}

async fn status(State(app): State<App>, caller: Caller, At(run): At<RunId>) -> ApiResult<Answer<RunView>> {
    Ok(Answer::ok(app.orch.run(&caller.who, run).await?.into()))
}

async fn cancel(State(app): State<App>, caller: Caller, At(run): At<RunId>) -> ApiResult<Answer<RunView>> {
    Ok(Answer::ok(app.orch.cancel(&caller.who, run).await?.into()))
}

async fn pause(State(app): State<App>, caller: Caller, At(run): At<RunId>) -> ApiResult<Answer<RunView>> {
    Ok(Answer::ok(app.orch.pause(&caller.who, run).await?.into()))
}

async fn resume(State(app): State<App>, caller: Caller, At(run): At<RunId>) -> ApiResult<Answer<RunView>> {
    Ok(Answer::ok(app.orch.resume(&caller.who, run).await?.into()))
}

/// Which steps to retry.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RetryRun {
    /// The steps; all that failed or are parked without it.
    #[serde(default)]
    #[schemars(with = "Vec<schema::StepKey>", length(max = 1000))]
    steps: Vec<StepKey>,
}

async fn retry(
    State(app): State<App>,
    caller: Caller,
    At(run): At<RunId>,
    Body(body): Body<RetryRun>,
) -> ApiResult<Answer<RunView>> {
    Ok(Answer::ok(app.orch.retry(&caller.who, run, body.steps).await?.into()))
}

/// What is to be said of a replay.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ReplayRun {
    /// Names the new run: asked again with the same token, it is the same run.
    #[schemars(length(min = 1, max = 1024))]
    run_token: Option<String>,
}

impl ReplayRun {
    /// What goes along with the new run.
    pub(super) fn along(self, caller: &Caller) -> Resubmit {
        along(self.run_token, caller)
    }
}

fn along(run_token: Option<String>, caller: &Caller) -> Resubmit {
    Resubmit {
        run_token: run_token.or_else(|| caller.run_token()),
        traceparent: Some(caller.trace.parent()),
        baggage: caller.trace.baggage.clone(),
    }
}

async fn replay(
    State(app): State<App>,
    caller: Caller,
    At(run): At<RunId>,
    Body(body): Body<ReplayRun>,
) -> ApiResult<Answer<Started>> {
    Ok(Started::answer(app.orch.replay(&caller.who, run, body.along(&caller)).await?))
}

/// Where a rerun begins.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RerunRun {
    /// The step that runs again, with everything downstream of it.
    #[schemars(with = "schema::Slug")]
    from: StepId,
    /// Names the new run: asked again with the same token, it is the same run, wherever that was to begin.
    #[schemars(length(min = 1, max = 1024))]
    run_token: Option<String>,
}

async fn rerun(
    State(app): State<App>,
    caller: Caller,
    At(run): At<RunId>,
    Body(body): Body<RerunRun>,
) -> ApiResult<Answer<Started>> {
    let along = along(body.run_token, &caller);
    Ok(Started::answer(app.orch.rerun(&caller.who, run, &body.from, along).await?))
}
