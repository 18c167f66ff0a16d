//! Which gates wait for a verdict.

use super::state::{RunState, StepRef};
use crate::id::StepKey;
use crate::ledger::StepStatus;
use crate::payload::Payload;
use crate::spec::Uses;
use crate::time::Timestamp;

/// A gate that waits for a verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitingGate {
    /// The step.
    pub step: StepKey,
    /// Its place in the order of the plan.
    pub place: usize,
    /// Which kind of gate, such as `gate/approval`.
    pub uses: Uses,
    /// What it asks.
    pub asked: Payload,
    /// Since when it has waited.
    pub since: Option<Timestamp>,
    /// When it fails without a verdict.
    pub expires_at: Option<Timestamp>,
}

/// The gates of a run that wait for a verdict, in the order of the plan.
pub fn waiting_gates(state: &RunState) -> impl Iterator<Item = WaitingGate> + '_ {
    (0..).map(StepRef::top).zip(state.steps()).enumerate().filter_map(|(place, (at, step))| {
        let waits = step.status == StepStatus::Waiting;
        let wait = step.wait.as_ref().filter(|wait| waits && wait.verdict.is_none())?;
        Some(WaitingGate {
            step: state.key_of(at),
            place,
            uses: state.spec(at).uses.clone(),
            asked: wait.asked.clone()?,
            since: step.scheduled_at.or(step.started_at),
            expires_at: wait.expires_at,
        })
    })
}
