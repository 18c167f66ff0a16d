//! Bigger DAGs under a random sequence of everything that can happen to a run.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Drawn {
    kind: u8,
    needs: Vec<u8>,
    fields: u8,
}

fn drawn_step() -> impl Strategy<Value = Drawn> {
    (0u8..16, prop::collection::vec(any::<u8>(), 0..3), any::<u8>()).prop_map(|(kind, needs, fields)| Drawn {
        kind,
        needs,
        fields,
    })
}

/// A step out of what was drawn; it needs only steps before it.
fn step(number: usize, drawn: &Drawn) -> Value {
    let mut needs: Vec<String> = Vec::new();
    if number > 0 {
        needs = drawn.needs.iter().map(|n| format!("s{}", usize::from(*n) % number)).collect();
        needs.sort();
        needs.dedup();
    }
    let mut step = json!({"id": format!("s{number}"), "needs": needs, "uses": "fn/x"});
    match drawn.kind {
        0 => step["uses"] = json!("gate/approval"),
        1 => step = with(step, json!({"uses": "wait/signal", "with": {"name": "go"}})),
        2 => step = with(step, json!({"uses": "wait/sleep", "with": {"duration": "5s"}})),
        3 => step["uses"] = json!("dag/child@1"),
        4..=6 => {
            let items = json!({"items": (0..drawn.fields % 5).collect::<Vec<_>>(), "maxParallel": 1 + drawn.fields % 3});
            step = with(step, json!({"forEach": items, "with": {"v": "${{ item }}"}}));
        }
        _ => {}
    }
    if drawn.fields & 1 == 1 {
        let on_lost = ["retry", "park", "fail"][usize::from(drawn.fields) % 3];
        step["retry"] = json!({
            "maxAttempts": 1 + drawn.fields % 3,
            "onExhausted": if drawn.fields & 2 == 2 { "park" } else { "fail" },
            "onLost": on_lost,
        });
    }
    if drawn.fields & 4 == 4 {
        step["timeout"] = json!("20s");
    }
    if drawn.fields & 8 == 8 {
        step["totalTimeout"] = json!("40s");
    }
    if drawn.fields & 16 == 16 && !needs.is_empty() {
        step["when"] = json!(format!("steps.{}.status != 'skipped'", needs[0]));
    }
    step
}

/// Does one thing that could happen next; `pick` chooses among the steps it could happen to.
fn happen(sim: &mut Sim, what: u8, pick: usize) {
    let choose = |list: Vec<StepRef>| (!list.is_empty()).then(|| list[pick % list.len()]);
    match what % 16 {
        0..=4 => {
            let ready = |at: &StepRef| {
                sim.state.is_task(*at) && sim.state.get(*at).unwrap().not_before.is_none_or(|i| i <= sim.now)
            };
            let list = sim.state.queued().filter(ready).collect();
            if let Some(at) = choose(list).filter(|_| !sim.state.starts_nothing()) {
                let plan = sim.state.plan.clone();
                let settled = |need: &u32| sim.state.steps()[*need as usize].status.is_settled();
                assert!(plan.needs(at.step).iter().all(settled), "R3");
                sim.start(at);
            }
        }
        5..=9 => {
            if let Some(at) = choose(sim.state.running().collect()) {
                let outcome = [good(), good(), flaky(), fatal(), Outcome::TimedOut, Outcome::Cancelled];
                sim.finish(at, outcome[usize::from(what / 16) % 6].clone());
            }
        }
        10 => sim.pass(Duration::from_secs(u64::from(what / 16) * 3)),
        11 => {
            let gate =
                |at: &StepRef| operate(&sim.state, &verdict(sim, *at, what), None, &sim.limits).is_ok();
            let list: Vec<StepRef> = sim.all_steps().into_iter().filter(gate).collect();
            if let Some(at) = choose(list) {
                let operation = verdict(sim, at, what);
                sim.operate(&operation).unwrap();
            }
        }
        12 => drop(sim.operate(&Operation::Signal { name: "go".into(), payload: Payload::null() })),
        13 => drop(sim.operate(&if what < 128 { Operation::Pause } else { Operation::Resume })),
        14 => drop(sim.operate(&Operation::Retry(vec![]))),
        _ if what == 255 => drop(sim.operate(&Operation::Cancel)),
        _ => drop(sim.operate(&Operation::Resume)),
    }
}

fn verdict(sim: &Sim, at: StepRef, what: u8) -> Operation {
    Operation::Decide { step: sim.state.key_of(at), approved: what < 200 }
}

/// Lets everything that is left go well, as far as it goes by itself.
fn finish_well(sim: &mut Sim) {
    for round in 0..2_000 {
        if sim.ended().is_some() {
            return;
        }
        drop(sim.operate(&Operation::Resume));
        let (running, queued) = (sim.state.running().next(), sim.state.queued().next());
        if let Some(at) = running {
            sim.finish(at, good());
        } else if let Some(at) = queued {
            sim.wait_for(at);
            // Waiting may have ended it otherwise.
            let queued = sim.state.get(at).unwrap().status == StepStatus::Queued;
            if queued && sim.state.is_task(at) && !sim.state.starts_nothing() {
                sim.start(at);
            }
        } else if sim.operate(&Operation::Retry(vec![])).is_err() {
            happen(sim, 11, round);
            happen(sim, 12, round);
            sim.pass(Duration::from_secs(5));
        }
    }
    panic!("no end in sight: R4\n{}", sim.lines);
}

proptest! {
    #[test]
    fn whatever_happens_the_fold_is_the_state_and_the_run_can_end(
        steps in prop::collection::vec(drawn_step(), 1..9),
        happenings in prop::collection::vec((any::<u8>(), any::<usize>()), 0..60),
        timeout in prop::option::of(1u8..100),
    ) {
        let steps: Vec<Value> = steps.iter().enumerate().map(|(number, drawn)| step(number, drawn)).collect();
        let mut dag = dag_of(&steps);
        if let Some(seconds) = timeout {
            dag["timeout"] = json!(format!("{seconds}s"));
        }
        let mut sim = Sim::new(&plan_from(dag));
        for (count, (what, pick)) in happenings.iter().enumerate() {
            happen(&mut sim, *what, *pick);
            if count % 4 == 0 {
                sim.check();
            }
        }
        finish_well(&mut sim);
        sim.check();
        let state = &sim.state;
        prop_assert!(state.steps().iter().all(|step| step.status.is_settled()));
        prop_assert!(decide(state, sim.now, &sim.limits).is_empty());
        prop_assert_eq!(state.wake_at(), None);
    }
}
