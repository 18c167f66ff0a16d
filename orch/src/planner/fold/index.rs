//! Keeping the indexes of a state true to its steps: every change of a status passes through here.

use crate::error::{Error, Result};
use crate::id::StepKey;
use crate::invariant::Invariant;
use crate::ledger::StepStatus;
use crate::planner::plan::SharedPlan;
use crate::planner::state::{MapState, RunState, StepRef};
use crate::time::Timestamp;

impl RunState {
    pub(super) fn find_or_refuse(&self, key: &StepKey) -> Result<StepRef> {
        self.find(key)
            .ok_or_else(|| Error::corrupt("entry names a step the run does not have").with("step", key))
    }

    /// The step, if its status is among `allowed`.
    pub(super) fn expect(
        &self,
        key: &StepKey,
        what: &'static str,
        allowed: &[StepStatus],
    ) -> Result<StepRef> {
        let at = self.find_or_refuse(key)?;
        let status = self.at(at).status;
        if allowed.contains(&status) {
            return Ok(at);
        }
        Err(Error::corrupt("entry does not fit the step's status")
            .with("entry", what)
            .with("step", key)
            .with("status", status)
            .with("invariant", broken_by(what, status)))
    }

    /// The step, if it is pending and its turn has come: R3.
    pub(super) fn expect_turn(&self, key: &StepKey, what: &'static str) -> Result<StepRef> {
        let at = self.expect(key, what, &[StepStatus::Pending])?;
        let turn = self.index.retries.contains(&at)
            || match (at.child, &self.steps[at.step as usize].map) {
                (None, _) => self.index.frontier.contains(&at.step),
                (Some(child), Some(map)) => {
                    self.index.open_needs[at.step as usize] == 0
                        && (map.next == child || map.again.contains(&child))
                }
                (Some(_), None) => false,
            };
        if turn {
            return Ok(at);
        }
        Err(Error::corrupt("entry comes before the step's turn")
            .with("entry", what)
            .with("step", key)
            .with("invariant", Invariant::R3))
    }

    /// Checks that an entry about a running or queued attempt names the current one: the fence of R1 and R2.
    pub(super) fn expect_attempt(
        &self,
        at: StepRef,
        key: &StepKey,
        what: &'static str,
        attempt: u32,
    ) -> Result<()> {
        let current = self.at(at).attempt;
        if current == attempt {
            return Ok(());
        }
        Err(Error::corrupt("entry is about an attempt that is not current")
            .with("entry", what)
            .with("step", key)
            .with("attempt", attempt)
            .with("current", current)
            .with("invariant", Invariant::R2))
    }

    /// The attempt under way that an entry is about.
    pub(super) fn expect_running(&self, key: &StepKey, what: &'static str, attempt: u32) -> Result<StepRef> {
        let at = self.expect(key, what, &[StepStatus::Running])?;
        if self.at(at).map.is_some() {
            return Err(Error::corrupt("a step with children is no attempt itself")
                .with("entry", what)
                .with("step", key));
        }
        self.expect_attempt(at, key, what, attempt)?;
        Ok(at)
    }

    pub(super) fn set_timer(&mut self, at: StepRef, timer: Option<Timestamp>) {
        let old = std::mem::replace(&mut self.at_mut(at).timer, timer);
        if let Some(old) = old {
            self.index.timers.remove(&(old, at));
        }
        if let Some(new) = timer {
            self.index.timers.insert((new, at));
        }
    }

    pub(super) fn set_status(&mut self, at: StepRef, status: StepStatus) {
        let not_before = self.at(at).not_before;
        let old = std::mem::replace(&mut self.at_mut(at).status, status);
        match old {
            StepStatus::Queued => {
                self.index.queued.remove(at);
                self.index.delayed.remove(&(not_before.unwrap_or_default(), at));
            }
            StepStatus::Running => {
                self.index.running.remove(&at);
                self.index.sub_runs.remove(&at);
            }
            _ => {}
        }
        match status {
            StepStatus::Queued => self.index.queued.insert(at),
            // A `forEach` step is running while its children are; it is no attempt itself.
            StepStatus::Running if self.at(at).map.is_none() => drop(self.index.running.insert(at)),
            _ => {}
        }
        if at.child.is_none() {
            *self.counts.of(old) -= 1;
            *self.counts.of(status) += 1;
        }
    }

    /// Settles a step or a child and opens what needs it.
    pub(super) fn settle(&mut self, at: StepRef, status: StepStatus, now: Timestamp) {
        let was_active = self.is_active(at);
        self.leave_line(at);
        self.set_timer(at, None);
        self.set_status(at, status);
        let step = self.at_mut(at);
        step.ended_at = Some(now);
        step.worker = None;
        step.lease_until = None;
        step.not_before = None;
        if at.child.is_some() {
            let map = self.map_mut(at.step);
            map.settled += 1;
            map.failed += u32::from(status == StepStatus::Failed);
            map.active -= u32::from(was_active);
            self.refresh_map(at.step);
            return;
        }
        self.index.verdicts.remove(&at.step);
        self.index.expanded.remove(&at.step);
        self.index.maps.remove(&at.step);
        self.index.unsettled -= 1;
        let plan = SharedPlan::clone(&self.plan);
        for dependent in plan.dependents(at.step) {
            let open = &mut self.index.open_needs[*dependent as usize];
            *open -= 1;
            if *open > 0 {
                continue;
            }
            if self.steps[*dependent as usize].status == StepStatus::Pending {
                self.index.frontier.insert(*dependent);
            }
            self.refresh_map(*dependent);
        }
    }

    /// A step that waits for its turn does so no longer.
    pub(super) fn leave_line(&mut self, at: StepRef) {
        self.index.retries.remove(&at);
        match at.child {
            None => drop(self.index.frontier.remove(&at.step)),
            Some(child) => {
                let map = self.map_mut(at.step);
                map.next = map.next.max(child + 1);
                map.again.remove(&child);
            }
        }
    }

    /// Whether a child takes one of its parent's `maxParallel` places. One that will be tried again keeps its place.
    pub(super) fn is_active(&self, at: StepRef) -> bool {
        match self.at(at).status {
            StepStatus::Queued | StepStatus::Running => true,
            StepStatus::Pending => self.index.retries.contains(&at),
            _ => false,
        }
    }

    /// Notes whether there is something to decide about an expanded step: it is to be settled, or has a free place
    /// and a child for it. One whose needs were retried together with its children waits for them.
    pub(super) fn refresh_map(&mut self, step: u32) {
        let Some(map) = &self.steps[step as usize].map else { return };
        let count = map.len();
        let ready = self.index.open_needs[step as usize] == 0;
        let room = ready
            && map.active < self.places(StepRef::top(step))
            && (map.next < count || !map.again.is_empty());
        if self.index.expanded.contains(&step) && (map.settled == count || room) {
            self.index.maps.insert(step);
        } else {
            self.index.maps.remove(&step);
        }
    }

    pub(super) fn map_mut(&mut self, step: u32) -> &mut MapState {
        self.steps[step as usize].map.as_mut().expect("children have an expanded parent")
    }
}

/// Which invariant an entry breaks that does not fit the status of its step.
fn broken_by(what: &str, status: StepStatus) -> Invariant {
    match what {
        "step.scheduled" | "step.started" | "step.waiting" | "step.skipped" | "gate.requested"
        | "map.expanded" => Invariant::R3,
        "step.succeeded" if status == StepStatus::Succeeded => Invariant::R1,
        "step.succeeded" | "step.failed" | "step.parked" | "step.lost" => Invariant::R2,
        _ => Invariant::L3,
    }
}
