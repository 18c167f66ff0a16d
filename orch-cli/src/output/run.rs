//! A run as people and machines see it: where its steps stand, what it made, what it waits for.

use std::collections::BTreeMap;

use comfy_table::{Cell, CellAlignment};
use orch::ledger::{ArtifactRef, ReusedFrom, StepStatus};
use orch::planner::{RunState, StepRef, StepState};
use orch::store::RunRow;
use orch::{Clock as _, Payload, StepKey, SystemClock, Timestamp};
use serde::Serialize;

use super::table::{table, text};
use super::{Out, given, style, words};
use crate::carry::{Need, Reused, What};
use crate::commands::Comparison;

/// The most rows of one table of steps.
const ROWS: usize = 200;
/// The most rows of children of one step.
const CHILDREN: usize = 10;
/// The most lines of what people have to do.
const NEEDS: usize = 10;
/// The most characters of a note.
const NOTE: usize = 100;

/// A run for a machine.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunDocument<'a> {
    #[serde(flatten)]
    row: RunRow,
    inputs: &'a Payload,
    #[serde(skip_serializing_if = "Option::is_none")]
    rationale: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a str>,
    step_states: Vec<StepDocument<'a>>,
    /// What the run gives: the outputs of its final steps.
    outputs: BTreeMap<&'a str, &'a Payload>,
    artifacts: Vec<Made>,
    needs: &'a [Need],
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<&'a Comparison>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StepDocument<'a> {
    step: StepKey,
    uses: String,
    status: StepStatus,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_hash: Option<orch::Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<&'a ArtifactRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    child_run: Option<orch::RunId>,
    /// Where the output comes from, when the step did not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    reused: Option<&'a ReusedFrom>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    children: Vec<Self>,
}

/// Something a step made.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    step: StepKey,
    #[serde(flatten)]
    artifact: ArtifactRef,
    /// The file, as the step names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

/// A run as it stands, for a person or a machine.
pub(crate) fn result(
    out: &Out,
    state: &RunState,
    reused: &Reused,
    needs: &[Need],
    comparison: Option<&Comparison>,
) {
    if out.json {
        out.document(&document(state, reused, needs, comparison));
        return;
    }
    out.line(steps(state, reused));
    let made = made(state);
    if !made.is_empty() {
        out.line("");
        out.line(artifacts(&made));
    }
    if let Some(outputs) = given::outputs(state) {
        out.line("");
        out.line(outputs);
    }
    out.line("");
    out.line(summary(state));
    for need in needs.iter().take(NEEDS) {
        out.line(advice(need));
    }
    if needs.len() > NEEDS {
        out.line(format_args!("  … and {} more", needs.len() - NEEDS));
    }
    if let Some(comparison) = comparison {
        out.line("");
        out.line(comparison.table());
    }
}

fn document<'a>(
    state: &'a RunState,
    reused: &'a Reused,
    needs: &'a [Need],
    comparison: Option<&'a Comparison>,
) -> RunDocument<'a> {
    let step = |(at, step): (StepRef, &'a StepState)| {
        let children = step.map.iter().flat_map(|map| &map.children).zip(0..);
        let children = children.map(|(child, place)| {
            step_document(state, reused, StepRef { child: Some(place), ..at }, child, Vec::new())
        });
        step_document(state, reused, at, step, children.collect())
    };
    RunDocument {
        row: state.row(),
        inputs: &state.created.inputs,
        rationale: state.created.rationale.as_deref(),
        sandbox: state.created.sandbox.as_deref(),
        step_states: top(state).map(step).collect(),
        outputs: state.outputs().into_iter().map(|(step, output)| (step, output.payload())).collect(),
        artifacts: made(state),
        needs,
        comparison,
    }
}

fn step_document<'a>(
    state: &RunState,
    reused: &'a Reused,
    at: StepRef,
    step: &'a StepState,
    children: Vec<StepDocument<'a>>,
) -> StepDocument<'a> {
    StepDocument {
        step: state.key_of(at),
        uses: state.spec(at).uses.to_string(),
        status: step.status,
        attempts: step.attempt,
        started_at: step.started_at,
        ended_at: step.ended_at,
        output: step.output.as_ref().map(|output| output.payload()),
        output_hash: step.output_hash,
        error: step
            .error
            .as_ref()
            .map(|error| serde_json::json!({ "code": error.code, "message": error.message })),
        logs: step.logs.as_deref(),
        child_run: step.child_run,
        reused: reused.get(&state.key_of(at)),
        children,
    }
}

fn top(state: &RunState) -> impl Iterator<Item = (StepRef, &StepState)> {
    (0..).map(StepRef::top).zip(state.steps())
}

/// Every step with its children.
fn every(state: &RunState) -> impl Iterator<Item = (StepRef, &StepState)> {
    top(state).flat_map(|(at, step)| {
        let children = step.map.iter().flat_map(|map| &map.children).zip(0..);
        let children = children.map(move |(child, place)| (StepRef { child: Some(place), ..at }, child));
        std::iter::once((at, step)).chain(children)
    })
}

/// The runs of sub-DAGs, with the steps they carry out.
pub(crate) fn child_runs(state: &RunState) -> impl Iterator<Item = (StepKey, orch::RunId)> {
    every(state).filter_map(|(at, step)| Some((state.key_of(at), step.child_run?)))
}

/// The table of steps; of very many steps, those that did not simply succeed.
fn steps(state: &RunState, reused: &Reused) -> String {
    let many = state.steps().len() > ROWS;
    let mut rows = table(&["STEP", "STATUS", "ATTEMPTS", "TOOK", "NOTE"]);
    for column in [2, 3] {
        if let Some(column) = rows.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut hidden = 0;
    for (at, step) in top(state) {
        if many && (step.status == StepStatus::Succeeded || rows.row_count() >= ROWS) {
            hidden += 1;
            continue;
        }
        rows.add_row(row(state, reused, at, step));
        let children = step.map.iter().flat_map(|map| &map.children).zip(0..);
        let troubled = children.filter(|(child, _)| {
            matches!(child.status, StepStatus::Failed | StepStatus::Parked | StepStatus::Running)
        });
        for (child, place) in troubled.take(CHILDREN) {
            rows.add_row(row(state, reused, StepRef { child: Some(place), ..at }, child));
        }
    }
    let mut shown = text(&rows);
    if hidden > 0 {
        let dim = style::DIM;
        shown.push_str(&format!(
            "\n{dim}… and {} that nothing is to be said of{dim:#}",
            words::count(hidden, "step")
        ));
    }
    shown
}

fn row(state: &RunState, reused: &Reused, at: StepRef, step: &StepState) -> Vec<Cell> {
    let indent = if at.child.is_some() { "  " } else { "" };
    let took = step.started_at.zip(step.ended_at).map(|(from, to)| words::span(to.since(from)));
    let attempts = if step.attempt == 0 { "–".to_owned() } else { step.attempt.to_string() };
    vec![
        Cell::new(format!("{indent}{}", state.key_of(at))),
        style::step_cell(step.status),
        Cell::new(attempts),
        Cell::new(took.unwrap_or_else(|| "–".to_owned())),
        Cell::new(note(step, reused.get(&state.key_of(at)))),
    ]
}

/// What else is to be said of a step.
fn note(step: &StepState, reused: Option<&ReusedFrom>) -> String {
    let mut parts = Vec::new();
    if let Some(from) = reused {
        parts.push(format!("reused from {}", words::short(from.run)));
    }
    if let Some(map) = &step.map {
        parts.push(words::count(map.children.len(), "item"));
        if map.failed > 0 {
            parts.push(format!("{} failed", map.failed));
        }
    }
    if let Some(wait) = step.wait.as_ref().filter(|_| step.status == StepStatus::Waiting) {
        match (&wait.signal, wait.until) {
            (Some(signal), _) => parts.push(format!("for the signal {signal}")),
            (None, Some(until)) => parts.push(format!("until {}", orch::time::for_people(until))),
            (None, None) => parts.push("for a verdict".to_owned()),
        }
        if let Some(expires) = wait.expires_at {
            parts.push(format!("expires {}", words::relative(expires, SystemClock.now())));
        }
    }
    if let Some(verdict) = step.wait.as_ref().and_then(|wait| wait.verdict.as_ref()) {
        let word = if verdict.approved { "approved" } else { "rejected" };
        parts.push(format!("{word} by {}", words::one_line(&verdict.actor)));
    }
    if let Some(run) = step.child_run {
        parts.push(format!("run {}", words::short(run)));
    }
    let troubled = !matches!(step.status, StepStatus::Succeeded);
    if let Some(error) = step.error.as_ref().filter(|_| troubled) {
        let message = words::one_line(&error.message);
        parts.push(if step.status == StepStatus::Skipped {
            message
        } else {
            format!("{}: {message}", error.code)
        });
    }
    shorten(&parts.join(", "))
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= NOTE {
        return text.to_owned();
    }
    text.chars().take(NOTE - 1).chain(['…']).collect()
}

/// The artifacts that steps made on purpose: outputs of the shape that `fn/write` has.
fn made(state: &RunState) -> Vec<Made> {
    #[derive(serde::Deserialize)]
    struct Written {
        artifact: ArtifactRef,
        path: Option<String>,
    }
    every(state)
        .filter(|(at, _)| state.spec(*at).uses.to_string() == "fn/write")
        .filter_map(|(at, step)| {
            let written: Written = step.output.as_ref()?.payload().decode().ok()?;
            Some(Made { step: state.key_of(at), artifact: written.artifact, file: written.path })
        })
        .collect()
}

fn artifacts(made: &[Made]) -> String {
    let mut rows = table(&["MADE", "SIZE", "SHA-256"]);
    if let Some(column) = rows.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for made in made.iter().take(ROWS) {
        let name = made.file.as_ref().or(made.artifact.name.as_ref());
        rows.add_row([
            name.map_or_else(|| made.step.to_string(), |name| words::one_line(name)),
            words::size(made.artifact.size),
            made.artifact.hash.to_string(),
        ]);
    }
    text(&rows)
}

/// One line about the run as a whole.
pub(crate) fn summary(state: &RunState) -> String {
    let until = state.ended.as_ref().map_or(state.last_at, |ended| ended.at);
    let bold = style::BOLD;
    let mut line = format!(
        "{} {bold}{}{bold:#} run {} in {}: {}",
        style::run(state.status()),
        state.created.dag_id,
        words::short(state.key.run),
        words::span(until.since(state.created_at)),
        words::counts(&state.counts()),
    );
    if let Some(error) = state.ended.as_ref().and_then(|ended| ended.error.as_ref()) {
        line.push_str(&format!("\n  {}", words::one_line(error)));
    }
    line
}

/// What to type so that the run goes on.
pub(crate) fn advice(need: &Need) -> String {
    let run = words::short(need.run);
    let step = need.step.as_ref().map(ToString::to_string).unwrap_or_default();
    match &need.what {
        What::Verdict => {
            format!("  {step} waits for a verdict: orch gate decide {run} {step} approve|reject")
        }
        What::Signal { signal } => {
            format!("  {step} waits for a signal: orch signal send {run} {signal} [JSON]")
        }
        What::Retry => format!("  {step} is parked: orch runs retry {run} {step}, or orch runs cancel {run}"),
        What::Executor { uses } if uses == "process" => {
            format!("  {step} is a process step: orch work --sandbox none")
        }
        What::Executor { uses } => {
            format!("  {step} uses {uses}, which a program that embeds orch has to execute")
        }
        What::Resume => format!("  the run is held: orch runs resume {run}"),
    }
}
