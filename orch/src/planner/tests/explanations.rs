//! Explanations name the code, the root cause, and say it in a sentence.

use super::*;

fn codes(sim: &Sim, step: &str) -> Vec<String> {
    let explanation = explain(&sim.state, &key(step), sim.now).unwrap();
    assert_eq!(explanation.status, sim.status(step));
    assert!(explanation.summary.starts_with(&format!("`{step}` is ")), "{}", explanation.summary);
    explanation.reasons.iter().map(|reason| format!("{} {}", reason.code, reason.step)).collect()
}

fn summary(sim: &Sim, step: &str) -> String {
    explain(&sim.state, &key(step), sim.now).unwrap().summary
}

#[test]
fn a_pending_step_is_explained_down_to_the_root() {
    let park = json!({"retry": {"onExhausted": "park"}});
    let mut sim = Sim::new(&plan_of(&[
        with(task("a", &[]), park),
        task("b", &["a"]),
        task("c", &["b"]),
        task("x", &[]),
    ]));
    assert_eq!(codes(&sim, "c"), ["needs c", "needs b", "queued a"]);
    assert_eq!(summary(&sim, "c"), "`c` is pending: it waits for `b` (pending).");
    assert_eq!(summary(&sim, "x"), "`x` is queued: no worker has taken attempt 1 from queue `default` yet.");
    sim.start(sim.at("a"));
    assert_eq!(codes(&sim, "c"), ["needs c", "needs b", "running a"]);
    sim.finish(sim.at("a"), fatal());
    assert_eq!(codes(&sim, "c"), ["needs c", "needs b", "parked a"]);
    assert_eq!(summary(&sim, "a"), "`a` is parked: never (broken); retry it, or cancel the run.");
}

#[test]
fn a_run_that_is_held_says_so() {
    let mut sim = Sim::new(&plan_of(&[task("a", &[]), task("b", &["a"]), task("r", &[])]));
    sim.start(sim.at("r"));
    sim.operate(&Operation::Pause).unwrap();
    assert_eq!(codes(&sim, "a"), ["paused a"]);
    assert_eq!(codes(&sim, "b"), ["needs b", "paused b", "paused a"]);
    assert_eq!(codes(&sim, "r"), ["running r"]);
    let events = operate(&sim.state, &Operation::Cancel, Some("enough".into()), &sim.limits).unwrap();
    sim.record(events);
    assert_eq!(summary(&sim, "a"), "`a` is cancelled: the run was cancelled: enough.");
}

#[test]
fn a_backoff_names_its_end_and_its_cause() {
    let mut sim = Sim::new(&plan_of(&[with(task("a", &[]), json!({"retry": {"maxAttempts": 2}}))]));
    sim.run("a", flaky());
    let explanation = explain(&sim.state, &key("a"), sim.now).unwrap();
    assert_eq!(explanation.reasons[0].code, "backoff");
    assert_eq!(explanation.reasons[0].data["until"], json!(sim.step("a").not_before));
    assert_eq!(explanation.reasons[0].data["error"]["code"], "flaky");
    sim.now = sim.step("a").not_before.unwrap();
    assert_eq!(codes(&sim, "a"), ["queued a"]);
}

#[test]
fn a_step_whose_next_attempt_is_not_decided_yet_waits_for_its_backoff_or_its_turn() {
    let mut sim = Sim::new(&plan_of(&[with(task("a", &[]), json!({"retry": {"maxAttempts": 2}}))]));
    sim.start(sim.at("a"));
    let (at, attempt, worker) = (sim.at("a"), 1, Some(worker()));
    let finish = Finish { at, attempt, worker, outcome: flaky(), logs: None };
    let event = attempt::finish(&sim.state, finish, sim.now, &sim.limits).unwrap();
    sim.state.apply(sim.now, "tester", &event).unwrap();
    assert_eq!(codes(&sim, "a"), ["backoff a"]);
    sim.now = sim.step("a").not_before.unwrap();
    assert_eq!(codes(&sim, "a"), ["turn a"]);
}

#[test]
fn children_wait_for_places_and_parents_for_children() {
    let each = json!({"forEach": {"items": [1, 2, 3], "maxParallel": 1}});
    let mut sim = Sim::new(&plan_of(&[with(task("m", &[]), each), task("z", &["m"])]));
    assert_eq!(codes(&sim, "m[2]"), ["maxParallel m[2]"]);
    assert_eq!(
        codes(&sim, "z"),
        ["needs z", "children m", "queued m[0]", "maxParallel m[1]", "maxParallel m[2]"]
    );
    for child in ["m[0]", "m[1]", "m[2]"] {
        sim.run(child, fatal());
    }
    assert_eq!(codes(&sim, "z"), ["skipped z", "failed m", "failed m[0]", "failed m[1]", "failed m[2]"]);
    assert_eq!(summary(&sim, "z"), "`z` is skipped: `m` is failed.");
}

#[test]
fn waits_say_what_they_wait_for() {
    let sim = Sim::new(&plan_of(&[
        json!({"id": "g", "uses": "gate/approval", "timeout": "1h", "with": {"ask": 1}}),
        json!({"id": "p", "uses": "gate/policy"}),
        json!({"id": "s", "uses": "wait/signal", "with": {"name": "go"}}),
        json!({"id": "t", "uses": "wait/sleep", "with": {"duration": "1m"}}),
        json!({"id": "d", "uses": "dag/child@1"}),
    ]));
    let until = T0.plus(Duration::from_secs(3600));
    assert_eq!(
        summary(&sim, "g"),
        format!("`g` is waiting: a person has to decide it, until {until} at most.")
    );
    assert_eq!(summary(&sim, "p"), "`p` is waiting: another service has to decide it.");
    assert_eq!(summary(&sim, "s"), "`s` is waiting: signal `go` has not come.");
    assert_eq!(codes(&sim, "t"), ["sleep t"]);
    assert_eq!(codes(&sim, "d"), ["subDag d"]);
    let asked = &explain(&sim.state, &key("g"), sim.now).unwrap().reasons[0].data;
    assert_eq!(asked["asked"], json!({"ask": 1}));
}

#[test]
fn a_reused_step_names_the_run_its_output_comes_from() {
    let mut sim = Sim::new(&plan_of(&[task("a", &[]), task("b", &[])]));
    let from = crate::ledger::ReusedFrom { run: sim.state.key.run, step: key("z") };
    let events = attempt::reuse(&sim.state, sim.at("a"), Payload::null(), from.clone()).unwrap();
    sim.record(events);
    sim.run("b", good());
    let expected =
        format!("`a` is succeeded: its output was reused from `z` of run {}, at {}.", from.run, sim.now);
    assert_eq!(summary(&sim, "a"), expected);
    let reason = &explain(&sim.state, &key("a"), sim.now).unwrap().reasons[0];
    assert_eq!(reason.data["reused"], json!(from));
    assert_eq!(sim.step("a").reused.as_deref(), Some(&from));
    assert_eq!(sim.step("b").reused, None);
    assert!(summary(&sim, "b").contains("did what it should"));
}

#[test]
fn an_explanation_is_bounded_and_does_not_recurse() {
    let steps: Vec<Value> = (0..5_000)
        .map(|n| {
            let needs = if n == 0 { vec![] } else { vec![format!("s{:05}", n - 1)] };
            json!({"id": format!("s{n:05}"), "uses": "fn/x", "needs": needs})
        })
        .collect();
    let sim = Sim::new(&plan_of(&steps));
    let codes = codes(&sim, "s04999");
    assert_eq!((codes.len(), codes.last().unwrap().as_str()), (26, "queued s00000"), "the root is named");
    assert!(explain(&sim.state, &key("nope"), sim.now).is_err());
}
