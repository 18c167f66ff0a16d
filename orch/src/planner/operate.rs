//! What people and services ask of a run: the rules by which it is granted.

use super::state::{RunState, StepRef};
use crate::error::{Error, Result};
use crate::id::StepKey;
use crate::ledger::{
    Event, GateDecided, RunCancelRequested, RunPaused, RunResumed, RunRetried, RunStatus, SignalReceived,
    StepStatus,
};
use crate::limits::Limits;
use crate::payload::Payload;
use crate::spec::Uses;

/// A request about a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// End it early.
    Cancel,
    /// Start nothing new.
    Pause,
    /// Go on.
    Resume,
    /// Give failed and parked steps another round of attempts: these, or all.
    Retry(Vec<StepKey>),
    /// Decide a gate.
    Decide {
        /// The gate.
        step: StepKey,
        /// Whether it opens.
        approved: bool,
    },
    /// Hand it a signal.
    Signal {
        /// The name of the signal.
        name: String,
        /// What it carries.
        payload: Payload,
    },
}

impl Operation {
    /// The word for it in the audit stream.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Cancel => "run.cancel",
            Self::Pause => "run.pause",
            Self::Resume => "run.resume",
            Self::Retry(_) => "run.retry",
            Self::Decide { approved: true, .. } => "gate.approve",
            Self::Decide { approved: false, .. } => "gate.reject",
            Self::Signal { .. } => "signal.send",
        }
    }
}

/// The events by which an operation is granted; none when what it asks for holds already.
///
/// # Errors
/// `Refused` when the run is not in a state for it, `NotFound` for a step the run does not have, `LimitExceeded`
/// for too many signals.
pub fn operate(
    state: &RunState,
    op: &Operation,
    reason: Option<String>,
    limits: &Limits,
) -> Result<Vec<Event>> {
    let running = || match &state.ended {
        Some(ended) => Err(Error::refused("the run has ended").with("status", ended.status)),
        None => Ok(()),
    };
    let event: Event = match op {
        Operation::Cancel => {
            if state.ending.is_some() || state.status() == RunStatus::Cancelled {
                return Ok(Vec::new());
            }
            running()?;
            RunCancelRequested { code: None, reason }.into()
        }
        Operation::Pause => {
            running()?;
            if state.paused {
                return Ok(Vec::new());
            }
            if state.ending.is_some() {
                return Err(Error::refused("the run is being cancelled"));
            }
            RunPaused { reason }.into()
        }
        Operation::Resume => {
            running()?;
            if !state.paused {
                return Ok(Vec::new());
            }
            RunResumed { reason }.into()
        }
        Operation::Retry(named) => RunRetried { reason, steps: retryable(state, named)? }.into(),
        Operation::Decide { step, approved } => {
            running()?;
            undecided_gate(state, step)?;
            GateDecided { approved: *approved, reason, step: step.clone() }.into()
        }
        Operation::Signal { name, payload } => {
            running()?;
            let pending: usize = state.index.signals.values().map(std::collections::VecDeque::len).sum();
            if pending >= limits.pending_signals {
                return Err(Error::limit_exceeded("too many signals that nothing waits for")
                    .with("limit", limits.pending_signals));
            }
            SignalReceived { name: name.clone(), payload: payload.clone() }.into()
        }
    };
    Ok(vec![event])
}

fn undecided_gate(state: &RunState, step: &StepKey) -> Result<()> {
    let at = find(state, step)?;
    if !matches!(state.spec(at).uses, Uses::GateApproval | Uses::GatePolicy) {
        return Err(Error::refused("the step is no gate").with("step", step));
    }
    match (&state.at(at).wait, state.at(at).status) {
        (Some(wait), StepStatus::Waiting) if wait.verdict.is_none() => Ok(()),
        (_, status) => Err(Error::refused("the gate is not waiting for a decision")
            .with("step", step)
            .with("status", status)),
    }
}

fn find(state: &RunState, step: &StepKey) -> Result<StepRef> {
    state.find(step).ok_or_else(|| Error::not_found("the run has no such step").with("step", step))
}

/// The steps to retry, in plan order: declared ones, and the children of expanded ones in their stead. What was
/// cancelled when the run's time ran out comes along.
fn retryable(state: &RunState, named: &[StepKey]) -> Result<Vec<StepKey>> {
    if let Some(ended) = state.ended.as_ref().filter(|ended| ended.status != RunStatus::Failed) {
        return Err(Error::refused("only a failed run can be retried").with("status", ended.status));
    }
    if state.ending.is_some() && state.ended.is_none() {
        return Err(Error::refused("the run is being cancelled"));
    }
    let mut chosen = Vec::new();
    for position in 0..state.plan_len() {
        let stuck: &[StepStatus] = if named.is_empty() { &STUCK } else { &[StepStatus::Cancelled] };
        choose(state, StepRef::top(position), stuck, &mut chosen);
    }
    for key in named {
        let at = find(state, key)?;
        let before = chosen.len();
        choose(state, at, &STUCK, &mut chosen);
        if chosen.len() == before {
            return Err(Error::refused("the step is neither failed nor parked")
                .with("step", key)
                .with("status", state.at(at).status));
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    let busy = leave_out_busy(state, &mut chosen);
    match (chosen.is_empty(), busy) {
        // Who asks for all means those that can be.
        (false, None) => {}
        (false, Some(_)) if named.is_empty() => {}
        (true, None) => return Err(Error::refused("the run has no failed or parked step")),
        (_, Some((step, busy))) => {
            return Err(Error::refused("what the step led to is under way; retry it once that is settled")
                .with("step", step)
                .with("under_way", busy));
        }
    }
    Ok(chosen.into_iter().map(|at| state.key_of(at)).collect())
}

const STUCK: [StepStatus; 3] = [StepStatus::Failed, StepStatus::Parked, StepStatus::Cancelled];

/// Takes out of `chosen` what must not be retried because a step it led to is under way; answers the first such step
/// with what is under way.
fn leave_out_busy(state: &RunState, chosen: &mut Vec<StepRef>) -> Option<(StepKey, StepKey)> {
    let touched: Vec<u32> = chosen.iter().map(|at| at.step).collect();
    let (guilty, busy) = state.first_busy_after(&touched)?;
    let leads_to_busy = state.leads_to_busy();
    chosen.retain(|at| !leads_to_busy[at.step as usize]);
    Some((state.key_of(StepRef::top(guilty)), state.key_of(StepRef::top(busy))))
}

fn choose(state: &RunState, at: StepRef, stuck: &[StepStatus], chosen: &mut Vec<StepRef>) {
    let is_stuck = |at: StepRef| stuck.contains(&state.at(at).status);
    let before = chosen.len();
    if let Some(map) = &state.at(at).map {
        let children = (0..map.len()).map(|child| StepRef { step: at.step, child: Some(child) });
        chosen.extend(children.filter(|child| is_stuck(*child)));
    }
    // An expanded step none of whose children is stuck was stopped just before it could be settled.
    if chosen.len() == before && is_stuck(at) {
        chosen.push(at);
    }
}
