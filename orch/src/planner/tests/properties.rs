//! What must hold of DAGs of any size: order, conditions, attempts, children, sub-DAGs, gates and signals, each against
//! a few lines that say it plainly.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use proptest::sample::Index;

use super::order::naive_order;
use super::*;

/// What each step needs: some of the steps before it.
fn needs_of(drawn: &[Vec<Index>]) -> Vec<Vec<usize>> {
    let needs = |(step, drawn): (usize, &Vec<Index>)| {
        let earlier = drawn.iter().filter(|_| step > 0).map(|index| index.index(step));
        earlier.collect::<BTreeSet<usize>>().into_iter().collect()
    };
    drawn.iter().enumerate().map(needs).collect()
}

fn drawn_needs(sizes: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<Index>>> {
    prop::collection::vec(prop::collection::vec(any::<Index>(), 0..4), sizes)
}

proptest! {
    #[test]
    fn r3_the_order_is_the_same_however_steps_are_called_and_listed(
        drawn in drawn_needs(1..30),
        names in prop::collection::hash_set("[a-z0-9][a-z0-9._-]{0,3}", 30),
        listed in prop::collection::vec(any::<u32>(), 30),
        as_edges in any::<u64>(),
    ) {
        let names: Vec<String> = names.into_iter().collect();
        let dag: Vec<(&str, Vec<&str>)> = needs_of(&drawn)
            .iter()
            .enumerate()
            .map(|(step, needs)| (names[step].as_str(), needs.iter().map(|need| names[*need].as_str()).collect()))
            .collect();
        let mut document = dag_of(&dag.iter().map(|(id, needs)| task(id, needs)).collect::<Vec<_>>());
        let plan = plan_from(document.clone());
        let order: Vec<&str> = plan.steps().iter().map(|step| step.id.as_str()).collect();
        prop_assert_eq!(&order, &naive_order(&dag));
        // The same DAG, listed in another order, and some of its needs written as edges.
        let mut steps: Vec<usize> = (0..dag.len()).collect();
        steps.sort_by_key(|step| listed[*step]);
        document["steps"] = steps.iter().map(|step| document["steps"][*step].clone()).collect();
        document["edges"] = json!([]);
        for (step, (id, needs)) in dag.iter().enumerate().filter(|(step, _)| as_edges >> step & 1 == 1) {
            let place = steps.iter().position(|listed| *listed == step).unwrap();
            document["steps"][place]["needs"] = json!([]);
            let edges = needs.iter().map(|need| json!({"from": need, "to": id}));
            document["edges"].as_array_mut().unwrap().extend(edges);
        }
        prop_assert_eq!(plan_from(document).hash(), plan.hash());
        for (position, step) in (0..).zip(plan.steps()) {
            prop_assert_eq!(plan.position(step.id.as_str()), Some(position));
            let upstream = plan.upstream(&[position]);
            for (other, reached) in (0..).zip(upstream) {
                prop_assert_eq!(plan.downstream(&[other])[position as usize], reached);
            }
        }
    }
}

/// A condition, and what it says when it is read aloud.
#[derive(Clone, Copy, Debug)]
enum When {
    /// None: every need succeeded.
    Unsaid,
    Always,
    Never,
    /// A step before it failed.
    Failed(usize),
    /// A step before it is skipped.
    Skipped(usize),
    /// A step before it gave more than this, if it gave anything.
    Gave(usize, i64),
    /// An expression that fails unless a step before it gave something.
    Reads(usize),
}

fn when(kind: u8, number: i64, needs: &[usize]) -> When {
    match (kind % 12, needs.first()) {
        (5, _) => When::Always,
        (6, _) => When::Never,
        (7, Some(need)) => When::Failed(*need),
        (8, Some(need)) => When::Skipped(*need),
        (9, Some(need)) => When::Gave(*need, number),
        (10, Some(need)) => When::Reads(*need),
        _ => When::Unsaid,
    }
}

impl When {
    fn text(self) -> Option<String> {
        Some(match self {
            Self::Unsaid => return None,
            Self::Always => "1 < 2".to_owned(),
            Self::Never => "1 > 2".to_owned(),
            Self::Failed(step) => format!("steps.s{step:02}.status == 'failed'"),
            Self::Skipped(step) => format!("${{{{ steps.s{step:02}.status == 'skipped' }}}}"),
            Self::Gave(step, n) => {
                format!("steps.s{step:02}.status == 'succeeded' && steps.s{step:02}.output.n > {n}")
            }
            Self::Reads(step) => format!("steps.s{step:02}.output.n >= 0"),
        })
    }
}

/// How a step ends if it runs: what it gives, or badly.
type End = Option<i64>;

/// What becomes of each step, read off the declaration.
fn foretold(needs: &[Vec<usize>], whens: &[When], ends: &[End]) -> Vec<StepStatus> {
    let mut all: Vec<StepStatus> = Vec::new();
    for step in 0..needs.len() {
        let ran = if ends[step].is_some() { StepStatus::Succeeded } else { StepStatus::Failed };
        let runs = match whens[step] {
            When::Unsaid => needs[step].iter().all(|need| all[*need] == StepStatus::Succeeded),
            When::Always => true,
            When::Never => false,
            When::Failed(other) => all[other] == StepStatus::Failed,
            When::Skipped(other) => all[other] == StepStatus::Skipped,
            When::Gave(other, n) => {
                all[other] == StepStatus::Succeeded && ends[other].is_some_and(|gave| gave > n)
            }
            When::Reads(other) if all[other] != StepStatus::Succeeded => {
                all.push(StepStatus::Failed);
                continue;
            }
            When::Reads(_) => true,
        };
        all.push(if runs { ran } else { StepStatus::Skipped });
    }
    all
}

/// Lets a run go on by whatever could happen next, chosen by `picks`, until it has ended.
fn in_any_order(sim: &mut Sim, picks: &[Index], mut finish: impl FnMut(&mut Sim, StepRef)) {
    for turn in 0.. {
        let can_start = if sim.state.starts_nothing() { Vec::new() } else { sim.state.queued().collect() };
        let choices: Vec<StepRef> = can_start.into_iter().chain(sim.state.running()).collect();
        if sim.ended().is_some() || choices.is_empty() {
            return;
        }
        assert!(turn < 10_000, "no end in sight\n{}", sim.lines);
        let at = choices[picks[turn % picks.len()].index(choices.len())];
        if sim.state.get(at).unwrap().status == StepStatus::Queued {
            sim.wait_for(at);
            sim.start(at);
        } else {
            finish(sim, at);
        }
    }
}

fn picks() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn r3_steps_run_or_are_skipped_as_their_conditions_say_in_every_order(
        drawn in drawn_needs(1..16),
        conditions in prop::collection::vec((any::<u8>(), 0i64..10), 16),
        ends in prop::collection::vec(prop::option::weighted(0.7, 0i64..10), 16),
        picks in picks(),
    ) {
        let needs = needs_of(&drawn);
        let kinds = needs.iter().zip(&conditions);
        let whens: Vec<When> = kinds.map(|(needs, (kind, number))| when(*kind, *number, needs)).collect();
        let steps: Vec<Value> = (0..needs.len())
            .map(|step| {
                let needs: Vec<String> = needs[step].iter().map(|need| format!("s{need:02}")).collect();
                let plain = json!({"id": format!("s{step:02}"), "uses": "fn/x", "needs": needs});
                whens[step].text().map_or(plain.clone(), |text| with(plain, json!({"when": text})))
            })
            .collect();
        let mut sim = Sim::new(&plan_of(&steps));
        in_any_order(&mut sim, &picks, |sim, at| {
            let step: usize = sim.state.spec(at).id.as_str()[1..].parse().unwrap();
            let outcome = ends[step].map_or_else(fatal, |n| Outcome::Succeeded(Payload::new(&json!({"n": n})).unwrap()));
            sim.finish(at, outcome);
        });
        let expected = foretold(&needs, &whens, &ends);
        for (step, expected) in expected.iter().enumerate() {
            prop_assert_eq!(sim.status(&format!("s{step:02}")), *expected, "s{:02}\n{}", step, sim.lines);
        }
        let failed = expected.contains(&StepStatus::Failed);
        prop_assert_eq!(sim.ended(), Some(if failed { RunStatus::Failed } else { RunStatus::Completed }));
        sim.check();
    }
}

/// What becomes of an attempt.
#[derive(Clone, Copy, Debug)]
enum Ends {
    Fails,
    /// It fails and names a time before which there is no use.
    FailsFor(u64),
    TimesOut,
    /// Its worker dies.
    Dies,
    /// Its worker gives it back.
    GivenBack,
}

fn ends() -> impl Strategy<Value = Ends> {
    prop_oneof![
        Just(Ends::Fails),
        (0u64..5_000).prop_map(Ends::FailsFor),
        Just(Ends::TimesOut),
        Just(Ends::Dies),
        Just(Ends::GivenBack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn attempts_are_as_many_as_declared_and_wait_as_long_as_declared(
        max_attempts in 1u32..7,
        (backoff, max_backoff) in (1u64..20_000, 1u64..60_000),
        lost_attempts in 1u32..5,
        parks in any::<bool>(),
        total in prop::option::of(1u64..200_000),
        ends in prop::collection::vec(ends(), 12),
    ) {
        let on_exhausted = if parks { "park" } else { "fail" };
        let spec = json!({
            "maxAttempts": max_attempts,
            "backoff": format!("{backoff}ms"),
            "maxBackoff": format!("{max_backoff}ms"),
            "onExhausted": on_exhausted,
        });
        let mut step = with(task("a", &[]), json!({"retry": spec}));
        if let Some(total) = total {
            step["totalTimeout"] = json!(format!("{total}ms"));
        }
        let mut sim = Sim::unopened(&plan_of(&[step]), &json!({}), "t1");
        sim.limits.lost_attempts = lost_attempts;
        sim.settle();
        let at = sim.at("a");
        let deadline = total.map(|total| T0.plus(Duration::from_millis(total)));
        let (mut failures, mut losses) = (0, 0);
        for end in ends {
            sim.wait_for(at);
            prop_assert_eq!(sim.status("a"), StepStatus::Queued, "it waits for an attempt that may come");
            prop_assert_eq!(sim.step("a").attempt, failures + losses + 1);
            sim.start(at);
            let wait_least = match end {
                Ends::Fails => { sim.finish(at, flaky()); 0 }
                Ends::FailsFor(millis) => {
                    let mut failure = Failure::retryable("busy", "later");
                    failure.retry_after = Some(Duration::from_millis(millis));
                    sim.finish(at, Outcome::Failed(failure));
                    millis
                }
                Ends::TimesOut => { sim.finish(at, Outcome::TimedOut); 0 }
                Ends::Dies => { sim.pass(LEASE); 0 }
                Ends::GivenBack => {
                    let attempt = sim.step("a").attempt;
                    let event = attempt::release(&sim.state, at, attempt, &worker(), sim.now, &sim.limits).unwrap();
                    sim.record(vec![event]);
                    0
                }
            };
            sim.check();
            let lost = matches!(end, Ends::Dies | Ends::GivenBack);
            let before = if lost { &mut losses } else { &mut failures };
            *before += 1;
            // Losses wait as the default policy says, but for the first.
            let full = match (lost, *before) {
                (true, 1) => 0,
                (true, nth) => 1_000 << (nth - 1),
                (false, nth) => (backoff << (nth - 1)).min(max_backoff.max(backoff)),
            };
            let exhausted = if lost { losses == lost_attempts } else { failures == max_attempts };
            let state = sim.step("a");
            if state.status != StepStatus::Queued {
                let too_late = deadline.is_some_and(|end| {
                    let longest = Duration::from_millis(full.max(wait_least));
                    sim.now.plus(longest) >= end
                });
                prop_assert!(exhausted || too_late, "it was given up too early\n{}", sim.lines);
                prop_assert_eq!(state.status, if parks { StepStatus::Parked } else { StepStatus::Failed });
                return Ok(());
            }
            prop_assert!(!exhausted, "it was given up too late\n{}", sim.lines);
            let wait = state.not_before.map_or(Duration::ZERO, |instant| instant.since(sim.now));
            let full = Duration::from_millis(full);
            prop_assert!(wait >= (full / 2).max(Duration::from_millis(wait_least)), "{:?} of {:?}", wait, full);
            prop_assert!(wait <= full.max(Duration::from_millis(wait_least)), "{:?} of {:?}", wait, full);
            if !lost {
                prop_assert!(deadline.is_none_or(|end| sim.now.plus(wait) < end), "it would come too late");
            }
            if wait > Duration::ZERO {
                let attempt = state.attempt;
                let start = Start { at, attempt, worker: worker(), executor: "v1".into(), lease: LEASE };
                let early = sim.now.plus(wait - Duration::from_micros(1));
                prop_assert!(attempt::start(&sim.state, &start, early).is_err());
            }
            if deadline.is_some_and(|end| sim.now.plus(wait) >= end) {
                return Ok(());
            }
        }
    }

    #[test]
    fn children_take_places_in_the_order_of_their_items_and_give_a_list(
        items in prop::collection::vec(-9i64..10, 0..10),
        max_parallel in prop::option::of(1u32..5),
        ends in prop::collection::vec(0u8..8, 40),
        picks in picks(),
    ) {
        let mut each = json!({"items": items});
        if let Some(places) = max_parallel {
            each["maxParallel"] = json!(places);
        }
        let step = with(
            task("m", &[]),
            json!({"forEach": each, "with": {"v": "${{ item * 2 }}"}, "retry": {"maxAttempts": 2}}),
        );
        let mut sim = Sim::new(&plan_of(&[step, task("z", &["m"])]));
        let mut failed = BTreeSet::new();
        let (mut turn, mut highest) = (0, None);
        in_any_order(&mut sim, &picks, |sim, at| {
            let Some(child) = at.child else { return sim.finish(at, good()) };
            let busy = u32::try_from(sim.state.queued().chain(sim.state.running()).count()).unwrap();
            assert!(max_parallel.is_none_or(|places| busy <= places), "{}", sim.lines);
            // Whatever has been scheduled at all has been so without a gap.
            let map = sim.state.steps()[0].map.as_ref().unwrap();
            let scheduled = map.children.iter().take_while(|child| child.attempt > 0).count();
            assert!(map.children.iter().skip(scheduled).all(|child| child.attempt == 0), "{}", sim.lines);
            assert!(highest.is_none_or(|highest| highest <= scheduled));
            highest = Some(scheduled);
            let input = sim.state.attempt_input(at, &sim.limits).unwrap();
            assert_eq!(input.to_value(), json!({"v": items[child as usize] * 2}));
            turn += 1;
            let last = sim.state.get(at).unwrap().attempt == 2;
            match ends[turn % ends.len()] {
                0 => { failed.insert(child); sim.finish(at, fatal()) }
                1 => { if last { failed.insert(child); } sim.finish(at, flaky()) }
                _ => sim.finish(at, Outcome::Succeeded(input)),
            }
        });
        sim.check();
        let map = sim.state.steps()[0].map.as_ref().unwrap();
        prop_assert_eq!(map.children.len(), items.len());
        prop_assert_eq!(map.failed as usize, failed.len());
        if failed.is_empty() {
            let list: Vec<Value> = items.iter().map(|item| json!({"v": item * 2})).collect();
            prop_assert_eq!(sim.step("m").output.as_ref().unwrap().payload().to_value(), json!(list));
            prop_assert_eq!(sim.ended(), Some(RunStatus::Completed));
            return Ok(());
        }
        prop_assert_eq!((sim.status("m"), sim.status("z")), (StepStatus::Failed, StepStatus::Skipped));
        // A retry by hand gives the failed children another round, and no other.
        let before: Vec<u32> = map.children.iter().map(|child| child.attempt).collect();
        sim.operate(&Operation::Retry(vec![])).unwrap();
        in_any_order(&mut sim, &picks, |sim, at| sim.finish(at, good()));
        sim.check();
        let map = sim.state.steps()[0].map.as_ref().unwrap();
        for (child, (state, attempts)) in (0..).zip(map.children.iter().zip(before)) {
            prop_assert_eq!(state.attempt, attempts + u32::from(failed.contains(&child)));
        }
        prop_assert_eq!(sim.ended(), Some(RunStatus::Completed));
    }

    #[test]
    fn r5_every_attempt_of_a_sub_dag_has_one_run_of_its_own(
        max_attempts in 1u32..6,
        items in 0usize..4,
        fails in prop::collection::vec(any::<bool>(), 30),
        picks in picks(),
    ) {
        let retry = json!({"retry": {"maxAttempts": max_attempts, "backoff": "10s"}});
        let sub = |id: &str| with(json!({"id": id, "uses": "dag/child@3", "with": {"x": 1}}), retry.clone());
        let each = with(sub("each"), json!({"forEach": {"items": vec![0; items], "maxParallel": 2}}));
        let mut sim = Sim::new(&plan_of(&[sub("one"), each]));
        let mut runs: BTreeMap<RunId, (StepRef, u32)> = BTreeMap::new();
        for turn in 0.. {
            let running: Vec<_> = sim.state.sub_runs().collect();
            for (at, attempt, run) in &running {
                // Named by parent, step, attempt and input, and by nothing else.
                let token = format!("{}/{}/{attempt}", sim.state.key.run, sim.state.key_of(*at));
                prop_assert_eq!(&token, &child_token(&sim.state, *at, *attempt));
                let input = Payload::parse(r#"{"x":1}"#).unwrap().digest();
                let derived = RunId::derive(&sim.state.key.tenant, &"child".parse().unwrap(), &token, &input);
                prop_assert_eq!(*run, derived);
                prop_assert_eq!(*runs.entry(*run).or_insert((*at, *attempt)), (*at, *attempt));
            }
            // Who folds the run again finds the same runs under way.
            prop_assert_eq!(sim.refolded().sub_runs().collect::<Vec<_>>(), running.clone());
            prop_assert!(sim.state.wake_at().is_some() || sim.ended().is_some());
            prop_assert!(turn < 500, "no end in sight\n{}", sim.lines);
            if sim.ended().is_some() {
                break;
            }
            if running.is_empty() {
                // All that is left waits for its backoff; who looks in between finds nothing to do.
                sim.now = sim.state.wake_after(sim.now).unwrap();
                sim.settle();
            } else {
                let (at, ..) = running[picks[turn % picks.len()].index(running.len())];
                sim.finish(at, if fails[turn % fails.len()] { flaky() } else { good() });
            }
        }
        sim.check();
        let attempts: u32 = sim.all_steps().iter().map(|at| sim.state.get(*at).unwrap().attempt).sum();
        prop_assert_eq!(runs.len(), attempts as usize, "no attempt is without a run, none has two");
    }
}

/// Something that happens to a run with gates and waits.
#[derive(Clone, Copy, Debug)]
enum Word {
    /// A signal of one of two names.
    Signal(usize),
    /// A verdict on one of the gates.
    Verdict(usize, bool),
    /// Time passes, in seconds.
    Pass(u64),
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        (0usize..2).prop_map(Word::Signal),
        (0usize..3, any::<bool>()).prop_map(|(gate, approved)| Word::Verdict(gate, approved)),
        (1u64..8).prop_map(Word::Pass),
    ]
}

const SIGNALS: [&str; 2] = ["go", "stop"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Gates stand open from the start and expire after 10, 20 and 30 s; waiters of two names begin to wait after 0, 5,
    /// 10 s and so on.
    #[test]
    fn signals_and_verdicts_are_taken_once_in_order_and_in_time(
        waiters in prop::collection::vec(0usize..2, 1..7),
        words in prop::collection::vec(word(), 0..40),
    ) {
        let mut steps: Vec<Value> = (0..3)
            .map(|n| json!({"id": format!("g{n}"), "uses": "gate/approval", "timeout": format!("{}s", 10 * (n + 1))}))
            .collect();
        for (n, name) in waiters.iter().enumerate() {
            let nap = json!({"duration": format!("{}s", 5 * n)});
            steps.push(json!({"id": format!("n{n}"), "uses": "wait/sleep", "with": nap}));
            steps.push(json!({"id": format!("w{n}"), "uses": "wait/signal", "needs": [format!("n{n}")], "with": {"name": SIGNALS[*name]}}));
        }
        let mut sim = Sim::new(&plan_of(&steps));
        let mut sent = [VecDeque::new(), VecDeque::new()];
        let mut verdicts: [Option<bool>; 3] = [None; 3];
        let mut taken: Vec<Option<usize>> = vec![None; waiters.len()];
        let mut seconds = 0;
        for (number, word) in words.iter().enumerate() {
            match *word {
                Word::Signal(name) => {
                    let payload = Payload::new(&json!(number)).unwrap();
                    let sending = Operation::Signal { name: SIGNALS[name].into(), payload };
                    if sim.operate(&sending).is_ok() {
                        sent[name].push_back(number);
                    } else {
                        prop_assert!(sim.ended().is_some());
                    }
                }
                Word::Verdict(gate, approved) => {
                    let open = verdicts[gate].is_none() && seconds < 10 * (gate as u64 + 1);
                    let verdict = Operation::Decide { step: key(&format!("g{gate}")), approved };
                    prop_assert_eq!(sim.operate(&verdict).is_ok(), open, "a gate is decided once and in time");
                    if open {
                        verdicts[gate] = Some(approved);
                    }
                }
                Word::Pass(more) => {
                    for _ in 0..more {
                        seconds += 1;
                        sim.pass(Duration::from_secs(1));
                        take(&waiters, seconds, &mut sent, &mut taken);
                    }
                }
            }
            take(&waiters, seconds, &mut sent, &mut taken);
        }
        sim.check();
        for (gate, verdict) in verdicts.iter().enumerate() {
            let expected = match verdict {
                Some(true) => StepStatus::Succeeded,
                Some(false) => StepStatus::Failed,
                None if seconds >= 10 * (gate as u64 + 1) => StepStatus::Failed,
                None => StepStatus::Waiting,
            };
            prop_assert_eq!(sim.status(&format!("g{gate}")), expected);
        }
        for (waiter, number) in taken.iter().enumerate() {
            let output = sim.step(&format!("w{waiter}")).output.as_ref().map(|output| output.payload().to_value());
            prop_assert_eq!(output, number.map(|number| json!(number)), "w{}\n{}", waiter, sim.lines);
        }
    }

    #[test]
    fn l3_a_run_folds_to_the_same_in_pages_of_any_size(cuts in prop::collection::vec(any::<Index>(), 0..6)) {
        let mut sim = Sim::new(&plan_of(&[
            with(task("a", &[]), json!({"retry": {"maxAttempts": 2}})),
            with(task("m", &["a"]), json!({"forEach": {"items": [1, 2]}})),
        ]));
        sim.run("a", flaky());
        sim.run("a", good());
        sim.run("m[1]", good());
        let lines: Vec<&str> = sim.lines.split_inclusive('\n').collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(lines.len() + 1)).collect();
        cuts.extend([0, lines.len()]);
        cuts.sort_unstable();
        let pages: Vec<String> = cuts.windows(2).map(|cut| lines[cut[0]..cut[1]].concat()).collect();
        let plan = sim.state.plan.clone();
        let again = RunState::fold(pages.iter().map(String::as_str), |_| Ok(plan.clone())).unwrap().unwrap();
        prop_assert_eq!(again.row(), sim.state.row());
        prop_assert_eq!(unread(again.steps()), unread(sim.state.steps()));
    }
}

/// Who waits takes the oldest signal of its name; who stands first in the plan goes first.
fn take(waiters: &[usize], seconds: u64, sent: &mut [VecDeque<usize>; 2], taken: &mut [Option<usize>]) {
    for (waiter, name) in waiters.iter().enumerate() {
        if taken[waiter].is_none() && seconds >= 5 * waiter as u64 {
            taken[waiter] = sent[*name].pop_front();
        }
    }
}
