//! Hints at work for outside workers: they wait in a queue of their own, by job type, and one task of this process at a
//! time claims them for everybody who asks here.
//!
//! A thousand workers that wait cost as much as one: they stand in line at the desk, and what comes is given to the
//! first in line who asked for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{Notify, oneshot};

use super::core::Core;
use super::effects::push_to;
use super::health::{Call, rest};
use crate::digest::Digest;
use crate::error::Result;
use crate::id::{QueueName, TenantId};
use crate::queue::{Claim, Claimed, Delivery, Item, Settle};
use crate::time::Timestamp;

/// How long a claimed hint may take to become a started attempt; then it is delivered again.
const HINT_LEASE: Duration = Duration::from_secs(30);
/// How long the desk waits without a word from the queue before it asks again.
const IDLE: Duration = Duration::from_secs(20);
/// Hints claimed at once for one tenant.
const CLAIM: usize = 1_024;
/// How long the queue may take to answer before somebody without patience goes.
const MOMENT: Duration = Duration::from_secs(2);
/// The first rest after the queue failed, and the longest.
const RESTS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The queue that hints at steps of a job type wait in: `worker.TYPE`, and `worker.TYPE.QUEUE` for those that name a
/// queue. Names that become too long are a digest.
pub(super) fn queue_of(job_type: &str, queue: &QueueName) -> QueueName {
    let name = match queue == &QueueName::default_queue() {
        true => format!("worker.{job_type}"),
        false => format!("worker.{job_type}.{queue}"),
    };
    let short = || QueueName::new(Digest::of(name.as_bytes()).to_string()).expect("hex digits are a name");
    QueueName::new(&name).unwrap_or_else(|_| short())
}

/// Those who wait for work, first come first.
#[derive(Debug, Default)]
pub(super) struct Desk {
    line: Mutex<Line>,
    /// Told when somebody joins the line.
    joined: Notify,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    count: u64,
    /// Somebody claims for everybody.
    attended: bool,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    tenant: TenantId,
    queues: Arc<BTreeSet<QueueName>>,
    max: usize,
    reply: oneshot::Sender<Vec<Delivery>>,
    /// Told whenever it has been claimed for.
    seen_to: Arc<Notify>,
}

impl Line {
    /// Tells those who were in line up to `latest` that they have been claimed for.
    fn seen_to(&self, latest: u64) {
        let there = self.waiting.iter().filter(|waiting| waiting.number <= latest);
        there.for_each(|waiting| waiting.seen_to.notify_one());
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.lock().waiting.len()
    }
}

/// A place in the line, given up when it is dropped.
struct Place<'a> {
    desk: &'a Desk,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.desk.lock().waiting.retain(|waiting| waiting.number != self.number);
    }
}

/// Waits for hints of these queues, at most `max`; nothing when none came within `patience` or the engine closes. What
/// is given is the caller's to settle; a caller that goes away leaves it to come again.
pub(super) async fn ask(
    core: &Arc<Core>,
    tenant: &TenantId,
    queues: &Arc<BTreeSet<QueueName>>,
    max: usize,
    patience: Duration,
) -> Vec<Delivery> {
    let (reply, mut given) = oneshot::channel();
    let seen_to = Arc::new(Notify::new());
    // Also who has no patience is claimed for once, if the queue answers in a moment.
    let out_of_patience = async {
        tokio::time::sleep(patience).await;
        let _ = tokio::time::timeout(MOMENT, seen_to.notified()).await;
    };
    let (number, attend) = {
        let mut line = core.desk.lock();
        line.count += 1;
        let (tenant, queues) = (tenant.clone(), Arc::clone(queues));
        let (number, seen_to) = (line.count, Arc::clone(&seen_to));
        line.waiting.push_back(Waiting { number, tenant, queues, max, reply, seen_to });
        (number, !std::mem::replace(&mut line.attended, true))
    };
    let place = Place { desk: &core.desk, number };
    core.desk.joined.notify_one();
    if attend {
        let owner = Arc::clone(core);
        core.tasks.spawn(async move { attend_line(&owner).await });
    }
    tokio::select! {
        biased;
        given = &mut given => return given.unwrap_or_default(),
        () = out_of_patience => {}
        () = core.closing.cancelled() => {}
    }
    drop(place);
    // Something may have come at the last moment.
    given.try_recv().unwrap_or_default()
}

/// Whoever claims for the line. Dropped before the end, by a panic or at the close, it leaves the place to another.
struct Attendant<'a> {
    desk: &'a Desk,
    ended: bool,
}

impl Drop for Attendant<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.desk.lock().attended = false;
        }
    }
}

/// Claims for those in line until nobody is.
async fn attend_line(core: &Arc<Core>) {
    let mut attendant = Attendant { desk: &core.desk, ended: false };
    let mut failures = 0;
    loop {
        let (asked, latest) = {
            let mut line = core.desk.lock();
            if line.waiting.is_empty() || core.closing.is_cancelled() {
                line.attended = false;
                attendant.ended = true;
                return;
            }
            (asked(&line), line.count)
        };
        let claims = asked.into_iter().map(|(tenant, (queues, limit))| claim(core, tenant, queues, limit));
        let mut next_at: Option<Timestamp> = None;
        let (mut given, mut failed) = (false, false);
        for claimed in join_all(claims).await {
            match claimed {
                Ok(Claimed { deliveries, next_at: next, .. }) => {
                    given |= !deliveries.is_empty();
                    next_at = [next_at, next].into_iter().flatten().min();
                    hand_out(core, deliveries).await;
                }
                Err(error) => {
                    failed = true;
                    core.health.failed(Call::Outside, &error, core.now());
                }
            }
        }
        core.desk.lock().seen_to(latest);
        if failed {
            failures += 1;
            let span = rest(&core.worker.id, failures, RESTS.0, RESTS.1);
            core.sleep_until(core.now().plus(span)).await;
            continue;
        }
        failures = 0;
        core.health.works(Call::Outside);
        if !given {
            wait(core, next_at).await;
        }
    }
}

/// Which queues of which tenant are asked for, and how much altogether.
fn asked(line: &Line) -> BTreeMap<TenantId, (BTreeSet<QueueName>, usize)> {
    let mut asked: BTreeMap<TenantId, (BTreeSet<QueueName>, usize)> = BTreeMap::new();
    for waiting in &line.waiting {
        let (queues, limit) = asked.entry(waiting.tenant.clone()).or_default();
        queues.extend(waiting.queues.iter().cloned());
        *limit = limit.saturating_add(waiting.max).min(CLAIM);
    }
    asked
}

async fn claim(
    core: &Arc<Core>,
    tenant: TenantId,
    queues: BTreeSet<QueueName>,
    limit: usize,
) -> Result<Claimed> {
    let claim = Claim {
        worker: core.worker.id.clone(),
        queues: Some(queues.into_iter().collect()),
        tenants: Some(vec![tenant]),
        limit,
        lease: HINT_LEASE,
        now: core.now(),
    };
    core.outside.claim(&claim).await
}

/// Gives hints to the first in line who asked for them; what nobody wants any more goes back as it was.
async fn hand_out(core: &Arc<Core>, deliveries: Vec<Delivery>) {
    let mut given: BTreeMap<u64, Vec<Delivery>> = BTreeMap::new();
    let mut back = Vec::new();
    {
        let mut line = core.desk.lock();
        for delivery in deliveries {
            let wants = |waiting: &&Waiting| {
                waiting.tenant == delivery.item.tenant
                    && waiting.queues.contains(&delivery.item.queue)
                    && given.get(&waiting.number).map_or(0, Vec::len) < waiting.max
            };
            match line.waiting.iter().find(wants).map(|waiting| waiting.number) {
                Some(number) => given.entry(number).or_default().push(delivery),
                None => back.push(delivery),
            }
        }
        let mut rest = VecDeque::with_capacity(line.waiting.len());
        for waiting in line.waiting.drain(..) {
            match given.remove(&waiting.number) {
                Some(deliveries) => back.extend(waiting.reply.send(deliveries).err().into_iter().flatten()),
                None => rest.push_back(waiting),
            }
        }
        line.waiting = rest;
    }
    let back: Vec<_> =
        back.into_iter().map(|delivery| Settle::release(delivery.token, delivery.item.ready_at)).collect();
    settle(core, &back).await;
}

/// Ends deliveries. One that does not arrive means that the hint comes again.
pub(super) async fn settle(core: &Arc<Core>, settles: &[Settle]) {
    if settles.is_empty() {
        return;
    }
    match core.outside.settle(settles, core.now()).await {
        Ok(_) => core.health.works(Call::Outside),
        Err(error) => core.health.failed(Call::Outside, &error, core.now()),
    }
}

/// Pushes hints. Those that cannot be pushed are made again by the sweep.
pub(super) async fn push(core: &Arc<Core>, hints: &[Item]) {
    if hints.is_empty() {
        return;
    }
    match push_to(core, core.outside.as_ref(), hints).await {
        Ok(()) => core.health.works(Call::Outside),
        Err(error) => core.health.failed(Call::Outside, &error, core.now()),
    }
}

/// Waits for a word from the queue or for somebody to join the line, until `next_at` at the latest.
async fn wait(core: &Arc<Core>, next_at: Option<Timestamp>) {
    let now = core.now();
    let latest = next_at.filter(|at| *at > now).map_or(IDLE, |at| at.since(now).min(IDLE));
    let waited = tokio::select! {
        biased;
        () = core.closing.cancelled() => return,
        () = core.desk.joined.notified() => return,
        waited = core.outside.wait(latest) => waited,
    };
    if let Err(error) = waited {
        core.health.failed(Call::Outside, &error, core.now());
        core.sleep_until(core.now().plus(RESTS.1.min(latest))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_type_and_queue_has_a_queue_of_hints_of_its_own() {
        let default = QueueName::default_queue();
        let gpu = QueueName::new("gpu").unwrap();
        assert_eq!(queue_of("scan", &default).as_str(), "worker.scan");
        assert_eq!(queue_of("scan", &gpu).as_str(), "worker.scan.gpu");
        let long = "x".repeat(128);
        let (one, other) = (queue_of(&long, &default), queue_of(&long, &gpu));
        assert!(one != other && one.as_str().len() == 64, "{one} {other}");
    }
}
