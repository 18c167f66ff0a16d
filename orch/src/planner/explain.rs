//! Why a step is where it is, in words and as data.

use std::collections::{BTreeSet, VecDeque};

use serde::Serialize;
use serde_json::{Value, json};

use super::state::{RunState, StepRef, StepState};
use crate::error::{Error, Result};
use crate::id::StepKey;
use crate::ledger::StepStatus;
use crate::time::Timestamp;

/// The most reasons an explanation gives.
const REASONS: usize = 50;

/// Why a step is where it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The step.
    pub step: StepKey,
    /// Where it stands.
    pub status: StepStatus,
    /// One sentence.
    pub summary: String,
    /// What it comes from: the step's own reasons first, then those of what it waits for, nearest first, down to the
    /// roots; 50 at most.
    pub reasons: Vec<Reason>,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// The step it is about.
    pub step: StepKey,
    /// A stable code: `needs`, `turn`, `paused`, `ending`, `ended`, `maxParallel`, `parentNeeds`, `backoff`,
    /// `queued`, `running`, `subDag`, `children`, `gate`, `signal`, `sleep`, `parked`, `failed`, `skipped`,
    /// `cancelled`, `succeeded`.
    pub code: &'static str,
    /// In words.
    pub message: String,
    /// The particulars.
    pub data: Value,
}

/// Explains why the step stands where it does.
///
/// # Errors
/// `NotFound` for a step the run does not have.
pub fn explain(state: &RunState, step: &StepKey, now: Timestamp) -> Result<Explanation> {
    let at =
        state.find(step).ok_or_else(|| Error::not_found("the run has no such step").with("step", step))?;
    let mut reasons: Vec<Reason> = Vec::new();
    let mut seen = BTreeSet::from([at]);
    let mut open = VecDeque::from([at]);
    while let Some(at) = open.pop_front() {
        let (own, causes) = Look { state, at, now }.reasons();
        // Half of the room is for the way, half for where it leads.
        let room = if causes.is_empty() { REASONS } else { REASONS / 2 };
        reasons.extend(own.into_iter().take(room.saturating_sub(reasons.len())));
        open.extend(causes.into_iter().filter(|cause| seen.insert(*cause)));
    }
    let status = state.at(at).status;
    let summary = match reasons.first() {
        Some(first) => format!("`{step}` is {status}: {}.", first.message),
        None => format!("`{step}` is {status}."),
    };
    Ok(Explanation { step: step.clone(), status, summary, reasons })
}

/// A look at one step.
struct Look<'a> {
    state: &'a RunState,
    at: StepRef,
    now: Timestamp,
}

impl Look<'_> {
    /// Its own reasons, and the steps whose reasons are behind them.
    fn reasons(&self) -> (Vec<Reason>, Vec<StepRef>) {
        let step = self.state.at(self.at);
        match step.status {
            StepStatus::Pending => self.pending(step),
            StepStatus::Queued => (self.queued(step), Vec::new()),
            StepStatus::Running => self.running(step),
            StepStatus::Waiting => (vec![self.waiting(step)], Vec::new()),
            StepStatus::Skipped => self.skipped(step),
            StepStatus::Failed => self.failed(step),
            StepStatus::Parked => (vec![self.parked(step)], Vec::new()),
            StepStatus::Succeeded => (vec![self.succeeded(step)], Vec::new()),
            StepStatus::Cancelled => (vec![self.cancelled(step)], Vec::new()),
        }
    }

    fn reason(&self, code: &'static str, message: String, data: Value) -> Reason {
        Reason { step: self.state.key_of(self.at), code, message, data }
    }

    /// What holds the whole run.
    fn held(&self) -> Option<Reason> {
        if let Some(ended) = &self.state.ended {
            let message = format!("the run has ended ({})", ended.status);
            return Some(self.reason("ended", message, json!({"status": ended.status, "at": ended.at})));
        }
        if let Some(ending) = &self.state.ending {
            let data = json!({"code": ending.code, "reason": ending.reason});
            return Some(self.reason("ending", "the run is being cancelled".to_owned(), data));
        }
        let paused = "the run is paused; resume it to go on".to_owned();
        self.state.paused.then(|| self.reason("paused", paused, json!({})))
    }

    fn pending(&self, step: &StepState) -> (Vec<Reason>, Vec<StepRef>) {
        let unsettled = self.unsettled_needs();
        let mut reasons = Vec::new();
        if self.at.child.is_some() && !unsettled.is_empty() {
            let message = format!("its items wait for {}", self.list(&unsettled));
            reasons.push(self.reason("parentNeeds", message, json!({"needs": self.keys(&unsettled)})));
        } else if !unsettled.is_empty() {
            let message = format!("it waits for {}", self.list(&unsettled));
            reasons.push(self.reason("needs", message, json!({"needs": self.keys(&unsettled)})));
        }
        reasons.extend(self.held());
        if let (true, Some(until)) = (reasons.is_empty(), step.not_before.filter(|until| *until > self.now)) {
            reasons.push(self.backoff(step, until));
        }
        if let (true, Some(map)) = (reasons.is_empty(), self.parent_map()) {
            let places = self.state.places(self.at);
            let message = format!("all {places} places of `maxParallel` are taken");
            reasons.push(self.reason(
                "maxParallel",
                message,
                json!({"maxParallel": places, "active": map.active}),
            ));
        }
        if reasons.is_empty() {
            let message = "its turn has come; it is decided with the next look at the run".to_owned();
            reasons.push(self.reason("turn", message, json!({})));
        }
        (reasons, unsettled)
    }

    fn parent_map(&self) -> Option<&super::state::MapState> {
        self.at.child?;
        self.state.at(StepRef::top(self.at.step)).map.as_deref()
    }

    fn unsettled_needs(&self) -> Vec<StepRef> {
        let needs = self.state.plan.needs(self.at.step).iter().map(|need| StepRef::top(*need));
        needs.filter(|need| !self.state.at(*need).status.is_settled()).collect()
    }

    fn keys(&self, steps: &[StepRef]) -> Vec<StepKey> {
        steps.iter().map(|at| self.state.key_of(*at)).collect()
    }

    /// The first three, with where they stand, and how many more.
    fn list(&self, steps: &[StepRef]) -> String {
        let mut parts: Vec<String> = steps
            .iter()
            .take(3)
            .map(|at| format!("`{}` ({})", self.state.key_of(*at), self.state.at(*at).status))
            .collect();
        if steps.len() > 3 {
            parts.push(format!("{} more", steps.len() - 3));
        }
        parts.join(", ")
    }

    fn backoff(&self, step: &StepState, until: Timestamp) -> Reason {
        let why = step.error.as_ref().map(|error| format!(" after `{}`", error.code)).unwrap_or_default();
        let message = format!("attempt {} waits until {until}{why}", step.attempt);
        let error = step.error.as_ref().map(|error| json!({"code": error.code, "message": error.message}));
        self.reason("backoff", message, json!({"attempt": step.attempt, "until": until, "error": error}))
    }

    fn queued(&self, step: &StepState) -> Vec<Reason> {
        let mut reasons: Vec<Reason> = self.held().into_iter().collect();
        if let Some(until) = step.not_before.filter(|until| *until > self.now) {
            reasons.push(self.backoff(step, until));
        } else if reasons.is_empty() {
            let spec = self.state.spec(self.at);
            let message =
                format!("no worker has taken attempt {} from queue `{}` yet", step.attempt, spec.queue);
            let slots: Vec<&str> = spec.concurrency.iter().map(|slot| slot.key.as_str()).collect();
            let data = json!({
                "attempt": step.attempt,
                "queue": spec.queue,
                "uses": spec.uses,
                "since": step.not_before.or(step.scheduled_at),
                "slots": slots,
            });
            reasons.push(self.reason("queued", message, data));
        }
        reasons
    }

    fn running(&self, step: &StepState) -> (Vec<Reason>, Vec<StepRef>) {
        if let Some(map) = &step.map {
            let message = format!("{} of {} children are settled", map.settled, map.children.len());
            let data = json!({"children": map.children.len(), "settled": map.settled, "failed": map.failed});
            let children = (0..map.len()).map(|child| StepRef { step: self.at.step, child: Some(child) });
            let mut causes = self.unsettled_needs();
            causes.extend(children.filter(|child| !self.state.at(*child).status.is_settled()).take(REASONS));
            return (vec![self.reason("children", message, data)], causes);
        }
        let since = step.started_at;
        let shown = since.map(|since| format!(" since {since}")).unwrap_or_default();
        let deadline = self.state.attempt_deadline(self.at);
        let reason = match step.child_run {
            Some(run) => {
                let data = json!({"run": run, "attempt": step.attempt, "since": since, "deadline": deadline});
                self.reason("subDag", format!("run {run} carries it out{shown}"), data)
            }
            None => {
                let worker = step.worker.as_ref().map_or("", |worker| worker.as_str());
                let data = json!({
                    "worker": worker,
                    "attempt": step.attempt,
                    "since": since,
                    "leaseUntil": step.lease_until,
                    "deadline": deadline,
                });
                let message = format!("worker `{worker}` runs attempt {}{shown}", step.attempt);
                self.reason("running", message, data)
            }
        };
        (vec![reason], Vec::new())
    }

    fn waiting(&self, step: &StepState) -> Reason {
        let wait = step.wait.as_deref().cloned().unwrap_or_default();
        let end = wait.expires_at.map(|end| format!(", until {end} at most")).unwrap_or_default();
        let data = json!({
            "since": step.started_at,
            "expiresAt": wait.expires_at,
            "until": wait.until,
            "signal": wait.signal,
            "asked": wait.asked.as_ref().map(crate::payload::Payload::to_value),
            "gate": wait.asked.as_ref().map(|_| self.state.spec(self.at).uses.to_string()),
        });
        match (wait.asked, wait.signal, wait.until) {
            (Some(_), _, _) => {
                let who = if self.state.spec(self.at).uses == crate::spec::Uses::GatePolicy {
                    "another service"
                } else {
                    "a person"
                };
                self.reason("gate", format!("{who} has to decide it{end}"), data)
            }
            (None, Some(name), _) => {
                self.reason("signal", format!("signal `{name}` has not come{end}"), data)
            }
            (None, None, Some(until)) => self.reason("sleep", format!("it sleeps until {until}{end}"), data),
            (None, None, None) => self.reason("sleep", "it waits".to_owned(), data),
        }
    }

    fn error_of(step: &StepState) -> (String, Value) {
        match &step.error {
            Some(error) => (
                format!("{} ({})", error.message, error.code),
                json!({"code": error.code, "message": error.message, "attempt": step.attempt, "at": step.ended_at}),
            ),
            None => (String::new(), json!({})),
        }
    }

    fn skipped(&self, step: &StepState) -> (Vec<Reason>, Vec<StepRef>) {
        let message = step.error.as_ref().map_or_else(String::new, |error| error.message.clone());
        let needs = self.state.plan.needs(self.at.step).iter().map(|need| StepRef::top(*need));
        let unmet: Vec<StepRef> =
            needs.filter(|need| self.state.at(*need).status != StepStatus::Succeeded).collect();
        let data = json!({"unmet": self.keys(&unmet), "when": self.state.spec(self.at).when});
        (vec![self.reason("skipped", message, data)], unmet)
    }

    fn failed(&self, step: &StepState) -> (Vec<Reason>, Vec<StepRef>) {
        let (message, data) = Self::error_of(step);
        let children = step.map.as_ref().map_or(0, |map| map.len());
        let failed = (0..children)
            .map(|child| StepRef { step: self.at.step, child: Some(child) })
            .filter(|child| self.state.at(*child).status == StepStatus::Failed);
        (vec![self.reason("failed", message, data)], failed.take(REASONS).collect())
    }

    fn parked(&self, step: &StepState) -> Reason {
        let (error, data) = Self::error_of(step);
        self.reason("parked", format!("{error}; retry it, or cancel the run"), data)
    }

    fn succeeded(&self, step: &StepState) -> Reason {
        let data = json!({
            "attempt": step.attempt,
            "at": step.ended_at,
            "outputHash": step.output_hash,
            "reused": step.reused,
        });
        let when = step.ended_at.map(|at| format!(", at {at}")).unwrap_or_default();
        let message = match &step.reused {
            Some(from) => format!("its output was reused from `{}` of run {}{when}", from.step, from.run),
            None => format!("it did what it should{when}"),
        };
        self.reason("succeeded", message, data)
    }

    fn cancelled(&self, step: &StepState) -> Reason {
        let why = self.state.ending.as_ref().and_then(|ending| ending.reason.clone());
        let shown = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let message = format!("the run was cancelled{shown}");
        self.reason(
            "cancelled",
            message,
            json!({"attempt": step.attempt, "at": step.ended_at, "reason": why}),
        )
    }
}
