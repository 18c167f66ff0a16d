//! Folding entries into the state of a run. Strict: an entry that could not have followed is refused, so the same
//! code that runs the engine is the checker of its invariants.

use super::plan::{Plan, SharedPlan};
use super::state::{Ended, Ending, MapState, RunState, StepError, StepRef, StepState, Verdict, Wait};
use crate::error::{Error, Result};
use crate::expr::LazyValue;
use crate::id::{RunKey, StepKey};
use crate::ledger::{
    AttemptProgress, Entry, Event, GateDecided, GateRequested, Head, MapExpanded, RunRetried, RunStatus,
    SignalReceived, StepCancelled, StepFailed, StepLost, StepParked, StepScheduled, StepSkipped, StepStarted,
    StepStatus, StepSucceeded, StepWaiting, Stream,
};
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
            return Err(refused("the run has ended", event));
        }
        match event {
            Event::RunStarted(_) => self.started_at = self.started_at.or(Some(at)),
            Event::RunPaused(_) => self.paused = true,
            Event::RunResumed(_) => self.paused = false,
            Event::RunRetried(retried) => self.retried(retried)?,
            Event::RunCancelRequested(e) => {
                self.ending = Some(Ending { code: e.code.clone(), reason: e.reason.clone() });
            }
            Event::RunCompleted(e) => self.end(RunStatus::Completed, at, e.outputs_hash, None)?,
            Event::RunFailed(e) => {
                self.end(RunStatus::Failed, at, e.outputs_hash, Some(format!("{}: {}", e.code, e.message)))?;
            }
            Event::RunCancelled(e) => self.end(RunStatus::Cancelled, at, e.outputs_hash, None)?,
            Event::StepScheduled(e) => self.scheduled(at, e)?,
            Event::StepStarted(e) => self.started(at, e)?,
            Event::AttemptProgress(e) => self.progress(e),
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

    fn find_or_refuse(&self, key: &StepKey) -> Result<StepRef> {
        self.find(key)
            .ok_or_else(|| Error::corrupt("entry names a step the run does not have").with("step", key))
    }

    /// The step, if its status is among `allowed`.
    fn expect(&self, key: &StepKey, what: &'static str, allowed: &[StepStatus]) -> Result<StepRef> {
        let at = self.find_or_refuse(key)?;
        let status = self.at(at).status;
        if allowed.contains(&status) {
            return Ok(at);
        }
        Err(Error::corrupt("entry does not fit the step's status")
            .with("entry", what)
            .with("step", key)
            .with("status", status))
    }

    /// The step, if this is its running attempt: the fence of R1 and R2.
    fn expect_attempt(&self, key: &StepKey, what: &'static str, attempt: u32) -> Result<StepRef> {
        let at = self.expect(key, what, &[StepStatus::Running])?;
        if self.at(at).attempt == attempt {
            return Ok(at);
        }
        Err(Error::corrupt("entry is about an attempt that is not current")
            .with("entry", what)
            .with("step", key)
            .with("attempt", attempt)
            .with("current", self.at(at).attempt))
    }

    fn set_timer(&mut self, at: StepRef, timer: Option<Timestamp>) {
        let old = std::mem::replace(&mut self.at_mut(at).timer, timer);
        if let Some(old) = old {
            self.index.timers.remove(&(old, at));
        }
        if let Some(new) = timer {
            self.index.timers.insert((new, at));
        }
    }

    fn set_status(&mut self, at: StepRef, status: StepStatus) {
        let old = std::mem::replace(&mut self.at_mut(at).status, status);
        match old {
            StepStatus::Queued => drop(self.index.queued.remove(&at)),
            StepStatus::Running => drop(self.index.running.remove(&at)),
            _ => {}
        }
        match status {
            StepStatus::Queued => drop(self.index.queued.insert(at)),
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
    fn settle(&mut self, at: StepRef, status: StepStatus, now: Timestamp) {
        let was_active = self.is_active(at);
        self.set_timer(at, None);
        self.set_status(at, status);
        self.index.retries.remove(&at);
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
            self.index.maps.insert(at.step);
            return;
        }
        self.index.frontier.remove(&at.step);
        self.index.maps.remove(&at.step);
        self.index.verdicts.remove(&at.step);
        self.index.unsettled -= 1;
        let plan = SharedPlan::clone(&self.plan);
        for dependent in plan.dependents(at.step) {
            let open = &mut self.index.open_needs[*dependent as usize];
            *open -= 1;
            if *open == 0 && self.steps[*dependent as usize].status == StepStatus::Pending {
                self.index.frontier.insert(*dependent);
            }
        }
    }

    /// Whether a child takes one of its parent's `maxParallel` places. One that will be tried again keeps its place.
    fn is_active(&self, at: StepRef) -> bool {
        match self.at(at).status {
            StepStatus::Queued | StepStatus::Running => true,
            StepStatus::Pending => self.index.retries.contains(&at),
            _ => false,
        }
    }

    pub(super) fn map_mut(&mut self, step: u32) -> &mut MapState {
        self.steps[step as usize].map.as_mut().expect("children have an expanded parent")
    }

    fn end(
        &mut self,
        status: RunStatus,
        at: Timestamp,
        outputs_hash: crate::digest::Digest,
        error: Option<String>,
    ) -> Result<()> {
        if self.index.unsettled > 0 {
            return Err(
                Error::corrupt("run ends with unsettled steps").with("unsettled", self.index.unsettled)
            );
        }
        self.paused = false;
        self.ended = Some(Ended { status, at, outputs_hash, error });
        Ok(())
    }

    fn scheduled(&mut self, now: Timestamp, e: &StepScheduled) -> Result<()> {
        let at = self.expect(&e.step, "step.scheduled", &[StepStatus::Pending])?;
        if at.child.is_none() && self.index.open_needs[at.step as usize] > 0 {
            return Err(
                Error::corrupt("step is scheduled before its needs are settled").with("step", &e.step)
            );
        }
        if e.attempt != self.at(at).attempt + 1 {
            return Err(Error::corrupt("attempts are numbered without gaps")
                .with("step", &e.step)
                .with("attempt", e.attempt));
        }
        let retry = self.index.retries.remove(&at);
        self.index.frontier.remove(&at.step);
        self.set_status(at, StepStatus::Queued);
        let step = self.at_mut(at);
        step.attempt = e.attempt;
        step.input.clone_from(&e.input);
        step.input_hash = Some(e.input_hash);
        step.not_before = e.not_before;
        step.scheduled_at = step.scheduled_at.or(Some(now));
        step.child_run = None;
        if let Some(child) = at.child {
            let map = self.map_mut(at.step);
            map.next = map.next.max(child + 1);
            map.active += u32::from(!retry);
        }
        let deadline = self.step_deadline(at);
        self.set_timer(at, deadline);
        Ok(())
    }

    fn started(&mut self, now: Timestamp, e: &StepStarted) -> Result<()> {
        let at = self.expect(&e.step, "step.started", &[StepStatus::Queued])?;
        if e.attempt != self.at(at).attempt {
            return Err(Error::corrupt("another attempt is queued")
                .with("step", &e.step)
                .with("attempt", e.attempt));
        }
        self.set_status(at, StepStatus::Running);
        let step = self.at_mut(at);
        step.started_at = Some(now);
        step.worker.clone_from(&e.worker);
        step.lease_until = e.lease_until;
        step.child_run = e.child_run;
        step.not_before = None;
        // The worker watches over the attempt's own deadline; what outlives the worker is its lease. Nobody watches
        // over a sub-DAG but this timer.
        let timer = if e.child_run.is_some() { self.attempt_deadline(at) } else { e.lease_until };
        self.set_timer(at, timer);
        Ok(())
    }

    /// When the running attempt is out of time.
    #[must_use]
    pub fn attempt_deadline(&self, at: StepRef) -> Option<Timestamp> {
        let attempt =
            self.spec(at).timeout.and_then(|span| Some(self.at(at).started_at?.plus(span.duration())));
        [attempt, self.step_deadline(at)].into_iter().flatten().min()
    }

    fn progress(&mut self, e: &AttemptProgress) {
        let held: Vec<StepRef> =
            self.running().filter(|at| self.at(*at).worker.as_ref() == Some(&e.worker)).collect();
        for at in held {
            self.at_mut(at).lease_until = Some(e.lease_until);
            self.set_timer(at, Some(e.lease_until));
        }
    }

    fn succeeded(&mut self, now: Timestamp, e: &StepSucceeded) -> Result<()> {
        let at = if e.reused.is_some() {
            self.expect(&e.step, "step.succeeded", &[StepStatus::Pending, StepStatus::Queued])?
        } else {
            let at = self.expect(&e.step, "step.succeeded", &[StepStatus::Running, StepStatus::Waiting])?;
            if self.at(at).status == StepStatus::Running && self.at(at).map.is_none() {
                self.expect_attempt(&e.step, "step.succeeded", e.attempt)?;
            }
            at
        };
        let output = match (&e.output, &self.at(at).map) {
            (Some(output), None) => output.clone(),
            (None, Some(map)) => map.collect(),
            (Some(output), Some(_)) if e.reused.is_some() => output.clone(),
            _ => return Err(Error::corrupt("output does not fit the kind of step").with("step", &e.step)),
        };
        self.take_signal(at);
        let step = self.at_mut(at);
        step.output = Some(Box::new(LazyValue::new(output)));
        step.output_hash = Some(e.output_hash);
        step.error = None;
        step.logs = e.logs.clone().map(Box::new);
        self.settle(at, StepStatus::Succeeded, now);
        Ok(())
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

    fn failed(&mut self, now: Timestamp, e: &StepFailed) -> Result<()> {
        let open = [StepStatus::Pending, StepStatus::Queued, StepStatus::Running, StepStatus::Waiting];
        let at = self.expect(&e.step, "step.failed", &open)?;
        if self.at(at).status == StepStatus::Running && self.at(at).map.is_none() {
            self.expect_attempt(&e.step, "step.failed", e.attempt)?;
        }
        self.forget_waiter(at);
        self.note_error(at, &e.code, &e.message, e.logs.as_ref());
        if let Some(retry_at) = e.retry_at {
            self.at_mut(at).failures += 1;
            self.reopen(at, Some(retry_at));
        } else {
            self.step_over(at);
            self.settle(at, StepStatus::Failed, now);
        }
        Ok(())
    }

    fn note_error(
        &mut self,
        at: StepRef,
        code: &str,
        message: &str,
        logs: Option<&crate::ledger::ArtifactRef>,
    ) {
        let step = self.at_mut(at);
        step.error = Some(Box::new(StepError { code: code.to_owned(), message: message.to_owned() }));
        step.logs = logs.cloned().map(Box::new);
    }

    /// A child that is settled before it was ever scheduled is not looked at again.
    fn step_over(&mut self, at: StepRef) {
        if let Some(child) = at.child {
            let map = self.map_mut(at.step);
            map.next = map.next.max(child + 1);
        }
    }

    /// Back to pending, to be scheduled again.
    fn reopen(&mut self, at: StepRef, not_before: Option<Timestamp>) {
        self.set_timer(at, not_before.filter(|_| self.is_sub_dag(at)));
        self.set_status(at, StepStatus::Pending);
        let step = self.at_mut(at);
        step.worker = None;
        step.lease_until = None;
        step.not_before = not_before;
        self.index.retries.insert(at);
    }

    fn lost(&mut self, e: &StepLost) -> Result<()> {
        let at = self.expect_attempt(&e.step, "step.lost", e.attempt)?;
        self.at_mut(at).losses += 1;
        self.reopen(at, Some(e.retry_at));
        Ok(())
    }

    fn skipped(&mut self, now: Timestamp, e: &StepSkipped) -> Result<()> {
        let at = self.expect(&e.step, "step.skipped", &[StepStatus::Pending])?;
        self.note_error(at, "skipped", &e.reason, None);
        self.settle(at, StepStatus::Skipped, now);
        Ok(())
    }

    fn parked(&mut self, now: Timestamp, e: &StepParked) -> Result<()> {
        let at = self.expect_attempt(&e.step, "step.parked", e.attempt)?;
        self.note_error(at, &e.code, &e.message, e.logs.as_ref());
        self.set_timer(at, None);
        self.set_status(at, StepStatus::Parked);
        let step = self.at_mut(at);
        step.failures += 1;
        step.ended_at = Some(now);
        step.worker = None;
        step.lease_until = None;
        if at.child.is_some() {
            self.map_mut(at.step).active -= 1;
            self.index.maps.insert(at.step);
        }
        Ok(())
    }

    fn cancelled(&mut self, now: Timestamp, e: &StepCancelled) -> Result<()> {
        let at = self.find_or_refuse(&e.step)?;
        if self.at(at).status.is_settled() {
            return Err(Error::corrupt("a settled step cannot be cancelled").with("step", &e.step));
        }
        self.forget_waiter(at);
        self.step_over(at);
        self.at_mut(at).logs = e.logs.clone().map(Box::new);
        self.settle(at, StepStatus::Cancelled, now);
        Ok(())
    }

    fn wait_on(&mut self, now: Timestamp, at: StepRef, wait: Wait) {
        self.index.frontier.remove(&at.step);
        self.set_status(at, StepStatus::Waiting);
        let timer = [wait.until, wait.expires_at].into_iter().flatten().min();
        let step = self.at_mut(at);
        step.attempt += 1;
        step.scheduled_at = step.scheduled_at.or(Some(now));
        step.started_at = Some(now);
        step.wait = Some(Box::new(wait));
        self.set_timer(at, timer);
    }

    fn waiting(&mut self, now: Timestamp, e: &StepWaiting) -> Result<()> {
        let at = self.expect(&e.step, "step.waiting", &[StepStatus::Pending])?;
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

    fn gate_requested(&mut self, now: Timestamp, e: &GateRequested) -> Result<()> {
        let at = self.expect(&e.step, "gate.requested", &[StepStatus::Pending])?;
        let wait = Wait { expires_at: e.expires_at, asked: Some(e.input.clone()), ..Wait::default() };
        self.wait_on(now, at, wait);
        Ok(())
    }

    fn gate_decided(&mut self, now: Timestamp, actor: &str, e: &GateDecided) -> Result<()> {
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

    fn signalled(&mut self, e: &SignalReceived) {
        self.index.signals.entry(e.name.clone()).or_default().push_back(e.payload.clone());
    }

    fn expanded(&mut self, now: Timestamp, e: &MapExpanded) -> Result<()> {
        let at = self.expect(&e.step, "map.expanded", &[StepStatus::Pending])?;
        self.index.frontier.remove(&at.step);
        let step = self.at_mut(at);
        step.scheduled_at = step.scheduled_at.or(Some(now));
        step.started_at = Some(now);
        step.map = Some(Box::new(MapState {
            items: e.items.iter().cloned().map(LazyValue::new).collect(),
            children: vec![StepState::default(); e.items.len()],
            next: 0,
            active: 0,
            settled: 0,
            failed: 0,
        }));
        self.set_status(at, StepStatus::Running);
        self.index.maps.insert(at.step);
        Ok(())
    }

    fn retried(&mut self, e: &RunRetried) -> Result<()> {
        let mut touched = Vec::with_capacity(e.steps.len());
        for key in &e.steps {
            let at = self.expect(key, "run.retried", &[StepStatus::Failed, StepStatus::Parked])?;
            self.retry_one(at);
            touched.push(at.step);
        }
        // What was skipped because of them is open again; what ran because of them stays as it is.
        let downstream = self.plan.downstream(&touched);
        for position in (0..self.steps.len()).filter(|p| downstream[*p]) {
            if self.steps[position].status == StepStatus::Skipped {
                let at = StepRef::top(u32::try_from(position).unwrap_or(u32::MAX));
                self.set_status(at, StepStatus::Pending);
                self.steps[position] = StepState::default();
                self.index.unsettled += 1;
            }
        }
        for position in 0..u32::try_from(self.steps.len()).unwrap_or(u32::MAX) {
            let unsettled = |need: &&u32| !self.steps[**need as usize].status.is_settled();
            let open = self.plan.needs(position).iter().filter(unsettled).count();
            self.index.open_needs[position as usize] = u32::try_from(open).unwrap_or(u32::MAX);
            let never_looked_at = self.steps[position as usize].status == StepStatus::Pending
                && !self.index.retries.contains(&StepRef::top(position));
            if open == 0 && never_looked_at {
                self.index.frontier.insert(position);
            } else {
                self.index.frontier.remove(&position);
            }
        }
        self.ended = None;
        self.ending = None;
        Ok(())
    }

    fn retry_one(&mut self, at: StepRef) {
        let settled = self.at(at).status.is_settled();
        let attempted = self.at(at).input_hash.is_some();
        if at.child.is_some() {
            let map = self.map_mut(at.step);
            map.active += 1;
            if settled {
                map.settled -= 1;
                map.failed -= 1;
            }
            self.index.maps.insert(at.step);
            if self.steps[at.step as usize].status.is_settled() {
                self.set_status(StepRef::top(at.step), StepStatus::Running);
                self.index.unsettled += 1;
            }
        } else if settled {
            self.index.unsettled += 1;
        }
        if attempted || at.child.is_some() {
            self.reopen(at, None);
        } else {
            self.set_status(at, StepStatus::Pending);
        }
        let step = self.at_mut(at);
        let attempt = step.attempt;
        *step = StepState { attempt, input_hash: step.input_hash, ..StepState::default() };
    }
}

fn refused(why: &'static str, event: &Event) -> Error {
    Error::corrupt("entry could not have followed").with("type", event.type_name()).with("why", why)
}

impl MapState {
    /// The children's outputs in the order of the items; `null` where a child has none.
    #[must_use]
    pub fn collect(&self) -> Payload {
        let null = Payload::null();
        Payload::list(
            self.children.iter().map(|child| child.output.as_deref().map_or(&null, LazyValue::payload)),
        )
    }
}

/// Reads a plan without sharing it.
///
/// # Errors
/// As [`Plan::read`].
pub fn unshared_plan(document: &Payload) -> Result<SharedPlan> {
    Plan::read(document, &crate::limits::Limits::default()).map(SharedPlan::new)
}
