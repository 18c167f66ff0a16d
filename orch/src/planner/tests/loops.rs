//! `forEach` and sub-DAGs.

use super::*;

fn each(items: Value, fields: Value) -> SharedPlan {
    let step =
        with(task("m", &[]), json!({"forEach": items, "with": {"n": "${{ item }}", "i": "${{ index }}"}}));
    plan_of(&[with(step, fields), with(task("z", &["m"]), json!({"with": {"all": "${{ steps.m.output }}"}}))])
}

fn echo(sim: &mut Sim, step: &str) {
    let at = sim.at(step);
    let input = sim.state.attempt_input(at, &sim.limits).unwrap();
    sim.run(step, Outcome::Succeeded(input));
    sim.check();
}

#[test]
fn results_come_in_the_order_of_the_items_however_children_end() {
    let mut sim = Sim::new(&each(json!({"items": [30, 10, 20]}), json!({})));
    for child in ["m[2]", "m[0]", "m[1]"] {
        echo(&mut sim, child);
    }
    let output = sim.step("m").output.clone().unwrap();
    assert_eq!(output.payload().as_str(), r#"[{"i":0,"n":30},{"i":1,"n":10},{"i":2,"n":20}]"#);
    assert_eq!(sim.step("m").output_hash, Some(output.payload().digest()));
    sim.run("z", good());
    assert_eq!(sim.ended(), Some(RunStatus::Completed));
}

#[test]
fn items_come_from_an_expression_and_an_empty_list_succeeds_at_once() {
    let plan = each(json!({"items": "inputs.list"}), json!({}));
    let mut sim = Sim::with_inputs(&plan, &json!({"list": []}));
    assert_eq!(sim.step("m").output.as_ref().unwrap().payload().as_str(), "[]");
    assert_eq!(sim.status("z"), StepStatus::Queued);
    sim.check();
    sim.run("z", good());
    assert_eq!(sim.ended(), Some(RunStatus::Completed));
    for inputs in [json!({"list": 7}), json!({})] {
        let sim = Sim::with_inputs(&plan, &inputs);
        assert_eq!(sim.step("m").error.as_ref().unwrap().code, "for_each");
        assert_eq!(sim.ended(), Some(RunStatus::Failed));
    }
}

#[test]
fn too_many_items_fail_the_step() {
    let mut sim = Sim::unopened(&each(json!({"items": [1, 2, 3]}), json!({})), &json!({}), "t");
    sim.limits.map_items = 2;
    sim.settle();
    assert!(sim.step("m").error.as_ref().unwrap().message.contains("too many items"));
    let mut sim = Sim::unopened(&each(json!({"items": ["aaaa", "bbbb"]}), json!({})), &json!({}), "t");
    sim.limits.map_bytes = 10;
    sim.settle();
    assert!(sim.step("m").error.as_ref().unwrap().message.contains("too large"));
    let mut sim = Sim::unopened(&each(json!({"items": ["aaaa", "bbbb"]}), json!({})), &json!({}), "t");
    (sim.limits.map_items, sim.limits.map_bytes) = (2, r#""aaaa""bbbb""#.len());
    sim.settle();
    assert_eq!(sim.step("m").map.as_ref().unwrap().children.len(), 2, "they fit");
}

#[test]
fn never_more_than_max_parallel_are_active() {
    let mut sim = Sim::new(&each(json!({"items": [0, 1, 2, 3, 4], "maxParallel": 2}), json!({})));
    let queued = |sim: &Sim| sim.state.queued().map(|at| at.child.unwrap()).collect::<Vec<_>>();
    assert_eq!(queued(&sim), [0, 1]);
    echo(&mut sim, "m[1]");
    assert_eq!(queued(&sim), [0, 2]);
    sim.start(sim.at("m[0]"));
    assert_eq!(queued(&sim), [2]);
    echo(&mut sim, "m[2]");
    echo(&mut sim, "m[3]");
    echo(&mut sim, "m[4]");
    sim.finish(sim.at("m[0]"), good());
    assert_eq!(sim.status("m"), StepStatus::Succeeded);
}

#[test]
fn a_child_that_will_be_tried_again_keeps_its_place() {
    let plan = each(json!({"items": [0, 1], "maxParallel": 1}), json!({"retry": {"maxAttempts": 2}}));
    let mut sim = Sim::new(&plan);
    sim.run("m[0]", flaky());
    sim.check();
    assert_eq!(sim.state.queued().count(), 1);
    echo(&mut sim, "m[0]");
    echo(&mut sim, "m[1]");
    assert_eq!(sim.status("m"), StepStatus::Succeeded);
}

#[test]
fn a_failed_child_fails_the_step_once_all_are_settled() {
    let mut sim = Sim::new(&each(json!({"items": [0, 1, 2]}), json!({})));
    sim.run("m[1]", fatal());
    echo(&mut sim, "m[0]");
    assert_eq!(sim.status("m"), StepStatus::Running);
    echo(&mut sim, "m[2]");
    assert_eq!(sim.status("m"), StepStatus::Failed);
    assert_eq!(sim.step("m").error.as_ref().unwrap().message, "1 of 3 children failed, the first is m[1]");
    assert_eq!(sim.status("z"), StepStatus::Skipped);
    assert_eq!(sim.ended(), Some(RunStatus::Failed));
}

#[test]
fn children_retried_by_hand_wait_for_a_place_and_the_rest_is_kept() {
    let mut sim = Sim::new(&each(json!({"items": [0, 1, 2, 3, 4, 5], "maxParallel": 2}), json!({})));
    for child in 0..6 {
        let outcome = if child == 2 { good() } else { fatal() };
        sim.run(&format!("m[{child}]"), outcome);
    }
    assert_eq!(sim.ended(), Some(RunStatus::Failed));
    sim.operate(&Operation::Retry(vec![key("m")])).unwrap();
    sim.check();
    assert_eq!((sim.status("m"), sim.status("z")), (StepStatus::Running, StepStatus::Pending));
    assert_eq!(sim.state.queued().count(), 2);
    for child in [1, 0, 3, 4, 5] {
        assert_eq!(sim.step(&format!("m[{child}]")).attempt, 2);
        sim.run(&format!("m[{child}]"), good());
        sim.check();
    }
    assert_eq!(sim.step("m[2]").attempt, 1);
    sim.run("z", good());
    assert_eq!(sim.ended(), Some(RunStatus::Completed));
}

#[test]
fn a_parked_child_gives_up_its_place_and_comes_back_by_hand() {
    let plan = each(json!({"items": [0, 1], "maxParallel": 1}), json!({"retry": {"onExhausted": "park"}}));
    let mut sim = Sim::new(&plan);
    sim.run("m[0]", fatal());
    sim.check();
    assert_eq!(sim.status("m[1]"), StepStatus::Queued);
    sim.operate(&Operation::Retry(vec![key("m[0]")])).unwrap();
    sim.check();
    assert_eq!(sim.status("m[0]"), StepStatus::Pending, "the place is taken");
    echo(&mut sim, "m[1]");
    echo(&mut sim, "m[0]");
    assert_eq!(sim.status("m"), StepStatus::Succeeded);
}

#[test]
fn a_child_whose_input_is_broken_fails_alone_and_can_be_retried() {
    let plan = plan_of(&[with(
        task("m", &[]),
        json!({"forEach": {"items": [{"a": 1}, {}], "maxParallel": 1}, "with": {"v": "${{ item.a }}"}}),
    )]);
    let mut sim = Sim::new(&plan);
    echo(&mut sim, "m[0]");
    assert_eq!(sim.status("m[1]"), StepStatus::Failed);
    assert_eq!(sim.ended(), Some(RunStatus::Failed));
    sim.operate(&Operation::Retry(vec![])).unwrap();
    sim.check();
    assert_eq!(sim.ended(), Some(RunStatus::Failed), "it is as broken as before");
}

fn sub(fields: Value) -> SharedPlan {
    plan_of(&[with(json!({"id": "s", "uses": "dag/child@3", "with": {"x": 1}}), fields)])
}

#[test]
fn a_sub_dag_starts_by_itself_under_a_run_id_of_its_own() {
    let mut sim = Sim::new(&sub(json!({})));
    sim.check();
    let (at, attempt, run) = sim.state.sub_runs().next().unwrap();
    let input = Payload::parse(r#"{"x":1}"#).unwrap().digest();
    let token = child_token(&sim.state, at, attempt);
    let child = "child".parse().unwrap();
    assert_eq!(run, RunId::derive(&sim.state.key.tenant, &child, &token, &input));
    assert!(sim.state.wake_at().is_some(), "R4: a lost word of its end is found");
    sim.finish(at, good());
    assert_eq!(sim.ended(), Some(RunStatus::Completed));
    sim.check();
}

#[test]
fn a_sub_dag_is_tried_again_after_its_backoff_in_a_run_of_its_own() {
    let mut sim = Sim::new(&sub(json!({"retry": {"maxAttempts": 2, "backoff": "10s"}})));
    let (at, _, first) = sim.state.sub_runs().next().unwrap();
    sim.finish(at, flaky());
    assert_eq!(sim.status("s"), StepStatus::Queued, "its backoff is not over");
    let wake = sim.state.wake_at().unwrap();
    assert_eq!(Some(wake), sim.step("s").not_before);
    sim.check();
    sim.now = wake;
    sim.settle();
    let (_, attempt, second) = sim.state.sub_runs().next().unwrap();
    assert_eq!(attempt, 2);
    assert_ne!(first, second);
    sim.check();
}

#[test]
fn a_sub_dag_does_not_start_while_its_run_is_paused() {
    let mut sim = Sim::new(&sub(json!({"retry": {"maxAttempts": 2, "backoff": "10s"}})));
    sim.finish(sim.at("s"), flaky());
    sim.operate(&Operation::Pause).unwrap();
    sim.pass(Duration::from_secs(60));
    assert_eq!(sim.status("s"), StepStatus::Queued);
    sim.operate(&Operation::Resume).unwrap();
    assert_eq!(sim.status("s"), StepStatus::Running);
}

#[test]
fn a_sub_dag_out_of_time_fails_or_is_tried_again() {
    let mut sim = Sim::new(&sub(json!({"timeout": "5s", "retry": {"maxAttempts": 2}})));
    sim.pass(Duration::from_secs(5));
    assert_eq!((sim.status("s"), sim.step("s").attempt), (StepStatus::Queued, 2));
    sim.check();
    let mut sim = Sim::new(&sub(json!({"timeout": "5s"})));
    sim.operate(&Operation::Cancel).unwrap();
    sim.pass(Duration::from_secs(5));
    assert_eq!((sim.status("s"), sim.ended()), (StepStatus::Cancelled, Some(RunStatus::Cancelled)));
}

#[test]
fn an_earlier_result_stands_in_for_a_step_whose_turn_has_come() {
    let plan = plan_of(&[task("a", &[]), task("b", &["a"])]);
    let mut sim = Sim::unopened(&plan, &json!({}), "t");
    let from = crate::ledger::ReusedFrom { run: sim.state.key.run, step: key("a") };
    let output = Payload::parse("7").unwrap();
    let (a, b) = (sim.at("a"), sim.at("b"));
    assert!(attempt::reuse(&sim.state, b, output.clone(), from.clone()).is_err(), "R3");
    let events = attempt::reuse(&sim.state, a, output.clone(), from.clone()).unwrap();
    sim.record(events);
    let events = attempt::reuse(&sim.state, b, output.clone(), from.clone()).unwrap();
    sim.record(events);
    assert_eq!(sim.ended(), Some(RunStatus::Completed));
    assert!(attempt::reuse(&sim.state, b, output, from).is_err());
    sim.check();
}

#[test]
fn a_queued_child_can_take_an_earlier_result() {
    let mut sim = Sim::new(&each(json!({"items": [0, 1, 2], "maxParallel": 1}), json!({})));
    for child in 0..3 {
        let from = crate::ledger::ReusedFrom { run: sim.state.key.run, step: key("x") };
        let at = sim.at(&format!("m[{child}]"));
        let events = attempt::reuse(&sim.state, at, Payload::null(), from).unwrap();
        sim.record(events);
        sim.check();
    }
    assert_eq!(sim.step("m").output.as_ref().unwrap().payload().as_str(), "[null,null,null]");
}

#[test]
fn a_wide_fan_out_is_decided_in_pieces_that_fit_one_append() {
    let plan = each(json!({"items": (0..50).collect::<Vec<_>>()}), json!({}));
    let mut sim = Sim::unopened(&plan, &json!({}), "t");
    sim.limits.append_entries = 10;
    let mut pieces = Vec::new();
    loop {
        let (events, more) = advance_some(&mut sim.state, sim.now, "orch", &sim.limits).unwrap();
        assert!(events.len() < 20, "{}", events.len());
        pieces.push(events.len());
        if !more {
            break;
        }
    }
    assert!(pieces.len() >= 5, "{pieces:?}");
    assert_eq!(sim.state.queued().count(), 50);
    let cancel = operate(&sim.state, &Operation::Cancel, None, &sim.limits).unwrap();
    sim.record(cancel);
    assert_eq!(sim.ended(), Some(RunStatus::Cancelled));
}
