//! The rules of attempts: starting, ending, failing, being lost, being tried again.

use std::time::Duration;

use super::state::{RunState, StepRef};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::executor::{Failure, Outcome};
use crate::id::{StepKey, WorkerId};
use crate::ledger::{
    ArtifactRef, Event, ReusedFrom, RunStarted, StepCancelled, StepFailed, StepLost, StepParked, StepStarted,
    StepStatus, StepSucceeded,
};
use crate::limits::Limits;
use crate::payload::Payload;
use crate::spec::{OnExhausted, OnLost, Retry};
use crate::time::Timestamp;

/// A worker wants to start an attempt.
#[derive(Clone, Debug)]
pub struct Start {
    /// The step.
    pub at: StepRef,
    /// The attempt it was told of.
    pub attempt: u32,
    /// Who.
    pub worker: WorkerId,
    /// The version of the executor that will run it.
    pub executor: String,
    /// How long it counts as alive without a further word.
    pub lease: Duration,
}

/// An attempt has ended.
#[derive(Clone, Debug)]
pub struct Finish {
    /// The step.
    pub at: StepRef,
    /// The attempt.
    pub attempt: u32,
    /// Who ran it; nobody for a sub-DAG.
    pub worker: Option<WorkerId>,
    /// How it ended.
    pub outcome: Outcome,
    /// What it wrote to its log.
    pub logs: Option<ArtifactRef>,
}

/// The events that start an attempt.
///
/// # Errors
/// `Conflict` when this attempt is not the one that may start now: the hint was stale.
pub fn start(state: &RunState, start: &Start, now: Timestamp) -> Result<Vec<Event>> {
    let step = state.get(start.at).ok_or_else(|| stale("no such step"))?;
    if step.status != StepStatus::Queued || step.attempt != start.attempt {
        return Err(stale("another attempt is current"));
    }
    if state.paused || state.ending.is_some() || state.ended.is_some() {
        return Err(stale("the run starts nothing now"));
    }
    if step.not_before.is_some_and(|instant| instant > now) {
        return Err(stale("its backoff is not over"));
    }
    let mut events = Vec::with_capacity(2);
    if state.started_at.is_none() {
        events.push(RunStarted {}.into());
    }
    events.push(
        StepStarted {
            attempt: start.attempt,
            child_run: None,
            executor: Some(start.executor.clone()),
            lease_until: Some(now.plus(start.lease)),
            step: state.key_of(start.at),
            worker: Some(start.worker.clone()),
        }
        .into(),
    );
    Ok(events)
}

/// The events by which an earlier result stands in for a queued attempt.
///
/// # Errors
/// `Conflict` when the step is not waiting to start any more.
pub fn reuse(state: &RunState, at: StepRef, output: Payload, from: ReusedFrom) -> Result<Vec<Event>> {
    let step = state.get(at).ok_or_else(|| stale("no such step"))?;
    if !matches!(step.status, StepStatus::Queued | StepStatus::Pending) || state.ended.is_some() {
        return Err(stale("it has started already"));
    }
    let mut events = Vec::with_capacity(2);
    if state.started_at.is_none() {
        events.push(RunStarted {}.into());
    }
    let output_hash = output.digest();
    let step = state.key_of(at);
    events.push(
        StepSucceeded { attempt: 0, logs: None, output: Some(output), output_hash, reused: Some(from), step }
            .into(),
    );
    Ok(events)
}

/// The event that ends an attempt: the fence of R1 and R2.
///
/// # Errors
/// `LeaseLost` when the attempt is not this worker's running one any more; its outcome is dropped.
pub fn finish(state: &RunState, finish: Finish, now: Timestamp, limits: &Limits) -> Result<Event> {
    let lost = || Error::lease_lost("the attempt is not current any more").with("attempt", finish.attempt);
    let step = state.get(finish.at).ok_or_else(lost)?;
    let current = step.status == StepStatus::Running
        && step.attempt == finish.attempt
        && step.worker == finish.worker
        && state.ended.is_none();
    if !current {
        return Err(lost().with("step", state.key_of(finish.at)));
    }
    let Finish { at, attempt, outcome, logs, .. } = finish;
    let key = state.key_of(at);
    Ok(match outcome {
        Outcome::Succeeded(output) => {
            let output_hash = output.digest();
            StepSucceeded { attempt, logs, output: Some(output), output_hash, reused: None, step: key }.into()
        }
        Outcome::Cancelled if state.ending.is_none() => {
            let message = "it was cancelled, and its run was not".to_owned();
            ended_badly(state, at, Failure::fatal("cancelled", message), now, logs, limits)
        }
        Outcome::Cancelled => StepCancelled { attempt, logs, step: key }.into(),
        Outcome::TimedOut => {
            let message = "the attempt took longer than it may".to_owned();
            ended_badly(state, at, Failure::retryable("timeout", message), now, logs, limits)
        }
        Outcome::Failed(failure) => ended_badly(state, at, failure, now, logs, limits),
    })
}

/// The event by which a worker that shuts down gives an attempt back: as if it had been lost, only sooner.
///
/// # Errors
/// `LeaseLost` when the attempt is not this worker's running one any more.
pub fn release(
    state: &RunState,
    at: StepRef,
    attempt: u32,
    worker: &WorkerId,
    now: Timestamp,
    limits: &Limits,
) -> Result<Event> {
    let held = |step: &&super::state::StepState| {
        step.status == StepStatus::Running && step.attempt == attempt && step.worker.as_ref() == Some(worker)
    };
    match state.get(at).filter(held) {
        Some(_) if state.ended.is_none() => Ok(lost(state, at, now, limits)),
        _ => Err(Error::lease_lost("the attempt is not current any more").with("attempt", attempt)),
    }
}

fn ended_badly(
    state: &RunState,
    at: StepRef,
    failure: Failure,
    now: Timestamp,
    logs: Option<ArtifactRef>,
    limits: &Limits,
) -> Event {
    let key = state.key_of(at);
    if state.ending.is_some() {
        return StepCancelled { attempt: state.at(at).attempt, logs, step: key }.into();
    }
    let not_before = failure.retry_after.map(|wait| now.plus(wait));
    let Failure { code, message, retryable, .. } = failure;
    let event = settle_failure(state, at, &code, message, retryable, now, not_before, limits);
    with_logs(event, logs)
}

fn with_logs(mut event: Event, logs: Option<ArtifactRef>) -> Event {
    match &mut event {
        Event::StepFailed(event) => event.logs = logs,
        Event::StepParked(event) => event.logs = logs,
        _ => {}
    }
    event
}

/// What follows from the failure of the running attempt: another attempt, failure for good, or parking.
#[expect(clippy::too_many_arguments, reason = "the parts of a failure; bundling them would only rename them")]
pub(super) fn settle_failure(
    state: &RunState,
    at: StepRef,
    code: &str,
    message: String,
    retryable: bool,
    now: Timestamp,
    not_before: Option<Timestamp>,
    limits: &Limits,
) -> Event {
    let (step, spec, key) = (state.at(at), state.spec(at), state.key_of(at));
    let policy = &spec.retry;
    let final_code = !retryable || policy.non_retryable.iter().any(|listed| listed == code);
    let exhausted = step.failures + 1 >= policy.max_attempts || step.attempt >= limits.attempts;
    if !final_code && !exhausted {
        let wait = backoff(policy, step.failures, jitter(state, &key, step.attempt));
        let retry_at = now.plus(wait).max(not_before.unwrap_or(now));
        if state.step_deadline(at).is_none_or(|deadline| retry_at < deadline) {
            let message = bounded(message, limits);
            let code = code.to_owned();
            let (attempt, retry_at) = (step.attempt, Some(retry_at));
            return StepFailed { attempt, code, logs: None, message, retry_at, retryable, step: key }.into();
        }
    }
    match policy.on_exhausted {
        OnExhausted::Park => parked(key, step.attempt, code, message, limits),
        OnExhausted::Fail => failed(key, step.attempt, code, message, retryable, limits),
    }
}

/// What follows from an attempt whose lease ended.
pub(super) fn lost(state: &RunState, at: StepRef, now: Timestamp, limits: &Limits) -> Event {
    let (step, key) = (state.at(at), state.key_of(at));
    if state.ending.is_some() {
        return StepCancelled { attempt: step.attempt, logs: None, step: key }.into();
    }
    let message = "its worker died or lost touch; nobody knows how far it came".to_owned();
    match state.spec(at).retry.on_lost {
        OnLost::Retry if step.losses + 1 < limits.lost_attempts => {
            // A little later each time, so that work that kills its worker does not do so in a tight loop.
            let wait = backoff(&Retry::default(), step.losses, jitter(state, &key, step.attempt));
            let retry_at = if step.losses == 0 { now } else { now.plus(wait) };
            StepLost { attempt: step.attempt, retry_at, step: key, worker: step.worker.clone() }.into()
        }
        OnLost::Park => parked(key, step.attempt, "lost", message, limits),
        OnLost::Retry | OnLost::Fail => failed(key, step.attempt, "lost", message, false, limits),
    }
}

pub(super) fn failed(
    step: StepKey,
    attempt: u32,
    code: &str,
    message: String,
    retryable: bool,
    limits: &Limits,
) -> Event {
    let (code, message) = (code.to_owned(), bounded(message, limits));
    StepFailed { attempt, code, logs: None, message, retry_at: None, retryable, step }.into()
}

fn parked(step: StepKey, attempt: u32, code: &str, message: String, limits: &Limits) -> Event {
    StepParked { attempt, code: code.to_owned(), logs: None, message: bounded(message, limits), step }.into()
}

/// Cuts a message to its limit at a character border.
fn bounded(mut message: String, limits: &Limits) -> String {
    if message.len() > limits.message_bytes {
        let end = (0..=limits.message_bytes).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

/// The wait before the next attempt: exponential with equal jitter (Brooker, "Exponential Backoff And Jitter",
/// AWS Architecture Blog, 2015): half of it fixed, half of it from `jitter`.
fn backoff(policy: &Retry, failures: u32, jitter: u64) -> Duration {
    let base = policy.backoff.duration();
    let full = base.saturating_mul(1u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX));
    let full = full.min(policy.max_backoff.duration().max(base));
    let half = full / 2;
    let share = (u128::from(jitter) * half.as_micros()) >> 64;
    half + Duration::from_micros(u64::try_from(share).unwrap_or(u64::MAX))
}

/// 64 bits that are the same wherever and whenever the decision is made.
fn jitter(state: &RunState, step: &StepKey, attempt: u32) -> u64 {
    let parts: [&[u8]; 4] = [
        b"orch/jitter/v1",
        state.key.run.as_bytes(),
        step.id.as_str().as_bytes(),
        &step.index.map_or(u64::MAX, u64::from).to_be_bytes(),
    ];
    let digest = Digest::of_parts(&[parts[0], parts[1], parts[2], parts[3], &attempt.to_be_bytes()]);
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_be_bytes(first)
}

fn stale(why: &'static str) -> Error {
    Error::conflict(why)
}
