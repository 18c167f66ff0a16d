//! Events of a run as lines for people.

use std::collections::BTreeMap;

use orch::ledger::{Event, StepStatus};
use orch::planner::{RunState, StepRef};
use orch::{StepId, StepKey};

use super::{style, words};

/// The most lines of failed children of one step.
const FAILURES: u32 = 5;

/// How many children of each step have failed so far: the first ones are told one by one, the rest as a number.
#[derive(Debug, Default)]
pub(super) struct Failures(BTreeMap<StepId, u32>);

impl Failures {
    /// The line of an event, if it is to be told; what was held back follows when the step is settled.
    pub(super) fn told(&mut self, event: &Event, line: String) -> Option<String> {
        match event {
            Event::StepFailed(e) if e.step.index.is_some() => {
                let count = self.0.entry(e.step.id.clone()).or_default();
                *count += 1;
                (*count <= FAILURES).then_some(line)
            }
            Event::StepFailed(e) => {
                match self.0.remove(&e.step.id).and_then(|count| count.checked_sub(FAILURES)) {
                    Some(held @ 1..) => Some(format!("{line}; {held} more failures below it are not shown")),
                    _ => Some(line),
                }
            }
            _ => Some(line),
        }
    }
}

/// Children that do well are worth a line a quarter, or a log drowns in a wide fan-out; nothing for any other event.
pub(super) fn children(state: &RunState, event: &Event) -> Option<Option<String>> {
    match event {
        Event::StepStarted(e) if e.step.index.is_some() => Some(None),
        Event::StepSucceeded(e) if e.step.index.is_some() => {
            let parent = StepRef { child: None, ..state.find(&e.step)? };
            let map = state.get(parent)?.map.as_ref()?;
            let (done, all) = (map.settled as usize, map.children.len());
            let quarter = (done * 4 / all) > ((done - 1) * 4 / all) && done < all;
            Some(
                quarter
                    .then(|| format!("{}  {}  {done} of {all}", style::step(StepStatus::Running), e.step.id)),
            )
        }
        _ => None,
    }
}

/// An event as a line for people, if they care.
pub(super) fn sentence(state: &RunState, event: &Event) -> Option<String> {
    let took = |key: &StepKey| {
        let step = state.find(key).and_then(|at| state.get(at))?;
        Some(words::span(step.ended_at?.since(step.started_at?)))
    };
    let again = |attempt: u32| if attempt > 1 { format!("  attempt {attempt}") } else { String::new() };
    let (status, key, rest) = match event {
        Event::StepStarted(e) => (StepStatus::Running, &e.step, again(e.attempt)),
        Event::StepSucceeded(e) => {
            let rest = took(&e.step).map_or_else(String::new, |took| format!("  {took}"));
            (StepStatus::Succeeded, &e.step, rest)
        }
        Event::StepFailed(e) => {
            let retry = if e.retry_at.is_some() { "; it is tried again" } else { "" };
            let message = words::one_line(&e.message);
            // What failed without an attempt of its own: a step whose children failed, or one that never began.
            let attempt = if e.attempt > 0 { format!("attempt {}: ", e.attempt) } else { String::new() };
            (StepStatus::Failed, &e.step, format!("  {attempt}{}: {message}{retry}", e.code))
        }
        Event::StepParked(e) => {
            (StepStatus::Parked, &e.step, format!("  {}: {}", e.code, words::one_line(&e.message)))
        }
        Event::StepLost(e) => {
            (StepStatus::Failed, &e.step, format!("  attempt {} was lost with its process", e.attempt))
        }
        Event::StepSkipped(e) => (StepStatus::Skipped, &e.step, format!("  {}", words::one_line(&e.reason))),
        Event::StepCancelled(e) => (StepStatus::Cancelled, &e.step, String::new()),
        Event::StepWaiting(e) => (StepStatus::Waiting, &e.step, String::new()),
        Event::GateRequested(e) => (StepStatus::Waiting, &e.step, "  for a verdict".to_owned()),
        _ => return None,
    };
    Some(format!("{}  {key}{rest}", style::step(status)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch::ledger::StepFailed;

    fn failed(step: &str) -> Event {
        let (code, message) = ("x".to_owned(), "y".to_owned());
        let step = step.parse().unwrap();
        StepFailed { attempt: 1, code, logs: None, message, retry_at: None, retryable: false, step }.into()
    }

    #[test]
    fn failures_of_many_children_end_in_a_number() {
        let mut failures = Failures::default();
        let told =
            (0..9).filter_map(|n| failures.told(&failed(&format!("a[{n}]")), "line".to_owned())).count();
        assert_eq!(told, 5);
        let parent = failures.told(&failed("a"), "a failed".to_owned()).unwrap();
        assert_eq!(parent, "a failed; 4 more failures below it are not shown");
        assert_eq!(failures.told(&failed("b"), "b failed".to_owned()).unwrap(), "b failed");
    }
}
