//! The slots of concurrency keys: taken before a start, given back after the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::change::Worker;
use super::core::Core;
use super::health::{Call, rest};
use crate::error::{ErrorKind, Result};
use crate::id::{RunKey, StepKey, TenantId, WorkerId};
use crate::lock::{Acquire, Holder, Slot};
use crate::queue::Item;
use crate::time::Timestamp;

/// The first rest after slots could not be given back, and the longest.
const RESTS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Slots that are being given back. Those of attempts that end while a call is under way go with the next one.
#[derive(Debug, Default)]
pub(super) struct Returns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Whose, and when their lease has ended at the latest.
    holders: BTreeMap<Holder, Timestamp>,
    /// Somebody gives them back.
    under_way: bool,
}

impl Returns {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that is to be given back, in order. With nothing, whoever asks is to go.
    fn next(&self, now: Timestamp) -> Vec<Holder> {
        let mut state = self.lock();
        state.holders.retain(|_, ends| *ends > now);
        state.under_way = !state.holders.is_empty();
        state.holders.keys().cloned().collect()
    }
}

/// Whoever gives slots back. Dropped before the end, by a panic or at the close, it leaves the place to another.
struct Returner<'a> {
    returns: &'a Returns,
    ended: bool,
}

impl Drop for Returner<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.returns.lock().under_way = false;
        }
    }
}

/// Takes the slots that a hint's attempt needs, for the worker that is to start it. Answers whether it has them.
///
/// # Errors
/// As [`Lock::acquire`](crate::lock::Lock::acquire).
pub(super) async fn acquire(
    core: &Arc<Core>,
    worker: &Worker,
    item: &Item,
    slots: Vec<Slot>,
) -> Result<bool> {
    let name = holder(&worker.id, &item.key(), &item.step, item.attempt);
    let holder = Holder { tenant: item.tenant.clone(), name };
    if core.returns.lock().holders.contains_key(&holder) {
        // What is on its way back must not arrive there after it was taken again.
        return Ok(false);
    }
    let acquire = Acquire { holder, slots, lease: worker.lease, now: core.now() };
    match core.lock.acquire(&acquire).await {
        Ok(grants) => {
            core.health.works(Call::Slots);
            Ok(grants.is_some())
        }
        Err(error) => {
            core.health.failed(Call::Slots, &error, core.now());
            if error.kind() == ErrorKind::Indeterminate {
                release(core, &acquire.holder.tenant, acquire.holder.name);
            }
            Err(error)
        }
    }
}

/// Who holds the slots of an attempt: its worker, so that another one with the same hint cannot give them back.
pub(super) fn holder(worker: &WorkerId, run: &RunKey, step: &StepKey, attempt: u32) -> String {
    format!("attempt/{worker}/{}/{step}/{attempt}", run.run)
}

/// Prolongs slots, all in one call. What was lost is told of: more steps than declared may then run at once.
pub(super) async fn renew(core: &Arc<Core>, holders: &[Holder], until: Timestamp) {
    if holders.is_empty() {
        return;
    }
    let now = core.now();
    match core.lock.renew(holders, until, now).await {
        Ok(answers) => {
            core.health.works(Call::Slots);
            let lost = holders.iter().zip(answers).filter(|(_, answer)| answer.is_err());
            let mut lost = lost.map(|(holder, _)| &holder.name);
            if let Some(holder) = lost.next() {
                tracing::warn!(holder, others = lost.count(), "slots of running steps were lost");
            }
        }
        Err(error) => core.health.failed(Call::Slots, &error, now),
    }
}

/// Gives slots back, in a task of its own that tries until their leases have ended anyway.
pub(super) fn release(core: &Arc<Core>, tenant: &TenantId, name: String) {
    let holder = Holder { tenant: tenant.clone(), name };
    let mut state = core.returns.lock();
    state.holders.insert(holder, core.now().plus(core.worker.lease));
    if !std::mem::replace(&mut state.under_way, true) {
        let owner = Arc::clone(core);
        core.tasks.spawn(async move { give_back(&owner).await });
    }
}

async fn give_back(core: &Arc<Core>) {
    let mut returner = Returner { returns: &core.returns, ended: false };
    let mut failures = 0;
    loop {
        let holders = core.returns.next(core.now());
        if holders.is_empty() {
            // Somebody else may be under way by now.
            returner.ended = true;
            return;
        }
        match core.lock.release(&holders).await {
            Ok(()) => {
                core.health.works(Call::Slots);
                failures = 0;
                let mut state = core.returns.lock();
                state.holders.retain(|holder, _| holders.binary_search(holder).is_err());
            }
            Err(error) => {
                core.health.failed(Call::Slots, &error, core.now());
                failures += 1;
                if core.closed.is_cancelled() {
                    return;
                }
                core.sleep_until(core.now().plus(rest(&core.worker.id, failures, RESTS.0, RESTS.1))).await;
            }
        }
    }
}
