//! What can be asked of a run, and what the rules make of it. Everything that changes a run passes through here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::lease::{Leased, Renewed};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::executor::{Executors, Outcome};
use crate::id::{RunKey, StepKey, WorkerId};
use crate::ledger::{ArtifactRef, Event, ProgressNote, ReusedFrom, RunCreated, StepStatus};
use crate::limits::Limits;
use crate::lock::Slot;
use crate::payload::Payload;
use crate::planner::attempt::{self, Finish};
use crate::planner::{Operation, RunState, SharedPlan, StepRef, operate};
use crate::spec::Uses;
use crate::store::RunRow;
use crate::time::Timestamp;

/// A place to execute an attempt; free again when the last holder lets go.
pub(super) type Permit = Arc<OwnedSemaphorePermit>;

/// A change asked of one run.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) key: RunKey,
    pub(super) actor: Arc<str>,
    pub(super) change: Change,
    pub(super) reply: Option<oneshot::Sender<Result<Answer>>>,
    /// How often it has been tried.
    pub(super) tries: u32,
    /// When its committer got it, by that one's count.
    pub(super) asked: u64,
}

#[derive(Debug)]
pub(super) enum Change {
    Create(Box<Create>),
    Operate {
        operation: Operation,
        reason: Option<String>,
    },
    /// A worker wants to start attempts, each in a place of its own.
    Start {
        wanted: Vec<Wanted>,
        cleared: Cleared,
    },
    Reuse {
        step: StepKey,
        attempt: u32,
        output: Payload,
        from: ReusedFrom,
    },
    Finish {
        end: Box<AttemptEnd>,
        permit: Option<Permit>,
    },
    Progress {
        notes: Vec<ProgressNote>,
    },
    /// The worker gives an attempt back: it shuts down, or has lost touch with it.
    Release {
        step: StepKey,
        attempt: u32,
        worker: WorkerId,
        permit: Option<Permit>,
    },
    /// An outside worker wants to start an attempt.
    Lease {
        step: StepKey,
        attempt: u32,
        by: Arc<OutsideWorker>,
        cleared: Cleared,
    },
    /// An outside worker goes on.
    Renew {
        step: StepKey,
        attempt: u32,
        worker: Worker,
        note: Option<String>,
    },
    /// Look whether anything is due, and make all hints again. With `due`, the store lists the run as due: what is
    /// known of it here is then held against the store.
    Look {
        due: bool,
    },
    /// More is to be decided than one append may hold.
    GoOn,
}

/// An attempt that a hint named, and a place to execute it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) step: StepKey,
    pub(super) attempt: u32,
    pub(super) permit: Permit,
}

#[derive(Debug)]
pub(super) struct Create {
    pub(super) created: RunCreated,
    pub(super) plan: SharedPlan,
    /// Outputs taken over from another run, for steps that are not to run again.
    pub(super) reused: Vec<(StepKey, Payload, ReusedFrom)>,
}

/// How an attempt ended, and whose it was.
#[derive(Clone, Debug)]
pub(super) struct AttemptEnd {
    pub(super) step: StepKey,
    pub(super) attempt: u32,
    /// Nobody for a sub-DAG.
    pub(super) worker: Option<WorkerId>,
    pub(super) outcome: Outcome,
    pub(super) logs: Option<ArtifactRef>,
    /// The version of what executed it outside; of what executes inside, the process knows it.
    pub(super) version: Option<String>,
}

/// What has been seen to before a start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cleared {
    /// The slots of its concurrency keys are held.
    pub(super) slots: bool,
    /// No earlier result can stand in.
    pub(super) result: bool,
}

#[derive(Debug)]
pub(super) enum Answer {
    Created {
        row: Box<RunRow>,
        new: bool,
    },
    Row(Box<RunRow>),
    /// What became of each wanted attempt, in order.
    Starts(Vec<Start>),
    /// The attempts of this worker that are still its own.
    Held(Vec<(StepKey, u32)>),
    /// The attempt is still the outside worker's.
    Renewed(Renewed),
    Done,
}

/// What became of an attempt that was to start.
#[derive(Debug)]
pub(super) enum Start {
    Started,
    /// Started, and to be executed outside; with why it has no input, if it has none.
    Leased(Box<(Leased, Option<String>)>),
    NeedsSlots(Vec<Slot>),
    NeedsResult(Digest),
    NoExecutor,
    /// The hint was stale: another attempt is current, or none.
    Stale,
    /// The run is held.
    Paused,
    /// The attempt may start then and no sooner.
    NotBefore(Timestamp),
}

/// Who a worker is and how long it is believed.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) lease: Duration,
}

/// A worker outside the process, known by one attempt.
#[derive(Debug)]
pub(super) struct OutsideWorker {
    pub(super) worker: Worker,
    /// The job types it knows.
    pub(super) types: Arc<BTreeSet<String>>,
    /// What it says its version is.
    pub(super) version: Arc<str>,
}

/// Who is to start an attempt.
#[derive(Clone, Copy)]
pub(super) enum Starter<'a> {
    /// This process.
    Inside(&'a Worker, &'a Executors),
    Outside(&'a OutsideWorker),
}

impl<'a> Starter<'a> {
    fn worker(self) -> &'a Worker {
        match self {
            Self::Inside(worker, _) => worker,
            Self::Outside(outside) => &outside.worker,
        }
    }

    /// The version of what would execute the step, if anything can.
    fn version(self, uses: &Uses) -> Option<&'a str> {
        match (self, uses) {
            (Self::Inside(_, executors), _) => executors.lookup(uses).map(|(_, version)| version),
            (Self::Outside(outside), Uses::Worker(job_type)) if outside.types.contains(job_type) => {
                Some(&outside.version)
            }
            (Self::Outside(_), _) => None,
        }
    }

    /// How long an attempt that starts now is believed in. Nobody watches over the time of one outside: its lease ends with
    /// it.
    fn lease(self, state: &RunState, at: StepRef, now: Timestamp) -> Duration {
        match self {
            Self::Inside(worker, _) => worker.lease,
            Self::Outside(outside) => within(outside.worker.lease, state.deadline_from(at, now), now),
        }
    }
}

/// A span, cut where time runs out.
fn within(span: Duration, deadline: Option<Timestamp>, now: Timestamp) -> Duration {
    deadline.map_or(span, |deadline| span.min(deadline.since(now)))
}

/// The events of a change, and the answer once they are durable. Starts are asked for one by one: see [`start`].
///
/// # Errors
/// As the rule that refuses it: see [`attempt`] and [`operate`].
pub(super) fn evaluate(
    state: &RunState,
    change: &Change,
    worker: &Worker,
    now: Timestamp,
    limits: &Limits,
) -> Result<(Vec<Event>, Answer)> {
    let at =
        |step: &StepKey| state.find(step).ok_or_else(|| Error::conflict("no such step").with("step", step));
    match change {
        Change::Create(_) => Ok((Vec::new(), Answer::Created { row: Box::new(state.row()), new: false })),
        Change::Operate { operation, reason } => {
            Ok((operate(state, operation, reason.clone(), limits)?, Answer::Row(Box::new(state.row()))))
        }
        Change::Reuse { step, attempt, output, from } => {
            let at = at(step)?;
            if state.get(at).is_none_or(|step| step.attempt != *attempt) {
                return Ok((Vec::new(), Answer::Starts(vec![Start::Stale])));
            }
            match attempt::reuse(state, at, output.clone(), from.clone()) {
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    Ok((Vec::new(), Answer::Starts(vec![Start::Stale])))
                }
                events => Ok((events?, Answer::Done)),
            }
        }
        Change::Finish { end, .. } => {
            let AttemptEnd { step, attempt, worker, outcome, logs, .. } = (**end).clone();
            let finish = Finish { at: at(&step)?, attempt, worker, outcome, logs };
            Ok((vec![attempt::finish(state, finish, now, limits)?], Answer::Done))
        }
        Change::Progress { notes } => progress(state, notes, worker, now),
        Change::Release { step, attempt, worker, .. } => {
            Ok((vec![attempt::release(state, at(step)?, *attempt, worker, now, limits)?], Answer::Done))
        }
        Change::Renew { step, attempt, worker, note } => {
            renew(state, (at(step)?, *attempt), worker, note.as_deref(), now)
        }
        Change::Start { .. } | Change::Lease { .. } | Change::Look { .. } | Change::GoOn => {
            Ok((Vec::new(), Answer::Done))
        }
    }
}

/// The events that start an attempt, or what keeps it from starting.
///
/// # Errors
/// `Corrupt` for a state that does not hold together.
pub(super) fn start(
    state: &RunState,
    (step, attempt): (&StepKey, u32),
    cleared: Cleared,
    starter: Starter<'_>,
    now: Timestamp,
    limits: &Limits,
) -> Result<(Vec<Event>, Start)> {
    let nothing = |answer| Ok((Vec::new(), answer));
    let Some((at, known)) = state.find(step).and_then(|at| Some((at, state.get(at)?))) else {
        return nothing(Start::Stale);
    };
    let spec = state.spec(at);
    let free = spec.concurrency.is_empty() || cleared.slots;
    let worker = starter.worker();
    let held = known.status == StepStatus::Running && known.worker.as_ref() == Some(&worker.id);
    if held && known.attempt == attempt {
        // An append whose answer was lost had landed, or the hint came twice.
        return nothing(if free { Start::Started } else { Start::NeedsSlots(state.slots(at, limits)?) });
    }
    if known.status == StepStatus::Queued && known.attempt == attempt && state.ending.is_none() {
        if state.paused {
            return nothing(Start::Paused);
        }
        if let Some(instant) = known.not_before.filter(|instant| *instant > now) {
            return nothing(Start::NotBefore(instant));
        }
    }
    let Some(executor) = starter.version(&spec.uses) else { return nothing(Start::NoExecutor) };
    let (id, lease) = (worker.id.clone(), starter.lease(state, at, now));
    if lease.is_zero() {
        // Its time is over before it begins: that is about to be said.
        return nothing(Start::Stale);
    }
    let wish = attempt::Start { at, attempt, worker: id, executor: executor.to_owned(), lease };
    let events = match attempt::start(state, &wish, now) {
        Err(error) if error.kind() == ErrorKind::Conflict => return nothing(Start::Stale),
        events => events?,
    };
    if spec.cache && !cleared.result {
        return nothing(Start::NeedsResult(state.result_key(at, executor)?));
    }
    if !free {
        return nothing(Start::NeedsSlots(state.slots(at, limits)?));
    }
    Ok((events, Start::Started))
}

/// An outside worker goes on with its attempt, for no longer than the attempt may take.
fn renew(
    state: &RunState,
    (at, attempt): (StepRef, u32),
    worker: &Worker,
    note: Option<&str>,
    now: Timestamp,
) -> Result<(Vec<Event>, Answer)> {
    let lost = || Error::lease_lost("the attempt is not current any more").with("attempt", attempt);
    let held = state.get(at).is_some_and(|step| {
        step.status == StepStatus::Running
            && step.attempt == attempt
            && step.worker.as_ref() == Some(&worker.id)
    });
    let deadline = state.attempt_deadline(at).filter(|_| held);
    if !held || state.ended.is_some() || deadline.is_some_and(|deadline| deadline <= now) {
        return Err(lost());
    }
    let lease_until = now.plus(within(worker.lease, deadline, now));
    let note = note.map(|note| ProgressNote { attempt, note: note.to_owned(), step: state.key_of(at) });
    let event = attempt::progress(state, &worker.id, lease_until, note.into_iter().collect())?;
    Ok((vec![event], Answer::Renewed(Renewed { lease_until, cancel: state.ending.is_some() })))
}

fn progress(
    state: &RunState,
    notes: &[ProgressNote],
    worker: &Worker,
    now: Timestamp,
) -> Result<(Vec<Event>, Answer)> {
    let attempt = |at| state.get(at).map(|step| (state.key_of(at), step.attempt));
    let held: Vec<(StepKey, u32)> = state.held_by(&worker.id).into_iter().filter_map(attempt).collect();
    if held.is_empty() || state.ended.is_some() {
        return Ok((Vec::new(), Answer::Held(held)));
    }
    let lease_until = now.plus(worker.lease);
    let event = attempt::progress(state, &worker.id, lease_until, notes.to_vec())?;
    Ok((vec![event], Answer::Held(held)))
}

impl Change {
    /// Whether this answer, given without an append, may be owed to an old picture of the run: another process may
    /// have written since.
    pub(super) fn is_doubtful(&self, answer: &Result<Answer>) -> bool {
        match (self, answer) {
            (Self::Create(_) | Self::Look { .. } | Self::GoOn | Self::Progress { .. }, _) => false,
            (_, Err(error)) => error.kind() != ErrorKind::Corrupt,
            (Self::Operate { .. }, Ok(_)) => true,
            (_, Ok(Answer::Starts(starts))) => {
                starts.iter().any(|start| matches!(start, Start::Stale | Start::Paused | Start::NotBefore(_)))
            }
            (_, Ok(_)) => false,
        }
    }
}

impl Answer {
    /// The answer as it is after the events of the change have been applied.
    pub(super) fn refreshed(self, state: &RunState) -> Self {
        match self {
            Self::Created { new, .. } => Self::Created { row: Box::new(state.row()), new },
            Self::Row(_) => Self::Row(Box::new(state.row())),
            other => other,
        }
    }
}
