//! Every DAG of up to five steps, with every outcome of every step that runs, against rules that know no state machine.
//!
//! Positions in the plan are all that the planner knows of names, so the DAGs whose steps need earlier ones only, in plan
//! order, stand for all; that the order is right under every naming is shown beside this.
//!
//! A history is walked as a tree: where a step may end in several ways, the state is copied and each way followed. What
//! a step would have done had it run is no choice, so every history is met exactly once; their numbers are pinned.

use std::sync::LazyLock;

use super::order::{NAMES, dags, permutations};
use super::*;
use crate::spec::{Dag, OnExhausted};

/// How a step is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Runs when every need succeeded, twice at most.
    Plain,
    /// The same, and is parked when it fails.
    Parks,
    /// Its condition is false.
    Never,
    /// Its condition is true, whatever became of its needs.
    Always,
}

/// What becomes of a step that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Good,
    GoodAfterFailure,
    GoodAfterLoss,
    Fatal,
    Exhausted,
    /// It fails and is parked.
    Parked,
    /// It was parked, and somebody asked for a retry.
    Retried,
    /// That went well.
    Freed,
    /// The run was cancelled before it ended.
    Stopped,
}

/// What happens to the run next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Start(StepRef),
    Succeed(StepRef),
    FailForNow(StepRef),
    FailForGood(StepRef),
    /// The worker dies: nothing is heard of the attempt until its lease has ended.
    Die,
    /// The worker gives the attempt back.
    GiveBack(StepRef),
    /// Somebody gives what is parked another round.
    Retry,
    Cancel,
}

impl Fate {
    /// Every way a plainly declared step can go.
    const ALL: &[Self] =
        &[Self::Good, Self::GoodAfterFailure, Self::GoodAfterLoss, Self::Fatal, Self::Exhausted];

    /// The same, if it does not matter how it got there.
    const ENDS: &[Self] = &[Self::Good, Self::Fatal];

    /// How the run of the step goes.
    fn script(self, at: StepRef) -> Vec<Move> {
        let start = Move::Start(at);
        match self {
            Self::Retried | Self::Stopped => Vec::new(),
            Self::Good | Self::Freed => vec![start, Move::Succeed(at)],
            Self::GoodAfterFailure => vec![start, Move::FailForNow(at), start, Move::Succeed(at)],
            Self::GoodAfterLoss => vec![start, Move::Die, start, Move::Succeed(at)],
            Self::Fatal | Self::Parked => vec![start, Move::FailForGood(at)],
            Self::Exhausted => vec![start, Move::FailForNow(at), start, Move::FailForNow(at)],
        }
    }

    fn is_good(self) -> bool {
        matches!(self, Self::Good | Self::GoodAfterFailure | Self::GoodAfterLoss | Self::Freed)
    }
}

/// Five steps that need nothing.
static DAG: LazyLock<Dag> = LazyLock::new(|| {
    let twice = |name: &&str| with(task(name, &[]), json!({"retry": {"maxAttempts": 2}}));
    serde_json::from_value(dag_of(&NAMES.iter().map(twice).collect::<Vec<_>>())).unwrap()
});

/// What is declared: the needs of each step, by position, and its kind.
#[derive(Clone, Debug)]
struct Case {
    needs: Vec<Vec<usize>>,
    kinds: Vec<Kind>,
    plan: SharedPlan,
    /// Whether every declaration is followed, also of steps that do not run.
    conditional: bool,
}

impl Case {
    /// Positions are plan order: the steps are named in the order in which they may run.
    fn new(needs: &[Vec<usize>], kinds: Vec<Kind>) -> Self {
        let mut dag: Dag = DAG.clone();
        dag.steps.truncate(kinds.len());
        for ((step, kind), needs) in dag.steps.iter_mut().zip(&kinds).zip(needs) {
            step.needs = needs.iter().map(|need| NAMES[*need].parse().unwrap()).collect();
            match kind {
                Kind::Plain => {}
                Kind::Parks => step.retry.on_exhausted = OnExhausted::Park,
                Kind::Never => step.when = Some("1 > 2".into()),
                Kind::Always => step.when = Some("true".into()),
            }
        }
        let plan = SharedPlan::new(Plan::new(dag, &Limits::default()).unwrap());
        Self { needs: needs.to_vec(), plan, kinds, conditional: false }
    }

    fn size(&self) -> usize {
        self.needs.len()
    }

    /// Whether the same history is met with no other declaration although `step` keeps what needs it from running.
    fn leads_to_known(&self, step: usize) -> bool {
        self.conditional || leads_to_plain(&self.needs, &self.kinds, step)
    }
}

/// Whether everything downstream of `step` is declared plainly. Then nothing is lost if it does not run: the same history
/// is met with every other declaration of a step that does not run.
fn leads_to_plain(needs: &[Vec<usize>], kinds: &[Kind], step: usize) -> bool {
    let mut reached = vec![false; needs.len()];
    reached[step] = true;
    (step + 1..needs.len()).all(|i| {
        reached[i] = needs[i].iter().any(|need| reached[*need]);
        !reached[i] || kinds[i] == Kind::Plain
    })
}

/// What has happened so far, in the words of the rules below.
#[derive(Clone, Debug)]
struct Told {
    fates: Vec<Option<Fate>>,
    cancelled: bool,
}

/// Where each step stands: the declaration read aloud. A step that is under way counts as queued.
fn expected(case: &Case, told: &Told) -> Vec<StepStatus> {
    let mut all: Vec<StepStatus> = Vec::with_capacity(case.size());
    for (i, kind) in case.kinds.iter().enumerate() {
        let needs = || case.needs[i].iter().map(|need| all[*need]);
        let skips = match kind {
            Kind::Never => true,
            Kind::Always => false,
            Kind::Plain | Kind::Parks => needs().any(|need| need != StepStatus::Succeeded),
        };
        all.push(match told.fates[i] {
            Some(Fate::Stopped) => StepStatus::Cancelled,
            _ if !needs().all(StepStatus::is_settled) => StepStatus::Pending,
            _ if skips => StepStatus::Skipped,
            None | Some(Fate::Retried) => StepStatus::Queued,
            Some(Fate::Parked) => StepStatus::Parked,
            Some(fate) if fate.is_good() => StepStatus::Succeeded,
            Some(_) => StepStatus::Failed,
        });
    }
    all
}

/// How the run ends: the rest of the declaration.
fn expected_end(told: &Told, statuses: &[StepStatus]) -> RunStatus {
    if told.cancelled {
        RunStatus::Cancelled
    } else if statuses.contains(&StepStatus::Failed) {
        RunStatus::Failed
    } else {
        RunStatus::Completed
    }
}

/// What a move means to a run: when it happens, and the events it begins with.
fn events_of(state: &RunState, now: Timestamp, step: Move) -> (Timestamp, Vec<Event>) {
    let limits = Limits::default();
    let finish = |at: StepRef, outcome: Outcome| {
        let (attempt, worker) = (state.get(at).unwrap().attempt, state.get(at).unwrap().worker.clone());
        let finish = Finish { at, attempt, worker, outcome, logs: None };
        (now, vec![attempt::finish(state, finish, now, &limits).unwrap()])
    };
    match step {
        Move::Start(at) => {
            let step = state.get(at).unwrap();
            let now = step.not_before.map_or(now, |instant| instant.max(now));
            let attempt = step.attempt;
            let start = Start { at, attempt, worker: worker(), executor: "v1".into(), lease: LEASE };
            (now, attempt::start(state, &start, now).unwrap())
        }
        Move::Succeed(at) => finish(at, Outcome::Succeeded(Payload::null())),
        Move::FailForNow(at) => finish(at, flaky()),
        Move::FailForGood(at) => finish(at, fatal()),
        Move::Die => (now.plus(LEASE), Vec::new()),
        Move::GiveBack(at) => {
            let attempt = state.get(at).unwrap().attempt;
            (now, vec![attempt::release(state, at, attempt, &worker(), now, &limits).unwrap()])
        }
        Move::Retry => {
            let parked = |(_, step): &(u32, &StepState)| step.status == StepStatus::Parked;
            let parked = (0..).zip(state.steps()).filter(parked);
            let named = parked.map(|(position, _)| state.key_of(StepRef::top(position))).collect();
            (now, operate(state, &Operation::Retry(named), None, &limits).unwrap())
        }
        Move::Cancel => (now, operate(state, &Operation::Cancel, None, &limits).unwrap()),
    }
}

/// A run on its way, and what was done to it.
#[derive(Clone, Debug)]
struct Walk {
    state: RunState,
    now: Timestamp,
    moves: Vec<Move>,
    told: Told,
}

impl Walk {
    fn new(case: &Case) -> Self {
        let entry = first_entry(&case.plan, &json!({}), "t1");
        let state = RunState::open(&entry, Head::EMPTY, |_| Ok(case.plan.clone())).unwrap();
        let told = Told { fates: vec![None; case.size()], cancelled: false };
        let mut walk = Self { state, now: T0, moves: Vec::new(), told };
        walk.settle();
        walk
    }

    fn settle(&mut self) {
        advance(&mut self.state, self.now, "orch", &Limits::default()).unwrap();
    }

    fn go(&mut self, step: Move) {
        let (now, events) = events_of(&self.state, self.now, step);
        self.now = now;
        for event in &events {
            self.state.apply(now, "tester", event).unwrap();
        }
        self.settle();
        self.moves.push(step);
    }

    /// Where each step stands; one that is under way counts as queued.
    fn statuses(&self) -> Vec<StepStatus> {
        let status = |step: &StepState| match step.status {
            StepStatus::Running => StepStatus::Queued,
            other => other,
        };
        self.state.steps().iter().map(status).collect()
    }

    fn is_under_way(&self, step: usize) -> bool {
        self.state.steps()[step].status == StepStatus::Running
    }

    /// Somebody gives what is parked another round.
    fn retry(&mut self) {
        self.go(Move::Retry);
        for fate in self.told.fates.iter_mut().filter(|fate| **fate == Some(Fate::Parked)) {
            *fate = Some(Fate::Retried);
        }
    }

    /// Somebody cancels the run: what is not settled and not under way never will be.
    fn cancel(&mut self) {
        for (step, status) in self.statuses().into_iter().enumerate() {
            if !status.is_settled() && !self.is_under_way(step) {
                self.told.fates[step] = Some(Fate::Stopped);
            }
        }
        self.told.cancelled = true;
        self.go(Move::Cancel);
    }

    /// Holds a run that has ended to what its fates say of it.
    fn check_end(&self, case: &Case, statuses: &[StepStatus]) {
        let end = expected_end(&self.told, statuses);
        assert_eq!(self.state.ended.as_ref().map(|ended| ended.status), Some(end), "{case:?} {self:?}");
        for (((position, step), status), fate) in
            (0..).zip(self.state.steps()).zip(statuses).zip(&self.told.fates)
        {
            let at = StepRef::top(position);
            if *status == StepStatus::Cancelled {
                continue;
            }
            let starts = self.moves.iter().filter(|step| **step == Move::Start(at)).count();
            assert_eq!(step.attempt as usize, starts, "{case:?} {self:?}");
            let code = step.error.as_ref().map(|error| error.code.as_str());
            let expected = match fate {
                None => Some("skipped"),
                Some(Fate::Fatal) => Some("broken"),
                Some(Fate::Exhausted) => Some("flaky"),
                Some(_) => None,
            };
            assert_eq!(code, expected, "{case:?} {self:?}");
        }
        assert_eq!(self.state.wake_at(), None);
        assert!(
            decide(&self.state, Timestamp::MAX, &Limits::default()).is_empty(),
            "nothing follows the end"
        );
    }

    /// Does it all again with everything recorded, and looks at every state there is on the way.
    fn replay(&self, case: &Case) {
        let mut sim = Sim::unopened(&case.plan, &json!({}), "t1");
        sim.settle();
        sim.check();
        for step in &self.moves {
            let (now, events) = events_of(&sim.state, sim.now, *step);
            sim.now = now;
            sim.record(events);
            sim.check();
        }
        assert_eq!(unread(sim.state.steps()), unread(self.state.steps()));
    }
}

/// A walk through all histories of many cases.
#[derive(Debug)]
struct Tally {
    histories: usize,
    /// One history in so many is recorded and looked at in full.
    share: usize,
    /// The ways a step can go that are followed.
    fates: &'static [Fate],
}

impl Tally {
    fn new(share: usize, fates: &'static [Fate]) -> Self {
        Self { histories: 0, share, fates }
    }

    fn fates(&self, case: &Case, walk: &Walk, step: usize) -> &'static [Fate] {
        match (walk.told.fates[step], case.kinds[step]) {
            (Some(Fate::Retried), _) => &[Fate::Freed],
            (_, Kind::Parks) => &[Fate::Parked],
            _ => self.fates,
        }
    }

    /// One worker takes what comes first in plan order and ends it before it takes the next; once nothing is left that
    /// could run, somebody retries what is parked, or cancels.
    fn walk(&mut self, case: &Case, walk: &Walk) {
        let statuses = expected(case, &walk.told);
        assert_eq!(walk.statuses(), statuses, "{case:?} {walk:?}");
        if walk.state.ended.is_some() {
            return self.end(case, walk, &statuses);
        }
        let next = statuses.iter().position(|status| *status == StepStatus::Queued);
        let queued = walk.state.queued().next();
        assert_eq!(queued.map(|at| at.step as usize), next, "R3: the first in plan order goes first");
        let Some((at, step)) = queued.zip(next) else {
            return self.stuck(case, walk);
        };
        for fate in self.fates(case, walk, step) {
            let lets_run = fate.is_good() || *fate == Fate::Parked;
            if lets_run || case.leads_to_known(step) {
                let mut walk = walk.clone();
                fate.script(at).into_iter().for_each(|step| walk.go(step));
                walk.told.fates[step] = Some(*fate);
                self.walk(case, &walk);
            }
        }
    }

    fn stuck(&mut self, case: &Case, walk: &Walk) {
        let parked = |step: &usize| walk.told.fates[*step] == Some(Fate::Parked);
        let parked: Vec<usize> = (0..case.size()).filter(parked).collect();
        assert!(!parked.is_empty(), "R4: {case:?} {walk:?}");
        let mut retried = walk.clone();
        retried.retry();
        self.walk(case, &retried);
        if parked.iter().all(|step| case.leads_to_known(*step)) {
            let mut cancelled = walk.clone();
            cancelled.cancel();
            self.walk(case, &cancelled);
        }
    }

    /// Any number of workers: whatever is queued may start and whatever runs may end, in any order, and at any moment
    /// somebody retries what is parked, or cancels.
    fn interleave(&mut self, case: &Case, walk: &Walk) {
        let statuses = expected(case, &walk.told);
        assert_eq!(walk.statuses(), statuses, "{case:?} {walk:?}");
        if walk.state.ended.is_some() {
            return self.end(case, walk, &statuses);
        }
        for at in walk.state.queued().collect::<Vec<_>>() {
            let mut walk = walk.clone();
            walk.go(Move::Start(at));
            self.interleave(case, &walk);
        }
        for at in walk.state.running().collect::<Vec<_>>() {
            self.finish(case, walk, at);
        }
        if walk.told.fates.contains(&Some(Fate::Parked)) {
            let mut walk = walk.clone();
            walk.retry();
            self.interleave(case, &walk);
        }
        if !walk.told.cancelled {
            let mut walk = walk.clone();
            walk.cancel();
            self.interleave(case, &walk);
        }
    }

    /// Every way in which an attempt under way can end.
    fn finish(&mut self, case: &Case, walk: &Walk, at: StepRef) {
        let step = at.step as usize;
        let state = walk.state.get(at).unwrap();
        let retried = walk.told.fates[step] == Some(Fate::Retried);
        let (cancelled, parks) = (walk.told.cancelled, case.kinds[step] == Kind::Parks);
        let bad = |fate: Fate| Some(if cancelled { Fate::Stopped } else { fate });
        let mut ways = match (state.failures, state.losses) {
            (0, 0) if retried => vec![(Move::Succeed(at), Some(Fate::Freed))],
            (0, 0) => vec![(Move::Succeed(at), Some(Fate::Good))],
            (_, 0) => vec![
                (Move::Succeed(at), Some(Fate::GoodAfterFailure)),
                (Move::FailForNow(at), bad(if parks { Fate::Parked } else { Fate::Exhausted })),
            ],
            _ => vec![(Move::Succeed(at), Some(Fate::GoodAfterLoss))],
        };
        if state.attempt == 1 {
            ways.push((Move::FailForGood(at), bad(if parks { Fate::Parked } else { Fate::Fatal })));
            let goes_on = if cancelled { Some(Fate::Stopped) } else { None };
            if self.fates.len() > 2 {
                ways.extend([(Move::FailForNow(at), goes_on), (Move::GiveBack(at), goes_on)]);
            }
        }
        for (step_move, fate) in ways {
            let mut walk = walk.clone();
            walk.go(step_move);
            walk.told.fates[step] = fate;
            self.interleave(case, &walk);
        }
    }

    fn end(&mut self, case: &Case, walk: &Walk, statuses: &[StepStatus]) {
        walk.check_end(case, statuses);
        if self.histories.is_multiple_of(self.share) {
            walk.replay(case);
        }
        self.histories += 1;
    }
}

type Needs = Vec<Vec<usize>>;

/// Every DAG of `count` steps in plan order, as the needs of each by position.
fn graphs(count: usize) -> Vec<Needs> {
    let position = |name: &&str| NAMES.iter().position(|known| known == name).unwrap();
    let needs = |(_, needs): &(&str, Vec<&str>)| needs.iter().map(position).collect();
    dags(&NAMES[..count]).iter().map(|dag| dag.iter().map(needs).collect()).collect()
}

/// One of all DAGs that differ in the names of their steps only: the first.
fn shapes(count: usize) -> Vec<Needs> {
    let orders = permutations(&(0..count).collect::<Vec<_>>());
    let mut seen = BTreeSet::new();
    let is_new = |graph: &Needs| {
        let edges = |order: &Vec<usize>| {
            let edge = |(to, needs): (usize, &Vec<usize>)| -> u32 {
                needs.iter().map(|need| 1 << (order[to] * count + order[*need])).sum()
            };
            graph.iter().enumerate().map(edge).sum::<u32>()
        };
        seen.insert(orders.iter().map(edges).min())
    };
    graphs(count).into_iter().filter(is_new).collect()
}

/// Every way to declare `count` steps with these kinds.
fn declarations(count: usize, kinds: &[Kind]) -> Vec<Vec<Kind>> {
    let one_more = |all: Vec<Vec<Kind>>, _| {
        all.iter().flat_map(|head| kinds.iter().map(move |kind| [head, &[*kind][..]].concat())).collect()
    };
    (0..count).fold(vec![Vec::new()], one_more)
}

/// Walks through all histories of these graphs.
fn every_history<'a>(graphs: impl IntoIterator<Item = &'a Needs>, mut tally: Tally) -> usize {
    for graph in graphs {
        for kinds in declarations(graph.len(), &[Kind::Plain, Kind::Parks, Kind::Never]) {
            let mut never = (0..graph.len()).filter(|step| kinds[*step] == Kind::Never);
            if never.all(|step| leads_to_plain(graph, &kinds, step)) {
                let case = Case::new(graph, kinds);
                tally.walk(&case, &Walk::new(&case));
            }
        }
    }
    tally.histories
}

#[test]
fn r3_l3_every_dag_of_up_to_three_steps_meets_every_fate_and_is_the_same_from_its_bytes() {
    let histories = [1, 2, 3].map(|count| every_history(&graphs(count), Tally::new(1, Fate::ALL)));
    assert_eq!(histories, [8, 98, 2_011]);
}

#[test]
fn r3_every_dag_of_four_steps_meets_every_fate() {
    assert_eq!(every_history(&graphs(4), Tally::new(61, Fate::ALL)), 73_914);
}

/// Every history of five steps: with every fate for one graph of each shape, and with every end for the others, which
/// differ from it in the order of steps only. In four parts, so that they can run side by side.
fn five(part: usize) -> [usize; 2] {
    let shapes = shapes(5);
    let (firsts, others): (Vec<Needs>, Vec<Needs>) =
        graphs(5).into_iter().skip(part).step_by(4).partition(|graph| shapes.contains(graph));
    [
        every_history(&firsts, Tally::new(4_001, Fate::ALL)),
        every_history(&others, Tally::new(4_001, Fate::ENDS)),
    ]
}

#[test]
fn r3_every_dag_of_five_steps_meets_every_fate_part_one() {
    assert_eq!(five(0), [173_978, 88_668]);
}

#[test]
fn r3_every_dag_of_five_steps_meets_every_fate_part_two() {
    assert_eq!(five(1), [352_264, 50_605]);
}

#[test]
fn r3_every_dag_of_five_steps_meets_every_fate_part_three() {
    assert_eq!(five(2), [208_147, 61_386]);
}

#[test]
fn r3_every_dag_of_five_steps_meets_every_fate_part_four() {
    assert_eq!(five(3), [454_810, 42_545]);
}

#[test]
fn five_steps_have_as_many_graphs_and_shapes_as_they_should() {
    // Two to the number of pairs, and unlabelled acyclic digraphs (OEIS A003087).
    assert_eq!((graphs(5).len(), shapes(5).len()), (1 << 10, 302));
}

#[test]
fn r3_steps_with_conditions_run_or_are_skipped_whatever_their_needs_did() {
    let mut tally = Tally::new(211, Fate::ENDS);
    for graph in (1..=4).flat_map(graphs) {
        for kinds in declarations(graph.len(), &[Kind::Plain, Kind::Always, Kind::Never]) {
            let case = Case { conditional: true, ..Case::new(&graph, kinds) };
            tally.walk(&case, &Walk::new(&case));
        }
    }
    assert_eq!(tally.histories, 30_204);
}

/// Every interleaving of everything that can happen to DAGs of up to `count` steps.
fn every_interleaving(count: usize, kinds: &[Kind], mut tally: Tally) -> usize {
    for graph in (1..=count).flat_map(graphs) {
        for kinds in declarations(graph.len(), kinds) {
            let case = Case::new(&graph, kinds);
            tally.interleave(&case, &Walk::new(&case));
        }
    }
    tally.histories
}

#[test]
fn r3_two_steps_end_as_declared_in_every_order_of_events() {
    assert_eq!(every_interleaving(2, &[Kind::Plain, Kind::Parks], Tally::new(61, Fate::ALL)), 43_164);
}

#[test]
fn r3_three_steps_end_as_declared_in_every_order_of_starts_and_ends() {
    assert_eq!(every_interleaving(3, &[Kind::Plain], Tally::new(211, Fate::ENDS)), 3_483);
}
