//! `/gates`: what waits for somebody's verdict.

use axum::extract::State;
use http::StatusCode;
use orch::planner::{WaitingGate, waiting_gates};
use orch::store::{RunsCursor, RunsQuery};
use orch::{DagId, RunId, RunRow, RunStatus, StepKey, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::runs::RunView;
use crate::App;
use crate::api::code::Code;
use crate::api::page::{self, Page};
use crate::api::{Answer, ApiError, ApiResult, At, Body, Caller, Guard, Query, Route, schema};
use crate::auth::Scope;

/// Runs looked at for one page: a page may hold fewer gates than asked for, or none, and yet not be the last.
const ROWS: usize = 1_000;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/gates", "listGates", Guard::Scope(Scope::Read), list)
            .says("List gates that wait for a verdict, by run, newest first, then in the order of the plan. A page may hold fewer than asked for and yet not be the last.")
            .query::<ListGates>()
            .gives::<Page<GateView>>(StatusCode::OK),
        Route::post("/gates/{runId}/{stepId}:decide", "decideGate", Guard::Scope(Scope::Approve), decide)
            .says("Decide a gate. The verdict, who gave it and why become part of the record.")
            .takes::<Decide>()
            .like(r#"{"decision":"approved","reason":"looks good"}"#)
            .gives::<RunView>(StatusCode::OK)
            .may(&[Code::NotFound, Code::Refused]),
    ]
}

/// Which gates.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListGates {
    /// Only gates of runs of this DAG.
    #[serde(rename = "dagId")]
    #[schemars(with = "Option<schema::Slug>")]
    dag_id: Option<DagId>,
    /// Rows of the page.
    #[schemars(range(min = 1, max = 500))]
    page_size: Option<u32>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// A gate that waits.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct GateView {
    /// The run.
    #[schemars(with = "schema::RunId")]
    run_id: RunId,
    /// Its DAG.
    #[schemars(with = "schema::Slug")]
    dag_id: DagId,
    /// The step.
    #[schemars(with = "schema::StepKey")]
    step_id: StepKey,
    /// `gate/approval` or `gate/policy`.
    gate: String,
    /// What it asks.
    #[schemars(with = "schema::Json")]
    asked: Value,
    /// SHA-256 of the run's plan: a verdict may name it, so that it is good for this plan only.
    #[schemars(with = "schema::Hash")]
    plan_hash: orch::Digest,
    /// Since when it has waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    since_utc: Option<Timestamp>,
    /// When it fails without a verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    expires_utc: Option<Timestamp>,
}

/// Where a list of gates goes on: in the runs of a status, after a run, and perhaps with that run's gates from a place on.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Place {
    /// Index into [`OPEN`].
    status: usize,
    /// The run before, as the store's cursor.
    after: Option<String>,
    /// Gates of the next run that lie before this place of its plan have been listed.
    from: usize,
}

/// The statuses of runs that may wait.
const OPEN: [RunStatus; 2] = [RunStatus::Running, RunStatus::Paused];

async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(asked): Query<ListGates>,
) -> ApiResult<Answer<Page<GateView>>> {
    let name = format!("gates?{:?}", asked.dag_id);
    let page = page::asked(&name, asked.page_size, asked.page_token.as_deref())?;
    let damaged = |_| ApiError::invalid_at("?page_token", "the token is damaged");
    let mut place: Place = page
        .after
        .map_or_else(|| Ok(Place::default()), |text| serde_json::from_str(&text))
        .map_err(damaged)?;
    let (mut items, mut looked) = (Vec::new(), 0);
    while let Some(status) = OPEN.get(place.status) {
        let query = RunsQuery {
            dag: asked.dag_id.clone(),
            status: Some(*status),
            limit: 100,
            cursor: place.after.clone(),
            ..RunsQuery::all(caller.who.tenant.clone())
        };
        let found = app.orch.runs(&caller.who, query).await?;
        for row in found.runs {
            looked += 1;
            let room = page.size - items.len();
            let gates = gates_of(&app, &caller, &row, place.from, room + 1).await?;
            let rest = gates.get(room).map(|(at, _)| *at);
            items.extend(gates.into_iter().take(room).map(|(_, view)| view));
            if let Some(from) = rest {
                place.from = from;
                return answer(&name, items, Some(&place));
            }
            place = Place { after: Some(RunsCursor::of(&row).to_text()), from: 0, ..place };
        }
        if found.next.is_none() {
            place = Place { status: place.status + 1, ..Place::default() };
        } else if looked >= ROWS {
            return answer(&name, items, Some(&place));
        }
    }
    answer(&name, items, None)
}

fn answer(name: &str, items: Vec<GateView>, next: Option<&Place>) -> ApiResult<Answer<Page<GateView>>> {
    let next = next.and_then(|place| serde_json::to_string(place).ok());
    Ok(Answer::ok(Page { items, next_page_token: next.map(|place| page::token(name, place)) }))
}

/// The gates of a run from a place of its plan on, with their places.
async fn gates_of(
    app: &App,
    caller: &Caller,
    row: &RunRow,
    from: usize,
    most: usize,
) -> ApiResult<Vec<(usize, GateView)>> {
    if row.steps.waiting == 0 {
        return Ok(Vec::new());
    }
    let state = app.orch.inspect(&caller.who, row.run).await?;
    let view = |gate: WaitingGate| GateView {
        run_id: row.run,
        dag_id: row.dag.clone(),
        step_id: gate.step,
        gate: gate.uses.to_string(),
        asked: gate.asked.to_value(),
        plan_hash: row.plan_hash,
        since_utc: gate.since,
        expires_utc: gate.expires_at,
    };
    let gates = waiting_gates(&state).filter(|gate| gate.place >= from).take(most);
    Ok(gates.map(|gate| (gate.place, view(gate))).collect())
}

/// The verdict on a gate.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Decide {
    /// Whether the run may pass.
    decision: Decision,
    /// Why, for the record.
    #[schemars(length(min = 1, max = 1024))]
    reason: Option<String>,
    /// The plan that the verdict is about: another one is refused.
    #[schemars(with = "Option<schema::Hash>")]
    plan_hash: Option<orch::Digest>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Decision {
    /// It may.
    Approved,
    /// It may not: the step fails.
    Rejected,
}

async fn decide(
    State(app): State<App>,
    mut caller: Caller,
    At(run): At<RunId>,
    At(step): At<StepKey>,
    Body(verdict): Body<Decide>,
) -> ApiResult<Answer<RunView>> {
    if let Some(hash) = verdict.plan_hash
        && app.orch.run(&caller.who, run).await?.plan_hash != hash
    {
        return Err(ApiError::new(Code::Refused, "the verdict is about another plan than the run's"));
    }
    caller.who.reason = verdict.reason.or(caller.who.reason);
    let approved = matches!(verdict.decision, Decision::Approved);
    Ok(Answer::ok(app.orch.decide(&caller.who, run, step, approved).await?.into()))
}
