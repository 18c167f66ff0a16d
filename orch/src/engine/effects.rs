//! What follows once an append is durable: attempts are launched, sub-DAGs looked after, waiters told.

use std::sync::Arc;
use std::time::Duration;

use super::active::Stop;
use super::change::Permit;
use super::core::Core;
use super::health::Call;
use super::observe::Seen;
use super::{desk, execute, sub_dag};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::executor::Executors;
use crate::id::{DagId, RunId, RunKey, StepKey};
use crate::ledger::{ReusedFrom, StepSucceeded};
use crate::limits::Limits;
use crate::payload::Payload;
use crate::planner::{RunState, SharedPlan, StepRef, child_token};
use crate::queue::{Item, Queue};
use crate::spec::{Step, Uses};
use crate::time::Timestamp;

/// What follows from an append.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) launches: Vec<Launch>,
    pub(super) hints: Hints,
    /// Runs of sub-DAGs to be submitted, or looked after.
    pub(super) sub_runs: Vec<SubRun>,
    /// Runs of sub-DAGs that nobody waits for any more.
    pub(super) orphans: Vec<RunId>,
    /// Results that later runs may reuse.
    pub(super) results: Vec<(Digest, StepSucceeded)>,
    /// Ends to be told of.
    pub(super) seen: Vec<Seen>,
    /// The run is winding down: what runs is to stop.
    pub(super) stop: bool,
    /// More is to be decided than this append could hold.
    pub(super) more: bool,
    pub(super) wake_at: Option<Timestamp>,
}

impl Effects {
    pub(super) fn is_empty(&self) -> bool {
        self.launches.is_empty()
            && self.hints.is_empty()
            && self.sub_runs.is_empty()
            && self.orphans.is_empty()
            && self.results.is_empty()
            && !self.stop
    }
}

/// Hints at attempts that may be runnable.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// At those that a process with the executor is to start.
    pub(super) inside: Vec<Item>,
    /// At those that wait for a worker outside.
    pub(super) outside: Vec<Item>,
}

impl Hints {
    /// Hints at queued steps, each with the earliest start of its attempt.
    pub(super) fn of(
        state: &RunState,
        steps: impl Iterator<Item = (StepRef, Option<Timestamp>)>,
        executors: &Executors,
        now: Timestamp,
    ) -> Self {
        let mut hints = Self::default();
        for (at, not_before) in steps {
            let (spec, step) = (state.spec(at), state.get(at));
            let outside = match &spec.uses {
                Uses::Worker(job_type) if executors.lookup(&spec.uses).is_none() => Some(job_type),
                _ => None,
            };
            let item = Item {
                tenant: state.key.tenant.clone(),
                queue: outside.map_or_else(|| spec.queue.clone(), |job| desk::queue_of(job, &spec.queue)),
                priority: state.created.priority.saturating_add(spec.priority),
                ready_at: not_before.or(step.and_then(|step| step.not_before)).unwrap_or(now),
                dag: state.created.dag_id.clone(),
                run: state.key.run,
                plan_index: at.step,
                step: state.key_of(at),
                attempt: step.map_or(0, |step| step.attempt),
            };
            if outside.is_some() { hints.outside.push(item) } else { hints.inside.push(item) }
        }
        hints
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inside.is_empty() && self.outside.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.inside.len() + self.outside.len()
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.inside.extend(more.inside);
        self.outside.extend(more.outside);
    }
}

/// An attempt that has been started and is to be executed here.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) step: StepKey,
    pub(super) attempt: u32,
    /// The input, or why there is none.
    pub(super) input: Result<Payload>,
    /// The plan and the step's place in it: a step is lent, not copied.
    plan: SharedPlan,
    at: StepRef,
    pub(super) run: RunKey,
    pub(super) traceparent: Option<String>,
    pub(super) baggage: Option<String>,
    pub(super) deadline: Option<Timestamp>,
    pub(super) lease_until: Timestamp,
    /// When it was started.
    pub(super) since: Timestamp,
    pub(super) permit: Permit,
}

impl Launch {
    pub(super) fn new(
        state: &RunState,
        at: StepRef,
        step: StepKey,
        permit: Permit,
        limits: &Limits,
    ) -> Result<Self> {
        let running = state.get(at);
        Ok(Self {
            step,
            attempt: running.map_or(0, |step| step.attempt),
            input: state.attempt_input(at, limits),
            plan: SharedPlan::clone(&state.plan),
            at,
            run: state.key.clone(),
            traceparent: state.created.traceparent.clone(),
            baggage: state.created.baggage.clone(),
            deadline: state.attempt_deadline(at),
            lease_until: running.and_then(|step| step.lease_until).unwrap_or(Timestamp::MAX),
            since: running.and_then(|step| step.started_at).unwrap_or(state.last_at),
            permit,
        })
    }
}

impl Launch {
    /// The declaration of the step.
    pub(super) fn spec(&self) -> &Step {
        self.plan.step(self.at.step)
    }

    /// The DAG of the run.
    pub(super) fn dag(&self) -> &DagId {
        &self.plan.dag().id
    }
}

/// A step that a run of another DAG carries out.
#[derive(Debug)]
pub(super) struct SubRun {
    pub(super) parent: RunKey,
    pub(super) parent_depth: u32,
    pub(super) step: StepKey,
    pub(super) attempt: u32,
    pub(super) child: RunId,
    pub(super) token: String,
    pub(super) uses: Uses,
    pub(super) input: Result<Payload>,
    pub(super) priority: i32,
    pub(super) traceparent: Option<String>,
    pub(super) baggage: Option<String>,
    pub(super) sandbox: Option<String>,
    /// Who submitted the parent and why, for the record of the child.
    pub(super) actor: String,
    pub(super) rationale: Option<String>,
    /// The parent is winding down.
    pub(super) cancel: bool,
}

impl SubRun {
    pub(super) fn of(state: &RunState, at: StepRef, limits: &Limits) -> Option<Self> {
        let step = state.get(at)?;
        Some(Self {
            parent: state.key.clone(),
            parent_depth: state.created.parent.as_ref().map_or(0, |parent| parent.depth),
            step: state.key_of(at),
            attempt: step.attempt,
            child: step.child_run?,
            token: child_token(state, at, step.attempt),
            uses: state.spec(at).uses.clone(),
            input: state.attempt_input(at, limits),
            priority: state.created.priority.saturating_add(state.spec(at).priority),
            traceparent: state.created.traceparent.clone(),
            baggage: state.created.baggage.clone(),
            sandbox: state.created.sandbox.clone(),
            actor: state.actor.clone(),
            rationale: state.created.rationale.clone(),
            cancel: state.ending.is_some(),
        })
    }
}

/// Does what follows.
pub(super) fn run(core: &Arc<Core>, state: Option<&RunState>, effects: &mut Effects) {
    for seen in effects.seen.drain(..) {
        core.observers.iter().for_each(|observer| seen.tell(observer.as_ref()));
    }
    let Some(state) = state else { return };
    if !effects.launches.is_empty() {
        execute::launch(core, &state.key, effects.launches.drain(..));
    }
    if effects.stop {
        core.active.stop(&state.key, Stop::Cancelled, |_| true);
    }
    hint_aside(core, std::mem::take(&mut effects.hints));
    for sub_run in effects.sub_runs.drain(..) {
        sub_dag::carry(core, sub_run);
    }
    for orphan in effects.orphans.drain(..) {
        sub_dag::cancel(core, state.key.tenant.clone(), orphan);
    }
    for (key, success) in effects.results.drain(..) {
        let from = ReusedFrom { run: state.key.run, step: success.step };
        if let Some(output) = success.output {
            super::results::keep(core, state.key.tenant.clone(), key, output, from);
        }
    }
    if let Some(at) = effects.wake_at {
        core.alarm.set(at);
    }
    tell_parent(core, state);
}

/// The end of a sub-DAG's run is the end of its parent's attempt. If this is lost, the sweep looks at the parent.
fn tell_parent(core: &Arc<Core>, state: &RunState) {
    if let (Some(_), Some(parent)) = (&state.ended, &state.created.parent) {
        let key = RunKey { tenant: state.key.tenant.clone(), run: parent.run };
        sub_dag::report(core, key, parent.step.clone(), parent.attempt, sub_dag::outcome(state));
    }
}

/// How long hints wait for those before them, so that successors keep their order.
const PUSH: Duration = Duration::from_secs(2);
/// How long a queue may take to accept hints that nothing waits for any more: soon after that, the sweep makes them again. Once
/// everything stops it has [`PUSH`].
const PUSH_ASIDE: Duration = Duration::from_secs(20);

/// Pushes the hints of appends that have landed. While the queue takes none, or is late, nothing waits for it: a hint
/// that cannot be pushed is made again by the sweep, once its run has been queued for
/// [`HINT_CHECK`](crate::planner::HINT_CHECK).
pub(super) async fn hint(core: &Arc<Core>, Hints { inside, outside }: Hints) {
    // Nothing inside follows on what is outside: nobody waits for that push.
    hint_aside(core, Hints { inside: Vec::new(), outside });
    if inside.is_empty() {
        return;
    }
    let waits = !core.health.fails(Call::Push);
    let owner = Arc::clone(core);
    let mut pushing = Box::pin(async move { push(&owner, &inside).await });
    if waits {
        if tokio::time::timeout(PUSH, &mut pushing).await.is_ok() {
            return;
        }
        core.health.failed(Call::Push, &late(), core.now());
    }
    core.tasks.spawn(pushing);
}

/// Pushes hints in a task of its own.
fn hint_aside(core: &Arc<Core>, hints: Hints) {
    if !hints.is_empty() {
        let owner = Arc::clone(core);
        core.tasks.spawn(async move {
            push(&owner, &hints.inside).await;
            desk::push(&owner, &hints.outside).await;
        });
    }
}

async fn push(core: &Arc<Core>, hints: &[Item]) {
    if hints.is_empty() {
        return;
    }
    core.backlog.grow();
    match push_to(core, core.queue.as_ref(), hints).await {
        Ok(()) => core.health.works(Call::Push),
        Err(error) => core.health.failed(Call::Push, &error, core.now()),
    }
}

/// Pushes hints, and does not wait for ever.
pub(super) async fn push_to(core: &Core, queue: &dyn Queue, hints: &[Item]) -> Result<()> {
    let stopping = async {
        core.closed.cancelled().await;
        tokio::time::sleep(PUSH).await;
    };
    tokio::select! {
        biased;
        pushed = queue.push(hints) => pushed,
        () = tokio::time::sleep(PUSH_ASIDE) => Err(late()),
        () = stopping => Err(late()),
    }
}

fn late() -> Error {
    Error::unavailable("the queue does not answer")
}
