//! `/runs/{runId}/logs`: what steps said.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::try_unfold;
use http::{StatusCode, header};
use orch::engine::RunEvents;
use orch::ledger::{ArtifactRef, Event};
use orch::{Digest, RunId, StepKey};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::App;
use crate::api::code::Code;
use crate::api::route::{NDJSON, Shape};
use crate::api::{ApiError, ApiResult, At, Caller, Guard, Query, Route, schema};
use crate::auth::Scope;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/runs/{runId}/logs", "getLogs", Guard::Scope(Scope::Read), logs)
            .says("What the attempts of a run said, in the order in which they ended, one line of JSON each.")
            .query::<AskLogs>()
            .gives_as(StatusCode::OK, NDJSON, Some(Shape::of::<LogView>()))
            .may(&[Code::NotFound])
            .endless(),
    ]
}

/// Whose logs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AskLogs {
    /// Only of this step; of a `forEach` step with all its children.
    #[serde(rename = "stepId")]
    #[schemars(with = "Option<schema::StepKey>")]
    step_id: Option<StepKey>,
}

/// A line of a log.
#[derive(Debug, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "names the fields of lines that are copied")]
struct LogView {
    /// The attempt that said it.
    attempt: u32,
    /// Its step.
    #[schemars(with = "schema::StepKey")]
    step_id: StepKey,
    /// When.
    #[schemars(with = "schema::Time")]
    at: String,
    /// What.
    line: String,
    /// Its place in the attempt's log, from 1.
    seq: u64,
    /// `stdout`, `stderr`, `step`, or `orch` for a remark about the log.
    stream: String,
}

/// The log that one attempt left behind.
struct Left {
    step: StepKey,
    attempt: u32,
    hash: Digest,
}

async fn logs(
    State(app): State<App>,
    caller: Caller,
    At(run): At<RunId>,
    Query(asked): Query<AskLogs>,
) -> ApiResult<Response> {
    if let Some(step) = &asked.step_id {
        let state = app.orch.inspect(&caller.who, run).await?;
        state.plan.position(step.id.as_str()).ok_or_else(|| ApiError::not_found("step"))?;
    } else {
        app.orch.run(&caller.who, run).await?;
    }
    let events = app.orch.events(&caller.who, run, 0, false);
    let reader = Reader { app, caller, events, step: asked.step_id };
    let chunks = try_unfold(reader, |mut reader| async move {
        Ok::<_, orch::Error>(reader.next().await?.map(|chunk| (chunk, reader)))
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(chunks)).into_response())
}

struct Reader {
    app: App,
    caller: Caller,
    events: RunEvents,
    step: Option<StepKey>,
}

impl Reader {
    /// The log of the next attempt.
    async fn next(&mut self) -> orch::Result<Option<Bytes>> {
        loop {
            let Some((entry, _)) = self.events.next().await? else { return Ok(None) };
            let Some(left) = left(entry.event).filter(|left| self.wants(&left.step)) else { continue };
            let text = self.app.orch.artifacts().get(&self.caller.who.tenant, &left.hash).await?;
            let chunk = label(&left, &text);
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    fn wants(&self, step: &StepKey) -> bool {
        let fits =
            |asked: &StepKey| step.id == asked.id && (asked.index.is_none() || asked.index == step.index);
        self.step.as_ref().is_none_or(fits)
    }
}

/// The lines of a log, each with the attempt that said it.
fn label(left: &Left, text: &[u8]) -> Bytes {
    let head = format!("{{\"attempt\":{},\"stepId\":\"{}\",", left.attempt, left.step);
    let mut out = Vec::with_capacity(text.len() * 2);
    for line in text.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"{")) {
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.into()
}

fn left(event: Event) -> Option<Left> {
    let (step, attempt, logs): (StepKey, u32, Option<ArtifactRef>) = match event {
        Event::StepSucceeded(e) => (e.step, e.attempt, e.logs),
        Event::StepFailed(e) => (e.step, e.attempt, e.logs),
        Event::StepParked(e) => (e.step, e.attempt, e.logs),
        Event::StepCancelled(e) => (e.step, e.attempt, e.logs),
        _ => return None,
    };
    Some(Left { step, attempt, hash: logs?.hash })
}
