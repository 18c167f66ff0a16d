//! Folding what happens to steps and their attempts.

use std::sync::Arc;

use super::super::pages::Pages;
use super::super::state::{MapState, RunState, StepError, StepRef, Verdict, Wait};
use crate::error::{Error, Result};
use crate::expr::LazyValue;
use crate::id::StepKey;
use crate::invariant::Invariant;
use crate::ledger::{
    ArtifactRef, AttemptProgress, GateDecided, GateKind, GateRequested, MapExpanded, SignalReceived,
    StepCancelled, StepFailed, StepLost, StepParked, StepScheduled, StepSkipped, StepStarted, StepStatus,
    StepSucceeded, StepWaiting,
};
use crate::payload::Payload;
use crate::spec::Uses;
use crate::time::Timestamp;

impl RunState {
    pub(super) fn scheduled(&mut self, now: Timestamp, e: &StepScheduled) -> Result<()> {
        self.expect_starts("step.scheduled")?;
        let at = self.expect_turn(&e.step, "step.scheduled")?;
        let spec = self.spec(at);
        let (task, each) = (spec.uses.is_task() || self.is_sub_dag(at), spec.for_each.is_some());
        if !task || each != at.child.is_some() {
            return Err(wrong_kind("step.scheduled", &e.step));
        }
        if e.attempt != self.at(at).attempt + 1 {
            return Err(Error::corrupt("attempts are numbered without gaps")
                .with("step", &e.step)
                .with("attempt", e.attempt)
                .with("invariant", Invariant::R2));
        }
        let had_place = self.is_active(at);
        if at.child.is_some() && !had_place && self.map_mut(at.step).active >= self.places(at) {
            return Err(Error::corrupt("a child is scheduled without a free place").with("step", &e.step));
        }
        self.leave_line(at);
        let step = self.at_mut(at);
        step.attempt = e.attempt;
        step.input.clone_from(&e.input);
        step.input_hash = Some(e.input_hash);
        step.not_before = e.not_before;
        step.scheduled_at = step.scheduled_at.or(Some(now));
        step.child_run = None;
        step.reused = None;
        self.set_status(at, StepStatus::Queued);
        if self.is_sub_dag(at) {
            // No queue holds it back, so this index does.
            self.index.delayed.insert((e.not_before.unwrap_or_default(), at));
        }
        if at.child.is_some() {
            self.map_mut(at.step).active += u32::from(!had_place);
            self.refresh_map(at.step);
        }
        let deadline = self.step_deadline(at);
        self.set_timer(at, deadline);
        Ok(())
    }

    pub(super) fn started(&mut self, now: Timestamp, e: &StepStarted) -> Result<()> {
        self.expect_starts("step.started")?;
        self.expect_begun("step.started")?;
        let at = self.expect(&e.step, "step.started", &[StepStatus::Queued])?;
        self.expect_attempt(at, &e.step, "step.started", e.attempt)?;
        let sub_dag = self.is_sub_dag(at);
        if e.child_run.is_some() != sub_dag
            || e.worker.is_some() == sub_dag
            || e.lease_until.is_some() == sub_dag
        {
            return Err(wrong_kind("step.started", &e.step));
        }
        if self.at(at).not_before.is_some_and(|instant| instant > now) {
            return Err(Error::corrupt("attempt starts before its backoff is over").with("step", &e.step));
        }
        self.set_status(at, StepStatus::Running);
        let step = self.at_mut(at);
        step.started_at = Some(now);
        step.worker.clone_from(&e.worker);
        step.lease_until = e.lease_until;
        step.child_run = e.child_run;
        step.not_before = None;
        if sub_dag {
            self.index.sub_runs.insert(at);
        }
        // The worker watches over the attempt's own deadline; what outlives the worker is its lease. Nobody watches
        // over a sub-DAG but this timer.
        let timer = if sub_dag { self.attempt_deadline(at) } else { e.lease_until };
        self.set_timer(at, timer);
        Ok(())
    }

    pub(super) fn progress(&mut self, e: &AttemptProgress) -> Result<()> {
        let held = self.held_by(&e.worker);
        let own = |note: &crate::ledger::ProgressNote| {
            self.find(&note.step).is_some_and(|at| held.contains(&at) && self.at(at).attempt == note.attempt)
        };
        if held.is_empty() || !e.notes.iter().all(own) {
            return Err(Error::corrupt("entry is about an attempt that its worker does not hold")
                .with("entry", "attempt.progress")
                .with("worker", e.worker.as_str())
                .with("invariant", Invariant::R2));
        }
        for at in held {
            self.at_mut(at).lease_until = Some(e.lease_until);
            self.set_timer(at, Some(e.lease_until));
        }
        Ok(())
    }

    pub(super) fn succeeded(&mut self, now: Timestamp, e: &StepSucceeded) -> Result<()> {
        let at = match &e.reused {
            Some(_) => {
                self.expect_starts("step.succeeded")?;
                self.expect_begun("step.succeeded")?;
                match self.expect(&e.step, "step.succeeded", &[StepStatus::Pending, StepStatus::Queued])? {
                    at if self.at(at).status == StepStatus::Queued => at,
                    _ => self.expect_turn(&e.step, "step.succeeded")?,
                }
            }
            None => self.expect(&e.step, "step.succeeded", &[StepStatus::Running, StepStatus::Waiting])?,
        };
        let output = match (&e.output, &self.at(at).map) {
            (Some(output), None) => {
                let attempt = if e.reused.is_some() { 0 } else { self.at(at).attempt };
                if e.attempt != attempt {
                    self.expect_attempt(at, &e.step, "step.succeeded", e.attempt)?;
                    return Err(wrong_kind("step.succeeded", &e.step));
                }
                output.clone()
            }
            (None, Some(map)) if map.settled == map.len() && map.failed == 0 => map.collect(),
            _ => return Err(wrong_kind("step.succeeded", &e.step)),
        };
        if self.at(at).status == StepStatus::Waiting && !self.wait_is_met(at, now) {
            return Err(Error::corrupt("what the step waits for has not come").with("step", &e.step));
        }
        self.take_signal(at);
        let step = self.at_mut(at);
        step.output = Some(Arc::new(LazyValue::new(output)));
        step.output_hash = Some(e.output_hash);
        step.reused = e.reused.clone().map(Box::new);
        step.error = None;
        step.logs = e.logs.clone().map(Box::new);
        self.settle(at, StepStatus::Succeeded, now);
        Ok(())
    }

    /// Whether the verdict, the signal or the time that a step waits for is there.
    fn wait_is_met(&self, at: StepRef, now: Timestamp) -> bool {
        let Some(wait) = &self.at(at).wait else { return false };
        match (&wait.asked, &wait.signal) {
            (Some(_), _) => {
                wait.is_decided() && wait.verdict.as_ref().is_some_and(|verdict| verdict.approved)
            }
            (None, Some(name)) => self.index.signals.contains_key(name),
            (None, None) => wait.until.is_some_and(|until| until <= now),
        }
    }

    /// A wait that succeeds takes the oldest signal of its name with it.
    fn take_signal(&mut self, at: StepRef) {
        self.forget_waiter(at);
        let Some(name) = self.at(at).wait.as_ref().and_then(|wait| wait.signal.clone()) else { return };
        if let Some(pending) = self.index.signals.get_mut(&name) {
            pending.pop_front();
            if pending.is_empty() {
                self.index.signals.remove(&name);
            }
        }
    }

    fn forget_waiter(&mut self, at: StepRef) {
        let Some(name) = self.at(at).wait.as_ref().and_then(|wait| wait.signal.clone()) else { return };
        if let Some(waiters) = self.index.waiters.get_mut(&name) {
            waiters.remove(&at.step);
            if waiters.is_empty() {
                self.index.waiters.remove(&name);
            }
        }
    }

    pub(super) fn failed(&mut self, now: Timestamp, e: &StepFailed) -> Result<()> {
        let open = [StepStatus::Pending, StepStatus::Queued, StepStatus::Running, StepStatus::Waiting];
        let at = self.expect(&e.step, "step.failed", &open)?;
        let step = self.at(at);
        match (step.status, &step.map) {
            (StepStatus::Pending, _) => drop(self.expect_turn(&e.step, "step.failed")?),
            (_, Some(map)) if map.settled == map.len() && map.failed > 0 => {}
            (_, Some(_)) => return Err(wrong_kind("step.failed", &e.step)),
            (StepStatus::Waiting, None) if !step.wait.as_ref().is_some_and(|wait| wait.is_over(now)) => {
                return Err(Error::corrupt("the wait is neither rejected nor over").with("step", &e.step));
            }
            (_, None) => self.expect_attempt(at, &e.step, "step.failed", e.attempt)?,
        }
        let attempt_ran = step.status == StepStatus::Running && step.map.is_none();
        if e.retry_at.is_some() && !(attempt_ran && self.ending.is_none()) {
            return Err(wrong_kind("step.failed", &e.step));
        }
        self.forget_waiter(at);
        self.note_error(at, &e.code, &e.message, e.logs.as_ref());
        if let Some(retry_at) = e.retry_at {
            self.at_mut(at).failures += 1;
            self.reopen(at, retry_at);
        } else {
            self.settle(at, StepStatus::Failed, now);
        }
        Ok(())
    }

    fn note_error(&mut self, at: StepRef, code: &str, message: &str, logs: Option<&ArtifactRef>) {
        let step = self.at_mut(at);
        step.error = Some(Box::new(StepError { code: code.to_owned(), message: message.to_owned() }));
        step.logs = logs.cloned().map(Box::new);
    }

    /// Back to pending, to be scheduled again. A child keeps its place.
    fn reopen(&mut self, at: StepRef, not_before: Timestamp) {
        self.set_timer(at, None);
        self.set_status(at, StepStatus::Pending);
        let step = self.at_mut(at);
        step.worker = None;
        step.lease_until = None;
        step.not_before = Some(not_before);
        self.index.retries.insert(at);
    }

    pub(super) fn lost(&mut self, e: &StepLost) -> Result<()> {
        let at = self.expect_running(&e.step, "step.lost", e.attempt)?;
        if self.ending.is_some() {
            return Err(wrong_kind("step.lost", &e.step));
        }
        self.at_mut(at).losses += 1;
        self.reopen(at, e.retry_at);
        Ok(())
    }

    pub(super) fn skipped(&mut self, now: Timestamp, e: &StepSkipped) -> Result<()> {
        let at = self.expect_turn(&e.step, "step.skipped")?;
        if at.child.is_some() {
            return Err(wrong_kind("step.skipped", &e.step));
        }
        self.note_error(at, "skipped", &e.reason, None);
        self.settle(at, StepStatus::Skipped, now);
        Ok(())
    }

    pub(super) fn parked(&mut self, now: Timestamp, e: &StepParked) -> Result<()> {
        let at = self.expect(&e.step, "step.parked", &[StepStatus::Running, StepStatus::Queued])?;
        if self.at(at).map.is_some() || self.ending.is_some() {
            return Err(wrong_kind("step.parked", &e.step));
        }
        self.expect_attempt(at, &e.step, "step.parked", e.attempt)?;
        self.note_error(at, &e.code, &e.message, e.logs.as_ref());
        self.set_timer(at, None);
        self.set_status(at, StepStatus::Parked);
        let step = self.at_mut(at);
        step.failures += 1;
        step.ended_at = Some(now);
        step.worker = None;
        step.lease_until = None;
        step.not_before = None;
        if at.child.is_some() {
            self.map_mut(at.step).active -= 1;
            self.refresh_map(at.step);
        }
        Ok(())
    }

    pub(super) fn cancelled(&mut self, now: Timestamp, e: &StepCancelled) -> Result<()> {
        let at = self.find_or_refuse(&e.step)?;
        let step = self.at(at);
        if step.status.is_settled() || self.ending.is_none() {
            return Err(Error::corrupt("only what is open in a run that is to end can be cancelled")
                .with("step", &e.step)
                .with("status", step.status));
        }
        match &step.map {
            Some(map) if map.settled < map.len() => {
                return Err(
                    Error::corrupt("children are cancelled before their parent").with("step", &e.step)
                );
            }
            None if step.status == StepStatus::Running => {
                self.expect_attempt(at, &e.step, "step.cancelled", e.attempt)?;
            }
            _ => {}
        }
        self.forget_waiter(at);
        self.at_mut(at).logs = e.logs.clone().map(Box::new);
        self.settle(at, StepStatus::Cancelled, now);
        Ok(())
    }

    fn wait_on(&mut self, now: Timestamp, at: StepRef, wait: Wait) {
        self.leave_line(at);
        self.set_status(at, StepStatus::Waiting);
        let timer = [wait.until, wait.expires_at].into_iter().flatten().min();
        let step = self.at_mut(at);
        step.attempt += 1;
        step.scheduled_at = step.scheduled_at.or(Some(now));
        step.started_at = Some(now);
        step.wait = Some(Box::new(wait));
        self.set_timer(at, timer);
    }

    /// The step whose turn it is to begin, if the engine carries it itself in the way of `kind`.
    fn expect_carried(
        &self,
        key: &StepKey,
        what: &'static str,
        kind: impl Fn(&Uses) -> bool,
    ) -> Result<StepRef> {
        self.expect_starts(what)?;
        self.expect_begun(what)?;
        let at = self.expect_turn(key, what)?;
        let spec = self.spec(at);
        if spec.for_each.is_none() && kind(&spec.uses) { Ok(at) } else { Err(wrong_kind(what, key)) }
    }

    pub(super) fn waiting(&mut self, now: Timestamp, e: &StepWaiting) -> Result<()> {
        let at = self.expect_carried(&e.step, "step.waiting", |uses| match uses {
            Uses::Sleep => e.until.is_some() && e.signal.is_none(),
            Uses::Signal => e.until.is_none() && e.signal.is_some(),
            _ => false,
        })?;
        if let Some(signal) = &e.signal {
            self.index.waiters.entry(signal.clone()).or_default().insert(at.step);
        }
        let wait = Wait {
            until: e.until,
            expires_at: e.expires_at,
            signal: e.signal.clone(),
            asked: None,
            verdict: None,
        };
        self.wait_on(now, at, wait);
        Ok(())
    }

    pub(super) fn gate_requested(&mut self, now: Timestamp, e: &GateRequested) -> Result<()> {
        let at = self.expect_carried(&e.step, "gate.requested", |uses| match e.gate {
            GateKind::Approval => *uses == Uses::GateApproval,
            GateKind::Policy => *uses == Uses::GatePolicy,
        })?;
        let wait = Wait { expires_at: e.expires_at, asked: Some(e.input.clone()), ..Wait::default() };
        self.wait_on(now, at, wait);
        Ok(())
    }

    pub(super) fn gate_decided(&mut self, now: Timestamp, actor: &str, e: &GateDecided) -> Result<()> {
        let at = self.expect(&e.step, "gate.decided", &[StepStatus::Waiting])?;
        let verdict =
            Verdict { approved: e.approved, actor: actor.to_owned(), at: now, reason: e.reason.clone() };
        match &mut self.at_mut(at).wait {
            Some(wait) if wait.asked.is_some() && wait.verdict.is_none() => wait.verdict = Some(verdict),
            _ => return Err(Error::corrupt("step is no undecided gate").with("step", &e.step)),
        }
        self.index.verdicts.insert(at.step);
        Ok(())
    }

    pub(super) fn signalled(&mut self, e: &SignalReceived) {
        self.index.signals.entry(e.name.clone()).or_default().push_back(e.payload.clone());
    }

    pub(super) fn expanded(&mut self, now: Timestamp, e: &MapExpanded) -> Result<()> {
        self.expect_starts("map.expanded")?;
        self.expect_begun("map.expanded")?;
        let at = self.expect_turn(&e.step, "map.expanded")?;
        if self.spec(at).for_each.is_none() || at.child.is_some() {
            return Err(wrong_kind("map.expanded", &e.step));
        }
        self.leave_line(at);
        let step = self.at_mut(at);
        step.scheduled_at = step.scheduled_at.or(Some(now));
        step.started_at = Some(now);
        step.map = Some(Box::new(MapState::new(&e.items)));
        self.open_map(at.step);
        Ok(())
    }

    /// An expanded step is under way, for the first time or again.
    pub(super) fn open_map(&mut self, step: u32) {
        self.set_status(StepRef::top(step), StepStatus::Running);
        self.index.expanded.insert(step);
        self.refresh_map(step);
    }
}

fn wrong_kind(what: &'static str, step: &StepKey) -> Error {
    Error::corrupt("entry does not fit the step").with("entry", what).with("step", step)
}

impl MapState {
    fn new(items: &[Payload]) -> Self {
        Self {
            items: items.iter().cloned().map(LazyValue::new).collect(),
            children: Pages::of(super::StepState::default(), items.len()),
            next: 0,
            again: std::collections::BTreeSet::new(),
            active: 0,
            settled: 0,
            failed: 0,
        }
    }

    /// How many children there are.
    #[must_use]
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.children.len()).unwrap_or(u32::MAX)
    }

    /// The children's outputs in the order of the items; `null` where a child has none.
    #[must_use]
    pub fn collect(&self) -> Payload {
        let null = Payload::null();
        Payload::list(
            self.children.iter().map(|child| child.output.as_deref().map_or(&null, LazyValue::payload)),
        )
    }
}
