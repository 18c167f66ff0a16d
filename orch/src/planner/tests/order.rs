//! Every DAG of up to four steps, every order of names, every combination of outcomes.

use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Every DAG over `names`, as the needs of each.
fn dags(names: &[&'static str]) -> Vec<Vec<(&'static str, Vec<&'static str>)>> {
    let pairs: Vec<(usize, usize)> =
        (0..names.len()).flat_map(|to| (0..to).map(move |from| (from, to))).collect();
    (0..1u32 << pairs.len())
        .map(|bits| {
            let needs = |to: usize| {
                let edges = pairs.iter().enumerate();
                edges
                    .filter(|(bit, pair)| bits >> bit & 1 == 1 && pair.1 == to)
                    .map(|(_, pair)| names[pair.0])
                    .collect()
            };
            (0..names.len()).map(|to| (names[to], needs(to))).collect()
        })
        .collect()
}

fn permutations(names: &[&'static str]) -> Vec<Vec<&'static str>> {
    if names.is_empty() {
        return vec![Vec::new()];
    }
    (0..names.len())
        .flat_map(|first| {
            let rest: Vec<_> = names.iter().copied().filter(|name| *name != names[first]).collect();
            permutations(&rest).into_iter().map(move |mut tail| {
                tail.insert(0, names[first]);
                tail
            })
        })
        .collect()
}

/// Kahn's algorithm as slowly and plainly as it can be said.
fn naive_order(dag: &[(&'static str, Vec<&'static str>)]) -> Vec<&'static str> {
    let mut order: Vec<&'static str> = Vec::new();
    while order.len() < dag.len() {
        let ready = dag
            .iter()
            .filter(|(id, needs)| !order.contains(id) && needs.iter().all(|need| order.contains(need)));
        order.push(ready.map(|(id, _)| *id).min().unwrap());
    }
    order
}

fn every_dag() -> impl Iterator<Item = Vec<(&'static str, Vec<&'static str>)>> {
    (1..=NAMES.len()).flat_map(|count| {
        let orders = permutations(&NAMES[..count]);
        orders.into_iter().flat_map(|names| dags(&names))
    })
}

#[test]
fn the_order_is_kahns_with_the_smallest_ready_id_first() {
    let mut seen = 0;
    for dag in every_dag() {
        let steps: Vec<Value> = dag.iter().map(|(id, needs)| task(id, needs)).collect();
        let plan = plan_of(&steps);
        let order: Vec<&str> = plan.steps().iter().map(|step| step.id.as_str()).collect();
        assert_eq!(order, naive_order(&dag), "{dag:?}");
        seen += 1;
    }
    assert_eq!(seen, 1 + 2 * 2 + 6 * 8 + 24 * 64);
}

/// How each step of the exhaustive runs ends: succeed, succeed after a failed and a lost attempt, fail at once, fail
/// after all attempts.
const OUTCOMES: usize = 4;

fn drive(plan: &SharedPlan, choice: &[usize], check_all: bool) -> Sim {
    let mut sim = Sim::new(plan);
    let mut turns = 0;
    while sim.ended().is_none() {
        turns += 1;
        assert!(turns < 100, "no end in sight\n{}", sim.lines);
        if check_all {
            sim.check();
        }
        let at = sim.state.queued().next().expect("R4: something is queued");
        sim.wait_for(at);
        // R3: what it needs is settled.
        assert!(
            sim.state.plan.needs(at.step).iter().all(|n| sim.state.steps()[*n as usize].status.is_settled())
        );
        sim.start(at);
        let attempt = sim.state.get(at).unwrap().attempt;
        match choice[at.step as usize] {
            0 => sim.finish(at, good()),
            1 if attempt == 2 => sim.pass(LEASE),
            1 if attempt == 3 => sim.finish(at, good()),
            2 => sim.finish(at, fatal()),
            _ => sim.finish(at, flaky()),
        }
    }
    sim
}

#[test]
fn every_small_dag_with_every_outcome_runs_as_declared_to_its_right_end() {
    for count in 1..=NAMES.len() {
        for (number, dag) in dags(&NAMES[..count]).iter().enumerate() {
            let step =
                |(id, needs): &(&str, Vec<&str>)| with(task(id, needs), json!({"retry": {"maxAttempts": 2}}));
            let plan = plan_of(&dag.iter().map(step).collect::<Vec<_>>());
            for code in 0..OUTCOMES.pow(u32::try_from(count).unwrap()) {
                let choice: Vec<usize> =
                    (0..count).map(|i| code / OUTCOMES.pow(u32::try_from(i).unwrap()) % OUTCOMES).collect();
                // Looking at every state of every run takes long; every 31st meets them all many times over.
                let looked_at = (code + number) % 31 == 0;
                let sim = drive(&plan, &choice, looked_at);
                if looked_at {
                    sim.check();
                }
                check_end(&sim, &plan, &choice);
            }
        }
    }
}

/// Compares with what the declarations say, worked out without any state machine.
fn check_end(sim: &Sim, plan: &SharedPlan, choice: &[usize]) {
    let mut expected: Vec<StepStatus> = Vec::new();
    for position in 0..u32::try_from(choice.len()).unwrap() {
        let ready = plan.needs(position).iter().all(|n| expected[*n as usize] == StepStatus::Succeeded);
        expected.push(match choice[position as usize] {
            _ if !ready => StepStatus::Skipped,
            2 | 3 => StepStatus::Failed,
            _ => StepStatus::Succeeded,
        });
    }
    let got: Vec<StepStatus> = sim.state.steps().iter().map(|step| step.status).collect();
    assert_eq!(got, expected, "{choice:?}\n{}", sim.lines);
    let failed = expected.contains(&StepStatus::Failed);
    assert_eq!(sim.ended(), Some(if failed { RunStatus::Failed } else { RunStatus::Completed }));
    if choice.iter().all(|c| *c == 0) {
        let started: Vec<String> = sim
            .story()
            .into_iter()
            .filter_map(|line| line.strip_prefix("step.started ").map(str::to_owned))
            .collect();
        let order: Vec<&str> = plan.steps().iter().map(|step| step.id.as_str()).collect();
        assert_eq!(started, order, "R3: one worker follows the plan");
    }
}

#[test]
fn a_skipped_step_skips_what_needs_it() {
    let plan = plan_of(&[task("a", &[]), task("b", &["a"]), task("c", &["b"]), task("d", &[])]);
    let mut sim = Sim::new(&plan);
    sim.run("a", fatal());
    assert_eq!(sim.status("b"), StepStatus::Skipped);
    assert_eq!(sim.status("c"), StepStatus::Skipped);
    assert_eq!(sim.step("c").error.as_ref().unwrap().message, "`b` is skipped");
    sim.run("d", good());
    assert_eq!(sim.ended(), Some(RunStatus::Failed));
    assert_eq!(sim.state.row().error.unwrap(), "step_failed: step `a` failed (broken)");
}
