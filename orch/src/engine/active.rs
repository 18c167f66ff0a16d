//! The attempts this process executes at the moment.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::effects::Launch;
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

/// What an attempt under way has been told. The first order stands, and none comes after its end.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Fires with the order to stop.
    pub(super) token: CancellationToken,
    /// Nothing while nobody has said anything: an order, or that nothing executes any more.
    said: OnceLock<Option<Stop>>,
}

impl Orders {
    fn stop(&self, stop: Stop) {
        if self.said.get_or_init(|| Some(stop)).is_some() {
            self.token.cancel();
        }
    }

    /// Nothing of the attempt executes any more; answers why it was told to stop, if it was.
    pub(super) fn done(&self) -> Option<Stop> {
        *self.said.get_or_init(|| None)
    }
}

#[derive(Debug)]
struct Active {
    orders: Arc<Orders>,
    progress: Option<ProgressSink>,
    lease_until: Timestamp,
    since: Timestamp,
    /// It holds slots of concurrency keys.
    slots: bool,
}

type Attempt = (StepKey, u32);

#[derive(Debug, Default)]
struct Run {
    attempts: BTreeMap<Attempt, Active>,
    /// A renewal of its leases is under way.
    renewing: bool,
}

#[derive(Debug, Default)]
struct State {
    runs: BTreeMap<RunKey, Run>,
    /// The process shuts down: what begins now is told to stop at once.
    shutdown: bool,
}

/// What a renewal is asked for.
#[derive(Debug)]
pub(super) struct Renewal {
    pub(super) run: RunKey,
    /// The attempts that were under way when it was asked for; it says nothing of later ones.
    pub(super) attempts: Vec<Attempt>,
    pub(super) notes: Vec<ProgressNote>,
}

/// The attempts under way, by run: from the moment their start is durable until their end is.
#[derive(Debug, Default)]
pub(super) struct ActiveAttempts {
    state: Mutex<State>,
    /// Told whenever an attempt begins.
    pub(super) begun: Notify,
}

impl ActiveAttempts {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attempts of a run begin, at least one; leaves out those that have begun already, as a hint may come twice.
    pub(super) fn begin(
        &self,
        key: &RunKey,
        launches: impl Iterator<Item = Launch>,
    ) -> Vec<(Launch, Arc<Orders>)> {
        let mut state = self.lock();
        let State { runs, shutdown } = &mut *state;
        let run = runs.entry(key.clone()).or_default();
        let mut begun = Vec::with_capacity(launches.size_hint().0);
        for launch in launches {
            let Entry::Vacant(entry) = run.attempts.entry((launch.step.clone(), launch.attempt)) else {
                continue;
            };
            let orders = Arc::new(Orders::default());
            if *shutdown {
                orders.stop(Stop::Shutdown);
            }
            let (lease_until, slots) = (launch.lease_until, !launch.spec().concurrency.is_empty());
            let since = launch.since;
            entry.insert(Active { orders: Arc::clone(&orders), progress: None, lease_until, since, slots });
            begun.push((launch, orders));
        }
        drop(state);
        self.begun.notify_one();
        begun
    }

    /// Where the attempt says how far it is.
    pub(super) fn listen(&self, key: &RunKey, attempt: &Attempt, progress: ProgressSink) {
        let mut state = self.lock();
        let run = state.runs.get_mut(key);
        if let Some(active) = run.and_then(|run| run.attempts.get_mut(attempt)) {
            active.progress = Some(progress);
        }
    }

    /// The attempt's end is durable, or nobody's business here any more.
    pub(super) fn end(&self, key: &RunKey, attempt: &Attempt) {
        let mut state = self.lock();
        if let Some(run) = state.runs.get_mut(key) {
            run.attempts.remove(attempt);
            if run.attempts.is_empty() {
                state.runs.remove(key);
            }
        }
    }

    pub(super) fn contains(&self, key: &RunKey, attempt: &Attempt) -> bool {
        self.lock().runs.get(key).is_some_and(|run| run.attempts.contains_key(attempt))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().runs.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().runs.values().map(|run| run.attempts.len()).sum()
    }

    /// Since when the oldest attempt has been under way.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.lock().runs.values().flat_map(|run| run.attempts.values()).map(|active| active.since).min()
    }

    /// Tells attempts of a run to stop: those that `which` picks.
    pub(super) fn stop(&self, key: &RunKey, stop: Stop, which: impl Fn(&Attempt) -> bool) {
        let mut state = self.lock();
        for (attempt, active) in state.runs.get_mut(key).into_iter().flat_map(|run| &mut run.attempts) {
            if which(attempt) {
                active.orders.stop(stop);
            }
        }
    }

    /// Tells every attempt to stop, those yet to begin included.
    pub(super) fn shut_down(&self) {
        let mut state = self.lock();
        state.shutdown = true;
        state
            .runs
            .values_mut()
            .flat_map(|run| run.attempts.values_mut())
            .for_each(|a| a.orders.stop(Stop::Shutdown));
    }

    /// The renewals that are due: of runs with an attempt whose lease ends before `soon`, unless one is under way.
    pub(super) fn to_renew(&self, soon: Timestamp) -> Vec<Renewal> {
        let mut state = self.lock();
        let due = |run: &Run| !run.renewing && run.attempts.values().any(|a| a.lease_until <= soon);
        let due = state.runs.iter_mut().filter(|(_, run)| due(run));
        due.map(|(key, run)| {
            run.renewing = true;
            let note = |((step, attempt), active): (&Attempt, &Active)| {
                let note = active.progress.as_ref()?.latest()?.to_string();
                Some(ProgressNote { attempt: *attempt, note, step: step.clone() })
            };
            let notes = run.attempts.iter().filter_map(note).collect();
            Renewal { run: key.clone(), attempts: run.attempts.keys().cloned().collect(), notes }
        })
        .collect()
    }

    /// Those of the attempts that execute here and hold slots.
    pub(super) fn with_slots(&self, key: &RunKey, attempts: &[Attempt]) -> Vec<Attempt> {
        let state = self.lock();
        let Some(run) = state.runs.get(key) else { return Vec::new() };
        let holds = |attempt: &&Attempt| run.attempts.get(*attempt).is_some_and(|active| active.slots);
        attempts.iter().filter(holds).cloned().collect()
    }

    /// A renewal is over; with `held`, these attempts are this worker's until then.
    pub(super) fn renewed(&self, key: &RunKey, held: &[Attempt], until: Timestamp) {
        let mut state = self.lock();
        let Some(run) = state.runs.get_mut(key) else { return };
        run.renewing = false;
        for (attempt, active) in &mut run.attempts {
            if held.contains(attempt) {
                active.lease_until = until;
            }
        }
    }

    /// Tells attempts whose lease has ended to stop: their results could not be recorded any more.
    pub(super) fn fence(&self, now: Timestamp) {
        let mut state = self.lock();
        for active in state.runs.values_mut().flat_map(|run| run.attempts.values_mut()) {
            if active.lease_until <= now {
                active.orders.stop(Stop::Lost);
            }
        }
    }
}
