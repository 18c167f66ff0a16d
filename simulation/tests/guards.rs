//! The simulator itself: it repeats itself, its faults strike, and what it looks for it finds.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use orch::Invariant;
use orch_simulation::{Bug, FAULTS, Fired, Outcome, simulate};

/// Plays seeds on every core, in order of seed, until `enough` of one of them.
fn play(seeds: u64, bug: Option<Bug>, enough: impl Fn(&Outcome) -> bool + Sync) -> Vec<Outcome> {
    let (next, end) = (AtomicU64::new(1), AtomicU64::new(seeds + 1));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut outcomes: Vec<Outcome> = thread::scope(|scope| {
        let work = || {
            let mut mine = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end.load(Ordering::Relaxed) {
                    return mine;
                }
                let outcome = simulate(seed, bug);
                if enough(&outcome) {
                    end.store(0, Ordering::Relaxed);
                }
                mine.push(outcome);
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no world panics")).collect()
    });
    outcomes.sort_by_key(|outcome| outcome.seed);
    outcomes
}

#[test]
fn worlds_keep_every_invariant_and_every_fault_strikes() {
    let outcomes = play(150, None, |_| false);
    assert_eq!(outcomes.len(), 150);
    let mut fired = Fired::new();
    for outcome in &outcomes {
        assert!(outcome.is_good(), "seed {}: {:?} {:?}", outcome.seed, outcome.problems, outcome.odd);
        for (what, count) in &outcome.fired {
            *fired.entry(what).or_default() += count;
        }
    }
    let missed: Vec<_> = FAULTS.iter().filter(|fault| !fired.contains_key(**fault)).collect();
    assert!(missed.is_empty(), "never struck: {missed:?}");
    assert!(outcomes.iter().map(|outcome| outcome.entries).sum::<u64>() > 4_000);
}

#[test]
fn the_same_seed_is_the_same_world_byte_by_byte_and_another_seed_another() {
    let mut traces = BTreeSet::new();
    for seed in 1..=12 {
        let (one, two) = (simulate(seed, None), simulate(seed, None));
        assert!(!one.trace.is_empty());
        if one.trace != two.trace {
            let differs = one.trace.lines().zip(two.trace.lines()).position(|(one, two)| one != two);
            let line = differs.unwrap_or_default();
            panic!(
                "seed {seed}, line {line}: {:?} {:?}",
                one.trace.lines().nth(line),
                two.trace.lines().nth(line)
            );
        }
        assert_eq!((one.ledger, one.entries, &one.fired), (two.ledger, two.entries, &two.fired));
        assert!(traces.insert(one.trace), "seed {seed} is like another");
    }
}

#[test]
fn worlds_that_once_broke_an_invariant_keep_it() {
    // R1: a hint that came twice began an attempt again that its worker had stopped because its lease had ended.
    // L2: two processes wrote the same bytes at the same instant, one of them in vain.
    for seed in [109_969, 37_793] {
        let outcome = simulate(seed, None);
        assert!(outcome.is_good(), "seed {seed}: {:?} {:?}", outcome.problems, outcome.odd);
    }
}

/// Some seed shows the defect, and the first thing said of it is the invariant that it breaks.
fn is_caught(bug: Bug) {
    let outcomes = play(400, Some(bug), |outcome| !outcome.problems.is_empty());
    let caught: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.problems.is_empty()).collect();
    assert!(!caught.is_empty(), "{} is never caught", bug.name());
    for outcome in caught {
        let first = &outcome.problems[0];
        assert_eq!(first.invariant, bug.breaks(), "{} with seed {}: {first:?}", bug.name(), outcome.seed);
    }
}

macro_rules! caught {
    ($($test:ident $bug:ident)*) => {
        $(
            #[test]
            fn $test() {
                is_caught(Bug::$bug);
            }
        )*

        #[test]
        fn every_defect_has_its_test_and_every_invariant_its_defect() {
            let tested: Vec<&str> = [$(Bug::$bug),*].map(Bug::name).to_vec();
            let all: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
            assert_eq!(tested, all);
            let broken: BTreeSet<Invariant> = Bug::ALL.iter().map(|bug| bug.breaks()).collect();
            assert_eq!(broken, Invariant::ALL.iter().copied().collect());
        }
    };
}

caught! {
    l1_an_acknowledged_append_that_is_dropped_is_caught DropAnAppend
    l1_an_answer_before_it_is_durable_is_caught AnswerBeforeDurable
    l2_an_append_that_lands_on_a_stale_head_is_caught LandStale
    l2_a_refused_append_that_lands_is_caught ConflictThatLands
    l3_a_row_left_behind_its_entries_is_caught LeaveTheRowBehind
    r1_a_second_success_is_caught SucceedTwice
    r2_the_success_of_a_lost_attempt_is_caught SkipTheFence
    r3_a_step_scheduled_before_its_turn_is_caught StartBeforeNeeds
    r4_runs_that_nobody_looks_after_are_caught HideDueRuns
    r5_a_submission_without_its_token_is_caught IgnoreTheToken
    t1_a_row_of_another_tenant_is_caught LeakARow
    a1_a_slot_too_many_is_caught OneSlotTooMany
    a1_a_fence_granted_twice_is_caught ReuseAFence
    a1_the_slot_of_a_dead_holder_that_stays_taken_is_caught KeepDeadSlots
    s1_a_step_started_without_the_sandbox_it_needs_is_caught StartWithoutSandbox
    q1_a_forgotten_item_is_caught ForgetAnItem
    p1_a_prune_that_leaves_entries_behind_is_caught PruneNothing
}
