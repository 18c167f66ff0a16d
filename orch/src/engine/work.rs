//! Executing attempts: claim hints, start what they name, run it, record how it ended.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::active::{Renewal, Stop};
use super::change::{Answer, AttemptEnd, Change, Cleared, Permit};
use super::core::Core;
use super::effects::Launch;
use super::results;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::executor::{Executor, Failure, LogSink, Outcome, ProgressSink, Redactor, StepContext};
use crate::id::{RunKey, StepKey, TenantId};
use crate::ledger::ArtifactRef;
use crate::lock::{Acquire, Holder, Slot};
use crate::payload::Payload;
use crate::queue::{Claim, Delivery, Settle};
use crate::time::Timestamp;

/// Hints claimed at once.
const CLAIM: usize = 256;
/// How long a claimed hint may take to become a started attempt; then it is delivered again.
const HINT_LEASE: Duration = Duration::from_secs(30);
/// How long an idle worker waits without a word from its queue before it asks again.
const IDLE: Duration = Duration::from_secs(5);
/// How long a step waits before it asks for its slots again.
const SLOT_RETRY: Duration = Duration::from_millis(250);
/// How long a hint rests that nobody here can execute.
const FOREIGN_RETRY: Duration = Duration::from_secs(5);
/// How long the end of an attempt that cannot be recorded or kept rests first; then twice as long each time.
const RECORD_RETRY: Duration = Duration::from_millis(50);
/// The longest such rest.
const RECORD_RETRY_MAX: Duration = Duration::from_secs(5);

/// Claims hints for as long as there are places, until the engine closes.
pub(super) async fn claim_loop(core: Arc<Core>) {
    let mut failures: u32 = 0;
    while !core.closing.is_cancelled() {
        let places = tokio::select! {
            biased;
            places = free_places(&core) => places,
            () = core.closing.cancelled() => return,
        };
        let wanted = places.len();
        let look = core.backlog.look();
        match core.queue.claim(&claim(&core, wanted)).await {
            Ok(claimed) => {
                failures = 0;
                core.backlog.seen(look, claimed.deliveries.len() < wanted);
                if claimed.deliveries.is_empty() {
                    drop(places);
                    wait_for_hints(&core, claimed.next_at).await;
                } else {
                    let owner = Arc::clone(&core);
                    core.tasks.spawn(async move { start_all(&owner, claimed.deliveries, places).await });
                }
            }
            Err(error) => {
                drop(places);
                failures = failures.saturating_add(1);
                tracing::warn!(%error, failures, "hints cannot be claimed");
                let rest = Duration::from_millis(50) * (1 << failures.min(7));
                core.sleep_until(core.now().plus(rest)).await;
            }
        }
    }
}

/// Every free place, at least one.
async fn free_places(core: &Arc<Core>) -> Vec<Permit> {
    let mut places = Vec::new();
    if let Ok(first) = Arc::clone(&core.places).acquire_owned().await {
        places.push(Arc::new(first));
    }
    while places.len() < CLAIM
        && let Ok(next) = Arc::clone(&core.places).try_acquire_owned()
    {
        places.push(Arc::new(next));
    }
    places
}

fn claim(core: &Core, limit: usize) -> Claim {
    Claim {
        worker: core.worker.id.clone(),
        queues: core.settings.queues.clone(),
        tenants: core.settings.tenants.clone(),
        limit,
        lease: HINT_LEASE,
        now: core.now(),
    }
}

async fn wait_for_hints(core: &Arc<Core>, next_at: Option<Timestamp>) {
    let until_next = next_at.map_or(IDLE, |at| at.since(core.now()).min(IDLE));
    tokio::select! {
        biased;
        waited = core.queue.wait(until_next.max(Duration::from_millis(1))) => {
            if let Err(error) = waited {
                tracing::warn!(%error, "the queue cannot be waited on");
                core.sleep_until(core.now().plus(Duration::from_secs(1))).await;
            }
        }
        () = core.closing.cancelled() => {}
    }
}

async fn start_all(core: &Arc<Core>, deliveries: Vec<Delivery>, places: Vec<Permit>) {
    let starts = deliveries.into_iter().zip(places).map(|(delivery, permit)| start(core, delivery, permit));
    let (settles, paused): (Vec<Settle>, Vec<Option<RunKey>>) =
        join_all(starts).await.into_iter().map(|start| (start.settle, start.paused)).unzip();
    // A settle that does not arrive means a second delivery, which finds the attempt started.
    match core.queue.settle(&settles, core.now()).await {
        Ok(outcomes) => {
            for error in outcomes.into_iter().filter_map(Result::err) {
                tracing::debug!(%error, "a delivery was settled too late");
            }
        }
        Err(error) => tracing::warn!(%error, "deliveries cannot be settled; they will come again"),
    }
    // A run that was resumed meanwhile made its hints while these deliveries still stood in their way.
    let paused: BTreeSet<RunKey> = paused.into_iter().flatten().collect();
    for run in paused {
        if core.look(run, false).await.is_err() {
            return;
        }
    }
}

/// How a delivery ends.
struct Claimed {
    settle: Settle,
    /// The run that was found held.
    paused: Option<RunKey>,
}

impl From<Settle> for Claimed {
    fn from(settle: Settle) -> Self {
        Self { settle, paused: None }
    }
}

/// Starts the attempt a hint names, seeing first to what it needs. Answers how the delivery ends.
async fn start(core: &Arc<Core>, delivery: Delivery, permit: Permit) -> Claimed {
    let Delivery { item, token, .. } = delivery;
    let key = item.key();
    let mut cleared = Cleared::default();
    let end = loop {
        let change = Change::Start {
            step: item.step.clone(),
            attempt: item.attempt,
            cleared,
            permit: Arc::clone(&permit),
        };
        match core.request(key.clone(), Arc::clone(&core.actor), change).await {
            Ok(Answer::NeedsResult(result)) => match reuse(core, &item, result).await {
                Ok(true) => break Settle::done(token).into(),
                Ok(false) => cleared.result = true,
                Err(error) => break again_later(core, token, &error),
            },
            Ok(Answer::NeedsSlots(slots)) => match acquire(core, &item, slots).await {
                Ok(true) => cleared.slots = true,
                Ok(false) => break Settle::release(token, core.now().plus(SLOT_RETRY)).into(),
                Err(error) => break again_later(core, token, &error),
            },
            Ok(Answer::NoExecutor) => {
                tracing::warn!(run = %key, step = %item.step, "no executor here for a step");
                break Settle::release(token, core.now().plus(FOREIGN_RETRY)).into();
            }
            Ok(Answer::NotBefore(instant)) => break Settle::release(token, instant).into(),
            Ok(Answer::Paused) => break Claimed { settle: Settle::done(token), paused: Some(key.clone()) },
            Ok(_) => break Settle::done(token).into(),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::LeaseLost) => {
                break Settle::done(token).into();
            }
            Err(error) => break again_later(core, token, &error),
        }
    };
    if cleared.slots && !core.active.contains(&key, &(item.step.clone(), item.attempt)) {
        release_slots(core, &item.tenant, holder(core, &key, &item.step, item.attempt));
    }
    end
}

fn again_later(core: &Core, token: crate::queue::DeliveryToken, error: &Error) -> Claimed {
    tracing::warn!(%error, "an attempt cannot be started now");
    Settle::release(token, core.now().plus(Duration::from_secs(1))).into()
}

async fn reuse(core: &Arc<Core>, item: &crate::queue::Item, result: Digest) -> Result<bool> {
    let Some((output, from)) = results::find(core, &item.tenant, result).await? else { return Ok(false) };
    let change = Change::Reuse { step: item.step.clone(), attempt: item.attempt, output, from };
    core.request(item.key(), Arc::clone(&core.actor), change).await.map(|_| true)
}

async fn acquire(core: &Arc<Core>, item: &crate::queue::Item, slots: Vec<Slot>) -> Result<bool> {
    let name = holder(core, &item.key(), &item.step, item.attempt);
    let holder = Holder { tenant: item.tenant.clone(), name };
    let acquire = Acquire { holder, slots, lease: core.worker.lease, now: core.now() };
    Ok(core.lock.acquire(&acquire).await?.is_some())
}

/// Who holds the slots of an attempt: this worker, so that another one with the same hint cannot give them back.
fn holder(core: &Core, run: &RunKey, step: &StepKey, attempt: u32) -> String {
    format!("attempt/{}/{}/{step}/{attempt}", core.worker.id, run.run)
}

fn release_slots(core: &Arc<Core>, tenant: &TenantId, name: String) {
    let (owner, holder) = (Arc::clone(core), Holder { tenant: tenant.clone(), name });
    core.tasks.spawn(async move {
        if let Err(error) = owner.lock.release(&[holder]).await {
            tracing::warn!(%error, "slots cannot be given back; their leases will end");
        }
    });
}

/// Executes a started attempt in a task of its own, unless it executes here already. It counts as under way before
/// this returns: what is asked of it from here on reaches it.
pub(super) fn launch(core: &Arc<Core>, launch: Launch) {
    let (token, id) = (CancellationToken::new(), (launch.step.clone(), launch.attempt));
    if core.active.begin(&launch.run, &id, token.clone(), launch.lease_until) {
        let owner = Arc::clone(core);
        core.tasks.spawn(async move { attempt(&owner, launch, token).await });
    }
}

async fn attempt(core: &Arc<Core>, mut launch: Launch, token: CancellationToken) {
    let id = (launch.step.clone(), launch.attempt);
    let (outcome, logs) = match context(core, &launch, token) {
        Ok(context) => {
            core.active.listen(&launch.run, &id, context.progress.clone());
            execute(core, &mut launch, context).await
        }
        Err(failure) => (failure.into(), None),
    };
    let stop = core.active.done(&launch.run, &id);
    if !launch.spec().concurrency.is_empty() {
        let name = holder(core, &launch.run, &launch.step, launch.attempt);
        release_slots(core, &launch.run.tenant, name);
    }
    record(core, &launch, outcome, logs, stop).await;
    core.active.end(&launch.run, &id);
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
fn context(core: &Arc<Core>, launch: &Launch, token: CancellationToken) -> Result<StepContext, Failure> {
    let mut secrets = std::collections::BTreeMap::new();
    for name in &launch.spec().secrets {
        let secret = (core.secrets)(&launch.run.tenant, name)
            .ok_or_else(|| Failure::fatal("secret_missing", format!("secret `{name}` is not known here")))?;
        secrets.insert(name.clone(), secret);
    }
    let redactor = Redactor::new(&secrets);
    let key =
        Digest::of_parts(&[b"orch/step/v1", launch.run.run.as_bytes(), launch.step.to_string().as_bytes()]);
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
        idempotency_key: key.to_string(),
        traceparent: launch.traceparent.clone(),
        deadline: [launch.deadline, wall].into_iter().flatten().min(),
        cancellation: token,
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
    let mut work = executor.execute(context, input);
    let out_of_time = async {
        match deadline {
            Some(deadline) => tokio::time::sleep(deadline.since(core.now())).await,
            None => std::future::pending().await,
        }
    };
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
    let mut rest = RECORD_RETRY;
    loop {
        let kept = core.artifacts.of(tenant).put(media_type, Some(name.clone()), bytes.clone()).await;
        match (kept, patience) {
            (Err(error), Some(token)) if error.is_retryable() && !token.is_cancelled() => {
                tracing::warn!(%error, name, "what an attempt leaves behind cannot be kept yet");
                core.trouble.set(Some(error.to_string()));
                tokio::select! {
                    biased;
                    () = token.cancelled() => {}
                    () = core.sleep_until(core.now().plus(rest)) => {}
                }
                rest = (rest * 2).min(RECORD_RETRY_MAX);
            }
            (kept, _) => return kept,
        }
    }
}

/// Records how the attempt ended, for as long as it is this worker's to record.
async fn record(
    core: &Arc<Core>,
    launch: &Launch,
    outcome: Outcome,
    logs: Option<ArtifactRef>,
    stop: Option<Stop>,
) {
    if stop == Some(Stop::Lost) {
        tracing::warn!(run = %launch.run, step = %launch.step, "an attempt was lost; its result is dropped");
        return;
    }
    let gave_back = stop == Some(Stop::Shutdown) && !matches!(outcome, Outcome::Succeeded(_));
    let mut rest = RECORD_RETRY;
    loop {
        let change = if gave_back {
            Change::Release { step: launch.step.clone(), attempt: launch.attempt }
        } else {
            let worker = Some(core.worker.id.clone());
            let (step, attempt, outcome, logs) =
                (launch.step.clone(), launch.attempt, outcome.clone(), logs.clone());
            let end = AttemptEnd { step, attempt, worker, outcome, logs };
            Change::Finish { end: Box::new(end), permit: Some(Arc::clone(&launch.permit)) }
        };
        match core.request(launch.run.clone(), Arc::clone(&core.actor), change).await {
            Ok(_) => return,
            Err(error) if error.is_retryable() => {
                tracing::warn!(run = %launch.run, step = %launch.step, %error, "an outcome cannot be recorded yet");
                core.sleep_until(core.now().plus(rest)).await;
                rest = (rest * 2).min(RECORD_RETRY_MAX);
            }
            Err(error) => {
                tracing::warn!(run = %launch.run, step = %launch.step, %error, "an outcome was not recorded");
                return;
            }
        }
        if core.closed.is_cancelled() {
            return;
        }
    }
}

/// Prolongs the leases of what runs here, a third of a lease at a time, and stops what is not this worker's any more.
/// It waits for no renewal: what cannot be prolonged is stopped when its lease ends.
pub(super) async fn renew_loop(core: Arc<Core>) {
    let tick = core.worker.lease / 3;
    while !core.closed.is_cancelled() {
        if core.active.is_empty() {
            tokio::select! {
                biased;
                () = core.active.begun.notified() => {}
                () = core.closed.cancelled() => return,
            }
        }
        core.sleep_until(core.now().plus(tick)).await;
        core.active.fence(core.now());
        for renewal in core.active.to_renew(core.now().plus(core.worker.lease - tick)) {
            let owner = Arc::clone(&core);
            core.tasks.spawn(async move { renew(&owner, renewal).await });
        }
    }
}

async fn renew(core: &Arc<Core>, renewal: Renewal) {
    let Renewal { run, attempts, notes } = renewal;
    let until = core.now().plus(core.worker.lease);
    match core.request(run.clone(), Arc::clone(&core.actor), Change::Progress { notes }).await {
        Ok(Answer::Held(held)) => {
            core.active.renewed(&run, &held, until);
            let lost = |attempt: &_| attempts.contains(attempt) && !held.contains(attempt);
            core.active.stop(&run, Stop::Lost, lost);
            give_back_strays(core, &run, &held).await;
            let holders: Vec<Holder> = held
                .iter()
                .map(|(step, attempt)| Holder {
                    tenant: run.tenant.clone(),
                    name: holder(core, &run, step, *attempt),
                })
                .collect();
            if let Err(error) = core.lock.renew(&holders, until, core.now()).await {
                tracing::warn!(%run, %error, "slots cannot be prolonged");
            }
        }
        answer => {
            core.active.renewed(&run, &[], until);
            if let Err(error) = answer {
                // The fence stops the attempts when their lease ends before a renewal gets through.
                tracing::warn!(%run, %error, "leases cannot be prolonged");
            }
        }
    }
}

/// Attempts that are this worker's by the ledger and that it knows nothing of: their start landed and every answer
/// was lost. Prolonging the leases of the others of their run would keep them for ever.
async fn give_back_strays(core: &Arc<Core>, run: &RunKey, held: &[(StepKey, u32)]) {
    for (step, attempt) in held.iter().filter(|attempt| !core.active.contains(run, attempt)) {
        let change = Change::Release { step: step.clone(), attempt: *attempt };
        if let Err(error) = core.request(run.clone(), Arc::clone(&core.actor), change).await {
            tracing::debug!(%run, %step, %error, "an attempt that has ended is not given back");
        }
    }
}
