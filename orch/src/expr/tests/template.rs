//! Templates.

use serde_json::{Value, json};

use super::{Fixture, bounds};
use crate::expr::{Bounds, EvalError, Template};
use crate::limits::Limits;

fn render(template: Value) -> Value {
    let template = Template::compile(&template, &Limits::default()).unwrap();
    template.render(&Fixture::new(), bounds()).unwrap()
}

#[test]
fn a_string_that_is_one_expression_keeps_its_type() {
    assert_eq!(render(json!("${{ inputs.list }}")), json!([3, 1, 2]));
    assert_eq!(render(json!("${{inputs.flag}}")), json!(true));
    assert_eq!(render(json!("${{ inputs.nothing }}")), Value::Null);
    assert_eq!(render(json!({"n": ["${{ item.name }}", 1]})), json!({"n": ["part", 1]}));
}

#[test]
fn other_strings_take_expressions_as_text() {
    assert_eq!(render(json!("${{ inputs.name }}/${{ index }}")), json!("orch/4"));
    assert_eq!(render(json!(" ${{ inputs.list }}")), json!(" [3,1,2]"));
    assert_eq!(render(json!("é${{ {'b': 2.0, 'a': null} }}é")), json!("é{\"a\":null,\"b\":2}é"));
    assert_eq!(render(json!("${{ 'a' }}${{ 'b' }}")), json!("ab"));
}

#[test]
fn braces_in_literals_do_not_end_an_expression() {
    assert_eq!(render(json!("${{ '}}' }}")), json!("}}"));
    assert_eq!(render(json!(r#"${{ "\"}}" }}"#)), json!("\"}}"));
    assert_eq!(render(json!("${{ {'a': {'b': 1}} }}")), json!({"a": {"b": 1}}));
    assert_eq!(render(json!("${{{'a': {'b': 1}}}}")), json!({"a": {"b": 1}}));
    assert_eq!(render(json!("${{ '''it's }}''' }}.")), json!("it's }}."));
    assert_eq!(render(json!("${{ '${{ x }}' }}")), json!("${{ x }}"));
}

#[test]
fn an_escape_gives_the_opening_itself() {
    assert_eq!(render(json!("$${{ inputs.name }}")), json!("${{ inputs.name }}"));
    assert_eq!(render(json!("a $${{ b ${{ 1 }}")), json!("a ${{ b 1"));
    assert_eq!(render(json!("$$${{")), json!("$${{"));
    assert_eq!(render(json!("$ {{ }} ${ } $$")), json!("$ {{ }} ${ } $$"));
}

#[test]
fn keys_are_never_templates() {
    assert_eq!(render(json!({"${{ inputs.name }}": 1})), json!({"${{ inputs.name }}": 1}));
}

#[test]
fn a_constant_is_known_as_one_and_references_are_collected() {
    let limits = Limits::default();
    let constant = Template::compile(&json!({"a": [1, "x", {"b": "$${{"}], "c": ""}), &limits).unwrap();
    assert!(constant.is_constant());
    assert_eq!(
        constant.render(&Fixture::new(), bounds()).unwrap(),
        json!({"a": [1, "x", {"b": "${{"}], "c": ""})
    );
    let value =
        json!({"a": ["x ${{ steps.fetch.status }}"], "b": "${{ index }}", "c": "${{ steps['z'].output }}"});
    let template = Template::compile(&value, &limits).unwrap();
    assert!(!template.is_constant() && template.uses_index() && !template.uses_item());
    assert_eq!(template.references().iter().collect::<Vec<_>>(), ["fetch", "z"]);
}

#[test]
fn all_errors_come_at_once_with_pointer_and_offset() {
    let value = json!({
        "a/b": ["ok", "é ${{ nope }}"],
        "c": "text ${{ 1 + 2",
        "d": "${{ }}",
        "e": "${{ 'open }}",
        "f": "${{ {'a': 1 }}",
    });
    let errors = Template::compile(&value, &Limits::default()).unwrap_err();
    let found: Vec<_> = errors.iter().map(|(pointer, error)| (pointer.as_str(), error.offset)).collect();
    assert_eq!(found, [("/a~1b/1", 7), ("/c", 5), ("/d", 3), ("/e", 4), ("/f", 0)]);
    assert!(errors[1].1.message.contains("not closed by `}}`"), "{:?}", errors[1]);
}

#[test]
fn bounds_hold_for_all_expressions_together() {
    let one = "${{ inputs.list.map(x, x) }}";
    let limits = Limits::default();
    let fuel = Bounds { fuel: 30, bytes: 1000 };
    let scope = Fixture::new();
    assert!(Template::compile(&json!([one]), &limits).unwrap().render(&scope, fuel).is_ok());
    let many = Template::compile(&json!([one, one, one, one]), &limits).unwrap();
    assert_eq!(many.render(&scope, fuel).unwrap_err().code, EvalError::FUEL);
    let bytes = Bounds { fuel: 1000, bytes: 20 };
    assert_eq!(many.render(&scope, bytes).unwrap_err().code, EvalError::TOO_LARGE);
    let constant = Template::compile(&json!(["a text longer than twenty bytes"]), &limits).unwrap();
    assert_eq!(constant.render(&scope, bytes).unwrap_err().code, EvalError::TOO_LARGE);
}
