//! Cancel, pause, resume, retry, gates, signals, waits.

use super::*;

fn gate(id: &str, fields: Value) -> Value {
    with(json!({"id": id, "uses": "gate/approval", "with": {"ask": "go?"}}), fields)
}

fn signal(id: &str, name: &str, fields: Value) -> Value {
    with(json!({"id": id, "uses": "wait/signal", "with": {"name": name}}), fields)
}

fn send(name: &str, payload: &str) -> Operation {
    Operation::Signal { name: name.into(), payload: Payload::parse(payload).unwrap() }
}

fn decide_gate(approved: bool) -> Operation {
    Operation::Decide { step: key("g"), approved }
}

/// A run with a step in every status that a run under way can have.
fn busy() -> Sim {
    let park = json!({"retry": {"onExhausted": "park"}});
    let retry = json!({"retry": {"maxAttempts": 3, "backoff": "10s"}});
    let steps = [
        task("done", &[]),
        with(task("again", &[]), retry),
        with(task("map", &[]), json!({"forEach": {"items": [1, 2, 3, 4], "maxParallel": 2}})),
        with(task("parked", &[]), park),
        task("queued", &[]),
        task("running", &[]),
        task("pending", &["running"]),
        gate("g", json!({})),
        signal("s", "go", json!({})),
        json!({"id": "t", "uses": "wait/sleep", "with": {"duration": "1h"}}),
        json!({"id": "sub", "uses": "dag/child@1"}),
    ];
    let mut sim = Sim::new(&plan_of(&steps));
    sim.run("done", good());
    sim.run("again", flaky());
    sim.run("parked", flaky());
    sim.run("map[0]", good());
    sim.start(sim.at("map[1]"));
    sim.start(sim.at("running"));
    sim.check();
    sim
}

#[test]
fn cancelling_ends_a_run_in_every_state_once_what_runs_has_stopped() {
    for paused in [false, true] {
        let mut sim = busy();
        if paused {
            sim.operate(&Operation::Pause).unwrap();
        }
        sim.operate(&Operation::Cancel).unwrap();
        sim.operate(&Operation::Cancel).unwrap();
        assert_eq!(sim.ended(), None);
        let running: Vec<String> = sim.state.running().map(|at| sim.state.key_of(at).to_string()).collect();
        assert_eq!(running, ["map[1]", "running", "sub"], "these are told to stop");
        assert_eq!(sim.state.queued().count(), 0);
        let scheduled = sim.story().iter().filter(|line| line.starts_with("step.scheduled")).count();
        sim.finish(sim.at("map[1]"), flaky());
        assert_eq!(sim.status("map"), StepStatus::Cancelled);
        sim.finish(sim.at("sub"), Outcome::Cancelled);
        sim.pass(LEASE);
        assert_eq!(sim.status("running"), StepStatus::Cancelled, "a dead worker holds nothing up");
        assert_eq!(sim.ended(), Some(RunStatus::Cancelled));
        let after = sim.story().iter().filter(|line| line.starts_with("step.scheduled")).count();
        assert_eq!(scheduled, after, "nothing new is scheduled");
        assert_eq!(sim.status("done"), StepStatus::Succeeded);
        assert_eq!(sim.refolded().row(), sim.state.row());
        assert!(sim.operate(&Operation::Retry(vec![])).is_err());
        sim.operate(&Operation::Cancel).unwrap();
    }
}

#[test]
fn cancelling_ends_a_run_whatever_is_left_of_it() {
    let park = json!({"retry": {"onExhausted": "park"}});
    let kinds = [
        vec![gate("w", json!({}))],
        vec![with(task("p", &[]), park)],
        vec![task("q", &[])],
        vec![task("r", &[]), task("after", &["r"])],
    ];
    for chosen in 1..1u32 << kinds.len() {
        let some = kinds.iter().enumerate().filter(|(kind, _)| chosen >> kind & 1 == 1);
        let steps: Vec<Value> = some.flat_map(|(_, steps)| steps.clone()).collect();
        let mut sim = Sim::new(&plan_of(&steps));
        if chosen & 2 == 2 {
            sim.run("p", fatal());
        }
        if chosen & 8 == 8 {
            sim.start(sim.at("r"));
        }
        sim.operate(&Operation::Cancel).unwrap();
        assert_eq!(sim.state.counts().cancelled as usize, steps.len() - usize::from(chosen & 8 == 8));
        if chosen & 8 == 8 {
            sim.finish(sim.at("r"), Outcome::Cancelled);
        }
        assert_eq!(sim.ended(), Some(RunStatus::Cancelled), "{steps:?}");
    }
}

#[test]
fn a_success_that_comes_while_the_run_is_being_cancelled_counts() {
    let mut sim = busy();
    sim.operate(&Operation::Cancel).unwrap();
    sim.finish(sim.at("running"), good());
    assert_eq!(sim.status("running"), StepStatus::Succeeded);
}

#[test]
fn nothing_starts_in_a_paused_run_but_outcomes_are_recorded() {
    let mut sim = busy();
    sim.operate(&Operation::Pause).unwrap();
    sim.operate(&Operation::Pause).unwrap();
    assert_eq!(sim.state.status(), RunStatus::Paused);
    let before = sim.events.len();
    let queued = sim.at("queued");
    let start = Start { at: queued, attempt: 1, worker: worker(), executor: "v".into(), lease: LEASE };
    assert!(attempt::start(&sim.state, &start, sim.now).is_err());
    sim.finish(sim.at("running"), good());
    sim.finish(sim.at("map[1]"), good());
    sim.operate(&decide_gate(true)).unwrap();
    sim.operate(&send("go", "1")).unwrap();
    sim.pass(Duration::from_secs(3600));
    for (step, status) in [("running", StepStatus::Succeeded), ("g", StepStatus::Succeeded)] {
        assert_eq!(sim.status(step), status);
    }
    assert_eq!((sim.status("s"), sim.status("t")), (StepStatus::Succeeded, StepStatus::Succeeded));
    assert_eq!(sim.status("pending"), StepStatus::Pending);
    let began = ["step.scheduled", "step.started", "step.waiting", "gate.requested", "map.expanded"];
    let story = sim.story();
    assert!(!story[before..].iter().any(|line| began.iter().any(|b| line.starts_with(b))), "{story:?}");
    sim.check();
    sim.operate(&Operation::Resume).unwrap();
    sim.operate(&Operation::Resume).unwrap();
    assert_eq!(sim.status("pending"), StepStatus::Queued);
    assert_eq!(sim.status("map[2]"), StepStatus::Queued);
    sim.check();
}

#[test]
fn a_signal_that_came_in_time_counts_even_if_the_run_was_paused() {
    let mut sim = Sim::new(&plan_of(&[signal("s", "go", json!({"timeout": "10s"}))]));
    sim.operate(&Operation::Pause).unwrap();
    sim.operate(&send("go", "1")).unwrap();
    sim.pass(Duration::from_secs(20));
    assert_eq!(sim.ended(), Some(RunStatus::Completed));
}

#[test]
fn a_retry_of_a_failed_run_keeps_what_succeeded_and_opens_what_was_skipped() {
    let plan = plan_of(&[task("a", &[]), task("b", &[]), task("c", &["a", "b"]), task("d", &["c"])]);
    let mut sim = Sim::new(&plan);
    sim.run("a", good());
    sim.run("b", fatal());
    assert_eq!(sim.ended(), Some(RunStatus::Failed));
    sim.operate(&Operation::Retry(vec![])).unwrap();
    sim.check();
    assert_eq!(sim.state.status(), RunStatus::Running);
    sim.run("b", good());
    sim.run("c", good());
    sim.run("d", good());
    assert_eq!(sim.ended(), Some(RunStatus::Completed));
    assert_eq!(sim.step("a").attempt, 1);
    assert_eq!(sim.step("b").attempt, 2);
    sim.check();
}

#[test]
fn a_retry_says_what_cannot_be_retried() {
    let mut sim = Sim::new(&plan_of(&[task("a", &[]), task("b", &[])]));
    sim.run("a", good());
    for (named, word) in
        [(vec![key("a")], "neither"), (vec![key("x")], "no such step"), (vec![], "no failed")]
    {
        let error = sim.operate(&Operation::Retry(named)).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    sim.run("b", good());
    let error = sim.operate(&Operation::Retry(vec![])).unwrap_err();
    assert!(error.to_string().contains("only a failed run"), "{error}");
}

#[test]
fn steps_that_need_each_other_are_retried_in_their_order() {
    let any = json!({"when": "true"});
    let mut sim = Sim::new(&plan_of(&[task("a", &[]), with(task("b", &["a"]), any), task("c", &[])]));
    sim.run("a", fatal());
    sim.run("b", fatal());
    sim.operate(&Operation::Retry(vec![])).unwrap();
    sim.check();
    assert_eq!((sim.status("a"), sim.status("b")), (StepStatus::Queued, StepStatus::Pending));
    sim.run("a", good());
    sim.run("b", good());
    sim.run("c", good());
    assert_eq!(sim.ended(), Some(RunStatus::Completed));
}

#[test]
fn a_retry_waits_for_what_the_failure_led_to() {
    let after = json!({"when": "steps.a.status == 'failed'", "retry": {"maxAttempts": 2}});
    let plan = plan_of(&[task("a", &[]), with(task("b", &["a"]), after), task("c", &[])]);
    let mut sim = Sim::new(&plan);
    sim.run("a", fatal());
    for stage in 0..3 {
        match stage {
            1 => sim.start(sim.at("b")),
            2 => sim.finish(sim.at("b"), flaky()),
            _ => {}
        }
        for named in [vec![], vec![key("a")]] {
            let error = sim.operate(&Operation::Retry(named)).unwrap_err();
            assert!(error.to_string().contains("under_way=`b`"), "{error}");
        }
    }
    sim.run("b", good());
    sim.operate(&Operation::Retry(vec![key("a")])).unwrap();
    sim.check();
    assert_eq!(sim.status("b"), StepStatus::Succeeded, "what ran because of it stays");
    sim.run("a", good());
    sim.run("c", good());
    assert_eq!(sim.ended(), Some(RunStatus::Completed));
}

#[test]
fn a_retry_of_all_means_those_that_can_be() {
    let after = json!({"when": "steps.a.status == 'failed'"});
    let steps = [
        task("a", &[]),
        with(task("b", &["a"]), after),
        task("c", &[]),
        task("a-other", &[]),
        task("a-skipped", &["a"]),
    ];
    let mut sim = Sim::new(&plan_of(&steps));
    sim.run("a", fatal());
    sim.start(sim.at("a-other"));
    sim.start(sim.at("b"));
    sim.run("c", fatal());
    let error = sim.operate(&Operation::Retry(vec![key("a"), key("c")])).unwrap_err().to_string();
    assert!(error.contains("step=`a`"), "who names a step is told about it: {error}");
    sim.operate(&Operation::Retry(vec![])).unwrap();
    sim.check();
    let error = sim.operate(&Operation::Retry(vec![key("a")])).unwrap_err().to_string();
    assert!(error.contains("step=`a`") && error.contains("under_way=`b`"), "{error}");
    assert_eq!(
        (sim.status("a"), sim.status("c")),
        (StepStatus::Failed, StepStatus::Queued),
        "`b` runs because of `a`"
    );
}

#[test]
fn a_gate_is_approved_rejected_or_expires() {
    let plan = plan_of(&[gate("g", json!({"timeout": "1h"})), task("a", &["g"])]);
    let mut sim = Sim::new(&plan);
    assert_eq!(sim.state.wake_at(), Some(T0.plus(Duration::from_secs(3600))));
    let events = operate(&sim.state, &decide_gate(true), Some("fine".into()), &sim.limits).unwrap();
    sim.record_as("alice", events);
    let output = sim.step("g").output.as_ref().unwrap().get().clone();
    assert_eq!(output, json!({"actor": "alice", "approved": true, "at": T0.to_string(), "reason": "fine"}));
    assert_eq!(sim.status("a"), StepStatus::Queued);
    sim.check();
    assert!(sim.operate(&decide_gate(true)).is_err(), "it is decided");

    let mut sim = Sim::new(&plan);
    sim.operate(&decide_gate(false)).unwrap();
    assert_eq!(sim.step("g").error.as_ref().unwrap().code, "rejected");
    assert_eq!((sim.status("a"), sim.ended()), (StepStatus::Skipped, Some(RunStatus::Failed)));

    let mut sim = Sim::new(&plan);
    sim.pass(Duration::from_secs(3600));
    assert_eq!(sim.step("g").error.as_ref().unwrap().code, "expired");
    assert!(sim.operate(&decide_gate(true)).is_err());
}

#[test]
fn a_verdict_after_the_expiry_does_not_open_the_gate() {
    let mut sim = Sim::new(&plan_of(&[gate("g", json!({"timeout": "1h"}))]));
    sim.now = T0.plus(Duration::from_secs(3600));
    sim.operate(&decide_gate(true)).unwrap();
    assert_eq!(sim.step("g").error.as_ref().unwrap().code, "expired");
    sim.check();
}

#[test]
fn only_gates_are_decided() {
    let mut sim = Sim::new(&plan_of(&[task("g", &[])]));
    assert!(sim.operate(&decide_gate(true)).unwrap_err().to_string().contains("no gate"));
}

#[test]
fn signals_meet_their_waiters_whichever_comes_first() {
    let steps = [
        task("a", &[]),
        signal("s1", "go", json!({})),
        signal("s2", "go", json!({})),
        signal("s3", "go", json!({"needs": ["a"]})),
    ];
    let mut sim = Sim::new(&plan_of(&steps));
    for payload in ["1", "2", "3"] {
        sim.operate(&send("go", payload)).unwrap();
        sim.check();
    }
    let output = |sim: &Sim, step: &str| sim.step(step).output.as_ref().map(|o| o.payload().to_string());
    assert_eq!(output(&sim, "s1").as_deref(), Some("1"));
    assert_eq!(output(&sim, "s2").as_deref(), Some("2"));
    assert_eq!(output(&sim, "s3"), None);
    sim.run("a", good());
    assert_eq!(output(&sim, "s3").as_deref(), Some("3"), "it was kept");
    assert_eq!(sim.ended(), Some(RunStatus::Completed));
}

#[test]
fn signals_that_nothing_waits_for_are_bounded() {
    let mut sim = Sim::new(&plan_of(&[task("a", &[])]));
    sim.limits.pending_signals = 2;
    sim.operate(&send("x", "1")).unwrap();
    sim.operate(&send("y", "1")).unwrap();
    assert!(sim.operate(&send("x", "1")).is_err());
}

#[test]
fn a_wait_ends_when_its_time_has_come_or_fails_when_it_may_take_no_longer() {
    let sleep =
        |fields: Value| with(json!({"id": "t", "uses": "wait/sleep", "with": {"duration": "1m"}}), fields);
    let mut sim = Sim::new(&plan_of(&[sleep(json!({}))]));
    sim.pass(Duration::from_secs(59));
    assert_eq!(sim.status("t"), StepStatus::Waiting);
    sim.check();
    sim.pass(Duration::from_secs(1));
    assert_eq!(sim.ended(), Some(RunStatus::Completed));
    let mut sim = Sim::new(&plan_of(&[sleep(json!({"timeout": "5s"}))]));
    sim.pass(Duration::from_secs(5));
    assert_eq!(sim.step("t").error.as_ref().unwrap().code, "timeout");
    let mut sim = Sim::new(&plan_of(&[signal("s", "go", json!({"timeout": "5s"}))]));
    sim.pass(Duration::from_secs(5));
    assert_eq!(sim.step("s").error.as_ref().unwrap().code, "signal_timeout");
    sim.check();
    for (uses, input) in
        [("wait/sleep", json!({"duration": "soon"})), ("wait/sleep", json!({})), ("wait/signal", json!({}))]
    {
        let sim = Sim::new(&plan_of(&[json!({"id": "t", "uses": uses, "with": input})]));
        assert_eq!(sim.step("t").error.as_ref().unwrap().code, "invalid_input");
    }
}

#[test]
fn nothing_can_be_asked_of_a_run_that_has_ended() {
    let mut sim = Sim::new(&plan_of(&[task("a", &[])]));
    sim.run("a", good());
    for operation in [Operation::Cancel, Operation::Pause, Operation::Resume, send("x", "1")] {
        assert!(sim.operate(&operation).unwrap_err().to_string().contains("ended"), "{}", operation.word());
    }
}
