//! A worker's loops: claim hints, have started what they name, prolong the leases of what runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::active::{Renewal, Stop};
use super::change::{Answer, Change, Cleared, Permit, Start, Wanted};
use super::core::Core;
use super::results;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RunKey, StepKey, TenantId};
use crate::lock::{Acquire, Holder, Slot};
use crate::queue::{Claim, Delivery, DeliveryToken, Item, Settle};
use crate::time::Timestamp;

/// Hints claimed at once.
const CLAIM: usize = 1_024;
/// How long a claimed hint may take to become a started attempt; then it is delivered again.
const HINT_LEASE: Duration = Duration::from_secs(30);
/// How long an idle worker waits without a word from its queue before it asks again.
const IDLE: Duration = Duration::from_secs(5);
/// How long a step waits before it asks for its slots again.
const SLOT_RETRY: Duration = Duration::from_millis(250);
/// How long a hint rests that nobody here can execute.
const FOREIGN_RETRY: Duration = Duration::from_secs(5);

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
            for error in outcomes.into_iter().filter_map(Result::err) {
                tracing::debug!(%error, "a delivery was settled too late");
            }
        }
        Err(error) => tracing::warn!(%error, "deliveries cannot be settled; they will come again"),
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
    match core.request(run.clone(), Arc::clone(&core.actor), Change::Start { wanted, cleared }).await? {
        Answer::Starts(starts) => Ok(starts),
        _ => Err(Error::internal("starts are answered one by one")),
    }
}

/// Starts an attempt that needs slots, or for which an earlier result may stand in. Answers how its delivery ends and
/// whether its run was found held.
async fn start_with(core: &Arc<Core>, run: &RunKey, claimed: Claimed, mut needs: Start) -> (Settle, bool) {
    let Claimed { delivery, permit } = claimed;
    let (item, token) = (&delivery.item, delivery.token.clone());
    let mut cleared = Cleared::default();
    let end = loop {
        match needs {
            Start::NeedsResult(result) => match reuse(core, item, result).await {
                Ok(true) => break (Settle::done(token), false),
                Ok(false) => cleared.result = true,
                Err(error) => break (again_later(core, token, &error), false),
            },
            Start::NeedsSlots(slots) => match acquire(core, item, slots).await {
                Ok(true) => cleared.slots = true,
                Ok(false) => break (Settle::release(token, core.now().plus(SLOT_RETRY)), false),
                Err(error) => break (again_later(core, token, &error), false),
            },
            answer => break (settle(core, run, &delivery, &answer), matches!(answer, Start::Paused)),
        }
        let wanted = Wanted { step: item.step.clone(), attempt: item.attempt, permit: Arc::clone(&permit) };
        match ask(core, run, vec![wanted], cleared).await {
            Ok(answers) => needs = answers.into_iter().next().unwrap_or(Start::Stale),
            Err(error) => break (refused(core, token, &error), false),
        }
    };
    if cleared.slots && !core.active.contains(run, &(item.step.clone(), item.attempt)) {
        release_slots(core, &item.tenant, holder(core, run, &item.step, item.attempt));
    }
    end
}

/// How a delivery ends whose attempt was started, or cannot be.
fn settle(core: &Core, run: &RunKey, delivery: &Delivery, answer: &Start) -> Settle {
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

fn refused(core: &Core, token: DeliveryToken, error: &Error) -> Settle {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::LeaseLost => Settle::done(token),
        _ => again_later(core, token, error),
    }
}

fn again_later(core: &Core, token: DeliveryToken, error: &Error) -> Settle {
    tracing::warn!(%error, "an attempt cannot be started now");
    Settle::release(token, core.now().plus(Duration::from_secs(1)))
}

async fn reuse(core: &Arc<Core>, item: &Item, result: Digest) -> Result<bool> {
    let Some((output, from)) = results::find(core, &item.tenant, result).await? else { return Ok(false) };
    let change = Change::Reuse { step: item.step.clone(), attempt: item.attempt, output, from };
    core.request(item.key(), Arc::clone(&core.actor), change).await.map(|_| true)
}

async fn acquire(core: &Arc<Core>, item: &Item, slots: Vec<Slot>) -> Result<bool> {
    let name = holder(core, &item.key(), &item.step, item.attempt);
    let holder = Holder { tenant: item.tenant.clone(), name };
    let acquire = Acquire { holder, slots, lease: core.worker.lease, now: core.now() };
    Ok(core.lock.acquire(&acquire).await?.is_some())
}

/// Who holds the slots of an attempt: this worker, so that another one with the same hint cannot give them back.
pub(super) fn holder(core: &Core, run: &RunKey, step: &StepKey, attempt: u32) -> String {
    format!("attempt/{}/{}/{step}/{attempt}", core.worker.id, run.run)
}

pub(super) fn release_slots(core: &Arc<Core>, tenant: &TenantId, name: String) {
    let (owner, holder) = (Arc::clone(core), Holder { tenant: tenant.clone(), name });
    core.tasks.spawn(async move {
        if let Err(error) = owner.lock.release(&[holder]).await {
            tracing::warn!(%error, "slots cannot be given back; their leases will end");
        }
    });
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
        let change = Change::Release { step: step.clone(), attempt: *attempt, permit: None };
        if let Err(error) = core.request(run.clone(), Arc::clone(&core.actor), change).await {
            tracing::debug!(%run, %step, %error, "an attempt that has ended is not given back");
        }
    }
}
