//! Every problem names the invariant that it breaks.

use super::*;
use crate::ledger::{Chain, StepScheduled, StepStarted, StepSucceeded};
use crate::limits::Limits;
use crate::planner::tests::{key as step, worker};
use crate::{Digest, Invariant};

/// `a` before `b`: `a` has been lost once and is under way again.
fn lost_once() -> Sim {
    let mut sim = Sim::new(&plan_of(&[task("a", &[]), task("b", &["a"])]));
    let at = sim.at("a");
    sim.start(at);
    sim.pass(std::time::Duration::from_secs(3_600));
    sim.wait_for(at);
    sim.start(at);
    sim
}

/// What is said of the run with one more entry, whose chain is valid.
fn said_of(sim: &Sim, event: impl Into<Event>) -> Problem {
    let stream = Stream::Run(sim.state.key.run);
    let mut chain = Chain::new(&tenant(), stream, sim.state.head);
    chain.push("rogue", sim.now, &event.into()).unwrap();
    let (line, head) = chain.finish().unwrap();
    let mut verifier = StreamVerifier::new(tenant(), stream, Limits::default());
    let lines = format!("{}{line}", sim.lines);
    lines.split_terminator('\n').for_each(|line| drop(verifier.push(line)));
    verifier.finish(Some(head)).expect("it is no lawful entry")
}

fn success(id: &str, attempt: u32) -> StepSucceeded {
    let output = Payload::null();
    let output_hash = output.digest();
    StepSucceeded { attempt, logs: None, output: Some(output), output_hash, reused: None, step: step(id) }
}

#[test]
fn what_the_fold_refuses_names_the_invariant_in_the_way() {
    let mut sim = lost_once();
    let started = |id: &str| StepStarted {
        attempt: 1,
        child_run: None,
        executor: None,
        lease_until: Some(sim.now),
        step: step(id),
        worker: Some(worker()),
    };
    let scheduled = StepScheduled {
        attempt: 1,
        input: None,
        input_hash: Digest::ZERO,
        not_before: None,
        step: step("b"),
    };
    for (problem, invariant) in [
        (said_of(&sim, success("a", 1)), Invariant::R2),
        (said_of(&sim, success("b", 1)), Invariant::R2),
        (said_of(&sim, scheduled), Invariant::R3),
        (said_of(&sim, started("b")), Invariant::R3),
    ] {
        assert_eq!((problem.code, problem.invariant), ("impossible", invariant), "{problem:?}");
    }
    let at = sim.at("a");
    sim.finish(at, good());
    assert_eq!(said_of(&sim, success("a", 2)).invariant, Invariant::R1);
    sim.run("b", good());
    assert_eq!(said_of(&sim, success("b", 2)).invariant, Invariant::R2, "the run has ended");
}

#[tokio::test]
async fn r5_a_run_that_is_not_the_one_its_token_names_is_found() {
    let (one, other) = (mixed("t1"), mixed("t2"));
    let mut verifier = StreamVerifier::new(tenant(), Stream::Run(other.state.key.run), Limits::default());
    let moved = one.lines.replace(&one.state.key.run.to_string(), &other.state.key.run.to_string());
    verifier.push(moved.lines().next().unwrap());
    let problem = verifier.finish(None).unwrap();
    assert_eq!((problem.code, problem.invariant), ("wrong_id", Invariant::R5));
}

#[tokio::test]
async fn p1_entries_of_a_pruned_run_that_no_row_leads_to_are_found() {
    let sim = mixed("t");
    let store = store_of(&[&sim]).await;
    assert_eq!(prune_them(&store, vec![sim.state.key.run]).await, 1);
    assert_eq!(verify(&store, &VerifyOptions::default()).await.problems, []);
    let Kept { lines, .. } = kept(&sim);
    let (stream, lines) = (Stream::Run(sim.state.key.run), format!("{}\n", lines.join("\n")));
    let head = sim.state.head;
    let append =
        Append { tenant: tenant(), stream, expected: Head::EMPTY, lines: lines.into(), head, row: None };
    store.append(&[append]).await.unwrap().pop().unwrap().unwrap();
    let report = verify(&store, &VerifyOptions::default()).await;
    let found: Vec<_> = report.problems.iter().map(|p| (p.stream, p.code, p.invariant)).collect();
    assert_eq!(found, [(stream, "left_behind", Invariant::P1)]);
}
