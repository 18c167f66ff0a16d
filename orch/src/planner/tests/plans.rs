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
    for (layers, width) in [(50_000, 1), (100, 500)] {
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
    assert!(refused(&[task("a", &["x"])]).contains("does not exist step=`a` need=`x`"));
    assert!(refused(&[task("a", &[]), task("a", &[])]).contains("same id"));
    assert!(refused(&[with(task("a", &[]), json!({"when": "1 +"}))]).contains("does not compile"));
    let broken = with(task("a", &[]), json!({"with": {"x": "${{ ) }}", "y": "${{ ( }}"}}));
    let text = refused(&[broken]);
    assert!(text.contains("/x: ") && text.contains("; /y: "), "{text}");
    let few = Limits { steps: 1, ..Limits::default() };
    assert!(Plan::new(dag(&[task("a", &[]), task("b", &[])]), &few).is_err());
}
