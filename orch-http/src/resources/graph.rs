//! `/runs/{runId}/graph` and `/runs/{runId}/explain`: a run as a picture, and why it is where it is.

use std::collections::HashMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use orch::graph::{Graph, layout, to_dot, to_mermaid, to_svg};
use orch::planner::{Explanation, RunState, explain as explained};
use orch::{RunId, StepKey, StepStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::App;
use crate::api::code::Code;
use crate::api::{Answer, ApiError, ApiResult, At, Caller, Guard, Query, Route, schema};
use crate::auth::Scope;

/// Steps of a run that is drawn at most.
const STEPS_MAX: usize = 10_000;

const READ: Guard = Guard::Scope(Scope::Read);

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/runs/{runId}/graph", "getGraph", READ, graph)
            .says("The steps of a run and what needs what, laid out; as JSON, SVG, Graphviz or Mermaid. A run of more than 10 000 steps is not drawn.")
            .query::<AskGraph>()
            .gives::<GraphView>(StatusCode::OK)
            .gives_as(StatusCode::OK, "image/svg+xml", None)
            .gives_as(StatusCode::OK, "text/plain; charset=utf-8", None)
            .may(&[Code::NotFound, Code::LimitExceeded]),
        Route::get("/runs/{runId}/explain", "explainStep", READ, explain)
            .says("Why a step is where it is: its own reasons, then those of what it waits for.")
            .query::<AskExplain>()
            .gives::<ExplanationView>(StatusCode::OK)
            .may(&[Code::NotFound]),
    ]
}

/// How to draw.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AskGraph {
    /// As what; `json` without it.
    format: Option<Format>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Format {
    /// Places and points for whoever draws.
    Json,
    /// A picture.
    Svg,
    /// Text for Graphviz.
    Dot,
    /// Text for Mermaid.
    Mermaid,
}

/// A run as a picture, in whole pixels from the top left corner.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct GraphView {
    /// The width of the picture.
    width: i64,
    /// The height of the picture.
    height: i64,
    /// The cards, in the order in which the steps execute.
    nodes: Vec<NodeView>,
    /// The arrows.
    edges: Vec<EdgeView>,
}

/// A card.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct NodeView {
    /// The step.
    step_id: String,
    /// What runs it.
    detail: String,
    /// Where it stands.
    #[schemars(with = "Option<schema::StepStatus>")]
    status: Option<StepStatus>,
    /// Its left side.
    x: i64,
    /// Its upper side.
    y: i64,
    /// Its width.
    width: i64,
    /// Its height.
    height: i64,
    /// Its column, from 0 at the left.
    layer: usize,
}

/// An arrow.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EdgeView {
    /// The step that is needed.
    from: String,
    /// The step that needs it.
    to: String,
    /// The points it goes through; segments lie in the gap between two columns and level within columns, in turn.
    points: Vec<(i64, i64)>,
}

async fn graph(
    State(app): State<App>,
    caller: Caller,
    At(run): At<RunId>,
    Query(asked): Query<AskGraph>,
) -> ApiResult<Response> {
    let state = app.orch.inspect(&caller.who, run).await?;
    if state.steps().len() > STEPS_MAX {
        return Err(ApiError::new(
            Code::LimitExceeded,
            format!("a run of more than {STEPS_MAX} steps is not drawn"),
        ));
    }
    let format = asked.format.unwrap_or(Format::Json);
    // Laying thousands of cards out takes a while, and nobody else is to wait for it.
    let drawn = tokio::task::spawn_blocking(move || draw(&state, format)).await;
    drawn.map_err(|cause| orch::Error::internal("a picture was not drawn").caused_by(cause).into())
}

fn draw(state: &RunState, format: Format) -> Response {
    let mut graph = Graph::of_dag(state.plan.dag());
    let status: HashMap<&str, StepStatus> = state
        .plan
        .steps()
        .iter()
        .zip(state.steps())
        .map(|(spec, step)| (spec.id.as_str(), step.status))
        .collect();
    for node in &mut graph.nodes {
        node.status = status.get(node.id.as_str()).copied();
    }
    let text = |media: &'static str, text: String| ([(header::CONTENT_TYPE, media)], text).into_response();
    match format {
        Format::Json => Answer::ok(view(&graph)).into_response(),
        Format::Svg => text("image/svg+xml", to_svg(&graph, &layout(&graph))),
        Format::Dot => text("text/plain; charset=utf-8", to_dot(&graph)),
        Format::Mermaid => text("text/plain; charset=utf-8", to_mermaid(&graph)),
    }
}

fn view(graph: &Graph) -> GraphView {
    let layout = layout(graph);
    let nodes = graph.nodes.iter().zip(&layout.nodes).map(|(node, placed)| NodeView {
        step_id: node.id.clone(),
        detail: node.detail.clone(),
        status: node.status,
        x: placed.x,
        y: placed.y,
        width: placed.w,
        height: placed.h,
        layer: placed.layer,
    });
    let id = |at: usize| graph.nodes.get(at).map(|node| node.id.clone()).unwrap_or_default();
    let edges = graph.edges.iter().zip(&layout.edges);
    let edges =
        edges.map(|((from, to), points)| EdgeView { from: id(*from), to: id(*to), points: points.clone() });
    GraphView { width: layout.width, height: layout.height, nodes: nodes.collect(), edges: edges.collect() }
}

/// Which step.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AskExplain {
    /// The step.
    #[serde(rename = "stepId")]
    #[schemars(with = "schema::StepKey")]
    step_id: StepKey,
}

/// Why a step is where it is.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ExplanationView {
    /// The step.
    #[schemars(with = "schema::StepKey")]
    step_id: StepKey,
    /// Where it stands.
    #[schemars(with = "schema::StepStatus")]
    status: StepStatus,
    /// One sentence.
    summary: String,
    /// What it comes from, nearest first; 50 at most.
    reasons: Vec<ReasonView>,
}

/// One reason.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ReasonView {
    /// The step it is about.
    #[schemars(with = "schema::StepKey")]
    step_id: StepKey,
    /// A stable word.
    code: &'static str,
    /// In words.
    message: String,
    /// The particulars.
    #[schemars(with = "schema::Json")]
    data: Value,
}

impl From<Explanation> for ExplanationView {
    fn from(explanation: Explanation) -> Self {
        let reasons = explanation.reasons.into_iter().map(|reason| ReasonView {
            step_id: reason.step,
            code: reason.code,
            message: reason.message,
            data: reason.data,
        });
        Self {
            step_id: explanation.step,
            status: explanation.status,
            summary: explanation.summary,
            reasons: reasons.collect(),
        }
    }
}

async fn explain(
    State(app): State<App>,
    caller: Caller,
    At(run): At<RunId>,
    Query(asked): Query<AskExplain>,
) -> ApiResult<Answer<ExplanationView>> {
    let state = app.orch.inspect(&caller.who, run).await?;
    Ok(Answer::ok(explained(&state, &asked.step_id, app.orch.now())?.into()))
}
