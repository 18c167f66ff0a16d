//! Plans: size, stability, reading back.

use super::*;

/// `layers` layers of `width` steps, each needing two of the layer before.
fn layered(layers: usize, width: usize) -> Value {
    let id = |layer: usize, place: usize| format!("s{layer:05}-{place:05}");
    let steps = (0..layers).flat_map(|layer| {
        (0..width).map(move |place| {
            let needs: Vec<String> = match layer.checked_sub(1) {
                None => Vec::new(),
                Some(above) => vec![id(above, place), id(above, (place + 1) % width)],
            };
            json!({"id": id(layer, place), "uses": "fn/x", "needs": needs})
        })
    });
    dag_of(&steps.collect::<Vec<_>>())
}

#[test]
fn a_long_chain_and_a_wide_layer_are_planned_without_recursion() {
    for (layers, width) in [(100_000, 1), (200, 500)] {
        let plan = plan_from(layered(layers, width));
        assert_eq!(plan.steps().len(), layers * width);
        for (position, step) in (0..).zip(plan.steps()) {
            assert!(plan.needs(position).iter().all(|need| *need < position), "{}", step.id);
        }
        assert!(plan.downstream(&[0]).iter().filter(|reached| **reached).count() >= layers);
    }
}

#[test]
fn a_plan_reads_back_as_itself() {
    let limits = Limits::default();
    let plan = plan_of(&[
        with(task("b", &["a"]), json!({"when": "steps.a.output.n > 1", "retry": {"maxAttempts": 3}})),
        with(task("a", &[]), json!({"forEach": {"items": [1, 2]}, "timeout": "1h 30m"})),
    ]);
    let again = Plan::read(plan.document(), &limits).unwrap();
    assert_eq!((again.dag(), again.hash()), (plan.dag(), plan.hash()));
    assert_eq!(again.summary().unwrap(), plan.summary().unwrap());
}

#[test]
fn a_recorded_plan_reads_back_under_tighter_limits_than_it_was_made_under() {
    let plan = plan_of(&[task("a", &[]), with(task("b", &["a"]), json!({"when": "steps.a.output.n > 1"}))]);
    let tight = Limits { steps: 1, expression_bytes: 1, ..Limits::default() };
    assert_eq!(Plan::read(plan.document(), &tight).unwrap().hash(), plan.hash());
    assert!(Plan::new(plan.dag().clone(), &tight).is_err(), "it could not be made now");
}

#[test]
fn the_hash_of_a_plan_is_pinned() {
    let plan = plan_of(&[task("b", &["a"]), task("a", &[])]);
    assert_eq!(
        plan.document().as_str(),
        r#"{"apiVersion":"orch/v1","id":"d","kind":"Dag","steps":[{"id":"a","uses":"fn/x"},{"id":"b","needs":["a"],"uses":"fn/x"}]}"#
    );
    assert_eq!(plan.hash(), Digest::of(plan.document().as_str()));
    let golden = "c2b80d3aca81035f36494b294234df48ff960b184a32a052805720d0aba6b324";
    assert_eq!(plan.hash().to_string(), golden);
}

#[test]
fn the_way_a_dag_is_written_does_not_change_its_plan() {
    let one = plan_of(&[task("b", &["a", "a"]), task("a", &[])]);
    let mut dag = dag_of(&[task("a", &[]), task("b", &[])]);
    dag["edges"] = json!([{"from": "a", "to": "b"}]);
    assert_eq!(one.hash(), plan_from(dag).hash());
}

#[test]
fn a_document_that_is_not_in_plan_order_or_form_is_refused() {
    let limits = Limits::default();
    for steps in [
        json!([{"id": "b", "uses": "fn/x", "needs": ["a"]}, {"id": "a", "uses": "fn/x"}]),
        json!([{"id": "a", "uses": "fn/x", "needs": []}]),
        json!([{"id": "a", "uses": "fn/x", "needs": ["a"]}]),
        json!([{"id": "a", "uses": "fn/x"}, {"id": "a", "uses": "fn/x"}]),
        json!([{"id": "a", "uses": "fn/x", "needs": ["b"]}]),
        json!([{"id": "a"}]),
    ] {
        let document = Payload::new(&dag_of(steps.as_array().unwrap())).unwrap();
        let error = Plan::read(&document, &limits).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Corrupt, "{document}");
    }
}

#[test]
fn what_the_parser_would_report_is_refused() {
    let dag = |steps: &[Value]| serde_json::from_value(dag_of(steps)).unwrap();
    let refused = |steps: &[Value]| Plan::new(dag(steps), &Limits::default()).unwrap_err().to_string();
    assert!(refused(&[task("a", &["b"]), task("b", &["a"])]).contains("circle step=`a`"));
    let beside = [task("0", &[]), task("a", &["0", "b"]), task("b", &["a"])];
    assert!(refused(&beside).contains("circle step=`a`"), "not the one beside it");
    assert!(refused(&[task("a", &["x"])]).contains("does not exist step=`a` need=`x`"));
    assert!(refused(&[task("a", &[]), task("a", &[])]).contains("same id"));
    assert!(refused(&[with(task("a", &[]), json!({"when": "1 +"}))]).contains("does not compile"));
    let broken = with(task("a", &[]), json!({"with": {"x": "${{ ) }}", "y": "${{ ( }}"}}));
    let text = refused(&[broken]);
    assert!(text.contains("/x: ") && text.contains("; /y: "), "{text}");
    let few = Limits { steps: 1, ..Limits::default() };
    assert!(Plan::new(dag(&[task("a", &[]), task("b", &[])]), &few).is_err());
}

#[test]
fn places_are_named_once_each_in_order_also_where_expressions_name_them() {
    let keys = |names: &[(&str, u32)]| {
        names.iter().map(|(key, limit)| json!({"key": key, "limit": limit})).collect::<Vec<_>>()
    };
    let named =
        keys(&[("z", 1), ("${{ inputs.k }}", 2), ("a", 3), ("${{ 1 + 1 }}", 4), ("z-${{ inputs.k }}", 5)]);
    let constant = keys(&[("z", 1), ("a", 2)]);
    let mut sim = Sim::with_inputs(
        &plan_of(&[
            with(task("constant", &[]), json!({"concurrency": constant})),
            with(task("named", &[]), json!({"concurrency": named})),
            task("none", &[]),
        ]),
        &json!({"k": "b"}),
    );
    let slots = |sim: &Sim, step: &str| -> Vec<(String, u32)> {
        let slots = sim.state.slots(sim.at(step), &sim.limits).unwrap();
        slots.into_iter().map(|slot| (slot.key, slot.capacity)).collect()
    };
    let owned =
        |list: &[(&str, u32)]| list.iter().map(|(key, n)| ((*key).to_owned(), *n)).collect::<Vec<_>>();
    assert_eq!(slots(&sim, "none"), []);
    assert_eq!(slots(&sim, "constant"), owned(&[("a", 2), ("z", 1)]));
    assert_eq!(slots(&sim, "named"), owned(&[("2", 4), ("a", 3), ("b", 2), ("z", 1), ("z-b", 5)]));
    // Two expressions that come to the same key are one place.
    sim = Sim::with_inputs(
        &plan_of(&[with(
            task("named", &[]),
            json!({"concurrency": keys(&[("${{ inputs.k }}", 2), ("z", 1)])}),
        )]),
        &json!({"k": "z"}),
    );
    assert_eq!(slots(&sim, "named"), owned(&[("z", 1)]), "the tighter limit holds");
}

#[test]
fn what_makes_two_attempts_the_same_work_is_step_input_and_executor() {
    let sim = Sim::with_inputs(
        &plan_of(&[
            with(task("a", &[]), json!({"with": {"x": "${{ inputs.x }}"}})),
            with(task("b", &[]), json!({"with": {"x": "${{ inputs.x }}"}})),
        ]),
        &json!({"x": 1}),
    );
    let result =
        |sim: &Sim, step: &str, executor: &str| sim.state.result_key(sim.at(step), executor).unwrap();
    let other = Sim::with_inputs(&sim.state.plan, &json!({"x": 2}));
    let later = Sim::unopened(&sim.state.plan, &json!({"x": 1}), "another run");
    assert_eq!(result(&sim, "a", "v1"), result(&sim, "a", "v1"));
    let all = [
        result(&sim, "a", "v1"),
        result(&sim, "a", "v2"),
        result(&sim, "b", "v1"),
        result(&other, "a", "v1"),
    ];
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 4);
    assert_ne!(result(&later, "a", "v1"), all[0], "its input is not made yet");
}

#[test]
fn who_carries_out_a_step_follows_from_what_it_uses() {
    let uses = [
        "fn/x",
        "process",
        "worker/job",
        "http",
        "dag/d@1",
        "gate/approval",
        "gate/policy",
        "wait/sleep",
        "wait/signal",
    ];
    let steps = (0..).zip(uses).map(
        |(n, uses)| json!({"id": format!("s{n}"), "uses": uses, "with": {"duration": "1s", "name": "x"}}),
    );
    let sim = Sim::new(&plan_of(&steps.collect::<Vec<_>>()));
    let of = |test: &dyn Fn(StepRef) -> bool| (0..9).filter(|n| test(StepRef::top(*n))).collect::<Vec<u32>>();
    assert_eq!(of(&|at| sim.state.is_task(at)), [0, 1, 2, 3]);
    assert_eq!(of(&|at| sim.state.is_sub_dag(at)), [4]);
}
