//! The attempts this process executes at the moment.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::executor::ProgressSink;
use crate::id::{RunKey, StepKey};
use crate::ledger::ProgressNote;
use crate::time::Timestamp;

/// Why an attempt was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The run is cancelled.
    Cancelled,
    /// The attempt is not this worker's any more: its result counts for nothing.
    Lost,
    /// The process shuts down: the attempt goes back.
    Shutdown,
}

#[derive(Debug)]
struct Active {
    token: CancellationToken,
    progress: ProgressSink,
    lease_until: Timestamp,
    stop: Option<Stop>,
}

type Attempt = (StepKey, u32);

/// The attempts under way, by run.
#[derive(Debug, Default)]
pub(super) struct ActiveAttempts {
    runs: Mutex<BTreeMap<RunKey, BTreeMap<Attempt, Active>>>,
    /// Told whenever an attempt begins.
    pub(super) begun: Notify,
}

impl ActiveAttempts {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RunKey, BTreeMap<Attempt, Active>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(
        &self,
        key: &RunKey,
        attempt: Attempt,
        token: CancellationToken,
        progress: ProgressSink,
        lease_until: Timestamp,
    ) {
        let active = Active { token, progress, lease_until, stop: None };
        self.lock().entry(key.clone()).or_default().insert(attempt, active);
        self.begun.notify_one();
    }

    /// The attempt has ended; answers why it was told to stop, if it was.
    pub(super) fn end(&self, key: &RunKey, attempt: &Attempt) -> Option<Stop> {
        let mut runs = self.lock();
        let attempts = runs.get_mut(key)?;
        let active = attempts.remove(attempt);
        if attempts.is_empty() {
            runs.remove(key);
        }
        active?.stop
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Tells attempts of a run to stop: those that `which` picks.
    pub(super) fn stop(&self, key: &RunKey, stop: Stop, which: impl Fn(&Attempt) -> bool) {
        for (attempt, active) in self.lock().get_mut(key).into_iter().flatten() {
            if which(attempt) {
                active.stop.get_or_insert(stop);
                active.token.cancel();
            }
        }
    }

    /// Tells every attempt to stop.
    pub(super) fn stop_all(&self, stop: Stop) {
        for active in self.lock().values_mut().flat_map(BTreeMap::values_mut) {
            active.stop.get_or_insert(stop);
            active.token.cancel();
        }
    }

    /// The runs with an attempt whose lease ends before `soon`, and what those attempts say of themselves.
    pub(super) fn to_renew(&self, soon: Timestamp) -> Vec<(RunKey, Vec<ProgressNote>)> {
        let runs = self.lock();
        runs.iter()
            .filter(|(_, attempts)| attempts.values().any(|active| active.lease_until <= soon))
            .map(|(key, attempts)| {
                let note = |((step, attempt), active): (&Attempt, &Active)| {
                    let note = active.progress.latest()?.to_string();
                    Some(ProgressNote { attempt: *attempt, note, step: step.clone() })
                };
                (key.clone(), attempts.iter().filter_map(note).collect())
            })
            .collect()
    }

    /// The leases of these attempts were prolonged.
    pub(super) fn renewed(&self, key: &RunKey, held: &[Attempt], until: Timestamp) {
        for (attempt, active) in self.lock().get_mut(key).into_iter().flatten() {
            if held.contains(attempt) {
                active.lease_until = until;
            }
        }
    }

    /// Tells attempts whose lease has ended to stop: their results could not be recorded any more.
    pub(super) fn fence(&self, now: Timestamp) {
        for active in self.lock().values_mut().flat_map(BTreeMap::values_mut) {
            if active.lease_until <= now {
                active.stop.get_or_insert(Stop::Lost);
                active.token.cancel();
            }
        }
    }
}
