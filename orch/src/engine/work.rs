//! A worker's loops: claim hints, have started what they name, prolong the leases of what runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::active::{Renewal, Stop};
use super::change::{Answer, Change, Cleared, OutsideWorker, Permit, Start, Wanted, Worker};
use super::core::Core;
use super::health::{Call, is_away, rest};
use super::{results, slots};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RunKey, StepKey};
use crate::lock::Holder;
use crate::queue::{Claim, Delivery, DeliveryToken, Item, Settle};
use crate::time::Timestamp;

/// Hints claimed at once.
const CLAIM: usize = 1_024;
/// How long a claimed hint may take to become a started attempt; then it is delivered again.
const HINT_LEASE: Duration = Duration::from_secs(30);
/// How long an idle worker waits without a word from its queue before it asks again: a queue that tells of pushes is
/// asked three times a minute.
const IDLE: Duration = Duration::from_secs(20);
/// The first rest after hints could not be claimed, and the longest.
const CLAIM_RESTS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// The first rest while the queue cannot be waited on, and the longest: so often it is asked instead.
const WAIT_RESTS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Times that a worker is woken for nothing before it rests ahead of asking, and the longest such rest: others may be
/// faster, or the queue may tell of what is not for this worker.
const FALSE_ALARMS: (u32, Duration) = (4, Duration::from_millis(64));
/// From so many places on, hints are not claimed for a few of them at a time, and how long more may come free instead.
const MANY: usize = 256;
const BREATH: Duration = Duration::from_millis(2);
/// How long a step waits before it asks for its slots again.
const SLOT_RETRY: Duration = Duration::from_millis(250);
/// How long a hint rests that nobody here can execute.
const FOREIGN_RETRY: Duration = Duration::from_secs(5);

/// Claims hints for as long as there are places, until the engine closes.
pub(super) async fn claim_loop(core: Arc<Core>) {
    let mut failures: u32 = 0;
    let mut waiting = Waiting::default();
    while !core.closing.is_cancelled() {
        let places = tokio::select! {
            biased;
            places = free_places(&core) => places,
            () = core.closing.cancelled() => return,
        };
        let look = core.backlog.look();
        let claim = claim(&core, places.len());
        match core.queue.claim(&claim).await {
            Ok(claimed) => {
                core.health.works(Call::Claim);
                failures = 0;
                core.backlog.seen(look, claimed.deliveries.len() < claim.limit && !claimed.more);
                if claimed.deliveries.is_empty() {
                    drop(places);
                    // What is ready and was not given out is not for this worker.
                    let next_at = claimed.next_at.filter(|at| *at > claim.now);
                    waiting.wait(&core, next_at).await;
                } else {
                    waiting.woken = 0;
                    let owner = Arc::clone(&core);
                    core.tasks.spawn(async move { start_all(&owner, claimed.deliveries, places).await });
                }
            }
            Err(error) => {
                drop(places);
                core.health.failed(Call::Claim, &error, core.now());
                failures = failures.saturating_add(1);
                until_closing(&core, rest(&core.worker.id, failures, CLAIM_RESTS.0, CLAIM_RESTS.1)).await;
            }
        }
    }
}

/// Rests, unless nothing new is to be claimed any more.
async fn until_closing(core: &Arc<Core>, span: Duration) {
    tokio::select! {
        biased;
        () = tokio::time::sleep(span) => {}
        () = core.closing.cancelled() => {}
    }
}

/// Every free place, at least one. Where there are many and most are taken, more will be free in a moment: hints that are
/// claimed together share calls, and those of one run an append.
async fn free_places(core: &Arc<Core>) -> Vec<Permit> {
    let mut places = Vec::new();
    if core.settings.slots >= MANY && core.places.available_permits() < core.settings.slots / 4 {
        tokio::time::sleep(BREATH).await;
    }
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

/// How waiting for hints has gone.
#[derive(Debug, Default)]
struct Waiting {
    /// Waits in a row that failed.
    failures: u32,
    /// Waits in a row that ended early, with nothing there.
    woken: u32,
}

impl Waiting {
    /// Waits for a word from the queue, until `next_at` at the latest.
    async fn wait(&mut self, core: &Arc<Core>, next_at: Option<Timestamp>) {
        let latest = next_at.map_or(IDLE, |at| at.since(core.now()).min(IDLE)).max(Duration::from_millis(1));
        let begun = Instant::now();
        let waited = tokio::select! {
            biased;
            waited = core.queue.wait(latest) => waited,
            () = core.closing.cancelled() => return,
        };
        let span = match waited {
            Ok(()) => {
                core.health.works(Call::Wait);
                self.failures = 0;
                self.woken = if begun.elapsed() < latest { self.woken.saturating_add(1) } else { 0 };
                match self.woken.checked_sub(FALSE_ALARMS.0 + 1) {
                    Some(more) => FALSE_ALARMS.1.min(Duration::from_millis(1 << more.min(10))),
                    None => return,
                }
            }
            Err(error) => {
                core.health.failed(Call::Wait, &error, core.now());
                self.failures = self.failures.saturating_add(1);
                rest(&core.worker.id, self.failures, WAIT_RESTS.0, WAIT_RESTS.1).min(latest)
            }
        };
        until_closing(core, span).await;
    }
}

/// Starts what the hints name: what needs nothing but a place all at once, run by run; the rest one by one.
async fn start_all(core: &Arc<Core>, deliveries: Vec<Delivery>, places: Vec<Permit>) {
    let mut runs: Vec<(RunKey, Vec<Claimed>)> = Vec::new();
    let mut of_run: BTreeMap<RunKey, usize> = BTreeMap::new();
    for (delivery, permit) in deliveries.into_iter().zip(places) {
        let key = delivery.item.key();
        let at = *of_run.entry(key.clone()).or_insert_with(|| {
            runs.push((key, Vec::new()));
            runs.len() - 1
        });
        runs[at].1.push(Claimed { delivery, permit });
    }
    let started = join_all(runs.into_iter().map(|(run, claimed)| start_run(core, run, claimed))).await;
    let (settles, paused): (Vec<Vec<Settle>>, Vec<Option<RunKey>>) = started.into_iter().unzip();
    // A settle that does not arrive means a second delivery, which finds the attempt started.
    match core.queue.settle(&settles.concat(), core.now()).await {
        Ok(outcomes) => {
            core.health.works(Call::Settle);
            for error in outcomes.into_iter().filter_map(Result::err) {
                tracing::debug!(%error, "a delivery was settled too late");
            }
        }
        Err(error) => core.health.failed(Call::Settle, &error, core.now()),
    }
    // A run that was resumed meanwhile made its hints while these deliveries still stood in their way.
    for run in paused.into_iter().flatten() {
        if core.look(run, false).await.is_err() {
            return;
        }
    }
}

/// A hint that was claimed, and a place for what it names.
struct Claimed {
    delivery: Delivery,
    permit: Permit,
}

/// Starts the attempts of one run. Answers how their deliveries end, and the run if it was found held.
async fn start_run(core: &Arc<Core>, run: RunKey, claimed: Vec<Claimed>) -> (Vec<Settle>, Option<RunKey>) {
    let wanted = |claimed: &Claimed| Wanted {
        step: claimed.delivery.item.step.clone(),
        attempt: claimed.delivery.item.attempt,
        permit: Arc::clone(&claimed.permit),
    };
    let answers = ask(core, &run, claimed.iter().map(wanted).collect(), Cleared::default()).await;
    let (mut settles, mut paused) = (Vec::with_capacity(claimed.len()), false);
    let mut rest = Vec::new();
    match answers {
        Ok(answers) => {
            for (claimed, answer) in claimed.into_iter().zip(answers) {
                paused |= matches!(answer, Start::Paused);
                match answer {
                    Start::NeedsSlots(_) | Start::NeedsResult(_) => {
                        rest.push(start_with(core, &run, claimed, answer))
                    }
                    answer => settles.push(settle(core, &run, &claimed.delivery, &answer)),
                }
            }
        }
        Err(error) => {
            settles.extend(claimed.into_iter().map(|claimed| refused(core, claimed.delivery.token, &error)))
        }
    }
    for (settle, held) in join_all(rest).await {
        settles.push(settle);
        paused |= held;
    }
    (settles, paused.then_some(run))
}

async fn ask(core: &Arc<Core>, run: &RunKey, wanted: Vec<Wanted>, cleared: Cleared) -> Result<Vec<Start>> {
    starts(core.request(run.clone(), Arc::clone(&core.actor), Change::Start { wanted, cleared }).await?)
}

fn starts(answer: Answer) -> Result<Vec<Start>> {
    match answer {
        Answer::Starts(starts) => Ok(starts),
        _ => Err(Error::internal("starts are answered one by one")),
    }
}

/// Starts an attempt that needs slots, or for which an earlier result may stand in. Answers how its delivery ends and
/// whether its run was found held.
async fn start_with(core: &Arc<Core>, run: &RunKey, claimed: Claimed, needs: Start) -> (Settle, bool) {
    let Claimed { delivery, permit } = claimed;
    let (item, whose) = (&delivery.item, Whose::Inside(permit));
    let (ended, slots) = clear(core, &whose, &delivery, needs).await;
    if slots && !core.active.contains(run, &(item.step.clone(), item.attempt)) {
        slots::release(core, &item.tenant, slots::holder(&core.worker.id, run, &item.step, item.attempt));
    }
    match ended {
        Ok(answer) => (settle(core, run, &delivery, &answer), matches!(answer, Start::Paused)),
        Err(settle) => (settle, false),
    }
}

/// Whose an attempt is to be.
pub(super) enum Whose {
    /// This process's, in a place.
    Inside(Permit),
    /// That of a worker outside, at the wish of an actor.
    Outside(Arc<OutsideWorker>, Arc<str>),
}

impl Whose {
    fn worker<'a>(&'a self, core: &'a Core) -> &'a Worker {
        match self {
            Self::Inside(_) => &core.worker,
            Self::Outside(by, _) => &by.worker,
        }
    }

    /// Asks for the start of the attempt that a hint names.
    pub(super) async fn start(&self, core: &Arc<Core>, item: &Item, cleared: Cleared) -> Result<Start> {
        let (step, attempt) = (item.step.clone(), item.attempt);
        let starts = match self {
            Self::Inside(permit) => {
                let wanted = Wanted { step, attempt, permit: Arc::clone(permit) };
                ask(core, &item.key(), vec![wanted], cleared).await?
            }
            Self::Outside(by, actor) => {
                let change = Change::Lease { step, attempt, by: Arc::clone(by), cleared };
                starts(core.request(item.key(), Arc::clone(actor), change).await?)?
            }
        };
        Ok(starts.into_iter().next().unwrap_or(Start::Stale))
    }
}

/// Sees to what an attempt needs before its start, and asks for the start each time. Answers what came of it or how its
/// delivery ends, and whether slots were taken.
pub(super) async fn clear(
    core: &Arc<Core>,
    whose: &Whose,
    Delivery { item, token, .. }: &Delivery,
    mut needs: Start,
) -> (std::result::Result<Start, Settle>, bool) {
    let (mut cleared, token) = (Cleared::default(), token.clone());
    let ended = loop {
        match needs {
            Start::NeedsResult(result) => match reuse(core, item, result).await {
                Ok(true) => break Err(Settle::done(token)),
                Ok(false) => cleared.result = true,
                Err(error) => break Err(again_later(core, token, &error)),
            },
            Start::NeedsSlots(wanted) => match slots::acquire(core, whose.worker(core), item, wanted).await {
                Ok(true) => cleared.slots = true,
                Ok(false) => break Err(Settle::release(token, core.now().plus(SLOT_RETRY))),
                Err(error) => break Err(again_later(core, token, &error)),
            },
            answer => break Ok(answer),
        }
        match whose.start(core, item, cleared).await {
            Ok(answer) => needs = answer,
            Err(error) => break Err(refused(core, token, &error)),
        }
    };
    (ended, cleared.slots)
}

/// How a delivery ends whose attempt was started, or cannot be.
pub(super) fn settle(core: &Core, run: &RunKey, delivery: &Delivery, answer: &Start) -> Settle {
    let token = delivery.token.clone();
    match answer {
        Start::NoExecutor => {
            tracing::warn!(%run, step = %delivery.item.step, "no executor here for a step");
            Settle::release(token, core.now().plus(FOREIGN_RETRY))
        }
        Start::NotBefore(instant) => Settle::release(token, *instant),
        _ => Settle::done(token),
    }
}

pub(super) fn refused(core: &Core, token: DeliveryToken, error: &Error) -> Settle {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::LeaseLost => Settle::done(token),
        _ => again_later(core, token, error),
    }
}

fn again_later(core: &Core, token: DeliveryToken, error: &Error) -> Settle {
    if is_away(error) {
        tracing::debug!(%error, "an attempt cannot be started now");
    } else {
        tracing::warn!(%error, "an attempt cannot be started now");
    }
    Settle::release(token, core.now().plus(Duration::from_secs(1)))
}

async fn reuse(core: &Arc<Core>, item: &Item, result: Digest) -> Result<bool> {
    let Some((output, from)) = results::find(core, &item.tenant, result).await? else { return Ok(false) };
    let change = Change::Reuse { step: item.step.clone(), attempt: item.attempt, output, from };
    core.request(item.key(), Arc::clone(&core.actor), change).await.map(|_| true)
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
        let renewals = core.active.to_renew(core.now().plus(core.worker.lease - tick));
        if !renewals.is_empty() {
            let owner = Arc::clone(&core);
            core.tasks.spawn(async move { renew_all(&owner, renewals).await });
        }
    }
}

/// Prolongs the leases of runs, and then their slots in one call. A run whose append takes long holds the slots of the
/// others up until the next tick, which prolongs them without it.
async fn renew_all(core: &Arc<Core>, renewals: Vec<Renewal>) {
    let held = join_all(renewals.into_iter().map(|renewal| renew(core, renewal))).await;
    let (holders, strays): (Vec<_>, Vec<_>) = held.into_iter().unzip();
    slots::renew(core, &holders.concat(), core.now().plus(core.worker.lease)).await;
    for (run, strays) in strays {
        give_back_strays(core, &run, &strays).await;
    }
}

/// Prolongs the leases of a run's attempts. Answers whose slots are to be prolonged, and the run's strays.
async fn renew(core: &Arc<Core>, renewal: Renewal) -> (Vec<Holder>, (RunKey, Vec<(StepKey, u32)>)) {
    let Renewal { run, attempts, notes } = renewal;
    let until = core.now().plus(core.worker.lease);
    match core.request(run.clone(), Arc::clone(&core.actor), Change::Progress { notes }).await {
        Ok(Answer::Held(held)) => {
            core.active.renewed(&run, &held, until);
            let lost = |attempt: &_| attempts.contains(attempt) && !held.contains(attempt);
            core.active.stop(&run, Stop::Lost, lost);
            let name =
                |(step, attempt): &(StepKey, u32)| slots::holder(&core.worker.id, &run, step, *attempt);
            let holder = |attempt: &_| Holder { tenant: run.tenant.clone(), name: name(attempt) };
            let holders = core.active.with_slots(&run, &held).iter().map(holder).collect();
            let strays = held.into_iter().filter(|attempt| !core.active.contains(&run, attempt)).collect();
            (holders, (run, strays))
        }
        answer => {
            core.active.renewed(&run, &[], until);
            // The fence stops the attempts when their lease ends before a renewal gets through.
            match answer {
                Err(error) if is_away(&error) => tracing::debug!(%run, %error, "leases cannot be prolonged"),
                Err(error) => tracing::warn!(%run, %error, "leases cannot be prolonged"),
                Ok(_) => {}
            }
            (Vec::new(), (run, Vec::new()))
        }
    }
}

/// Attempts that are this worker's by the ledger and that it knows nothing of: their start landed and every answer
/// was lost. Prolonging the leases of the others of their run would keep them for ever.
async fn give_back_strays(core: &Arc<Core>, run: &RunKey, strays: &[(StepKey, u32)]) {
    for (step, attempt) in strays.iter().filter(|attempt| !core.active.contains(run, attempt)) {
        let worker = core.worker.id.clone();
        let change = Change::Release { step: step.clone(), attempt: *attempt, worker, permit: None };
        if let Err(error) = core.request(run.clone(), Arc::clone(&core.actor), change).await {
            tracing::debug!(%run, %step, %error, "an attempt that has ended is not given back");
        }
    }
}
