//! What happens next: a pure function of a run's state and the time.
//!
//! It does no I/O, reads no clock and draws no random number; a decision costs what it decides, not what the run
//! holds.

use serde_json::Value;

use super::attempt;
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
    } else if !state.paused {
        wave.verdicts();
        wave.signals();
        wave.retries();
        wave.frontier();
        wave.maps();
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
        let events = decide(state, now, limits);
        if events.is_empty() {
            return Ok(all);
        }
        for event in &events {
            state.apply(now, actor, event)?;
        }
        all.extend(events);
    }
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
                StepStatus::Running if state.at(at).child_run.is_some() => self.out_of_time_sub_dag(at),
                StepStatus::Running => {
                    let event = attempt::lost(state, at, self.now, self.limits);
                    self.push(event);
                }
                StepStatus::Waiting => self.wait_is_over(at),
                // The backoff of a sub-DAG is over: it is scheduled below, unless the run is held.
                StepStatus::Pending if state.index.retries.contains(&at) => {}
                _ => {
                    let step = state.at(at);
                    let message = "the step's total time ran out before its next attempt".to_owned();
                    let key = state.key_of(at);
                    let event =
                        attempt::failed(key, step.attempt, "total_timeout", message, false, self.limits);
                    self.push(event);
                }
            }
        }
        if state.ending.is_none() && state.deadline().is_some_and(|deadline| deadline <= self.now) {
            let reason = Some("the run's time ran out".to_owned());
            self.push(RunCancelRequested { code: Some("run_timeout".to_owned()), reason });
        }
    }

    fn out_of_time_sub_dag(&mut self, at: StepRef) {
        let message = "the sub-dag's time ran out".to_owned();
        let event =
            attempt::settle_failure(self.state, at, "timeout", message, true, self.now, None, self.limits);
        self.push(event);
    }

    fn wait_is_over(&mut self, at: StepRef) {
        let step = self.state.at(at);
        let Some(wait) = &step.wait else { return };
        if wait.verdict.is_some() {
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
        let event =
            attempt::failed(self.state.key_of(at), step.attempt, code, what.to_owned(), false, self.limits);
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
        let Some(verdict) = self.state.at(at).wait.as_ref().and_then(|wait| wait.verdict.as_ref()) else {
            return;
        };
        if verdict.approved {
            match verdict_output(verdict) {
                Ok(output) => self.succeed(at, output),
                Err(error) => self.fail_early(at, "verdict", error.to_string()),
            }
        } else {
            let reason = verdict.reason.as_deref().unwrap_or("no reason given");
            let message = format!("rejected by {}: {reason}", verdict.actor);
            let attempt = self.state.at(at).attempt;
            let event =
                attempt::failed(self.state.key_of(at), attempt, "rejected", message, false, self.limits);
            self.push(event);
        }
    }

    /// Each waiting step takes the oldest signal of its name; the first step in plan order goes first.
    fn signals(&mut self) {
        for (name, waiters) in &self.state.index.waiters {
            let pending = self.state.index.signals.get(name);
            for (position, payload) in waiters.iter().zip(pending.into_iter().flatten()) {
                self.succeed(StepRef::top(*position), payload.clone());
            }
        }
    }

    fn retries(&mut self) {
        for at in &self.state.index.retries {
            let not_before = self.state.at(*at).not_before;
            // No queue holds a sub-DAG back until then: it starts as soon as it is scheduled.
            let too_early =
                self.state.is_sub_dag(*at) && not_before.is_some_and(|instant| instant > self.now);
            if !too_early {
                self.schedule(*at, not_before);
            }
        }
    }

    fn frontier(&mut self) {
        for position in &self.state.index.frontier {
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

    fn input(&mut self, at: StepRef) -> Option<Payload> {
        match StepScope::new(self.state, at).input(self.limits) {
            Ok(input) => Some(input),
            Err(error) => {
                self.fail_early(at, "expression", error.to_string());
                None
            }
        }
    }

    fn schedule(&mut self, at: StepRef, not_before: Option<Timestamp>) {
        let Some(input) = self.input(at) else { return };
        if let Err(error) = self.state.slots(at, self.limits) {
            return self.fail_early(at, "expression", error.to_string());
        }
        let input_hash = input.digest();
        let templated = self.state.plan.compiled(at.step).is_some_and(|compiled| compiled.with.is_some());
        let recorded = templated && input.len() <= self.limits.payload_bytes;
        let attempt = self.state.at(at).attempt + 1;
        let step = self.state.key_of(at);
        let child_run = self.child_run(at, attempt, &input_hash);
        self.push(StepScheduled {
            attempt,
            input: recorded.then_some(input),
            input_hash,
            not_before: not_before.filter(|instant| *instant > self.now),
            step: step.clone(),
        });
        // Nobody claims a sub-DAG: the engine submits its run once this is durable.
        if child_run.is_some() {
            self.push_run_started();
            self.push(StepStarted {
                attempt,
                child_run,
                executor: None,
                lease_until: None,
                step,
                worker: None,
            });
        }
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
        let Some(input) = self.input(at) else { return };
        self.push_run_started();
        let expires_at = self.state.spec(at).timeout.map(|span| self.now.plus(span.duration()));
        self.push(GateRequested { expires_at, gate, input, step: self.state.key_of(at) });
    }

    fn wait(&mut self, at: StepRef) {
        let Some(input) = self.input(at) else { return };
        let input = input.to_value();
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

    /// Expanded steps: settle them when all children are, otherwise fill their places.
    fn maps(&mut self) {
        for position in &self.state.index.maps {
            let Some(map) = &self.state.steps[*position as usize].map else { continue };
            let at = StepRef::top(*position);
            let count = u32::try_from(map.children.len()).unwrap_or(u32::MAX);
            if map.settled == count {
                self.settle_map(at);
                continue;
            }
            let places =
                self.state.spec(at).for_each.as_ref().and_then(|each| each.max_parallel).unwrap_or(count);
            let free = places.saturating_sub(map.active).min(count - map.next);
            for child in map.next..map.next + free {
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

    /// The run is to end: everything that does not run is cancelled; what runs is waited for.
    fn wind_down(&mut self) {
        let state = self.state;
        for position in 0..state.steps.len() {
            let at = StepRef::top(u32::try_from(position).unwrap_or(u32::MAX));
            if state.at(at).status.is_settled() {
                continue;
            }
            let children = state.at(at).map.as_ref().map_or(0, |map| map.children.len());
            let mut busy = false;
            for child in 0..u32::try_from(children).unwrap_or(u32::MAX) {
                let child = StepRef { step: at.step, child: Some(child) };
                busy |= state.at(child).status == StepStatus::Running;
                self.cancel_idle(child);
            }
            if !busy && (children > 0 || state.at(at).map.is_some()) {
                self.push(StepCancelled { attempt: 0, logs: None, step: state.key_of(at) });
            } else if state.at(at).map.is_none() {
                self.cancel_idle(at);
            }
        }
        if self.events.is_empty() && state.index.unsettled == 0 {
            self.end();
        }
    }

    fn cancel_idle(&mut self, at: StepRef) {
        let status = self.state.at(at).status;
        if !status.is_settled() && status != StepStatus::Running {
            self.push(StepCancelled { attempt: 0, logs: None, step: self.state.key_of(at) });
        }
    }

    fn end(&mut self) {
        let outputs_hash = self.state.outputs_hash();
        match self
            .state
            .ending
            .as_ref()
            .and_then(|ending| Some((ending.code.clone()?, ending.reason.clone())))
        {
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
