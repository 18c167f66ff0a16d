//! The language from the outside.

mod conformance;
mod hostile;
mod template;

use serde_json::{Value, json};

use super::{Bounds, ErrorView, EvalError, Expression, LazyValue, Scope, StepView};
use crate::limits::Limits;
use crate::payload::Payload;

/// A run with two steps: `fetch` succeeded, `load.it` failed.
struct Fixture {
    inputs: Value,
    run: Value,
    item: Option<Value>,
    output: LazyValue,
}

impl Fixture {
    fn new() -> Self {
        Self {
            inputs: json!({
                "name": "orch", "count": 3, "ratio": 2.5, "flag": true, "nothing": null, "é": "ü",
                "list": [3, 1, 2], "words": ["b", "a", "b"],
                "map": {"b": 1, "a": 2, "c": 3, "d": 4},
                "people": [{"name": "ann", "age": 30}, {"name": "bob"}],
                "big": 9_007_199_254_740_992_u64,
            }),
            run: json!({"id": "r1"}),
            item: Some(json!({"name": "part", "size": 7})),
            output: LazyValue::new(Payload::of(&json!({"rows": [1, 2], "ok": true})).unwrap()),
        }
    }
}

impl Scope for Fixture {
    fn inputs(&self) -> &Value {
        &self.inputs
    }

    fn step(&self, id: &str) -> Option<StepView<'_>> {
        match id {
            "fetch" => Some(StepView { status: "succeeded", output: Some(&self.output), error: None }),
            "load.it" => {
                let error = ErrorView { code: "timeout", message: "too slow" };
                Some(StepView { status: "failed", output: None, error: Some(error) })
            }
            _ => None,
        }
    }

    fn item(&self) -> Option<&Value> {
        self.item.as_ref()
    }

    fn index(&self) -> Option<u64> {
        self.item.as_ref().map(|_| 4)
    }

    fn run(&self) -> &Value {
        &self.run
    }
}

fn bounds() -> Bounds {
    Bounds::payload(&Limits::default())
}

fn compile(source: &str) -> Expression {
    Expression::compile(source, &Limits::default()).unwrap_or_else(|error| panic!("{source}: {error:?}"))
}

fn evaluate(source: &str) -> Result<Value, EvalError> {
    compile(source).evaluate(&Fixture::new(), bounds())
}

#[test]
fn references_name_the_steps_and_whether_the_item_is_used() {
    let expression = compile(r#"steps.fetch.output.rows + [steps["load.it"].error.code, item.name]"#);
    assert_eq!(expression.references().iter().collect::<Vec<_>>(), ["fetch", "load.it"]);
    assert!(expression.uses_item() && !expression.uses_index());
    let shadowed = compile("inputs.list.map(item, item + index)");
    assert!(!shadowed.uses_item() && shadowed.uses_index());
    assert!(compile("has(steps.later.output)").references().contains("later"));
}

#[test]
fn an_output_is_parsed_only_when_it_is_read() {
    let fixture = Fixture::new();
    for source in ["steps.fetch.status", "has(steps.fetch.output)"] {
        compile(source).evaluate(&fixture, bounds()).unwrap();
        assert!(!fixture.output.is_parsed(), "{source}");
    }
    compile("steps.fetch.output.ok").evaluate(&fixture, bounds()).unwrap();
    assert!(fixture.output.is_parsed());
}

#[test]
fn compile_errors_say_where_and_what_to_do() {
    let cases = [
        ("", 0, "empty"),
        ("1 +", 3, "syntax error"),
        ("(1 + 2", 6, "syntax error"),
        ("1 + input.x", 4, "did you mean `inputs`?"),
        ("abc", 0, "known are index, inputs, item, run, steps"),
        ("inputs.x.sise()", 9, "did you mean `size`?"),
        ("inputs.name.matches('a')", 12, "left out on purpose"),
        ("timestamp('x')", 0, "left out"),
        ("now()", 0, "no clock"),
        ("contains('a', 'b')", 0, "called as text.contains(part)"),
        ("range(1, 2)", 0, "called as range(count)"),
        ("has(inputs)", 3, ""),
        ("inputs.list.map(x)", 12, "list.map(x, result)"),
        ("size(steps)", 5, "one step at a time"),
        ("steps[inputs.name].output", 0, "one step at a time"),
        ("has(steps.a)", 4, "one step at a time"),
        ("steps.a", 0, "say what of the step"),
        ("steps.a.result", 8, "status, output and error"),
        ("steps.a[inputs.name]", 0, "spelled out"),
        ("true && steps.my-step.output", 8, r#"steps["the-id"]"#),
        ("1u", 0, "no unsigned"),
        ("b'x'", 0, "no byte strings"),
        ("Point{x: 1}", 0, "no message types"),
        ("{1: 2}", 0, "map keys are strings"),
        ("inputs.a = 1", 9, "`==`"),
        ("inputs.a & true", 9, "`&&`"),
        ("1 // two", 2, "comments"),
        ("é", 0, "unexpected character"),
        ("inputs.?a", 0, ""),
        ("9223372036854775808", 0, ""),
        ("1e999", 0, ""),
        ("'open", 0, "not closed"),
        ("1)", 1, "closes nothing"),
        ("inputs.list.map(x, y)", 19, "unknown name `y`"),
        ("[1].map(x, x) + [x]", 8, "unknown name `x`"),
    ];
    for (source, offset, part) in cases {
        let error = Expression::compile(source, &Limits::default()).expect_err(source);
        assert!(error.message.contains(part), "{source}: {error:?}");
        if !part.is_empty() {
            assert_eq!(error.offset, offset, "{source}: {error:?}");
        }
    }
}

#[test]
fn evaluation_errors_teach() {
    let cases = [
        ("inputs.map.x", EvalError::NO_FIELD, "no such field `x`, available: a, b, c, d"),
        ("inputs.nam", EvalError::NO_FIELD, "big, count, flag, list, map, name, nothing, people and 3 more"),
        ("inputs.list[3]", EvalError::NO_INDEX, "no such index 3, the list has 3 elements counted from 0"),
        ("inputs.name.x", EvalError::TYPE, "`.x` reads a field of a map, not of string"),
        ("steps['load.it'].output", EvalError::NO_STEP, "is failed and has no output"),
        ("steps.other.status", EvalError::NO_STEP, "there is no step `other`"),
        ("'n: ' + 1", EvalError::TYPE, "`+` cannot take string and int; use string()"),
        ("int('x1')", EvalError::ARGUMENT, "`int` cannot read 'x1'"),
        ("[1].join()", EvalError::TYPE, "element 0 is int"),
        ("inputs.big + 1", EvalError::OVERFLOW, "beyond 2^53"),
    ];
    for (source, code, part) in cases {
        let error = evaluate(source).expect_err(source);
        assert_eq!(error.code, code, "{source}");
        assert!(error.message.contains(part), "{source}: {error}");
        assert!(EvalError::CODES.contains(&error.code));
    }
    let mut fixture = Fixture::new();
    fixture.item = None;
    let error = compile("item").evaluate(&fixture, bounds()).unwrap_err();
    assert_eq!(error.code, EvalError::NO_ITEM);
    let error = compile("inputs.count").condition(&fixture, bounds()).unwrap_err();
    assert!(error.message.contains("a condition is true or false, this one is int"));
}

#[test]
fn errors_become_errors_of_orch() {
    use crate::error::{Error, ErrorKind};
    let compile_error = Expression::compile("1 +", &Limits::default()).unwrap_err();
    assert_eq!(Error::from(compile_error).kind(), ErrorKind::Invalid);
    assert_eq!(Error::from(evaluate("1 / 0").unwrap_err()).kind(), ErrorKind::Invalid);
    let fuel = Bounds { fuel: 1, ..bounds() };
    let error = compile("1 + 1").evaluate(&Fixture::new(), fuel).unwrap_err();
    assert_eq!(Error::from(error).kind(), ErrorKind::LimitExceeded);
}

#[test]
fn macros_over_a_map_see_its_keys_in_byte_order_whatever_the_order_of_insertion() {
    let mut names = ["b", "a", "é", "A", "c", "zz", "z"];
    for _ in 0..names.len() {
        names.rotate_left(1);
        let literal = names.iter().map(|name| format!("'{name}': 1")).collect::<Vec<_>>().join(", ");
        let value = evaluate(&format!("{{{literal}}}.map(k, k)")).unwrap();
        assert_eq!(value, json!(["A", "a", "b", "c", "z", "zz", "é"]));
    }
    assert_eq!(evaluate("inputs.map.map(k, inputs.map[k])").unwrap(), json!([2, 1, 3, 4]));
}
