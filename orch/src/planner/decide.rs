//! What happens next: a pure function of a run's state and the time.
//!
//! It does no I/O, reads no clock and draws no random number; a decision costs what it decides, not what the run
//! holds.

use serde_json::Value;

use super::attempt;
use super::plan::Input;
use super::scope::{StepScope, verdict_output};
use super::state::{RunState, StepRef};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::id::RunId;
use crate::ledger::{
    Event, GateKind, GateRequested, MapExpanded, RunCancelRequested, RunCancelled, RunCompleted, RunFailed,
    RunStarted, StepCancelled, StepScheduled, StepSkipped, StepStarted, StepStatus, StepSucceeded,
    StepWaiting,
};
use crate::limits::Limits;
use crate::payload::Payload;
use crate::spec::Uses;
use crate::time::{Span, Timestamp};

/// The next events of a run, in order; nothing when all there is to do is wait.
///
/// One call decides one wave: what can be said from the present state. Apply the events and call again until
/// nothing comes; [`advance`] does both.
#[must_use]
pub fn decide(state: &RunState, now: Timestamp, limits: &Limits) -> Vec<Event> {
    if state.ended.is_some() {
        return Vec::new();
    }
    let mut wave = Wave { state, now, limits, events: Vec::new() };
    wave.out_of_time();
    if !wave.events.is_empty() {
        return wave.events;
    }
    if state.ending.is_some() {
        wave.wind_down();
    } else if state.index.unsettled == 0 {
        wave.finish();
    } else {
        wave.verdicts();
        wave.signals();
        wave.settle_maps();
        if !state.paused {
            wave.retries();
            wave.delayed();
            wave.frontier();
            wave.fill_maps();
        }
    }
    wave.events
}

/// Decides and applies until there is nothing more to decide. Answers the events in order.
///
/// # Errors
/// `Corrupt` when a decision could not be applied, which would be a defect.
pub fn advance(state: &mut RunState, now: Timestamp, actor: &str, limits: &Limits) -> Result<Vec<Event>> {
    let mut all = Vec::new();
    loop {
        let (events, more) = advance_some(state, now, actor, limits)?;
        all.extend(events);
        if !more {
            return Ok(all);
        }
    }
}

/// As [`advance`], but stops once there is enough for one append ([`Limits::append_entries`], which the last wave may
/// exceed by less than as much again). Answers the events and whether more is to be decided.
///
/// # Errors
/// As [`advance`].
pub fn advance_some(
    state: &mut RunState,
    now: Timestamp,
    actor: &str,
    limits: &Limits,
) -> Result<(Vec<Event>, bool)> {
    let mut all = Vec::new();
    while all.len() < limits.append_entries {
        let events = decide(state, now, limits);
        if events.is_empty() {
            return Ok((all, false));
        }
        for event in &events {
            state.apply(now, actor, event)?;
        }
        all.extend(events);
    }
    Ok((all, true))
}

struct Wave<'a> {
    state: &'a RunState,
    now: Timestamp,
    limits: &'a Limits,
    events: Vec<Event>,
}

impl Wave<'_> {
    fn push(&mut self, event: impl Into<Event>) {
        self.events.push(event.into());
    }

    /// Whether the wave holds as much as one append may; what is left is decided in the next.
    fn is_full(&self) -> bool {
        self.events.len() >= self.limits.append_entries
    }

    fn fail_early(&mut self, at: StepRef, code: &str, message: String) {
        let step = self.state.key_of(at);
        let event = attempt::failed(step, 0, code, message, false, self.limits);
        self.push(event);
    }

    /// Everything whose instant has come: lost leases, waits, expiries, deadlines.
    fn out_of_time(&mut self) {
        let state = self.state;
        for (_, at) in
            state.index.timers.range(..=(self.now, StepRef { step: u32::MAX, child: Some(u32::MAX) }))
        {
            let at = *at;
            match state.at(at).status {
                StepStatus::Running if state.at(at).child_run.is_some() => self.timed_out(at, "the sub-dag"),
                // Nobody here watches over the time of an outside worker's attempt: its lease ends with it.
                StepStatus::Running if self.is_overdue_outside(at) => self.timed_out(at, "the attempt"),
                StepStatus::Running => {
                    let event = attempt::lost(state, at, self.now, self.limits);
                    self.push(event);
                }
                StepStatus::Waiting => self.wait_is_over(at),
                _ => {
                    let message = "the step's total time ran out before its next attempt".to_owned();
                    let event = attempt::give_up(state, at, "total_timeout", message, false, self.limits);
                    self.push(event);
                }
            }
        }
        if state.ending.is_none() && state.deadline().is_some_and(|deadline| deadline <= self.now) {
            let reason = Some("the run's time ran out".to_owned());
            self.push(RunCancelRequested { code: Some("run_timeout".to_owned()), reason });
        }
    }

    fn is_overdue_outside(&self, at: StepRef) -> bool {
        let overdue = || self.state.attempt_deadline(at).is_some_and(|deadline| deadline <= self.now);
        matches!(self.state.spec(at).uses, Uses::Worker(_)) && overdue()
    }

    fn timed_out(&mut self, at: StepRef, what: &str) {
        let message = format!("{what}'s time ran out");
        let event =
            attempt::settle_failure(self.state, at, "timeout", message, true, self.now, None, self.limits);
        self.push(event);
    }

    fn wait_is_over(&mut self, at: StepRef) {
        let step = self.state.at(at);
        let Some(wait) = &step.wait else { return };
        if wait.is_decided() {
            return self.verdict(at);
        }
        if wait.until.is_some_and(|until| until <= self.now) {
            return self.succeed(at, Payload::null());
        }
        let (code, what) = match (&wait.signal, &wait.asked) {
            (Some(_), _) => ("signal_timeout", "no signal came in time"),
            (None, Some(_)) => ("expired", "nobody decided the gate in time"),
            (None, None) => ("timeout", "the wait took longer than it may"),
        };
        self.fail_wait(at, code, what);
    }

    fn fail_wait(&mut self, at: StepRef, code: &str, message: &str) {
        let (step, attempt) = (self.state.key_of(at), self.state.at(at).attempt);
        let event = attempt::failed(step, attempt, code, message.to_owned(), false, self.limits);
        self.push(event);
    }

    fn succeed(&mut self, at: StepRef, output: Payload) {
        self.push(StepSucceeded {
            attempt: self.state.at(at).attempt,
            logs: None,
            output_hash: output.digest(),
            output: Some(output),
            reused: None,
            step: self.state.key_of(at),
        });
    }

    fn verdicts(&mut self) {
        for position in &self.state.index.verdicts {
            self.verdict(StepRef::top(*position));
        }
    }

    fn verdict(&mut self, at: StepRef) {
        let Some(wait) = &self.state.at(at).wait else { return };
        let Some(verdict) = &wait.verdict else { return };
        if !wait.is_decided() {
            return self.fail_wait(at, "expired", "the verdict came after the gate had expired");
        }
        if verdict.approved {
            match verdict_output(verdict) {
                Ok(output) => self.succeed(at, output),
                Err(error) => self.fail_early(at, "verdict", error.to_string()),
            }
        } else {
            let reason = verdict.reason.as_deref().unwrap_or("no reason given");
            self.fail_wait(at, "rejected", &format!("rejected by {}: {reason}", verdict.actor));
        }
    }

    /// Each waiting step takes the oldest signal of its name; the first step in plan order goes first.
    fn signals(&mut self) {
        for (name, pending) in &self.state.index.signals {
            let waiters = self.state.index.waiters.get(name);
            for (position, payload) in waiters.into_iter().flatten().zip(pending) {
                self.succeed(StepRef::top(*position), payload.clone());
            }
        }
    }

    fn retries(&mut self) {
        for at in &self.state.index.retries {
            if self.is_full() {
                return;
            }
            self.schedule(*at, self.state.at(*at).not_before);
        }
    }

    /// Attempts of sub-DAGs whose backoff is over.
    fn delayed(&mut self) {
        for (not_before, at) in &self.state.index.delayed {
            if *not_before > self.now {
                break;
            }
            let step = self.state.at(*at);
            let input = step.input_hash.unwrap_or_default();
            self.start_sub_dag(*at, step.attempt, &input);
        }
    }

    fn frontier(&mut self) {
        for position in &self.state.index.frontier {
            if self.is_full() {
                return;
            }
            let at = StepRef::top(*position);
            match StepScope::new(self.state, at).condition(self.limits) {
                Err(error) => self.fail_early(at, "expression", error.message),
                Ok(false) => self.skip(at),
                Ok(true) => self.open(at),
            }
        }
    }

    fn skip(&mut self, at: StepRef) {
        let needs = self.state.plan.needs(at.step);
        let unmet = |need: &&u32| self.state.steps[**need as usize].status != StepStatus::Succeeded;
        let reason = match (&self.state.spec(at).when, needs.iter().find(unmet)) {
            (None, Some(need)) => {
                let need = StepRef::top(*need);
                format!("`{}` is {}", self.state.key_of(need), self.state.at(need).status)
            }
            _ => "its condition is false".to_owned(),
        };
        self.push(StepSkipped { reason, step: self.state.key_of(at) });
    }

    /// The step's turn has come.
    fn open(&mut self, at: StepRef) {
        let spec = self.state.spec(at);
        if spec.for_each.is_some() {
            return self.expand(at);
        }
        match &spec.uses {
            Uses::GateApproval => self.request(at, GateKind::Approval),
            Uses::GatePolicy => self.request(at, GateKind::Policy),
            Uses::Sleep | Uses::Signal => self.wait(at),
            _ => self.schedule(at, None),
        }
    }

    /// The input of the next attempt. One that is tried again gets what it got before.
    fn input(&mut self, at: StepRef) -> Option<Input> {
        let input = if self.state.index.retries.contains(&at) {
            let hash = self.state.at(at).input_hash.unwrap_or_default();
            self.state.attempt_input(at, self.limits).map(|payload| Input { payload, hash })
        } else {
            StepScope::new(self.state, at).input(self.limits)
        };
        match input {
            Ok(input) => Some(input),
            Err(error) => {
                self.fail_early(at, "expression", error.to_string());
                None
            }
        }
    }

    fn schedule(&mut self, at: StepRef, not_before: Option<Timestamp>) {
        let Some(Input { payload: input, hash: input_hash }) = self.input(at) else { return };
        if let Err(error) = self.state.slots(at, self.limits) {
            return self.fail_early(at, "expression", error.to_string());
        }
        let templated = self.state.plan.compiled(at.step).is_some_and(|compiled| compiled.with.is_some());
        let recorded = templated && input.len() <= self.limits.payload_bytes;
        let attempt = self.state.at(at).attempt + 1;
        let not_before = not_before.filter(|instant| *instant > self.now);
        self.push(StepScheduled {
            attempt,
            input: recorded.then_some(input),
            input_hash,
            not_before,
            step: self.state.key_of(at),
        });
        if not_before.is_none() {
            self.start_sub_dag(at, attempt, &input_hash);
        }
    }

    /// Nobody claims a sub-DAG: the engine submits its run once this is durable.
    fn start_sub_dag(&mut self, at: StepRef, attempt: u32, input: &Digest) {
        let Some(run) = self.child_run(at, attempt, input) else { return };
        self.push_run_started();
        self.push(StepStarted {
            attempt,
            child_run: Some(run),
            executor: None,
            lease_until: None,
            step: self.state.key_of(at),
            worker: None,
        });
    }

    fn push_run_started(&mut self) {
        let said = |event: &Event| matches!(event, Event::RunStarted(_));
        if self.state.started_at.is_none() && !self.events.iter().any(said) {
            self.push(RunStarted {});
        }
    }

    fn child_run(&self, at: StepRef, attempt: u32, input: &Digest) -> Option<RunId> {
        let Uses::Dag { id, .. } = &self.state.spec(at).uses else { return None };
        let token = child_token(self.state, at, attempt);
        Some(RunId::derive(&self.state.key.tenant, id, &token, input))
    }

    fn request(&mut self, at: StepRef, gate: GateKind) {
        let Some(Input { payload: input, .. }) = self.input(at) else { return };
        self.push_run_started();
        let expires_at = self.state.spec(at).timeout.map(|span| self.now.plus(span.duration()));
        self.push(GateRequested { expires_at, gate, input, step: self.state.key_of(at) });
    }

    fn wait(&mut self, at: StepRef) {
        let Some(input) = self.input(at) else { return };
        let input = input.payload.to_value();
        let spec = self.state.spec(at);
        let text = |name: &str| input.get(name).and_then(Value::as_str).map(str::to_owned);
        let (until, signal) = if spec.uses == Uses::Sleep {
            match text("duration").map(|duration| duration.parse::<Span>()) {
                Some(Ok(span)) => (Some(self.now.plus(span.duration())), None),
                Some(Err(error)) => return self.fail_early(at, "invalid_input", error.to_string()),
                None => {
                    return self.fail_early(at, "invalid_input", "wait/sleep needs `duration`".to_owned());
                }
            }
        } else {
            match text("name") {
                Some(name) => (None, Some(name)),
                None => return self.fail_early(at, "invalid_input", "wait/signal needs `name`".to_owned()),
            }
        };
        self.push_run_started();
        let expires_at = spec.timeout.map(|span| self.now.plus(span.duration()));
        self.push(StepWaiting { expires_at, signal, step: self.state.key_of(at), until });
    }

    fn expand(&mut self, at: StepRef) {
        let items =
            StepScope::new(self.state, at).items(self.limits).map_err(Error::from).and_then(|items| {
                if items.len() > self.limits.map_items {
                    return Err(Error::limit_exceeded("too many items")
                        .with("items", items.len())
                        .with("limit", self.limits.map_items));
                }
                let payloads = items.iter().map(Payload::new).collect::<Result<Vec<_>>>()?;
                let bytes: usize = payloads.iter().map(Payload::len).sum();
                if bytes > self.limits.map_bytes {
                    return Err(Error::limit_exceeded("items are too large together")
                        .with("bytes", bytes)
                        .with("limit", self.limits.map_bytes));
                }
                Ok(payloads)
            });
        match items {
            Err(error) => self.fail_early(at, "for_each", error.to_string()),
            Ok(items) => {
                self.push_run_started();
                self.push(MapExpanded { items, step: self.state.key_of(at) });
            }
        }
    }

    /// Expanded steps whose children are all settled.
    fn settle_maps(&mut self) {
        for position in &self.state.index.maps {
            let at = StepRef::top(*position);
            if self.state.at(at).map.as_ref().is_some_and(|map| map.settled == map.len()) {
                self.settle_map(at);
            }
        }
    }

    /// Fills the free places of expanded steps: children retried by hand first, then in the order of the items.
    fn fill_maps(&mut self) {
        for position in &self.state.index.maps {
            let Some(map) = &self.state.steps[*position as usize].map else { continue };
            let free = self.state.places(StepRef::top(*position)).saturating_sub(map.active);
            let line = map.again.iter().copied().chain(map.next..map.len());
            for child in line.take(free as usize) {
                if self.is_full() {
                    return;
                }
                self.schedule(StepRef { step: *position, child: Some(child) }, None);
            }
        }
    }

    fn settle_map(&mut self, at: StepRef) {
        let Some(map) = &self.state.at(at).map else { return };
        let step = self.state.key_of(at);
        if map.failed > 0 {
            let failed = |child: &(usize, &super::state::StepState)| child.1.status == StepStatus::Failed;
            let first = map.children.iter().enumerate().find(failed).map_or(0, |(index, _)| index);
            let message = format!(
                "{} of {} children failed, the first is {step}[{first}]",
                map.failed,
                map.children.len()
            );
            let event = attempt::failed(step, 0, "child_failed", message, false, self.limits);
            return self.push(event);
        }
        let output_hash = map.collect().digest();
        self.push(StepSucceeded { attempt: 0, logs: None, output: None, output_hash, reused: None, step });
    }

    /// The run is to end: everything that does not run is cancelled; what runs is waited for. Looks at every step
    /// once, and from then on only at what still runs.
    fn wind_down(&mut self) {
        let state = self.state;
        let counts = state.counts;
        if counts.pending + counts.queued + counts.waiting + counts.parked > 0 {
            for position in 0..state.plan_len() {
                self.cancel_idle(StepRef::top(position));
            }
        }
        for position in &state.index.expanded {
            let Some(map) = &state.steps[*position as usize].map else { continue };
            let child = |index| StepRef { step: *position, child: Some(index) };
            let running = state.index.running.range(child(0)..=child(u32::MAX)).count();
            if (map.len() - map.settled) as usize > running {
                (0..map.len()).for_each(|index| self.cancel_idle(child(index)));
            }
            if running == 0 && !self.is_full() {
                let step = state.key_of(StepRef::top(*position));
                self.push(StepCancelled { attempt: 0, logs: None, step });
            }
        }
        if state.index.unsettled == 0 {
            self.end();
        }
    }

    fn cancel_idle(&mut self, at: StepRef) {
        let status = self.state.at(at).status;
        if !status.is_settled() && status != StepStatus::Running && !self.is_full() {
            self.push(StepCancelled { attempt: 0, logs: None, step: self.state.key_of(at) });
        }
    }

    fn end(&mut self) {
        let outputs_hash = self.state.outputs_hash();
        let ending = self.state.ending.as_ref();
        match ending.and_then(|ending| Some((ending.code.clone()?, ending.reason.clone()))) {
            Some((code, reason)) => {
                self.push(RunFailed { code, message: reason.unwrap_or_default(), outputs_hash });
            }
            None => self.push(RunCancelled { outputs_hash }),
        }
    }

    fn finish(&mut self) {
        let outputs_hash = self.state.outputs_hash();
        let failed = self.state.counts.failed;
        if failed == 0 {
            return self.push(RunCompleted { outputs_hash });
        }
        let first = self.state.steps.iter().position(|step| step.status == StepStatus::Failed).unwrap_or(0);
        let code = self.state.steps[first].error.as_ref().map_or("", |error| &error.code);
        let message = match failed {
            1 => format!("step `{}` failed ({code})", self.state.plan.steps()[first].id),
            _ => format!(
                "{failed} steps failed, the first is `{}` ({code})",
                self.state.plan.steps()[first].id
            ),
        };
        self.push(RunFailed { code: "step_failed".to_owned(), message, outputs_hash });
    }
}

/// The token of the run that carries out an attempt of a sub-DAG step.
#[must_use]
pub fn child_token(state: &RunState, at: StepRef, attempt: u32) -> String {
    format!("{}/{}/{attempt}", state.key.run, state.key_of(at))
}
