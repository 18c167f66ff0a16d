//! What happens in a world: runs are submitted and steered while everything fails; then calm, and every run must end.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orch::engine::{DagRef, Resubmit, Submit};
use orch::ledger::StepStatus;
use orch::planner::{HINT_CHECK, StepRef};
use orch::proof::{Outside, PruneRuns, prune_runs};
use orch::store::{RunRow, RunsQuery, Store};
use orch::{Clock, Dag, Error, ErrorKind, Payload, RunId, StepKey};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::bug::Bug;
use crate::dags;
use crate::dice::Dice;
use crate::faulty::Rates;
use crate::rogue;
use crate::trace::word;
use crate::world::{LEASE, Process, SWEEP, World, tenants, user};

/// How far a clock may be off.
const JUMP: u64 = 20_000;
/// How long a client waits for an answer before it asks another process.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long the work of one run may take once nothing fails: retries, naps, parked steps and persons included.
const WORK: Duration = Duration::from_secs(30);

/// By when every run has ended after faults have stopped (invariant R4): the leases of the dead, lost hints, a sweep of
/// a store that cannot tell whether anybody has written, as far as a clock was ahead, and the work itself.
fn bound() -> Duration {
    LEASE + HINT_CHECK + SWEEP * 4 + Duration::from_millis(JUMP) + WORK
}

/// The processes as they are now.
#[derive(Clone, Debug, Default)]
struct Crew(Arc<Mutex<Vec<Process>>>);

impl Crew {
    fn lock(&self) -> MutexGuard<'_, Vec<Process>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, number: usize) -> Process {
        let crew = self.lock();
        crew[number % crew.len()].clone()
    }

    fn len(&self) -> usize {
        self.lock().len()
    }
}

/// A submitted run: whose it is, and how many of its clients still have no answer.
#[derive(Clone, Debug)]
struct Known {
    tenant: usize,
    run: RunId,
    clients: Arc<AtomicUsize>,
}

/// One play.
#[derive(Clone, Debug)]
pub(crate) struct Play {
    world: World,
    dice: Dice,
    crew: Crew,
    known: Arc<Mutex<Vec<Known>>>,
    /// Clients that have no answer yet.
    waiting: Arc<AtomicUsize>,
    odd: Arc<Mutex<Vec<String>>>,
}

fn rates(dice: &Dice) -> Rates {
    let some = |most: u64| if dice.chance(50) { 1 + dice.roll(most) } else { 0 };
    Rates {
        unavailable: some(12),
        indeterminate: some(12),
        conflict: some(12),
        delay: some(25),
        dropped: some(30),
        twice: some(50),
        reordered: some(60),
        answers_after: if dice.chance(15) { dice.roll(80) } else { 0 },
    }
}

impl Play {
    pub(crate) fn new(dice: &Dice, bug: Option<Bug>, untold: bool) -> Self {
        let (count, shared) = (1 + dice.pick(3), dice.chance(60));
        let world = World::new(dice.clone(), bug, shared, rates(dice), untold);
        let crew = Crew::default();
        *crew.lock() = (0..count).map(|_| world.start()).collect();
        let (known, waiting, odd) = Default::default();
        Self { world, dice: dice.clone(), crew, known, waiting, odd }
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// What nobody expected.
    pub(crate) fn odd(&self) -> Vec<String> {
        self.odd.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_odd(&self, what: String) {
        self.odd.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn known(&self) -> MutexGuard<'_, Vec<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plays to the end.
    pub(crate) async fn run(&self) {
        let span = 2_000 + self.dice.roll(5_000);
        self.begin_clients(span);
        self.begin_accidents(span);
        self.begin_operations(span);
        if let Some(bug @ (Bug::SucceedTwice | Bug::SkipTheFence | Bug::StartBeforeNeeds)) =
            self.world.backend.bug
        {
            tokio::spawn(rogue::act(self.world.clone(), bug, self.crew.get(0).clock));
        }
        sleep(Duration::from_millis(span)).await;
        self.calm().await;
    }

    fn begin_clients(&self, span: u64) {
        for number in 0..2 + self.dice.pick(4) {
            let tenant = usize::from(self.dice.chance(25));
            let dag = &dags::submitted()[self.dice.pick(dags::submitted().len())];
            let clients = if self.dice.chance(30) { 2 } else { 1 };
            let known = Arc::new(AtomicUsize::new(clients));
            self.waiting.fetch_add(clients, Ordering::Relaxed);
            for _ in 0..clients {
                let (play, known) = (self.clone(), Arc::clone(&known));
                let (at, first) = (self.dice.roll(span * 2 / 3), self.dice.pick(self.crew.len()));
                tokio::spawn(async move {
                    sleep(Duration::from_millis(at)).await;
                    play.submit(tenant, dag, format!("t{number}"), first, known).await;
                });
            }
            if clients > 1 {
                self.dice.note("client.again");
            }
        }
    }

    /// Submits until it is known to be there: again with the same token, as the contract says.
    async fn submit(&self, tenant: usize, dag: &Dag, token: String, first: usize, clients: Arc<AtomicUsize>) {
        let who = user(tenant);
        for try_ in first.. {
            let orchestrator = self.crew.get(try_).orchestrator;
            let mut submit = Submit::new(DagRef::Unpublished(Box::new(dag.clone())), json!({}));
            if self.world.backend.bug != Some(Bug::IgnoreTheToken) {
                submit.run_token = Some(token.clone());
            }
            let submitted = timeout(PATIENCE, async {
                if dag.id.as_str() == "parent" {
                    orchestrator.publish(&who, dags::all()[0].clone()).await?;
                }
                orchestrator.submit(&who, submit).await
            });
            match submitted.await {
                Ok(Ok(submitted)) => {
                    self.world.observed.submitted(&who.tenant, &token, &submitted.run);
                    let run = submitted.run.run;
                    self.world.trace.note(format_args!("submitted {run} {}", submitted.new));
                    clients.fetch_sub(1, Ordering::Relaxed);
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                    let mut known = self.known();
                    if !known.iter().any(|other| other.run == run) {
                        known.push(Known { tenant, run, clients });
                    }
                    return;
                }
                Ok(Err(error)) if may_pass(&error) => sleep(Duration::from_millis(100)).await,
                Ok(Err(error)) => return self.note_odd(format!("a submission ends in: {error:?}")),
                Err(_) => {}
            }
        }
    }

    /// Crashes, restarts, zombies, clocks that jump, queues that are flushed.
    fn begin_accidents(&self, span: u64) {
        for number in 0..self.crew.len() {
            if self.dice.chance(55) {
                let (calls, after) = (1 + self.dice.roll(30), self.dice.chance(50));
                let (at, rest) = (self.dice.roll(span), 200 + self.dice.roll(3_000));
                tokio::spawn(self.clone().crash(number, at, calls, after, rest));
            }
            if self.dice.chance(35) {
                let (at, rest) = (self.dice.roll(span), 200 + self.dice.roll(3_000));
                tokio::spawn(self.clone().hold(number, at, rest));
            }
            if self.dice.chance(15) {
                tokio::spawn(self.clone().shut_down(number, self.dice.roll(span)));
            }
            if self.dice.chance(35) {
                let by = i64::try_from(self.dice.roll(JUMP)).unwrap_or_default() * 1_000;
                let by = if self.dice.chance(50) { by } else { -by };
                let (at, rest) = (self.dice.roll(span), self.dice.roll(3_000));
                tokio::spawn(self.clone().jump(number, at, by, rest));
            }
        }
        if self.dice.chance(30) {
            let (play, at) = (self.clone(), self.dice.roll(span));
            tokio::spawn(async move {
                sleep(Duration::from_millis(at)).await;
                play.world.trace.note(format_args!("flush"));
                play.world.flush();
            });
        }
    }

    async fn crash(self, number: usize, at: u64, calls: u64, after: bool, rest: u64) {
        sleep(Duration::from_millis(at)).await;
        let dying = self.crew.get(number);
        dying.switch.kill_in(calls, after);
        sleep(Duration::from_millis(rest)).await;
        if dying.switch.is_dead() {
            self.dice.note(if after { "process.crashed_after" } else { "process.crashed_before" });
            self.restart(number, &dying);
        }
    }

    /// Starts another process in the place of a dead one, unless that has happened.
    fn restart(&self, number: usize, dead: &Process) {
        if self.crew.get(number).name == dead.name {
            self.dice.note("process.restarted");
            let process = self.world.start();
            self.world.trace.note(format_args!("{} takes the place of {}", process.name, dead.name));
            self.crew.lock()[number] = process;
        }
    }

    /// The dead are restarted, or their work is left to those that live.
    fn replace(&self, number: usize) {
        let living = self.crew.lock().iter().find(|other| !other.switch.is_dead()).cloned();
        match living {
            Some(other) if self.dice.falls("process.left_dead", 40) => self.crew.lock()[number] = other,
            _ => self.restart(number, &self.crew.get(number)),
        }
    }

    async fn shut_down(self, number: usize, at: u64) {
        sleep(Duration::from_millis(at)).await;
        let process = self.crew.get(number);
        let orchestrator = process.orchestrator.clone();
        // It hangs if the process dies meanwhile; then there is nothing to wait for.
        if timeout(PATIENCE * 2, orchestrator.shutdown()).await.is_ok() {
            self.dice.note("process.shut_down");
        }
        process.switch.kill();
        self.restart(number, &process);
    }

    async fn hold(self, number: usize, at: u64, rest: u64) {
        sleep(Duration::from_millis(at)).await;
        let process = self.crew.get(number);
        let busy = process.orchestrator.stats().active_attempts > 0;
        process.switch.hold(true);
        sleep(Duration::from_millis(rest)).await;
        process.switch.hold(false);
        self.dice.note("process.held");
        if busy && Duration::from_millis(rest) > LEASE && !process.switch.is_dead() {
            self.dice.note("process.zombie");
        }
    }

    async fn jump(self, number: usize, at: u64, by: i64, rest: u64) {
        sleep(Duration::from_millis(at)).await;
        let process = self.crew.get(number);
        self.dice.note(if by < 0 { "clock.backward" } else { "clock.forward" });
        process.clock.jump_to(by);
        sleep(Duration::from_millis(rest)).await;
        process.clock.jump_to(0);
    }

    fn begin_operations(&self, span: u64) {
        for _ in 0..self.dice.pick(8) {
            let (play, at) = (self.clone(), self.dice.roll(span));
            tokio::spawn(async move {
                sleep(Duration::from_millis(at)).await;
                let known = play.known().clone();
                if known.is_empty() {
                    return;
                }
                let target = &known[play.dice.pick(known.len())];
                let process = play.crew.get(play.dice.pick(play.crew.len()));
                // What hangs with its process is given up; whether it happened is nobody's business here.
                drop(timeout(PATIENCE * 2, play.operate(&process, target)).await);
            });
        }
    }

    async fn operate(&self, process: &Process, target: &Known) {
        let (o, who, run) = (&process.orchestrator, user(target.tenant), target.run);
        let (what, answer) = match self.dice.roll(10) {
            0 => ("cancel", o.cancel(&who, run).await),
            1 | 2 => ("pause", o.pause(&who, run).await),
            3 => ("resume", o.resume(&who, run).await),
            4 => ("retry", o.retry(&who, run, Vec::new()).await),
            5 => ("decide", self.decide(process, target, self.dice.chance(70)).await),
            6 => ("signal", o.signal(&who, run, "go", Payload::null()).await),
            7 => ("replay", o.replay(&who, run, Resubmit::default()).await.map(|submitted| submitted.run)),
            8 => return self.pry(process, target).await,
            _ => return self.prune(process, target).await,
        };
        self.dice.note(what);
        self.world.trace.note(format_args!("{what} {run} {}", word(&answer)));
        if let Ok(row) = &answer {
            self.world.observed.answered(&who.tenant, row);
        }
    }

    async fn decide(&self, process: &Process, target: &Known, approved: bool) -> orch::Result<RunRow> {
        let gate: StepKey = "gate".parse()?;
        process.orchestrator.decide(&user(target.tenant), target.run, gate, approved).await
    }

    /// A user of the other tenant asks after the run in every way.
    async fn pry(&self, process: &Process, target: &Known) {
        self.dice.note("stranger");
        let (o, run, observed) = (&process.orchestrator, target.run, &self.world.observed);
        let who = user(1 - target.tenant);
        observed.strange(&who.tenant, run, &o.run(&who, run).await);
        observed.strange(&who.tenant, run, &o.inspect(&who, run).await);
        observed.strange(&who.tenant, run, &o.cancel(&who, run).await);
        observed.strange(&who.tenant, run, &o.signal(&who, run, "go", Payload::null()).await);
        observed.strange(&who.tenant, run, &o.replay(&who, run, Resubmit::default()).await);
        if let Ok(page) = o.runs(&who, RunsQuery::all(who.tenant.clone())).await {
            page.runs.iter().for_each(|row| observed.answered(&who.tenant, row));
        }
    }

    async fn prune(&self, process: &Process, target: &Known) {
        if target.clients.load(Ordering::Relaxed) > 0 {
            // Who submits it again would begin it again.
            return;
        }
        let who = user(target.tenant);
        let request = PruneRuns {
            tenant: who.tenant,
            runs: vec![target.run],
            actor: who.actor,
            now: process.clock.now(),
        };
        let answer = prune_runs(&process.store, &request).await;
        if answer.as_ref().is_ok_and(|gone| *gone > 0) {
            self.dice.note("pruned");
        }
        self.world.trace.note(format_args!("prune {} {}", target.run, word(&answer)));
    }

    /// Faults stop; persons do what runs wait for; every run must end within the bound.
    async fn calm(&self) {
        self.world.trace.note(format_args!("calm"));
        self.world.calm();
        for number in 0..self.crew.len() {
            let process = self.crew.get(number);
            process.heal(&self.world);
            if process.switch.is_dead() {
                self.replace(number);
            }
        }
        let (mut begun, mut retried) = (Instant::now(), BTreeSet::new());
        while begun.elapsed() < bound() {
            sleep(Duration::from_millis(500)).await;
            if self.keep_whole() {
                // That was the last fault, so far.
                begun = Instant::now();
            }
            let open = self.open_runs().await;
            if open.is_empty() && self.waiting.load(Ordering::Relaxed) == 0 {
                // Slots are given back and deliveries settled after the last entry.
                sleep(LEASE * 2).await;
                if self.open_runs().await.is_empty() {
                    break;
                }
            }
            for row in open {
                drop(timeout(PATIENCE, self.help(&row, &mut retried)).await);
            }
        }
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.note_odd("a submission was not answered within the bound".to_owned());
        }
    }

    /// A process whose end was set before the calm may die in it: it is restarted, too. Answers whether one did.
    fn keep_whole(&self) -> bool {
        let mut died = false;
        for number in 0..self.crew.len() {
            let process = self.crew.get(number);
            if process.switch.is_dead() {
                died = true;
                self.restart(number, &process);
            }
        }
        died
    }

    async fn open_runs(&self) -> Vec<RunRow> {
        let mut open = Vec::new();
        for tenant in tenants() {
            let query = RunsQuery { limit: 500, ..RunsQuery::all(tenant) };
            let page = self.world.backend.store.runs(&query).await;
            let page = page.map(|page| page.runs).unwrap_or_default();
            open.extend(page.into_iter().filter(|row| !row.status.is_terminal()));
        }
        open
    }

    /// Does what a run waits for.
    async fn help(&self, row: &RunRow, retried: &mut BTreeSet<RunId>) -> orch::Result<()> {
        let who = user(usize::from(row.tenant != tenants()[0]));
        let o = self.crew.get(0).orchestrator;
        let state = o.inspect(&who, row.run).await?;
        if state.paused {
            o.resume(&who, row.run).await?;
        }
        for (position, step) in (0..).zip(state.steps()) {
            let key = state.key_of(StepRef::top(position));
            match (step.status, &step.wait) {
                (StepStatus::Waiting, Some(wait)) if wait.asked.is_some() && wait.verdict.is_none() => {
                    drop(o.decide(&who, row.run, key, true).await?);
                }
                (StepStatus::Waiting, Some(wait)) => {
                    if let Some(signal) = &wait.signal {
                        o.signal(&who, row.run, signal, Payload::null()).await?;
                    }
                }
                (StepStatus::Parked, _) if retried.insert(row.run) => {
                    drop(o.retry(&who, row.run, Vec::new()).await?);
                }
                (StepStatus::Parked, _) => drop(o.cancel(&who, row.run).await?),
                _ => {}
            }
        }
        Ok(())
    }

    /// Holds everything against the invariants.
    pub(crate) async fn check(&self) -> orch::Result<orch::proof::Report> {
        for _ in 0..self.world.observed.races() {
            self.dice.note("race");
        }
        let outside = Outside { calm: true, still: true };
        self.world.observed.check(&self.world.backend.store, outside).await
    }
}

/// Whether the same call may be answered otherwise later, or by another process.
fn may_pass(error: &Error) -> bool {
    error.is_retryable() || error.kind() == ErrorKind::Closed
}
