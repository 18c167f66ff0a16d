//! Retries, deadlines, lost workers, parking.

use super::*;

fn policy(fields: Value) -> SharedPlan {
    plan_of(&[with(task("a", &[]), fields)])
}

fn waits(sim: &mut Sim, attempts: u32) -> Vec<Duration> {
    let at = sim.at("a");
    (0..attempts)
        .map(|_| {
            sim.wait_for(at);
            sim.start(at);
            sim.finish(at, flaky());
            sim.state.get(at).unwrap().not_before.map_or(Duration::ZERO, |instant| instant.since(sim.now))
        })
        .collect()
}

#[test]
fn the_backoff_doubles_up_to_its_bound_and_jitters_between_half_and_all() {
    let plan = policy(json!({"retry": {"maxAttempts": 9, "backoff": "1s", "maxBackoff": "20s"}}));
    let got = waits(&mut Sim::new(&plan), 8);
    for (wait, full) in got.iter().zip([1, 2, 4, 8, 16, 20, 20, 20]) {
        let full = Duration::from_secs(full);
        assert!(*wait >= full / 2 && *wait <= full, "{wait:?} of {full:?}");
    }
    assert_eq!(got, waits(&mut Sim::new(&plan), 8), "the same run waits the same");
    let mut other = Sim::unopened(&plan, &json!({}), "t2");
    other.settle();
    assert_ne!(got, waits(&mut other, 8), "another run jitters otherwise");
}

#[test]
fn a_backoff_beyond_all_time_does_not_overflow() {
    let plan = policy(
        json!({"retry": {"maxAttempts": 3, "backoff": "500000000years", "maxBackoff": "500000000years"}}),
    );
    let mut sim = Sim::new(&plan);
    sim.run("a", flaky());
    assert_eq!(sim.step("a").not_before, Some(Timestamp::MAX));
}

#[test]
fn attempts_are_numbered_from_one_and_end_at_max_attempts() {
    let plan = policy(json!({"retry": {"maxAttempts": 3}}));
    let mut sim = Sim::new(&plan);
    for attempt in 1..=3 {
        assert_eq!((sim.step("a").attempt, sim.status("a")), (attempt, StepStatus::Queued));
        sim.run("a", flaky());
        sim.check();
    }
    assert_eq!((sim.status("a"), sim.ended()), (StepStatus::Failed, Some(RunStatus::Failed)));
}

#[test]
fn the_limit_on_attempts_stands_above_the_policy() {
    let plan = policy(json!({"retry": {"maxAttempts": 50}}));
    let mut sim = Sim::new(&plan);
    sim.limits.attempts = 2;
    sim.run("a", flaky());
    sim.run("a", flaky());
    assert_eq!(sim.status("a"), StepStatus::Failed);
}

#[test]
fn listed_codes_and_fatal_failures_are_final_at_once() {
    let plan = policy(json!({"retry": {"maxAttempts": 5, "nonRetryable": ["flaky"]}}));
    for outcome in [flaky(), fatal()] {
        let mut sim = Sim::new(&plan);
        sim.run("a", outcome);
        assert_eq!(sim.status("a"), StepStatus::Failed);
    }
}

#[test]
fn an_attempt_is_not_tried_again_before_its_executor_said() {
    let plan = policy(json!({"retry": {"maxAttempts": 2}}));
    let mut sim = Sim::new(&plan);
    let mut failure = Failure::retryable("busy", "later");
    failure.retry_after = Some(Duration::from_secs(77));
    sim.run("a", Outcome::Failed(failure));
    assert_eq!(sim.step("a").not_before, Some(sim.now.plus(Duration::from_secs(77))));
    let start = Start { at: sim.at("a"), attempt: 2, worker: worker(), executor: "v1".into(), lease: LEASE };
    assert!(attempt::start(&sim.state, &start, sim.now).is_err(), "its backoff is not over");
}

#[test]
fn a_retry_that_would_come_after_the_total_time_is_not_made() {
    let plan = policy(json!({"retry": {"maxAttempts": 9, "backoff": "10s"}, "totalTimeout": "3s"}));
    let mut sim = Sim::new(&plan);
    sim.run("a", flaky());
    assert_eq!((sim.status("a"), sim.step("a").attempt), (StepStatus::Failed, 1));
}

#[test]
fn the_total_time_ends_a_step_that_nobody_takes() {
    for (exhausted, status) in [("fail", StepStatus::Failed), ("park", StepStatus::Parked)] {
        let plan = policy(json!({"totalTimeout": "3s", "retry": {"onExhausted": exhausted}}));
        let mut sim = Sim::new(&plan);
        assert_eq!(sim.state.wake_at(), Some(T0.plus(Duration::from_secs(3))));
        sim.pass(Duration::from_secs(3));
        assert_eq!(sim.status("a"), status);
        assert_eq!(sim.step("a").error.as_ref().unwrap().code, "total_timeout");
        sim.check();
    }
}

#[test]
fn an_exhausted_step_is_parked_and_a_retry_gives_it_a_whole_round() {
    let plan = plan_of(&[
        with(task("a", &[]), json!({"retry": {"maxAttempts": 2, "onExhausted": "park"}})),
        task("b", &["a"]),
    ]);
    let mut sim = Sim::new(&plan);
    sim.run("a", flaky());
    sim.run("a", flaky());
    sim.check();
    assert_eq!((sim.status("a"), sim.ended()), (StepStatus::Parked, None));
    sim.operate(&Operation::Retry(vec![])).unwrap();
    sim.run("a", flaky());
    assert_eq!((sim.status("a"), sim.step("a").attempt), (StepStatus::Queued, 4), "numbers go on");
    sim.run("a", good());
    sim.run("b", good());
    assert_eq!(sim.ended(), Some(RunStatus::Completed));
    sim.check();
}

#[test]
fn a_lost_attempt_is_retried_parked_or_failed_as_declared() {
    for (on_lost, status) in
        [("retry", StepStatus::Queued), ("park", StepStatus::Parked), ("fail", StepStatus::Failed)]
    {
        let plan = policy(json!({"retry": {"onLost": on_lost}}));
        let mut sim = Sim::new(&plan);
        sim.start(sim.at("a"));
        assert_eq!(sim.state.wake_at(), Some(T0.plus(LEASE)));
        sim.pass(LEASE - Duration::from_micros(1));
        assert_eq!(sim.status("a"), StepStatus::Running);
        sim.pass(Duration::from_micros(1));
        assert_eq!(sim.status("a"), status);
        sim.check();
    }
}

#[test]
fn lost_attempts_do_not_count_as_failures_but_have_a_limit_of_their_own() {
    for (exhausted, status) in [("fail", StepStatus::Failed), ("park", StepStatus::Parked)] {
        let plan = policy(json!({"retry": {"onExhausted": exhausted}}));
        let mut sim = Sim::new(&plan);
        for loss in 1..=sim.limits.lost_attempts {
            assert_eq!(sim.status("a"), StepStatus::Queued, "before loss {loss}");
            let at = sim.at("a");
            sim.wait_for(at);
            sim.start(at);
            sim.pass(LEASE);
        }
        assert_eq!(sim.status("a"), status);
        assert_eq!(sim.step("a").error.as_ref().unwrap().code, "lost");
    }
}

#[test]
fn a_worker_that_still_works_keeps_its_attempts() {
    let mut sim = Sim::new(&policy(json!({})));
    sim.start(sim.at("a"));
    sim.now = T0.plus(LEASE / 2);
    let event = attempt::progress(&sim.state, &worker(), sim.now.plus(LEASE), Vec::new()).unwrap();
    sim.record(vec![event]);
    sim.pass(LEASE / 2);
    assert_eq!(sim.status("a"), StepStatus::Running);
    sim.check();
    let other = WorkerId::new("other");
    assert!(attempt::progress(&sim.state, &other, sim.now, Vec::new()).is_err());
}

#[test]
fn notes_about_attempts_that_are_gone_are_left_out() {
    let mut sim = Sim::new(&plan_of(&[task("a", &[]), task("b", &[])]));
    sim.start(sim.at("a"));
    let note =
        |step: &str, attempt| crate::ledger::ProgressNote { attempt, note: "…".into(), step: key(step) };
    let notes = vec![note("a", 1), note("a", 2), note("b", 1)];
    let event = attempt::progress(&sim.state, &worker(), sim.now.plus(LEASE), notes).unwrap();
    let Event::AttemptProgress(progress) = &event else { panic!("{event:?}") };
    assert_eq!(progress.notes, [note("a", 1)]);
    sim.record(vec![event]);
}

#[test]
fn r2_a_worker_that_lost_its_attempt_records_nothing() {
    let mut sim = Sim::new(&policy(json!({})));
    let at = sim.at("a");
    sim.start(at);
    let stale = Finish { at, attempt: 1, worker: Some(worker()), outcome: good(), logs: None };
    sim.pass(LEASE);
    let try_finish =
        |sim: &Sim, finish: &Finish| attempt::finish(&sim.state, finish.clone(), sim.now, &sim.limits);
    assert!(try_finish(&sim, &stale).is_err(), "while it is queued again");
    sim.wait_for(at);
    sim.start(at);
    assert!(try_finish(&sim, &stale).is_err(), "while the next attempt runs");
    let thief = Finish { attempt: 2, worker: Some(WorkerId::new("thief")), ..stale.clone() };
    assert!(try_finish(&sim, &thief).is_err(), "another worker's attempt");
    assert!(attempt::release(&sim.state, at, 1, &worker(), sim.now, &sim.limits).is_err());
    sim.finish(at, good());
    assert!(try_finish(&sim, &Finish { attempt: 2, ..stale }).is_err(), "R1: a second success");
}

#[test]
fn an_attempt_that_is_given_back_is_queued_again() {
    let mut sim = Sim::new(&policy(json!({})));
    let at = sim.at("a");
    sim.start(at);
    let event = attempt::release(&sim.state, at, 1, &worker(), sim.now, &sim.limits).unwrap();
    sim.record(vec![event]);
    assert_eq!((sim.status("a"), sim.step("a").attempt), (StepStatus::Queued, 2));
}

#[test]
fn an_attempt_that_was_stopped_without_its_run_being_cancelled_has_failed() {
    let mut sim = Sim::new(&policy(json!({"retry": {"maxAttempts": 4}})));
    sim.run("a", Outcome::Cancelled);
    assert_eq!(sim.step("a").error.as_ref().unwrap().code, "cancelled");
    assert_eq!(sim.ended(), Some(RunStatus::Failed));
}

#[test]
fn a_timed_out_attempt_may_be_tried_again() {
    let mut sim = Sim::new(&policy(json!({"retry": {"maxAttempts": 2}, "timeout": "1s"})));
    sim.run("a", Outcome::TimedOut);
    assert_eq!(sim.step("a").error.as_ref().unwrap().code, "timeout");
    assert_eq!(sim.status("a"), StepStatus::Queued);
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    let mut sim = Sim::new(&policy(json!({})));
    sim.limits.message_bytes = 10;
    sim.run("a", Outcome::Failed(Failure::fatal("x", "ääääääääääää")));
    assert_eq!(sim.step("a").error.as_ref().unwrap().message, "äääää…");
    for exact in ["ääääa", "äääää"] {
        let mut sim = Sim::new(&policy(json!({})));
        sim.limits.message_bytes = exact.len();
        sim.run("a", Outcome::Failed(Failure::fatal("x", exact)));
        assert_eq!(sim.step("a").error.as_ref().unwrap().message, exact, "it fits");
    }
}

#[test]
fn what_an_attempt_logged_is_kept_however_it_ended() {
    let log = crate::ledger::ArtifactRef {
        hash: Digest::of("log"),
        media_type: "text/plain".into(),
        name: None,
        size: 3,
    };
    for (fields, outcome, cancelled, status) in [
        (json!({}), good(), false, StepStatus::Succeeded),
        (json!({}), fatal(), false, StepStatus::Failed),
        (json!({"retry": {"maxAttempts": 2}}), flaky(), false, StepStatus::Queued),
        (json!({"retry": {"onExhausted": "park"}}), fatal(), false, StepStatus::Parked),
        (json!({}), Outcome::Cancelled, true, StepStatus::Cancelled),
    ] {
        let mut sim = Sim::new(&policy(fields));
        let at = sim.at("a");
        sim.start(at);
        if cancelled {
            sim.operate(&Operation::Cancel).unwrap();
        }
        let finish = Finish { at, attempt: 1, worker: Some(worker()), outcome, logs: Some(log.clone()) };
        let event = attempt::finish(&sim.state, finish, sim.now, &sim.limits).unwrap();
        sim.record(vec![event]);
        assert_eq!((sim.status("a"), sim.step("a").logs.as_deref()), (status, Some(&log)));
    }
}

#[test]
fn r2_only_the_attempt_that_is_queued_can_start() {
    let mut sim = Sim::new(&policy(json!({})));
    let at = sim.at("a");
    let start = |attempt| Start { at, attempt, worker: worker(), executor: "v1".into(), lease: LEASE };
    for stale in [0, 2] {
        assert!(attempt::start(&sim.state, &start(stale), sim.now).is_err(), "another attempt is queued");
    }
    sim.start(at);
    for stale in [0, 1, 2] {
        assert!(attempt::start(&sim.state, &start(stale), sim.now).is_err(), "it runs already");
    }
}

#[test]
fn r4_who_looks_and_finds_nothing_looks_again_later_but_not_later_than_a_timer() {
    let seconds = Duration::from_secs;
    let mut sim =
        Sim::new(&plan_of(&[task("a", &[]), json!({"id": "g", "uses": "gate/approval", "timeout": "50s"})]));
    assert_eq!(sim.state.wake_at(), Some(T0.plus(HINT_CHECK)), "its hint may be lost");
    for (looked, again) in [(10, 30), (29, 30), (30, 50), (45, 50), (50, 80), (70, 100)] {
        let found = sim.state.wake_after(T0.plus(seconds(looked)));
        assert_eq!(found, Some(T0.plus(seconds(again))), "looked after {looked} s");
    }
    sim.operate(&Operation::Pause).unwrap();
    assert_eq!(sim.state.wake_at(), Some(T0.plus(seconds(50))), "nothing queued may start");
    sim.pass(seconds(50));
    assert_eq!((sim.state.wake_at(), sim.state.wake_after(sim.now)), (None, None));
    sim.operate(&Operation::Cancel).unwrap();
    assert_eq!((sim.ended(), sim.state.wake_after(sim.now)), (Some(RunStatus::Cancelled), None));
}

#[test]
fn a_cleanup_runs_after_a_failure_and_only_then() {
    let steps = [
        task("a", &[]),
        with(
            task("clean", &["a"]),
            json!({"when": "steps.a.status == 'failed'", "with": {"why": "${{ steps.a.error.code }}"}}),
        ),
    ];
    let plan = plan_of(&steps);
    let mut sim = Sim::new(&plan);
    sim.run("a", good());
    assert_eq!(sim.status("clean"), StepStatus::Skipped);
    assert_eq!(sim.ended(), Some(RunStatus::Completed));
    let mut sim = Sim::new(&plan);
    sim.run("a", fatal());
    assert_eq!(sim.status("clean"), StepStatus::Queued);
    assert_eq!(sim.step("clean").input.as_ref().unwrap().as_str(), r#"{"why":"broken"}"#);
    sim.run("clean", good());
    assert_eq!(sim.ended(), Some(RunStatus::Failed));
    sim.check();
}

#[test]
fn a_broken_expression_fails_its_step_and_no_other() {
    let plan = plan_of(&[
        with(task("a", &[]), json!({"when": "inputs.nope == 1"})),
        with(task("b", &[]), json!({"with": {"x": "${{ inputs.nope }}"}})),
        task("c", &[]),
    ]);
    let mut sim = Sim::new(&plan);
    for step in ["a", "b"] {
        assert_eq!(sim.step(step).error.as_ref().unwrap().code, "expression");
        assert_eq!(sim.status(step), StepStatus::Failed);
    }
    sim.check();
    sim.run("c", good());
    assert_eq!(sim.ended(), Some(RunStatus::Failed));
}

#[test]
fn an_input_too_large_to_record_is_made_again() {
    let plan = plan_of(&[with(task("a", &[]), json!({"with": {"x": "${{ inputs.big }}"}}))]);
    let mut sim = Sim::unopened(&plan, &json!({"big": "x".repeat(500)}), "t");
    sim.limits.payload_bytes = 100;
    sim.settle();
    let at = sim.at("a");
    assert_eq!(sim.step("a").input, None);
    let again = sim.state.attempt_input(at, &sim.limits).unwrap();
    assert_eq!(Some(again.digest()), sim.step("a").input_hash);
}

#[test]
fn the_run_fails_when_its_time_is_up_and_can_be_retried_for_another_round() {
    let mut dag = dag_of(&[task("a", &[]), task("b", &[]), task("c", &["a"])]);
    dag["timeout"] = json!("1h");
    let mut sim = Sim::new(&plan_from(dag));
    sim.run("a", good());
    sim.start(sim.at("c"));
    sim.now = T0.plus(Duration::from_secs(3600 - 10));
    let event = attempt::progress(&sim.state, &worker(), sim.now.plus(LEASE), Vec::new()).unwrap();
    sim.record(vec![event]);
    sim.pass(Duration::from_secs(10));
    assert_eq!(sim.status("b"), StepStatus::Cancelled);
    assert_eq!(sim.ended(), None, "what runs is waited for");
    sim.finish(sim.at("c"), Outcome::Cancelled);
    assert_eq!(sim.ended(), Some(RunStatus::Failed));
    assert!(sim.state.row().error.unwrap().starts_with("run_timeout"));
    sim.operate(&Operation::Retry(vec![])).unwrap();
    sim.check();
    assert_eq!(sim.status("a"), StepStatus::Succeeded, "what succeeded is kept");
    sim.run("b", good());
    sim.run("c", good());
    assert_eq!(sim.ended(), Some(RunStatus::Completed));
    sim.check();
}
