//! What an engine tells of itself as it happens, for metrics and traces.

use std::fmt;
use std::time::Duration;

use crate::id::{DagId, RunKey, StepKey};
use crate::ledger::{Event, RunStatus};
use crate::planner::{RunState, StepRef};
use crate::time::Timestamp;

/// Hears of what this process has recorded, once it is durable. What another process on the same store records, that one
/// tells: over all of them each end is told once, but for those that a process was killed over.
///
/// It is called where things happen and must not block; what takes time belongs into a task of its own.
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// An attempt of a task has ended.
    fn attempt_ended(&self, ended: &AttemptEnded) {
        let _ = ended;
    }

    /// A run has ended.
    fn run_ended(&self, ended: &RunEnded) {
        let _ = ended;
    }

    /// The store has answered a call that appended to so many runs, some of which may have lost a race.
    fn committed(&self, appends: usize, took: Duration) {
        let _ = (appends, took);
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// Well.
    Succeeded,
    /// It failed.
    Failed,
    /// Its worker was lost.
    Lost,
    /// It failed, and its step waits for a person.
    Parked,
    /// It was stopped.
    Cancelled,
}

impl AttemptOutcome {
    /// The word for it in metrics and traces.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Lost => "lost",
            Self::Parked => "parked",
            Self::Cancelled => "cancelled",
        }
    }
}

/// An attempt that has ended.
#[derive(Clone, Debug)]
pub struct AttemptEnded {
    /// The run.
    pub run: RunKey,
    /// Its DAG.
    pub dag: DagId,
    /// The step.
    pub step: StepKey,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Whether another attempt follows.
    pub again: bool,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// The trace that the run was submitted in.
    pub traceparent: Option<String>,
}

/// A run that has ended.
#[derive(Clone, Debug)]
pub struct RunEnded {
    /// The run.
    pub run: RunKey,
    /// Its DAG.
    pub dag: DagId,
    /// How it ended.
    pub status: RunStatus,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// The trace that it was submitted in.
    pub traceparent: Option<String>,
}

/// What is to be told once it is durable.
#[derive(Debug)]
pub(super) enum Seen {
    Attempt(Box<AttemptEnded>),
    Run(Box<RunEnded>),
}

impl Seen {
    /// What an event says of ends, with the state that it was applied to.
    pub(super) fn of(state: &RunState, event: &Event, now: Timestamp) -> Option<Self> {
        use AttemptOutcome::{Cancelled, Failed, Lost, Parked, Succeeded};
        let (step, attempt, outcome, again) = match event {
            Event::StepSucceeded(e) => (&e.step, e.attempt, Succeeded, false),
            Event::StepFailed(e) => (&e.step, e.attempt, Failed, e.retry_at.is_some()),
            Event::StepLost(e) => (&e.step, e.attempt, Lost, true),
            Event::StepParked(e) => (&e.step, e.attempt, Parked, false),
            Event::StepCancelled(e) => (&e.step, e.attempt, Cancelled, false),
            Event::RunCompleted(_) | Event::RunFailed(_) | Event::RunCancelled(_) => {
                return Self::run(state, now);
            }
            _ => return None,
        };
        let at = state.find(step).filter(|at| state.is_task(*at))?;
        Self::attempt(state, at, (attempt, outcome, again), now)
    }

    fn attempt(
        state: &RunState,
        at: StepRef,
        (attempt, outcome, again): (u32, AttemptOutcome, bool),
        now: Timestamp,
    ) -> Option<Self> {
        // A result that was reused, or a step that failed before its start, had no attempt.
        let started_at = state.get(at)?.started_at.filter(|_| attempt > 0)?;
        Some(Self::Attempt(Box::new(AttemptEnded {
            run: state.key.clone(),
            dag: state.created.dag_id.clone(),
            step: state.key_of(at),
            attempt,
            outcome,
            again,
            started_at,
            ended_at: now,
            traceparent: state.created.traceparent.clone(),
        })))
    }

    fn run(state: &RunState, now: Timestamp) -> Option<Self> {
        let row = state.row();
        row.status.is_terminal().then(|| {
            Self::Run(Box::new(RunEnded {
                run: state.key.clone(),
                dag: row.dag,
                status: row.status,
                created_at: row.created_at,
                ended_at: now,
                traceparent: state.created.traceparent.clone(),
            }))
        })
    }

    pub(super) fn tell(&self, observer: &dyn Observer) {
        match self {
            Self::Attempt(ended) => observer.attempt_ended(ended),
            Self::Run(ended) => observer.run_ended(ended),
        }
    }
}
