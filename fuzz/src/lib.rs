//! What must hold for any text whatsoever. Each function is the body of the fuzz target of the same name, and the
//! test `orch/tests/fuzz_corpus.rs` runs the same functions over the committed corpus.

mod proof;

use std::sync::OnceLock;

use orch::expr::{Bounds, ErrorView, Expression, LazyValue, Scope, StepView, Template};
use orch::graph::{Graph, layout, to_svg};
use orch::ledger::{Chain, Entry, Head, read_chain};
use orch::planner::{Plan, RunState, unshared_plan};
use orch::{Limits, Payload};
use serde_json::{Value, json};

pub use proof::{checkpoint, export};

/// A document is refused with at least one problem, or it has a plan, and the plan reads back byte for byte:
/// both as a plan and as a document.
pub fn spec(text: &str) {
    let limits = Limits::default();
    let dag = match orch::spec::parse("fuzz", text, &limits) {
        Ok(dag) => dag,
        Err(report) => {
            assert!(!report.problems.is_empty(), "a report without a problem");
            return drop(report.to_string());
        }
    };
    let plan = Plan::new(dag, &limits).expect("a document without problems has a plan");
    let document = plan.document();
    let again = Plan::read(document, &limits).expect("a plan reads back");
    assert_eq!(again.document(), document);
    // Aliases can stand for more text than a document may have.
    if document.len() <= limits.spec_bytes {
        let dag = orch::spec::parse("plan", document.as_str(), &limits).expect("a plan is a document");
        let again = Plan::new(dag, &limits).expect("the document of a plan has a plan");
        assert_eq!(again.document(), document);
    }
    let graph = Graph::of_dag(plan.dag());
    assert!(to_svg(&graph, &layout(&graph)).ends_with("</svg>\n"));
}

/// Source is refused, or gives the same payload or the same error every time; alone and as a template.
pub fn expression(text: &str) {
    let limits = Limits { expression_fuel: 20_000, payload_bytes: 8 << 10, ..Limits::default() };
    let bounds = Bounds::payload(&limits);
    let data = Data::get();
    if let Ok(expression) = Expression::compile(text, &limits) {
        let value = expression.evaluate(data, bounds);
        assert_eq!(value, expression.evaluate(data, bounds));
        if let (Ok(value), Ok(condition)) = (&value, expression.condition(data, bounds)) {
            assert_eq!(*value, Value::Bool(condition));
        }
        value.iter().for_each(survives);
    }
    let document = Payload::parse(text).map_or_else(|_| Value::from(text), |payload| payload.to_value());
    if let Ok(template) = Template::compile(&document, &limits) {
        let value = template.render(data, bounds);
        assert_eq!(value, template.render(data, bounds));
        value.iter().for_each(survives);
    }
}

/// A result comes back from the ledger as it went in.
fn survives(value: &Value) {
    let payload = Payload::new(value).expect("a result is a payload");
    assert_eq!(Payload::new(&payload.to_value()).expect("a payload is one"), payload);
}

/// Lines are refused, or they are entries: the line an entry encodes to reads as the same entry and encodes to the
/// same bytes, and chained anew, whatever they say, entries fold into the state of a run or are refused.
pub fn ledger(text: &str) {
    let entries: Vec<Entry> = text.lines().filter_map(|line| Entry::read(line).ok()).collect();
    for entry in &entries {
        let line = entry.to_line().expect("an entry has a line");
        let again = Entry::read(&line).expect("the line of an entry is one");
        assert_eq!(again.to_line().expect("an entry has a line"), line);
        assert_eq!(again, *entry);
    }
    read_chain(Head::EMPTY, text).for_each(drop);
    let Some(first) = entries.first() else { return };
    let mut chain = Chain::new(&first.tenant, first.stream, Head::EMPTY);
    for entry in &entries {
        chain.push(&entry.actor, entry.at, &entry.event).expect("an event serialises");
    }
    let (lines, head) = chain.finish().expect("events are text");
    if let Ok(Some(state)) = RunState::fold([&*lines], unshared_plan) {
        assert_eq!(state.head, head);
        assert_eq!(state.row().head, head);
        assert_eq!(state.outputs_hash(), state.outputs_hash());
    }
}

/// Canonical text is its own canonical text, and every reader sees the same value in it.
pub fn payload(text: &str) {
    let limits = Limits { spec_depth: usize::MAX, ..Limits::default() };
    if let Ok(payload) = Payload::parse(text) {
        assert_eq!(Payload::parse(payload.as_str()).expect("canonical text is a payload"), payload);
        assert_eq!(Payload::new(&payload.to_value()).expect("the value of a payload is one"), payload);
        assert_eq!(Payload::list([&payload, &payload]).to_value(), json!([payload, payload]));
        let listed = format!("[{payload}]");
        let value = orch::spec::read_value("fuzz", &listed, &limits).expect("a payload is a document");
        assert_eq!(Payload::new(&value[0]).expect("a document of a payload is one"), payload);
    }
    if text.starts_with(['{', '[']) && orch::spec::read_value("fuzz", text, &Limits::default()).is_ok() {
        Payload::parse(text).expect("a document in json is a payload");
    }
}

/// What expressions read: every kind of value, steps in several states, and a few megabytes at most.
struct Data {
    inputs: Value,
    run: Value,
    item: Value,
    output: LazyValue,
}

impl Data {
    fn get() -> &'static Self {
        static DATA: OnceLock<Data> = OnceLock::new();
        DATA.get_or_init(|| Self {
            inputs: json!({"a": 1, "b": -2.5, "c": "text ü😀", "d": [1, 2.0, "x", null, true, [3], {"e": 4}], "e": {},
                "f": false, "g": {"h": {"i": [[], {}]}}, "n": null, "big": 9_007_199_254_740_992_u64, "tiny": 5e-324,
                "huge": 1e300, "list": [3, 1, 2], "words": ["b", "a"], "zeros": "0".repeat(300)}),
            run: json!({"id": "r", "token": "t"}),
            item: json!({"name": "n", "count": 3}),
            output: LazyValue::new(Payload::parse(r#"{"rows":[{"id":1},{"id":2}],"ok":true}"#).expect("json")),
        })
    }
}

impl Scope for Data {
    fn inputs(&self) -> &Value {
        &self.inputs
    }

    fn step(&self, id: &str) -> Option<StepView<'_>> {
        let error = ErrorView { code: "exit_1", message: "it broke" };
        match id {
            "a" => Some(StepView { status: "succeeded", output: Some(&self.output), error: None }),
            "b" => Some(StepView { status: "failed", output: None, error: Some(error) }),
            "c" => Some(StepView { status: "skipped", output: None, error: None }),
            _ => None,
        }
    }

    fn item(&self) -> Option<&Value> {
        Some(&self.item)
    }

    fn index(&self) -> Option<u64> {
        Some(7)
    }

    fn run(&self) -> &Value {
        &self.run
    }
}
