//! What a run is at one moment: the fold of its entries.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::pages::Pages;
use super::plan::SharedPlan;
use super::step_set::StepSet;
use crate::digest::Digest;
use crate::expr::LazyValue;
use crate::id::{RunId, RunKey, StepKey, WorkerId};
use crate::ledger::{ArtifactRef, Head, ReusedFrom, RunCreated, RunStatus, StepCounts, StepStatus};
use crate::payload::Payload;
use crate::spec::{Step, Uses};
use crate::store::RunRow;
use crate::time::Timestamp;

/// How long queued work or a running sub-DAG may go unnoticed when every hint is lost: the sweep looks at the run
/// this long after its last entry, or after the sweep before.
pub const HINT_CHECK: Duration = Duration::from_secs(30);

/// A step or a child of one, by position: cheap to copy and ordered as the plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepRef {
    /// The position in the plan.
    pub step: u32,
    /// The position among the children of a `forEach` step.
    pub child: Option<u32>,
}

impl StepRef {
    /// The declared step at a position.
    #[must_use]
    pub const fn top(step: u32) -> Self {
        Self { step, child: None }
    }
}

/// The state of a run. Changed by [`RunState::apply`] only. Copies share the steps that have not changed since.
#[derive(Clone, Debug)]
pub struct RunState {
    /// The run.
    pub key: RunKey,
    /// Its first entry.
    pub created: RunCreated,
    /// Who submitted it.
    pub actor: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// The plan of its first entry.
    pub plan: SharedPlan,
    /// The head of its stream as far as it has been folded.
    pub head: Head,
    /// When the last entry was decided.
    pub last_at: Timestamp,
    /// When its first step started.
    pub started_at: Option<Timestamp>,
    /// Whether it is held.
    pub paused: bool,
    /// When the present round began: when it was created, or retried after it had failed.
    pub round_at: Timestamp,
    /// Set once it is to end early.
    pub ending: Option<Ending>,
    /// Set once it has ended.
    pub ended: Option<Ended>,
    /// The `wake_at` that whoever holds this state wrote into the stored row last. No part of the fold.
    pub wake_written: Option<Timestamp>,
    pub(super) steps: Pages<StepState>,
    pub(super) counts: StepCounts,
    pub(super) index: Index,
    pub(super) inputs: Arc<LazyValue>,
    pub(super) run_view: Arc<Value>,
}

/// Why a run ends early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Set when orch itself ends it: the run then counts as failed.
    pub code: Option<String>,
    /// In words.
    pub reason: Option<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// `completed`, `failed` or `cancelled`.
    pub status: RunStatus,
    /// When.
    pub at: Timestamp,
    /// Over what succeeded.
    pub outputs_hash: Digest,
    /// Why it failed.
    pub error: Option<String>,
}

/// What has to be looked at next, so that a decision costs what it decides and not what the run holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Unsettled needs of each step.
    pub(super) open_needs: Vec<u32>,
    /// Steps not settled, declared ones only.
    pub(super) unsettled: u32,
    /// Pending steps whose needs are all settled.
    pub(super) frontier: BTreeSet<u32>,
    /// Steps and children that wait for another attempt to be scheduled.
    pub(super) retries: BTreeSet<StepRef>,
    /// Expanded `forEach` steps that are not settled.
    pub(super) expanded: BTreeSet<u32>,
    /// Those of them that are to be settled, or have a free place and a child for it.
    pub(super) maps: BTreeSet<u32>,
    /// Gates with a verdict that has not settled them yet.
    pub(super) verdicts: BTreeSet<u32>,
    /// Steps that wait for a signal, by its name.
    pub(super) waiters: BTreeMap<String, BTreeSet<u32>>,
    /// Signals that nothing has waited for yet, by name.
    pub(super) signals: BTreeMap<String, VecDeque<Payload>>,
    /// Attempts that may start.
    pub(super) queued: StepSet,
    /// Queued attempts of sub-DAGs, by the instant their backoff is over: no queue holds them back.
    pub(super) delayed: BTreeSet<(Timestamp, StepRef)>,
    /// Attempts under way.
    pub(super) running: BTreeSet<StepRef>,
    /// Those of them that a run of its own carries out.
    pub(super) sub_runs: BTreeSet<StepRef>,
    /// When each step must be looked at; at most one instant per step.
    pub(super) timers: BTreeSet<(Timestamp, StepRef)>,
}

/// The state of a step or of a child of one.
#[derive(Clone, Debug)]
pub struct StepState {
    /// Where it stands.
    pub status: StepStatus,
    /// The attempt scheduled last; 0 before the first.
    pub attempt: u32,
    /// Failed attempts since it was first scheduled or retried by hand.
    pub failures: u32,
    /// Lost attempts since then.
    pub losses: u32,
    /// The input of the attempt scheduled last, where expressions made it and it is small enough to be recorded.
    pub input: Option<Payload>,
    /// SHA-256 of the input.
    pub input_hash: Option<Digest>,
    /// The output.
    pub output: Option<Arc<LazyValue>>,
    /// SHA-256 of the output.
    pub output_hash: Option<Digest>,
    /// Where the output comes from, when an earlier result was reused.
    pub reused: Option<Box<ReusedFrom>>,
    /// Why the last attempt failed, or why the step was skipped.
    pub error: Option<Box<StepError>>,
    /// Who runs the attempt.
    pub worker: Option<WorkerId>,
    /// When the attempt counts as lost.
    pub lease_until: Option<Timestamp>,
    /// The run that carries out a sub-DAG.
    pub child_run: Option<RunId>,
    /// The earliest start of the next attempt.
    pub not_before: Option<Timestamp>,
    /// When the first attempt of this round was scheduled.
    pub scheduled_at: Option<Timestamp>,
    /// When the last attempt started.
    pub started_at: Option<Timestamp>,
    /// When the step was settled or parked.
    pub ended_at: Option<Timestamp>,
    /// What the last attempt wrote to its log.
    pub logs: Option<Box<ArtifactRef>>,
    /// What it waits for.
    pub wait: Option<Box<Wait>>,
    /// Its children, once expanded.
    pub map: Option<Box<MapState>>,
    pub(super) timer: Option<Timestamp>,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepError {
    /// A stable code.
    pub code: String,
    /// In words.
    pub message: String,
}

/// What a gate or a wait waits for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wait {
    /// The wait is over at this instant.
    pub until: Option<Timestamp>,
    /// The wait fails at this instant.
    pub expires_at: Option<Timestamp>,
    /// The signal it waits for.
    pub signal: Option<String>,
    /// What a gate asks.
    pub asked: Option<Payload>,
    /// The verdict on a gate.
    pub verdict: Option<Verdict>,
}

/// The verdict on a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the gate opens.
    pub approved: bool,
    /// Who decided.
    pub actor: String,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: Option<String>,
}

impl Wait {
    /// Whether a verdict came in time.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        self.verdict.as_ref().is_some_and(|verdict| self.expires_at.is_none_or(|end| verdict.at < end))
    }

    /// Whether it can fail: its time is up, or a verdict was given.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.verdict.is_some() || self.expires_at.is_some_and(|end| end <= now)
    }
}

/// The children of a `forEach` step.
#[derive(Clone, Debug)]
pub struct MapState {
    /// The items, in order.
    pub items: Arc<[LazyValue]>,
    /// The children, in the order of the items.
    pub children: Pages<StepState>,
    /// The first child that has never been looked at.
    pub next: u32,
    /// Children that were retried by hand and wait for a place.
    pub(super) again: BTreeSet<u32>,
    /// Children queued, running or waiting for another attempt.
    pub active: u32,
    /// Children settled.
    pub settled: u32,
    /// Children that failed.
    pub failed: u32,
}

impl Default for StepState {
    fn default() -> Self {
        Self {
            status: StepStatus::Pending,
            attempt: 0,
            failures: 0,
            losses: 0,
            input: None,
            input_hash: None,
            output: None,
            output_hash: None,
            reused: None,
            error: None,
            worker: None,
            lease_until: None,
            child_run: None,
            not_before: None,
            scheduled_at: None,
            started_at: None,
            ended_at: None,
            logs: None,
            wait: None,
            map: None,
            timer: None,
        }
    }
}

impl RunState {
    /// The state after `run.created`.
    #[must_use]
    pub(super) fn new(
        key: RunKey,
        at: Timestamp,
        actor: &str,
        created: RunCreated,
        plan: SharedPlan,
    ) -> Self {
        let count = plan.steps().len();
        let total = u32::try_from(count).unwrap_or(u32::MAX);
        let open_needs: Vec<u32> =
            (0..total).map(|p| u32::try_from(plan.needs(p).len()).unwrap_or(u32::MAX)).collect();
        let frontier = (0..total).filter(|p| open_needs[*p as usize] == 0).collect();
        let run_view = json!({
            "actor": actor,
            "createdAt": at.to_string(),
            "dag": created.dag_id,
            "id": key.run.to_string(),
            "tenant": key.tenant,
            "token": created.run_token,
        });
        Self {
            inputs: Arc::new(LazyValue::new(created.inputs.clone())),
            key,
            created,
            actor: actor.to_owned(),
            created_at: at,
            plan,
            head: Head::EMPTY,
            last_at: at,
            started_at: None,
            paused: false,
            round_at: at,
            ending: None,
            ended: None,
            wake_written: None,
            steps: Pages::of(StepState::default(), count),
            counts: StepCounts { pending: total, ..StepCounts::default() },
            index: Index { open_needs, unsettled: total, frontier, ..Index::default() },
            run_view: Arc::new(run_view),
        }
    }

    /// Where the run stands.
    #[must_use]
    pub fn status(&self) -> RunStatus {
        match &self.ended {
            Some(ended) => ended.status,
            None if self.paused => RunStatus::Paused,
            None if self.started_at.is_some() => RunStatus::Running,
            None => RunStatus::Pending,
        }
    }

    /// How many declared steps stand where.
    #[must_use]
    pub fn counts(&self) -> StepCounts {
        self.counts
    }

    /// The steps, in plan order.
    #[must_use]
    pub fn steps(&self) -> &Pages<StepState> {
        &self.steps
    }

    /// A step or a child of one, if there is such a thing yet.
    #[must_use]
    pub fn get(&self, at: StepRef) -> Option<&StepState> {
        let step = self.steps.get(at.step as usize)?;
        match at.child {
            None => Some(step),
            Some(child) => step.map.as_ref()?.children.get(child as usize),
        }
    }

    /// A step that is known to exist.
    pub(super) fn at(&self, at: StepRef) -> &StepState {
        self.get(at).expect("step references come from this state's own plan and indexes")
    }

    pub(super) fn at_mut(&mut self, at: StepRef) -> &mut StepState {
        let step = &mut self.steps[at.step as usize];
        match at.child {
            None => step,
            Some(child) => {
                &mut step.map.as_mut().expect("only expanded steps have children").children[child as usize]
            }
        }
    }

    /// Finds a step by its key.
    #[must_use]
    pub fn find(&self, key: &StepKey) -> Option<StepRef> {
        let at = StepRef { step: self.plan.position(key.id.as_str())?, child: key.index };
        self.get(at).map(|_| at)
    }

    /// The key of a step.
    #[must_use]
    pub fn key_of(&self, at: StepRef) -> StepKey {
        StepKey { id: self.spec(at).id.clone(), index: at.child }
    }

    /// The declaration of a step.
    #[must_use]
    pub fn spec(&self, at: StepRef) -> &Step {
        self.plan.step(at.step)
    }

    /// The item a child was made for.
    #[must_use]
    pub fn item(&self, at: StepRef) -> Option<&LazyValue> {
        self.steps.get(at.step as usize)?.map.as_ref()?.items.get(at.child? as usize)
    }

    /// Attempts that may start, in plan order.
    pub fn queued(&self) -> impl Iterator<Item = StepRef> + '_ {
        self.index.queued.iter()
    }

    /// Attempts under way, in plan order.
    pub fn running(&self) -> impl Iterator<Item = StepRef> + '_ {
        self.index.running.iter().copied()
    }

    /// Running sub-DAGs: the step, its attempt, and the run that carries it out.
    pub fn sub_runs(&self) -> impl Iterator<Item = (StepRef, u32, RunId)> + '_ {
        self.index.sub_runs.iter().filter_map(|at| {
            let step = self.at(*at);
            step.child_run.map(|run| (*at, step.attempt, run))
        })
    }

    /// The attempts under way that `worker` holds, in plan order.
    #[must_use]
    pub fn held_by(&self, worker: &WorkerId) -> Vec<StepRef> {
        self.running().filter(|at| self.at(*at).worker.as_ref() == Some(worker)).collect()
    }

    /// Whether nothing new may begin: the run is paused, to end, or has ended.
    #[must_use]
    pub fn starts_nothing(&self) -> bool {
        self.paused || self.ending.is_some() || self.ended.is_some()
    }

    /// How many children of a `forEach` step may be active at once.
    pub(super) fn places(&self, at: StepRef) -> u32 {
        self.spec(at).for_each.as_ref().and_then(|each| each.max_parallel).unwrap_or(u32::MAX)
    }

    /// For each position, whether a step downstream of it is under way.
    pub(super) fn leads_to_busy(&self) -> Vec<bool> {
        let busy = (0..self.plan_len()).filter(|position| self.is_busy(*position));
        let needed: Vec<u32> = busy.flat_map(|position| self.plan.needs(position)).copied().collect();
        self.plan.upstream(&needed)
    }

    /// The first of `positions` that leads to a step under way, with that step.
    pub(super) fn first_busy_after(&self, positions: &[u32]) -> Option<(u32, u32)> {
        let leads = self.leads_to_busy();
        let guilty = positions.iter().copied().find(|position| leads[*position as usize])?;
        let downstream = self.plan.downstream(&[guilty]);
        let busy = |p: &u32| *p != guilty && downstream[*p as usize] && self.is_busy(*p);
        Some((guilty, (0..self.plan_len()).find(busy)?))
    }

    /// Whether a declared step, or a child of it, is under way.
    fn is_busy(&self, position: u32) -> bool {
        let step = &self.steps[position as usize];
        match step.status {
            StepStatus::Queued | StepStatus::Waiting => true,
            StepStatus::Running => step.map.as_ref().is_none_or(|map| map.active > 0),
            _ => self.index.retries.contains(&StepRef::top(position)),
        }
    }

    /// The number of declared steps, as positions are counted.
    pub(super) fn plan_len(&self) -> u32 {
        u32::try_from(self.steps.len()).unwrap_or(u32::MAX)
    }

    /// When the run as a whole is out of time.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.plan.dag().timeout.map(|span| self.round_at.plus(span.duration()))
    }

    /// When all attempts of a step together are out of time.
    #[must_use]
    pub fn step_deadline(&self, at: StepRef) -> Option<Timestamp> {
        let span = self.spec(at).total_timeout?;
        self.at(at).scheduled_at.map(|since| since.plus(span.duration()))
    }

    /// When the running attempt is out of time.
    #[must_use]
    pub fn attempt_deadline(&self, at: StepRef) -> Option<Timestamp> {
        match self.at(at).started_at {
            Some(started_at) => self.deadline_from(at, started_at),
            None => self.step_deadline(at),
        }
    }

    /// When an attempt that starts at `started_at` is out of time.
    #[must_use]
    pub fn deadline_from(&self, at: StepRef, started_at: Timestamp) -> Option<Timestamp> {
        let attempt = self.spec(at).timeout.map(|span| started_at.plus(span.duration()));
        [attempt, self.step_deadline(at)].into_iter().flatten().min()
    }

    /// When the run must be looked at next even if nothing is heard of it.
    #[must_use]
    pub fn wake_at(&self) -> Option<Timestamp> {
        if self.ended.is_some() {
            return None;
        }
        self.wake_since(self.last_at)
    }

    /// The same for a run that was looked at now and had nothing to say: the next check for lost hints moves on, and
    /// so does what is over but must wait for something else; timers stay.
    #[must_use]
    pub fn wake_after(&self, now: Timestamp) -> Option<Timestamp> {
        if self.ended.is_some() {
            return None;
        }
        let checked = if self.last_at.plus(HINT_CHECK) > now { self.last_at } else { now };
        self.wake_since(checked).map(|at| if at > now { at } else { now.plus(HINT_CHECK) })
    }

    /// What the stored row is to say of `wake_at`, after `now`: the instant written before for as long as it comes neither
    /// too late nor soon. A row whose instant stays costs a store less than one whose instant moves.
    #[must_use]
    pub fn wake_to_write(&self, now: Timestamp) -> Option<Timestamp> {
        let needed = self.wake_after(now);
        let stays = |written: &Timestamp| {
            needed.is_some_and(|needed| *written <= needed) && *written > now.plus(HINT_CHECK / 3)
        };
        self.wake_written.filter(stays).or(needed)
    }

    fn wake_since(&self, checked: Timestamp) -> Option<Timestamp> {
        let timer = self.index.timers.first().map(|(at, _)| *at);
        let deadline = self.deadline().filter(|_| self.ending.is_none());
        let goes_on = !self.paused && !self.index.queued.is_empty();
        let check = (goes_on || !self.index.sub_runs.is_empty()).then(|| checked.plus(HINT_CHECK));
        let delayed = self.index.delayed.first().filter(|_| !self.paused).map(|(at, _)| *at);
        [timer, deadline, check, delayed].into_iter().flatten().min()
    }

    /// The row that stands beside the entries (invariant L3). `wake_at` is a hint: a sweep that found nothing to do
    /// moves it on without an entry.
    #[must_use]
    pub fn row(&self) -> RunRow {
        let ended = self.ended.as_ref();
        RunRow {
            tenant: self.key.tenant.clone(),
            run: self.key.run,
            dag: self.created.dag_id.clone(),
            dag_version: self.created.dag_version,
            status: self.status(),
            steps: self.counts,
            priority: self.created.priority,
            actor: self.actor.clone(),
            run_token: self.created.run_token.clone(),
            plan_hash: self.created.plan_hash,
            inputs_hash: self.created.inputs_hash,
            outputs_hash: ended.map(|ended| ended.outputs_hash),
            error: ended.and_then(|ended| ended.error.clone()),
            traceparent: self.created.traceparent.clone(),
            replay_of: self.created.replay_of,
            parent: self.created.parent.clone(),
            created_at: self.created_at,
            started_at: self.started_at,
            ended_at: ended.map(|ended| ended.at),
            wake_at: self.wake_at(),
            head: self.head,
        }
    }

    /// The outputs of the steps that nothing needs, by step id: the run's output.
    #[must_use]
    pub fn outputs(&self) -> BTreeMap<&str, &LazyValue> {
        self.leaves().filter_map(|(id, step)| Some((id, step.output.as_deref()?))).collect()
    }

    /// SHA-256 over the canonical JSON object of final steps and their output hashes.
    #[must_use]
    pub fn outputs_hash(&self) -> Digest {
        let hashes: BTreeMap<&str, Digest> =
            self.leaves().filter_map(|(id, step)| Some((id, step.output_hash?))).collect();
        // Ids are ASCII, so byte order is the order RFC 8785 asks for.
        Digest::of(serde_json::to_vec(&hashes).expect("strings serialise"))
    }

    fn leaves(&self) -> impl Iterator<Item = (&str, &StepState)> {
        let leaf =
            |position: &usize| self.plan.dependents(u32::try_from(*position).unwrap_or(u32::MAX)).is_empty();
        (0..self.steps.len()).filter(leaf).map(|p| (self.plan.steps()[p].id.as_str(), &self.steps[p]))
    }

    /// Whether a worker executes the step, as opposed to the engine carrying it.
    #[must_use]
    pub fn is_task(&self, at: StepRef) -> bool {
        self.spec(at).uses.is_task()
    }

    /// Whether the step is carried out by a run of its own.
    #[must_use]
    pub fn is_sub_dag(&self, at: StepRef) -> bool {
        matches!(self.spec(at).uses, Uses::Dag { .. })
    }
}
