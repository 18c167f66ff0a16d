//! Folding entries into the state of a run. Strict: an entry that could not have followed is refused, so the same
//! code that runs the engine is the checker of its invariants.

mod index;
mod steps;

use super::plan::{Plan, SharedPlan};
use super::state::{Ended, Ending, RunState, StepRef, StepState};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::id::RunKey;
use crate::invariant::Invariant;
use crate::ledger::{Entry, Event, Head, RunRetried, RunStatus, StepStatus, Stream};
use crate::payload::Payload;
use crate::time::Timestamp;

impl RunState {
    /// The state after the first entry of a run. `plan_of` turns the plan's document into a plan, which many runs
    /// share.
    ///
    /// # Errors
    /// `Corrupt` when the entry is not a `run.created`, or what it says of itself does not hold.
    pub fn open(
        entry: &Entry,
        head: Head,
        plan_of: impl FnOnce(&Payload) -> Result<SharedPlan>,
    ) -> Result<Self> {
        let (Event::RunCreated(created), Stream::Run(run)) = (&entry.event, entry.stream) else {
            return Err(Error::corrupt("a run begins with run.created").with("type", entry.event.type_name()));
        };
        let plan = plan_of(&created.plan)?;
        if plan.hash() != created.plan_hash || created.inputs.digest() != created.inputs_hash {
            return Err(Error::corrupt("hashes of plan or inputs do not match the entry"));
        }
        if plan.dag().id != created.dag_id {
            return Err(Error::corrupt("the plan is of another dag than the entry says"));
        }
        let key = RunKey { tenant: entry.tenant.clone(), run };
        let mut state = Self::new(key, entry.at, &entry.actor, created.clone(), plan);
        state.head = head;
        Ok(state)
    }

    /// The fold of a whole run, or nothing when there are no entries.
    ///
    /// # Errors
    /// `Corrupt`, with the sequence number, at the first entry that does not follow.
    pub fn fold<'a>(
        lines: impl IntoIterator<Item = &'a str>,
        mut plan_of: impl FnMut(&Payload) -> Result<SharedPlan>,
    ) -> Result<Option<Self>> {
        let mut state: Option<Self> = None;
        for page in lines {
            let head = state.as_ref().map_or(Head::EMPTY, |state| state.head);
            for entry in crate::ledger::read_chain(head, page) {
                let (entry, _, head) = entry?;
                match &mut state {
                    None => state = Some(Self::open(&entry, head, &mut plan_of)?),
                    Some(state) => {
                        state.apply(entry.at, &entry.actor, &entry.event)?;
                        state.head = head;
                    }
                }
            }
        }
        Ok(state)
    }

    /// Applies the next event.
    ///
    /// # Errors
    /// `Corrupt` when the event could not have followed; the state is then unusable.
    pub fn apply(&mut self, at: Timestamp, actor: &str, event: &Event) -> Result<()> {
        self.last_at = at;
        if self.ended.is_some() && !matches!(event, Event::RunRetried(_)) {
            let error = refused("the run has ended", event);
            // What an attempt says after its run is over, nobody holds any more.
            let outcome =
                event.type_name().starts_with("step.") || matches!(event, Event::AttemptProgress(_));
            return Err(if outcome { error.with("invariant", Invariant::R2) } else { error });
        }
        match event {
            Event::RunStarted(_) if self.started_at.is_some() => {
                return Err(refused("the run has started", event));
            }
            Event::RunStarted(_) => self.started_at = Some(at),
            Event::RunPaused(_) if self.paused || self.ending.is_some() => {
                return Err(refused("the run is paused or to end", event));
            }
            Event::RunPaused(_) => self.paused = true,
            Event::RunResumed(_) if !self.paused => return Err(refused("the run is not paused", event)),
            Event::RunResumed(_) => self.paused = false,
            Event::RunRetried(retried) => self.retried(at, retried)?,
            Event::RunCancelRequested(_) if self.ending.is_some() => {
                return Err(refused("the run is to end already", event));
            }
            Event::RunCancelRequested(e) => {
                self.ending = Some(Ending { code: e.code.clone(), reason: e.reason.clone() });
            }
            Event::RunCompleted(e) => self.end(RunStatus::Completed, at, e.outputs_hash, None)?,
            Event::RunFailed(e) => {
                self.end(RunStatus::Failed, at, e.outputs_hash, Some((&e.code, &e.message)))?
            }
            Event::RunCancelled(e) => self.end(RunStatus::Cancelled, at, e.outputs_hash, None)?,
            Event::StepScheduled(e) => self.scheduled(at, e)?,
            Event::StepStarted(e) => self.started(at, e)?,
            Event::AttemptProgress(e) => self.progress(e)?,
            Event::StepSucceeded(e) => self.succeeded(at, e)?,
            Event::StepFailed(e) => self.failed(at, e)?,
            Event::StepLost(e) => self.lost(e)?,
            Event::StepSkipped(e) => self.skipped(at, e)?,
            Event::StepParked(e) => self.parked(at, e)?,
            Event::StepCancelled(e) => self.cancelled(at, e)?,
            Event::StepWaiting(e) => self.waiting(at, e)?,
            Event::MapExpanded(e) => self.expanded(at, e)?,
            Event::GateRequested(e) => self.gate_requested(at, e)?,
            Event::GateDecided(e) => self.gate_decided(at, actor, e)?,
            Event::SignalReceived(e) => self.signalled(e),
            Event::RunCreated(_)
            | Event::AuditAction(_)
            | Event::CheckpointTaken(_)
            | Event::CheckpointPruned(_) => return Err(refused("it does not belong here", event)),
        }
        Ok(())
    }

    /// Checks that the run lets anything new begin.
    fn expect_starts(&self, what: &'static str) -> Result<()> {
        if self.starts_nothing() {
            return Err(Error::corrupt("entry begins something in a run that is paused or to end")
                .with("entry", what));
        }
        Ok(())
    }

    fn expect_begun(&self, what: &'static str) -> Result<()> {
        if self.started_at.is_none() {
            return Err(Error::corrupt("a step begins before its run").with("entry", what));
        }
        Ok(())
    }

    fn end(
        &mut self,
        status: RunStatus,
        at: Timestamp,
        outputs_hash: Digest,
        error: Option<(&String, &String)>,
    ) -> Result<()> {
        if self.index.unsettled > 0 {
            return Err(
                Error::corrupt("run ends with unsettled steps").with("unsettled", self.index.unsettled)
            );
        }
        let fits = match (&self.ending, status) {
            (None, RunStatus::Completed) => self.counts.failed == 0,
            (None, RunStatus::Failed) => self.counts.failed > 0,
            (Some(Ending { code: Some(code), .. }), RunStatus::Failed) => {
                error.is_some_and(|(given, _)| given == code)
            }
            (Some(Ending { code: None, .. }), RunStatus::Cancelled) => true,
            _ => false,
        };
        if !fits {
            return Err(Error::corrupt("run ends in another way than its steps say").with("status", status));
        }
        self.paused = false;
        let error = error.map(|(code, message)| format!("{code}: {message}"));
        self.ended = Some(Ended { status, at, outputs_hash, error });
        Ok(())
    }

    /// Gives steps another round. What was skipped or cancelled because of them is open again; what ran because of
    /// them stays as it is.
    fn retried(&mut self, now: Timestamp, e: &RunRetried) -> Result<()> {
        let ended = self.ended.as_ref().map(|ended| ended.status);
        if ended.is_some_and(|status| status != RunStatus::Failed)
            || (ended.is_none() && self.ending.is_some())
        {
            return Err(Error::corrupt("only a run that failed or goes on can be retried"));
        }
        let mut touched = Vec::with_capacity(e.steps.len());
        for key in &e.steps {
            let stuck = [StepStatus::Failed, StepStatus::Parked, StepStatus::Cancelled];
            let at = self.expect(key, "run.retried", &stuck)?;
            self.retry_one(at);
            touched.push(at.step);
        }
        touched.sort_unstable();
        touched.dedup();
        let cancelled_child = |step: &u32| {
            let map = self.steps[*step as usize].map.as_ref();
            map.is_some_and(|map| map.children.iter().any(|child| child.status == StepStatus::Cancelled))
        };
        if touched.is_empty() || self.counts.cancelled > 0 || touched.iter().any(cancelled_child) {
            return Err(Error::corrupt("a retry names every cancelled step, and at least one"));
        }
        if let Some((_, busy)) = self.first_busy_after(&touched) {
            return Err(Error::corrupt("a step is retried while what it led to is under way")
                .with("under_way", self.key_of(StepRef::top(busy))));
        }
        let downstream = self.plan.downstream(&touched);
        for position in 0..self.plan_len() {
            if downstream[position as usize] && self.steps[position as usize].status == StepStatus::Skipped {
                self.retry_one(StepRef::top(position));
            }
        }
        self.recount_needs();
        if ended.is_some() {
            self.ended = None;
            self.ending = None;
            self.round_at = now;
        }
        Ok(())
    }

    fn recount_needs(&mut self) {
        for position in 0..self.plan_len() {
            let unsettled = |need: &&u32| !self.steps[**need as usize].status.is_settled();
            let open = self.plan.needs(position).iter().filter(unsettled).count();
            self.index.open_needs[position as usize] = u32::try_from(open).unwrap_or(u32::MAX);
            let in_line = self.steps[position as usize].status == StepStatus::Pending
                && !self.index.retries.contains(&StepRef::top(position));
            if open == 0 && in_line {
                self.index.frontier.insert(position);
            } else {
                self.index.frontier.remove(&position);
            }
            self.refresh_map(position);
        }
    }

    /// Opens one step or child again, as if nothing had happened to it but its attempts' numbers.
    fn retry_one(&mut self, at: StepRef) {
        let old = self.at(at).status;
        let parent = StepRef::top(at.step);
        if self.at(parent).status.is_settled() {
            self.index.unsettled += 1;
        }
        if at.child.is_none() && self.at(at).map.is_some() {
            // Every child is settled well; what is left is to say so.
            return self.reopen_map(at.step);
        }
        self.set_status(at, StepStatus::Pending);
        let step = self.at_mut(at);
        *step = StepState { attempt: step.attempt, status: StepStatus::Pending, ..StepState::default() };
        if let Some(child) = at.child {
            let map = self.map_mut(at.step);
            map.again.insert(child);
            map.settled -= u32::from(old.is_settled());
            map.failed -= u32::from(old == StepStatus::Failed);
            self.reopen_map(at.step);
        }
    }

    fn reopen_map(&mut self, step: u32) {
        let parent = &mut self.steps[step as usize];
        parent.error = None;
        parent.ended_at = None;
        parent.output = None;
        parent.output_hash = None;
        self.open_map(step);
    }
}

fn refused(why: &'static str, event: &Event) -> Error {
    Error::corrupt("entry could not have followed").with("type", event.type_name()).with("why", why)
}

/// Reads a plan without sharing it.
///
/// # Errors
/// As [`Plan::read`].
pub fn unshared_plan(document: &Payload) -> Result<SharedPlan> {
    Plan::read(document, &crate::limits::Limits::default()).map(SharedPlan::new)
}
