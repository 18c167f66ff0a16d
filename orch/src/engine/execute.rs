//! Executing started attempts: launch, run, record how each ended.
//!
//! Attempts that are launched stand in line, oldest first, and a few runners, as many as the runtime has threads, begin
//! with them: what ends at once is done with in the runner, and only what has to wait becomes a task of its own.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::active::{Orders, Stop};
use super::change::{AttemptEnd, Change, Request};
use super::core::Core;
use super::effects::Launch;
use super::health::{Call, rest};
use super::slots;
use crate::error::{ErrorKind, Result};
use crate::executor::{Executor, Failure, LogSink, Outcome, ProgressSink, Redactor, StepContext};
use crate::id::{RunKey, StepKey, TenantId};
use crate::ledger::ArtifactRef;
use crate::payload::Payload;

/// How long what cannot be kept rests first; then twice as long each time.
const KEEP_RETRY: Duration = Duration::from_millis(50);
/// The longest such rest.
const KEEP_RETRY_MAX: Duration = Duration::from_secs(5);

/// After so long a runner counts as held up: its attempt blocks the thread, as `tokio::task::block_in_place` lets it.
const HELD_UP: Duration = Duration::from_millis(10);

/// Launched attempts that nobody has begun with, and who is about to.
#[derive(Debug, Default)]
pub(super) struct Line(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    attempts: VecDeque<Attempt>,
    /// When each runner took its last attempt.
    runners: BTreeMap<u64, Instant>,
    /// How many runners there have been.
    count: u64,
    /// Somebody will look after runners that are held up.
    watched: bool,
}

/// A launched attempt.
#[derive(Debug)]
struct Attempt {
    launch: Launch,
    orders: Arc<Orders>,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of those who begin with attempts; gives its place up when it goes, also by a panic.
struct Runner<'a> {
    core: &'a Arc<Core>,
    number: u64,
}

impl Runner<'_> {
    /// The next in line. With nobody in line the runner is to go: what comes then finds its place free.
    fn next(&self) -> Option<Attempt> {
        let mut line = self.core.line.lock();
        line.runners.insert(self.number, Instant::now());
        line.attempts.pop_front()
    }
}

impl Drop for Runner<'_> {
    fn drop(&mut self) {
        self.core.line.lock().runners.remove(&self.number);
        // Somebody may have come between the last look and this.
        begin_runners(self.core);
    }
}

/// Executes started attempts of a run, except those that execute here already. They count as under way before this
/// returns: what is asked of them from here on reaches them.
pub(super) fn launch(core: &Arc<Core>, run: &RunKey, launches: impl IntoIterator<Item = Launch>) {
    let begun = core.active.begin(run, launches.into_iter());
    let attempts = begun.into_iter().map(|(launch, orders)| Attempt { launch, orders });
    core.line.lock().attempts.extend(attempts);
    begin_runners(core);
}

/// Sees to it that there are as many runners as threads, or as attempts in line; those held up not counted.
fn begin_runners(core: &Arc<Core>) {
    let mut line = core.line.lock();
    let now = Instant::now();
    let held_up = line.runners.values().filter(|since| now.duration_since(**since) >= HELD_UP).count();
    let wanted = line.attempts.len().min(core.threads) + held_up;
    let first = line.count;
    for number in first..first + wanted.saturating_sub(line.runners.len()) as u64 {
        line.runners.insert(number, now);
        line.count += 1;
    }
    let more = first..line.count;
    let watch = !line.attempts.is_empty() && !std::mem::replace(&mut line.watched, true);
    drop(line);
    for number in more {
        let owner = Arc::clone(core);
        core.tasks.spawn(async move { run(&owner, number).await });
    }
    if watch {
        let owner = Arc::clone(core);
        core.tasks.spawn(async move {
            tokio::time::sleep(HELD_UP).await;
            owner.line.lock().watched = false;
            begin_runners(&owner);
        });
    }
}

async fn run(core: &Arc<Core>, number: u64) {
    let runner = Runner { core, number };
    while let Some(next) = runner.next() {
        let owner = Arc::clone(core);
        let mut attempt = Box::pin(async move { attempt(&owner, next).await });
        // Not held to tokio's budget: running out of it would look like having to wait.
        let ended = poll_fn(|cx| {
            let mut begun = tokio::task::coop::unconstrained(attempt.as_mut());
            Poll::Ready(Pin::new(&mut begun).poll(cx).is_ready())
        });
        if !ended.await {
            core.tasks.spawn(attempt);
        }
        tokio::task::coop::consume_budget().await;
    }
}

async fn attempt(core: &Arc<Core>, Attempt { mut launch, orders }: Attempt) {
    let (outcome, logs) = match context(core, &launch, &orders) {
        Ok(context) => execute(core, &mut launch, context).await,
        Err(failure) => (failure.into(), None),
    };
    let stop = orders.done();
    if !launch.spec().concurrency.is_empty() {
        let name = slots::holder(&core.worker.id, &launch.run, &launch.step, launch.attempt);
        slots::release(core, &launch.run.tenant, name);
    }
    record(core, launch, outcome, logs, stop).await;
}

/// Runs the attempt and keeps what it leaves behind.
async fn execute(
    core: &Arc<Core>,
    launch: &mut Launch,
    context: StepContext,
) -> (Outcome, Option<ArtifactRef>) {
    let input = std::mem::replace(&mut launch.input, Ok(Payload::null()));
    let (log, token) = (context.log.clone(), context.cancellation.clone());
    let outcome = match (core.executors.lookup(&launch.spec().uses), input) {
        (Some((executor, _)), Ok(input)) => supervise(core, launch, executor, context, input).await,
        (None, _) => Failure::retryable("no_executor", "no executor for this kind of step").into(),
        (_, Err(error)) => Failure::fatal("input", error.to_string()).into(),
    };
    let outcome = shrink(core, &launch.run.tenant, &launch.step, outcome, Some(&token)).await;
    let outcome = outcome.unwrap_or_else(|error| Failure::from_error("artifact", &error).into());
    (outcome, keep_log(core, launch, &log, &token).await)
}

/// Builds what the attempt is told, or says why it cannot be.
fn context(core: &Arc<Core>, launch: &Launch, orders: &Orders) -> Result<StepContext, Failure> {
    let mut secrets = BTreeMap::new();
    for name in &launch.spec().secrets {
        let secret = (core.secrets)(&launch.run.tenant, name)
            .ok_or_else(|| Failure::fatal("secret_missing", format!("secret `{name}` is not known here")))?;
        secrets.insert(name.clone(), secret);
    }
    let redactor = Redactor::new(&secrets);
    let wall = launch
        .spec()
        .limits
        .as_ref()
        .and_then(|limits| limits.wall)
        .map(|span| core.now().plus(span.duration()));
    Ok(StepContext {
        run: launch.run.clone(),
        dag: launch.dag().clone(),
        step: launch.step.clone(),
        attempt: launch.attempt,
        uses: launch.spec().uses.clone(),
        submitted_in: launch.traceparent.clone(),
        baggage: launch.baggage.clone(),
        deadline: [launch.deadline, wall].into_iter().flatten().min(),
        cancellation: orders.token.clone(),
        limits: launch.spec().limits.clone(),
        network: launch.spec().network.clone(),
        secrets: Arc::new(secrets),
        artifacts: core.artifacts.of(&launch.run.tenant),
        log: LogSink::new(Arc::clone(&core.clock), redactor.clone(), LogSink::BYTES_MAX),
        progress: ProgressSink::new(redactor),
    })
}

/// Runs the executor, watching over its time and over orders to stop.
async fn supervise(
    core: &Arc<Core>,
    launch: &Launch,
    executor: &Arc<dyn Executor>,
    context: StepContext,
    input: Payload,
) -> Outcome {
    let (deadline, token) = (context.deadline, context.cancellation.clone());
    let progress = context.progress.clone();
    let mut work = executor.execute(context, input);
    let out_of_time = async {
        match deadline {
            Some(deadline) => tokio::time::sleep(deadline.since(core.now())).await,
            None => std::future::pending().await,
        }
    };
    if let Poll::Ready(outcome) = futures::poll!(&mut work) {
        return outcome;
    }
    core.active.listen(&launch.run, &(launch.step.clone(), launch.attempt), progress);
    let told_to_stop = tokio::select! {
        biased;
        outcome = &mut work => return outcome,
        () = token.cancelled() => Outcome::Cancelled,
        () = out_of_time => Outcome::TimedOut,
    };
    token.cancel();
    match tokio::time::timeout(core.settings.grace, work).await {
        // What it managed to do before it stopped counts.
        Ok(Outcome::Succeeded(output)) => Outcome::Succeeded(output),
        Ok(_) => told_to_stop,
        Err(_) => {
            tracing::warn!(run = %launch.run, step = %launch.step, "an attempt did not stop when told; it is abandoned");
            told_to_stop
        }
    }
}

/// An output too large for the ledger becomes an artifact, and a reference to it the output.
///
/// # Errors
/// When it cannot be kept, as [`keep`].
pub(super) async fn shrink(
    core: &Arc<Core>,
    tenant: &TenantId,
    step: &StepKey,
    outcome: Outcome,
    patience: Option<&CancellationToken>,
) -> Result<Outcome> {
    let output = match outcome {
        Outcome::Succeeded(output) if output.len() > core.limits().payload_bytes => output,
        other => return Ok(other),
    };
    let bytes = output.as_str().as_bytes().to_vec().into();
    let artifact = keep(core, tenant, "application/json", format!("{step}.json"), bytes, patience).await?;
    Payload::of(&serde_json::json!({ "artifact": artifact })).map(Outcome::Succeeded)
}

async fn keep_log(
    core: &Arc<Core>,
    launch: &Launch,
    log: &LogSink,
    token: &CancellationToken,
) -> Option<ArtifactRef> {
    let (lines, name) = (log.finish()?, format!("{}.{}.log", launch.step, launch.attempt));
    let tenant = &launch.run.tenant;
    let kept = keep(core, tenant, "application/x-ndjson", name, lines.into(), Some(token)).await;
    kept.inspect_err(|error| tracing::warn!(run = %launch.run, %error, "a log cannot be kept")).ok()
}

/// Keeps what an attempt leaves behind. While it cannot be written, because the disk is full for example, that is tried
/// again until the attempt is told to stop: what it did is done, and would be done again only to be kept.
///
/// # Errors
/// Those of the artifacts that trying again does not help; every one without patience.
async fn keep(
    core: &Arc<Core>,
    tenant: &TenantId,
    media_type: &str,
    name: String,
    bytes: Bytes,
    patience: Option<&CancellationToken>,
) -> Result<ArtifactRef> {
    let mut failures = 0;
    loop {
        let kept = core.artifacts.of(tenant).put(media_type, Some(name.clone()), bytes.clone()).await;
        match &kept {
            Ok(_) => core.health.works(Call::Keep),
            Err(error) => core.health.failed(Call::Keep, error, core.now()),
        }
        match (kept, patience) {
            (Err(error), Some(token)) if error.is_retryable() && !token.is_cancelled() => {
                failures += 1;
                let rest = rest(&core.worker.id, failures, KEEP_RETRY, KEEP_RETRY_MAX);
                tokio::select! {
                    biased;
                    () = token.cancelled() => {}
                    () = core.sleep_until(core.now().plus(rest)) => {}
                }
            }
            (kept, _) => return kept,
        }
    }
}

/// Has the end of the attempt recorded, for as long as that is this worker's to do. Nobody waits for it: the committer
/// tries until it is durable or refused, and then says so to [`recorded`].
async fn record(
    core: &Arc<Core>,
    launch: Launch,
    outcome: Outcome,
    logs: Option<ArtifactRef>,
    stop: Option<Stop>,
) {
    let Launch { step, attempt, run: key, permit, .. } = launch;
    let gave_back = match stop {
        // The ledger may still say that it is this worker's. Until it does not, the attempt counts as under way: a hint
        // that comes twice would begin it once more.
        Some(Stop::Lost) => {
            tracing::warn!(run = %key, %step, "an attempt was lost; its result is dropped");
            true
        }
        Some(Stop::Shutdown) => !matches!(outcome, Outcome::Succeeded(_)),
        Some(Stop::Cancelled) | None => false,
    };
    let change = if gave_back {
        Change::Release { step, attempt, worker: core.worker.id.clone(), permit: Some(permit) }
    } else {
        let worker = Some(core.worker.id.clone());
        let end = AttemptEnd { step, attempt, worker, outcome, logs, version: None };
        Change::Finish { end: Box::new(end), permit: Some(permit) }
    };
    let request = Request { key, actor: Arc::clone(&core.actor), change, reply: None, tries: 0, asked: 0 };
    // A committer that is gone has been shut down: whoever looks next takes the attempt for lost.
    let _ = core.send(request).await;
}

/// What was asked of a run without waiting for an answer has been done, or refused with `error`.
pub(super) fn recorded(core: &Core, key: &RunKey, change: &Change, error: Option<crate::error::Error>) {
    let (step, attempt) = match change {
        Change::Finish { end, .. } => (&end.step, end.attempt),
        Change::Release { step, attempt, .. } => (step, *attempt),
        _ => return,
    };
    match (error, change) {
        (None, _) => {}
        (Some(error), Change::Release { .. }) if error.kind() == ErrorKind::LeaseLost => {
            tracing::debug!(run = %key, %step, "an attempt was given back that is not this worker's any more");
        }
        (Some(error), _) => {
            tracing::warn!(run = %key, %step, %error, "the end of an attempt was not recorded");
        }
    }
    core.active.end(key, &(step.clone(), attempt));
}
