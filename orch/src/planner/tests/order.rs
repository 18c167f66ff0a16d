//! The order of every DAG of up to five steps, under every naming; and what follows from a failure.

use super::*;

pub(super) const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Every DAG over `names`, as the needs of each.
pub(super) fn dags(names: &[&'static str]) -> Vec<Vec<(&'static str, Vec<&'static str>)>> {
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

/// Every order of `items`, which differ.
pub(super) fn permutations<T: Copy + PartialEq>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    (0..items.len())
        .flat_map(|first| {
            let rest: Vec<T> = items.iter().copied().filter(|item| *item != items[first]).collect();
            permutations(&rest).into_iter().map(move |mut tail| {
                tail.insert(0, items[first]);
                tail
            })
        })
        .collect()
}

/// Kahn's algorithm as slowly and plainly as it can be said.
pub(super) fn naive_order<'a>(dag: &[(&'a str, Vec<&'a str>)]) -> Vec<&'a str> {
    let mut order: Vec<&str> = Vec::new();
    while order.len() < dag.len() {
        let ready = dag
            .iter()
            .filter(|(id, needs)| !order.contains(id) && needs.iter().all(|need| order.contains(need)));
        order.push(ready.map(|(id, _)| *id).min().unwrap());
    }
    order
}

/// Every DAG of `count` named steps, once.
fn every_dag(count: usize) -> BTreeSet<Vec<(&'static str, Vec<&'static str>)>> {
    let named = permutations(&NAMES[..count]).into_iter().flat_map(|names| dags(&names));
    named
        .map(|mut dag| {
            dag.iter_mut().for_each(|(_, needs)| needs.sort_unstable());
            dag.sort_unstable();
            dag
        })
        .collect()
}

fn check_order(dag: &[(&'static str, Vec<&'static str>)], template: &crate::spec::Dag) {
    let mut document = template.clone();
    for (step, (id, needs)) in document.steps.iter_mut().zip(dag) {
        step.id = id.parse().unwrap();
        step.needs = needs.iter().map(|need| need.parse().unwrap()).collect();
    }
    let plan = Plan::new(document, &Limits::default()).unwrap();
    let order: Vec<&str> = plan.steps().iter().map(|step| step.id.as_str()).collect();
    assert_eq!(order, naive_order(dag), "{dag:?}");
}

#[test]
fn r3_the_order_is_kahns_with_the_smallest_ready_id_first_for_every_dag_of_up_to_five_steps() {
    // The numbers of labelled acyclic digraphs (OEIS A003024).
    for (count, number) in (1..).zip([1, 3, 25, 543, 29_281]) {
        let steps: Vec<Value> = NAMES[..count].iter().map(|name| task(name, &[])).collect();
        let template = serde_json::from_value(dag_of(&steps)).unwrap();
        let all = every_dag(count);
        assert_eq!(all.len(), number);
        all.iter().for_each(|dag| check_order(dag, &template));
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
