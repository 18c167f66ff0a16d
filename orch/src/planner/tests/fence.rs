//! The fold refuses every entry that could not have followed: R1, R2, R3.

use super::*;
use crate::error::ErrorKind;
use crate::ledger::*;

fn refuses(sim: &Sim, event: impl Into<Event>, why: &str) {
    let event = event.into();
    let mut state = sim.refolded();
    match state.apply(sim.now, "intruder", &event) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{why}: {error}"),
        Ok(()) => panic!("{why}: accepted {event:?}"),
    }
}

fn accepts(sim: &Sim, event: impl Into<Event>) {
    sim.refolded().apply(sim.now, "x", &event.into()).unwrap();
}

fn scheduled(step: &str, attempt: u32) -> StepScheduled {
    StepScheduled { attempt, input: None, input_hash: Digest::ZERO, not_before: None, step: key(step) }
}

fn started(step: &str, attempt: u32) -> StepStarted {
    StepStarted {
        attempt,
        child_run: None,
        executor: Some("v".into()),
        lease_until: Some(T0.plus(LEASE)),
        step: key(step),
        worker: Some(worker()),
    }
}

fn succeeded(step: &str, attempt: u32) -> StepSucceeded {
    let output = Payload::null();
    let output_hash = output.digest();
    StepSucceeded { attempt, logs: None, output: Some(output), output_hash, reused: None, step: key(step) }
}

fn failed(step: &str, attempt: u32, retry_at: Option<Timestamp>) -> StepFailed {
    let (code, message) = ("x".into(), "y".into());
    StepFailed { attempt, code, logs: None, message, retry_at, retryable: true, step: key(step) }
}

fn parked(step: &str, attempt: u32) -> StepParked {
    StepParked { attempt, code: "x".into(), logs: None, message: "y".into(), step: key(step) }
}

fn lost(step: &str, attempt: u32) -> StepLost {
    StepLost { attempt, retry_at: T0, step: key(step), worker: Some(worker()) }
}

fn cancelled(step: &str, attempt: u32) -> StepCancelled {
    StepCancelled { attempt, logs: None, step: key(step) }
}

fn skipped(step: &str) -> StepSkipped {
    StepSkipped { reason: "x".into(), step: key(step) }
}

fn waiting(step: &str) -> StepWaiting {
    StepWaiting { expires_at: None, signal: Some("go".into()), step: key(step), until: None }
}

fn requested(step: &str) -> GateRequested {
    GateRequested { expires_at: None, gate: GateKind::Approval, input: Payload::null(), step: key(step) }
}

fn decided(step: &str) -> GateDecided {
    GateDecided { approved: true, reason: None, step: key(step) }
}

fn expanded(step: &str) -> MapExpanded {
    MapExpanded { items: vec![Payload::null()], step: key(step) }
}

fn retried(steps: &[&str]) -> RunRetried {
    RunRetried { reason: None, steps: steps.iter().map(|step| key(step)).collect() }
}

fn ended() -> [Event; 3] {
    let outputs_hash = Digest::ZERO;
    [
        RunCompleted { outputs_hash }.into(),
        RunFailed { code: "step_failed".into(), message: String::new(), outputs_hash }.into(),
        RunCancelled { outputs_hash }.into(),
    ]
}

/// Every event about one step and attempt, under the name the tables below use.
fn about(step: &str, attempt: u32) -> Vec<(&'static str, Event)> {
    vec![
        ("scheduled", scheduled(step, attempt).into()),
        ("started", started(step, attempt).into()),
        ("succeeded", succeeded(step, attempt).into()),
        ("failed", failed(step, attempt, None).into()),
        ("failed for now", failed(step, attempt, Some(T0)).into()),
        ("lost", lost(step, attempt).into()),
        ("skipped", skipped(step).into()),
        ("parked", parked(step, attempt).into()),
        ("cancelled", cancelled(step, attempt).into()),
        ("waiting", waiting(step).into()),
        ("requested", requested(step).into()),
        ("decided", decided(step).into()),
        ("expanded", expanded(step).into()),
        ("retried", retried(&[step]).into()),
    ]
}

/// The run takes these events about a step and refuses all others.
fn only(sim: &Sim, step: &str, attempt: u32, allowed: &[&str]) {
    for (name, event) in about(step, attempt) {
        let refused = sim.refolded().apply(sim.now, "intruder", &event);
        let why = format!("{name} while `{step}` is {}: {event:?}", sim.status(step));
        assert_eq!(refused.is_ok(), allowed.contains(&name), "{why} {refused:?}");
        if let Err(error) = refused {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{why}");
        }
    }
}

fn plan() -> SharedPlan {
    plan_of(&[
        with(task("a", &[]), json!({"retry": {"onExhausted": "park"}})),
        task("b", &["a"]),
        json!({"id": "g", "uses": "gate/approval"}),
        with(task("m", &[]), json!({"forEach": {"items": [1, 2], "maxParallel": 1}})),
        json!({"id": "s", "uses": "wait/signal", "with": {"name": "go"}}),
        json!({"id": "t", "uses": "wait/sleep", "with": {"duration": "1h"}}),
        json!({"id": "x", "uses": "dag/child@1"}),
    ])
}

#[test]
fn r1_r2_r3_a_step_takes_only_the_events_of_its_status_and_attempt() {
    let mut sim = Sim::new(&plan());
    for attempt in 0..3 {
        only(&sim, "b", attempt, &[]);
    }
    only(&sim, "a", 1, &["started", "failed", "parked"]);
    only(&sim, "a", 2, &[]);
    let a = sim.at("a");
    sim.start(a);
    only(&sim, "a", 1, &["succeeded", "failed", "failed for now", "lost", "parked"]);
    only(&sim, "a", 0, &[]);
    only(&sim, "a", 2, &[]);
    sim.finish(a, flaky());
    only(&sim, "a", 1, &["retried"]);
    sim.operate(&Operation::Retry(vec![])).unwrap();
    sim.start(a);
    only(&sim, "a", 1, &[]);
    sim.finish(a, good());
    for attempt in 0..3 {
        only(&sim, "a", attempt, &[]);
    }
    only(&sim, "b", 1, &["started", "failed", "parked"]);
}

#[test]
fn r3_a_step_whose_turn_has_come_begins_in_its_own_way() {
    let mut sim = Sim::unopened(&plan(), &json!({}), "t1");
    for (step, name) in [("g", "requested"), ("s", "waiting"), ("m", "expanded")] {
        let (_, event) = about(step, 1).into_iter().find(|(other, _)| *other == name).unwrap();
        refuses(&sim, event, "its run has not begun");
    }
    sim.state.apply(sim.now, "x", &RunStarted {}.into()).unwrap();
    for (until, signal) in [(None, None), (Some(T0), Some("go".to_owned()))] {
        for step in ["s", "t"] {
            let event = StepWaiting { signal: signal.clone(), until, ..waiting(step) };
            assert!(sim.state.clone().apply(sim.now, "x", &event.into()).is_err(), "it waits for one thing");
        }
    }
    let sleep = StepWaiting { signal: None, until: Some(T0), ..waiting("t") };
    for (step, begins) in [
        ("a", "scheduled"),
        ("x", "scheduled"),
        ("g", "requested"),
        ("s", "waiting"),
        ("t", ""),
        ("m", "expanded"),
        ("b", ""),
    ] {
        for (name, event) in about(step, 1) {
            let taken = sim.state.clone().apply(sim.now, "x", &event).is_ok();
            let ends = ["failed", "skipped"].contains(&name) && step != "b";
            assert_eq!(taken, name == begins || ends, "{name} of `{step}`, which has not begun");
        }
        let taken =
            sim.state.clone().apply(sim.now, "x", &StepWaiting { step: key(step), ..sleep.clone() }.into());
        assert_eq!(taken.is_ok(), step == "t", "`{step}` sleeps");
        let policy = GateRequested { gate: GateKind::Policy, ..requested(step) };
        assert!(
            sim.state.clone().apply(sim.now, "x", &policy.into()).is_err(),
            "`{step}` is no gate of this kind"
        );
    }
}

#[test]
fn a_gate_that_was_rejected_does_not_succeed_and_is_decided_once() {
    for approved in [true, false] {
        let mut sim = Sim::new(&plan());
        let verdict = GateDecided { approved, ..decided("g") };
        // Applied without deciding what follows, so that the gate stands right before its end.
        sim.state.apply(sim.now, "alice", &verdict.into()).unwrap();
        let good_end = sim.state.clone().apply(sim.now, "x", &succeeded("g", 1).into());
        assert_eq!(good_end.is_ok(), approved, "{good_end:?}");
        assert!(sim.state.clone().apply(sim.now, "x", &decided("g").into()).is_err());
        let again = operate(&sim.state, &Operation::Decide { step: key("g"), approved }, None, &sim.limits);
        assert_eq!(again.unwrap_err().kind(), ErrorKind::Refused);
    }
}

#[test]
fn waits_and_gates_end_only_by_what_they_wait_for() {
    let mut sim = Sim::new(&plan());
    only(&sim, "g", 1, &["decided"]);
    only(&sim, "s", 1, &[]);
    only(&sim, "t", 1, &[]);
    sim.now = T0.plus(Duration::from_secs(3600));
    only(&sim, "t", 1, &["succeeded"]);
}

#[test]
fn children_and_their_parent_keep_their_order_and_places() {
    let mut sim = Sim::new(&plan());
    only(&sim, "m", 0, &[]);
    only(&sim, "m[0]", 1, &["started", "failed", "parked"]);
    only(&sim, "m[1]", 1, &["failed"]);
    sim.run("m[0]", good());
    only(&sim, "m[1]", 1, &["started", "failed", "parked"]);
    refuses(&sim, StepSucceeded { output: None, ..succeeded("m", 0) }, "its children are open");
    refuses(
        &sim,
        StepSucceeded { output: None, ..succeeded("a", 1) },
        "only the list of children is left out",
    );
    refuses(&sim, scheduled("m[2]", 1), "there is no such child");
    refuses(&sim, scheduled("nope", 1), "there is no such step");
}

#[test]
fn a_parent_ends_as_its_children_say() {
    let list = StepSucceeded { output: None, ..succeeded("m", 0) };
    for (last, good_end) in
        [(Event::from(succeeded("m[1]", 1)), true), (failed("m[1]", 1, None).into(), false)]
    {
        let mut sim = Sim::new(&plan());
        sim.run("m[0]", good());
        sim.start(sim.at("m[1]"));
        // Applied without deciding what follows, so that the parent stands right before its end.
        for (end, right) in [(Event::from(list.clone()), good_end), (failed("m", 0, None).into(), !good_end)]
        {
            let mut state = sim.refolded();
            state.apply(sim.now, "x", &last).unwrap();
            assert_eq!(state.apply(sim.now, "x", &end).is_ok(), right, "{end:?} after {last:?}");
        }
    }
}

#[test]
fn a_sub_dag_is_started_as_one_and_a_task_as_one() {
    let sim = Sim::new(&plan());
    only(&sim, "x", 1, &["succeeded", "failed", "failed for now", "lost", "parked"]);
    let child = StepStarted { child_run: Some(sim.state.key.run), ..started("a", 1) };
    refuses(&sim, child, "a task is no run");
    refuses(&sim, StepStarted { worker: None, ..started("a", 1) }, "nobody runs it");
    refuses(&sim, StepStarted { lease_until: None, ..started("a", 1) }, "it would never be lost");
}

#[test]
fn an_attempt_does_not_start_before_its_backoff_is_over() {
    let mut sim = Sim::new(&plan_of(&[with(task("a", &[]), json!({"retry": {"maxAttempts": 2}}))]));
    sim.run("a", flaky());
    refuses(&sim, started("a", 2), "its backoff is not over");
}

#[test]
fn nothing_begins_in_a_run_that_is_paused_or_to_end() {
    let plan = plan();
    let mut sim = Sim::new(&plan);
    sim.operate(&Operation::Pause).unwrap();
    refuses(&sim, started("a", 1), "it is paused");
    refuses(&sim, RunPaused { reason: None }, "it is paused already");
    let mut sim = Sim::new(&plan);
    sim.start(sim.at("a"));
    refuses(&sim, RunResumed { reason: None }, "it is not paused");
    refuses(&sim, RunStarted {}, "it has started already");
    refuses(&sim, cancelled("a", 1), "nobody asked for it");
    sim.operate(&Operation::Cancel).unwrap();
    only(&sim, "a", 1, &["succeeded", "failed", "cancelled"]);
    only(&sim, "a", 0, &[]);
    refuses(&sim, RunCancelRequested { code: None, reason: None }, "it is to end already");
    refuses(&sim, RunPaused { reason: None }, "it is to end");
}

#[test]
fn a_run_ends_once_every_step_is_settled_and_as_they_say() {
    let mut sim = Sim::new(&plan_of(&[task("a", &[])]));
    for end in ended() {
        refuses(&sim, end, "a step is open");
    }
    sim.start(sim.at("a"));
    // Applied without deciding what follows, so that the run stands right before its end.
    for (event, right) in [(Event::from(succeeded("a", 1)), 0), (failed("a", 1, None).into(), 1)] {
        for (number, end) in (0..).zip(ended()) {
            let mut state = sim.refolded();
            state.apply(sim.now, "x", &event).unwrap();
            assert_eq!(state.apply(sim.now, "x", &end).is_ok(), number == right, "{end:?}");
        }
    }
}

#[test]
fn nothing_follows_the_end_but_a_retry_of_a_failed_run() {
    for (outcome, allowed) in [(good(), &[][..]), (fatal(), &["retried"][..])] {
        let mut sim = Sim::new(&plan_of(&[task("a", &[])]));
        sim.run("a", outcome);
        only(&sim, "a", 1, allowed);
        for end in ended() {
            refuses(&sim, end, "it has ended");
        }
        refuses(&sim, RunPaused { reason: None }, "it has ended");
        refuses(&sim, SignalReceived { name: "x".into(), payload: Payload::null() }, "it has ended");
        refuses(&sim, retried(&[]), "nothing is named");
    }
}

#[test]
fn an_earlier_result_is_taken_only_in_its_turn() {
    let sim = Sim::new(&plan());
    let reused = |step: &str| StepSucceeded {
        reused: Some(ReusedFrom { run: sim.state.key.run, step: key("z") }),
        ..succeeded(step, 0)
    };
    refuses(&sim, reused("b"), "its needs are open");
    refuses(&sim, reused("g"), "it waits already");
    refuses(&sim, reused("m"), "it is expanded");
    accepts(&sim, reused("a"));
}

#[test]
fn r2_a_worker_says_nothing_of_attempts_it_does_not_hold() {
    let mut sim = Sim::new(&plan());
    let progress = |who: &str, notes: Vec<ProgressNote>| AttemptProgress {
        lease_until: T0.plus(LEASE),
        notes,
        worker: WorkerId::new(who),
    };
    refuses(&sim, progress("w", vec![]), "it holds nothing");
    sim.start(sim.at("a"));
    accepts(&sim, progress("w", vec![]));
    refuses(&sim, progress("other", vec![]), "it holds nothing");
    let note = ProgressNote { attempt: 2, note: "x".into(), step: key("a") };
    refuses(&sim, progress("w", vec![note]), "not this attempt");
}

#[test]
fn entries_of_other_streams_do_not_belong_into_a_run() {
    let sim = Sim::new(&plan());
    refuses(&sim, sim.state.created.clone(), "it exists");
    refuses(&sim, CheckpointPruned { heads: Vec::new() }, "it is of another stream");
}
