//! Comparing two runs step by step: did a replay give the same?

use std::collections::BTreeSet;

use serde::Serialize;

use crate::digest::Digest;
use crate::id::StepKey;
use crate::ledger::StepStatus;
use crate::planner::{RunState, StepRef};

/// How one step went in two runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepComparison {
    /// The step.
    pub step: StepKey,
    /// Whether it stands the same in both, with the same output if it has one.
    pub same: bool,
    /// Where it stands in the first run, if that run has it.
    pub left: Option<StepStatus>,
    /// Where it stands in the second run, if that run has it.
    pub right: Option<StepStatus>,
    /// SHA-256 of its output in the first run.
    pub left_output: Option<Digest>,
    /// SHA-256 of its output in the second run.
    pub right_output: Option<Digest>,
}

/// Compares every step and child that either run has: in the plan order of the first run, then what only the second
/// has.
#[must_use]
pub fn compare(left: &RunState, right: &RunState) -> Vec<StepComparison> {
    let mut keys = keys(left);
    let known: BTreeSet<StepKey> = keys.iter().cloned().collect();
    keys.extend(self::keys(right).into_iter().filter(|key| !known.contains(key)));
    let look = |state: &RunState, key: &StepKey| {
        state.find(key).and_then(|at| state.get(at)).map(|step| (step.status, step.output_hash))
    };
    keys.into_iter()
        .map(|step| {
            let (left, right) = (look(left, &step), look(right, &step));
            StepComparison {
                same: left == right,
                left: left.map(|(status, _)| status),
                right: right.map(|(status, _)| status),
                left_output: left.and_then(|(_, output)| output),
                right_output: right.and_then(|(_, output)| output),
                step,
            }
        })
        .collect()
}

fn keys(state: &RunState) -> Vec<StepKey> {
    let mut keys = Vec::new();
    for (position, step) in (0..).zip(state.steps()) {
        keys.push(state.key_of(StepRef::top(position)));
        let children = step.map.as_ref().map_or(0, |map| map.children.len());
        keys.extend(
            (0..).take(children).map(|child| state.key_of(StepRef { step: position, child: Some(child) })),
        );
    }
    keys
}
