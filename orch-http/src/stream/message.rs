//! What streams say: one message for each entry of a run's record that somebody may want to hear of.

use std::sync::Arc;

use orch::ledger::{ArtifactRef, Entry, Event, ProgressNote};
use orch::{DagId, RunId, RunStatus, StepKey, StepStatus, TenantId, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::schema;

/// A message as clients see it: one line of JSON.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MessageView {
    /// `run.started`, `run.updated`, `run.completed`, `run.failed`, `run.cancelled`, `step.updated`, `gate.requested`,
    /// `gate.decided` or `log`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Where to go on after this message: the `cursor` of the stream that resumes, or its `Last-Event-ID`.
    cursor: String,
    /// Whose run.
    #[schemars(with = "schema::Slug")]
    tenant: TenantId,
    /// Its DAG.
    #[schemars(with = "schema::Slug")]
    dag_id: DagId,
    /// The run.
    #[schemars(with = "schema::RunId")]
    run_id: RunId,
    /// Where the run stands after it.
    #[schemars(with = "schema::RunStatus")]
    status: RunStatus,
    /// When it was decided.
    #[schemars(with = "schema::Time")]
    timestamp: Timestamp,
    /// The trace that the run belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<Arc<str>>,
    /// The number of the entry in the record of the run.
    seq: u64,
    /// What kind of entry it is, such as `step.failed`.
    event: &'static str,
    #[serde(flatten)]
    step: Option<StepPart>,
}

/// What a message says of a step.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct StepPart {
    /// The step.
    #[schemars(with = "schema::StepKey")]
    step_id: Option<StepKey>,
    /// Where it stands after the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::StepStatus>")]
    step_status: Option<StepStatus>,
    /// The attempt it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    /// Why it failed: a stable word.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<String>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// Whether a gate was opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    approved: Option<bool>,
    /// The artifact that holds what the attempt said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Hash>")]
    logs_ref: Option<orch::Digest>,
}

impl StepPart {
    fn of(step: &StepKey, status: StepStatus, attempt: u32) -> Self {
        let attempt = (attempt > 0).then_some(attempt);
        Self { step_id: Some(step.clone()), step_status: Some(status), attempt, ..Self::default() }
    }
}

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: &'static str,
    pub(crate) cursor: String,
    pub(crate) status: RunStatus,
    pub(crate) dag: DagId,
    /// The message as JSON.
    pub(crate) line: String,
}

/// Which messages somebody wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Only those of runs of this DAG.
    pub(crate) dag: Option<DagId>,
    /// Only those after which the run has this status.
    pub(crate) status: Option<RunStatus>,
}

impl Filter {
    pub(crate) fn wants(&self, message: &Message) -> bool {
        self.dag.as_ref().is_none_or(|dag| *dag == message.dag)
            && self.status.is_none_or(|status| status == message.status)
    }
}

/// What must be known of a run to tell of its entries.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    dag: DagId,
    trace: Option<Arc<str>>,
    status: RunStatus,
}

impl Known {
    /// What a run's first entry tells; nothing for another entry.
    pub(crate) fn of_first(entry: &Entry) -> Option<Self> {
        let Event::RunCreated(created) = &entry.event else { return None };
        let trace = trace(created.traceparent.as_deref());
        Some(Self { dag: created.dag_id.clone(), trace, status: RunStatus::Pending })
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.status.is_terminal()
    }

    /// Takes an entry in without telling of it.
    pub(crate) fn see(&mut self, entry: &Entry) {
        self.status = status_after(&entry.event, self.status);
    }

    /// The messages that tell of an entry. `cursor` names each by its place among them.
    pub(crate) fn messages(
        &mut self,
        entry: &Entry,
        run: RunId,
        cursor: impl Fn(u32) -> String,
    ) -> Vec<Message> {
        self.see(entry);
        let parts = parts(&entry.event);
        let message = |(place, (kind, step)): (u32, (&'static str, Option<StepPart>))| {
            let cursor = cursor(place);
            let view = MessageView {
                kind,
                cursor: cursor.clone(),
                tenant: entry.tenant.clone(),
                dag_id: self.dag.clone(),
                run_id: run,
                status: self.status,
                timestamp: entry.at,
                trace_id: self.trace.clone(),
                seq: entry.seq,
                event: entry.event.type_name(),
                step,
            };
            let line = serde_json::to_string(&view).unwrap_or_default();
            Message { kind, cursor, status: self.status, dag: self.dag.clone(), line }
        };
        (0..).zip(parts).map(message).collect()
    }
}

fn trace(traceparent: Option<&str>) -> Option<Arc<str>> {
    traceparent.and_then(|text| text.split('-').nth(1)).map(Into::into)
}

/// Where a run stands after an entry.
fn status_after(event: &Event, before: RunStatus) -> RunStatus {
    match event {
        Event::RunCreated(_) => RunStatus::Pending,
        Event::RunStarted(_) | Event::RunResumed(_) | Event::RunRetried(_) => RunStatus::Running,
        Event::RunPaused(_) => RunStatus::Paused,
        Event::RunCompleted(_) => RunStatus::Completed,
        Event::RunFailed(_) => RunStatus::Failed,
        Event::RunCancelled(_) => RunStatus::Cancelled,
        _ => before,
    }
}

/// The messages that an entry becomes: one, or one for each note it brings, and one more for a log.
fn parts(event: &Event) -> Vec<(&'static str, Option<StepPart>)> {
    if let Event::AttemptProgress(e) = event {
        let note = |note: &ProgressNote| StepPart {
            note: Some(note.note.clone()),
            ..StepPart::of(&note.step, StepStatus::Running, note.attempt)
        };
        return e.notes.iter().map(|said| ("step.updated", Some(note(said)))).collect();
    }
    let (kind, step) = said(event);
    let log = logs(event).zip(step.as_ref()).map(|(logs, step)| StepPart {
        step_id: step.step_id.clone(),
        attempt: step.attempt,
        logs_ref: Some(logs.hash),
        ..StepPart::default()
    });
    std::iter::once((kind, step)).chain(log.map(|log| ("log", Some(log)))).collect()
}

/// What kind of message an entry becomes, and what it says of a step.
fn said(event: &Event) -> (&'static str, Option<StepPart>) {
    let of = StepPart::of;
    let failed = |step: &StepKey, status, attempt, code: &str| StepPart {
        error_code: Some(code.to_owned()),
        ..of(step, status, attempt)
    };
    let step = match event {
        Event::RunStarted(_) => return ("run.started", None),
        Event::RunCompleted(_) => return ("run.completed", None),
        Event::RunFailed(_) => return ("run.failed", None),
        Event::RunCancelled(_) => return ("run.cancelled", None),
        Event::GateRequested(e) => return ("gate.requested", Some(of(&e.step, StepStatus::Waiting, 0))),
        Event::GateDecided(e) => {
            let part =
                StepPart { step_id: Some(e.step.clone()), approved: Some(e.approved), ..StepPart::default() };
            return ("gate.decided", Some(part));
        }
        Event::StepScheduled(e) => of(&e.step, StepStatus::Queued, e.attempt),
        Event::StepStarted(e) => of(&e.step, StepStatus::Running, e.attempt),
        Event::StepSucceeded(e) => of(&e.step, StepStatus::Succeeded, e.attempt),
        Event::StepFailed(e) => {
            let status = if e.retry_at.is_some() { StepStatus::Queued } else { StepStatus::Failed };
            failed(&e.step, status, e.attempt, &e.code)
        }
        Event::StepLost(e) => failed(&e.step, StepStatus::Queued, e.attempt, "lost"),
        Event::StepSkipped(e) => failed(&e.step, StepStatus::Skipped, 0, &e.reason),
        Event::StepParked(e) => failed(&e.step, StepStatus::Parked, e.attempt, &e.code),
        Event::StepCancelled(e) => of(&e.step, StepStatus::Cancelled, e.attempt),
        Event::StepWaiting(e) => of(&e.step, StepStatus::Waiting, 0),
        Event::MapExpanded(e) => of(&e.step, StepStatus::Running, 0),
        _ => return ("run.updated", None),
    };
    ("step.updated", Some(step))
}

fn logs(event: &Event) -> Option<&ArtifactRef> {
    match event {
        Event::StepSucceeded(e) => e.logs.as_ref(),
        Event::StepFailed(e) => e.logs.as_ref(),
        Event::StepParked(e) => e.logs.as_ref(),
        Event::StepCancelled(e) => e.logs.as_ref(),
        _ => None,
    }
}
