//! The semantics of the CEL specification (<https://github.com/google/cel-spec>, `doc/langdef.md`), case by case.

use serde_json::{Value, json};

use super::evaluate;
use crate::expr::EvalError;

fn holds(cases: &[(&str, Value)]) {
    for (source, expected) in cases {
        match evaluate(source) {
            Ok(value) => assert_eq!(value, *expected, "{source}"),
            Err(error) => panic!("{source}: {error:?}"),
        }
    }
}

fn fails(cases: &[(&str, &str)]) {
    for (source, code) in cases {
        match evaluate(source) {
            Ok(value) => panic!("{source} gave {value}"),
            Err(error) => assert_eq!(error.code, *code, "{source}: {error}"),
        }
    }
}

#[test]
fn literals() {
    holds(&[
        ("null", Value::Null),
        ("true", json!(true)),
        ("42", json!(42)),
        ("-42", json!(-42)),
        ("0xFF", json!(255)),
        ("-0x10", json!(-16)),
        ("1.5", json!(1.5)),
        ("-1.5e3", json!(-1500)),
        (".5", json!(0.5)),
        ("'a\"b'", json!("a\"b")),
        (r#""a'b""#, json!("a'b")),
        (r"'\n\t\\\''", json!("\n\t\\'")),
        (r"'\u00e9\x41\101'", json!("éAA")),
        (r"r'\n'", json!("\\n")),
        ("'''a'b'''", json!("a'b")),
        ("[]", json!([])),
        ("[1, 'a', null, [true]]", json!([1, "a", null, [true]])),
        ("[1, 2,]", json!([1, 2])),
        ("{}", json!({})),
        ("{'a': 1, 'b': {'c': []}}", json!({"a": 1, "b": {"c": []}})),
        ("{'a' + 'b': 1}", json!({"ab": 1})),
    ]);
    fails(&[("{'a': 1, 'a': 2}", EvalError::ARGUMENT), ("{inputs.count: 1}", EvalError::TYPE)]);
}

#[test]
fn integers() {
    holds(&[
        ("1 + 2 * 3", json!(7)),
        ("(1 + 2) * 3", json!(9)),
        ("10 - 4 - 3", json!(3)),
        ("7 / 2", json!(3)),
        ("-7 / 2", json!(-3)),
        ("7 % 3", json!(1)),
        ("-7 % 3", json!(-1)),
        ("7 % -3", json!(1)),
        ("- -3", json!(3)),
        ("-(-3)", json!(3)),
        ("-inputs.count", json!(-3)),
        ("9007199254740992", json!(9_007_199_254_740_992_u64)),
        ("9223372036854775807 - 9223372036854775806", json!(1)),
        ("inputs.big + 1 > inputs.big", json!(true)),
    ]);
    fails(&[
        ("9223372036854775807 + 1", EvalError::OVERFLOW),
        ("-9223372036854775808 - 1", EvalError::OVERFLOW),
        ("9223372036854775807 * 2", EvalError::OVERFLOW),
        ("-9223372036854775808 / -1", EvalError::OVERFLOW),
        ("-9223372036854775808 % -1", EvalError::OVERFLOW),
        ("-(-9223372036854775808)", EvalError::OVERFLOW),
        ("1 / 0", EvalError::DIVIDE_BY_ZERO),
        ("1 % 0", EvalError::DIVIDE_BY_ZERO),
        ("9007199254740993", EvalError::OVERFLOW),
        ("[{'a': -9007199254740993}]", EvalError::OVERFLOW),
    ]);
}

#[test]
fn doubles() {
    holds(&[
        ("1.5 + 1.5", json!(3)),
        ("0.1 + 0.2", json!(0.1 + 0.2)),
        ("1.0 / 4.0", json!(0.25)),
        ("1 + 1.5", json!(2.5)),
        ("inputs.ratio * inputs.count", json!(7.5)),
        ("-0.0", json!(0)),
        ("1e300", json!(1e300)),
        ("2.0", json!(2)),
    ]);
    fails(&[
        ("1.0 / 0.0", EvalError::DIVIDE_BY_ZERO),
        ("0.0 / 0.0", EvalError::DIVIDE_BY_ZERO),
        ("1e308 * 10.0", EvalError::NOT_FINITE),
        ("1e308 * 10.0 - 1e308 * 10.0", EvalError::NOT_FINITE),
        ("5.0 % 2.0", EvalError::TYPE),
        ("1e16 + 2.0", EvalError::OVERFLOW),
        ("double('inf')", EvalError::NOT_FINITE),
        ("double('NaN')", EvalError::NOT_FINITE),
    ]);
}

#[test]
fn equality_and_order() {
    holds(&[
        ("1 == 1.0", json!(true)),
        ("1.5 == 1", json!(false)),
        ("9007199254740993 == 9007199254740992.0", json!(false)),
        ("9223372036854775807 == 9223372036854775808.0", json!(false)),
        ("9223372036854775807 < 9223372036854775808.0", json!(true)),
        ("1 == '1'", json!(false)),
        ("null == null", json!(true)),
        ("null == 0", json!(false)),
        ("true == 1", json!(false)),
        ("[1, 2] == [1, 2.0]", json!(true)),
        ("[1, 2] == [2, 1]", json!(false)),
        ("[1] == [1, 1]", json!(false)),
        ("{'a': 1, 'b': 2} == {'b': 2, 'a': 1}", json!(true)),
        ("{'a': 1} == {'a': 1, 'b': null}", json!(false)),
        ("{'a': null} == {'b': null}", json!(false)),
        ("1 != 2", json!(true)),
        ("1 < 1.5", json!(true)),
        ("2 >= 2.0", json!(true)),
        ("-1 > -1.5", json!(true)),
        ("'a' < 'b'", json!(true)),
        ("'Z' < 'a'", json!(true)),
        ("'a' < 'aa'", json!(true)),
        ("'z' < 'é'", json!(true)),
        ("false < true", json!(true)),
    ]);
    fails(&[
        ("1 < 'a'", EvalError::TYPE),
        ("[1] < [2]", EvalError::TYPE),
        ("null < null", EvalError::TYPE),
        ("1 < 2 < 3", EvalError::TYPE),
    ]);
}

#[test]
fn logic_is_commutative_over_errors() {
    holds(&[
        ("true || 1 / 0 == 1", json!(true)),
        ("1 / 0 == 1 || true", json!(true)),
        ("false && 1 / 0 == 1", json!(false)),
        ("1 / 0 == 1 && false", json!(false)),
        ("inputs.nope && false", json!(false)),
        ("'text' || true", json!(true)),
        ("!true", json!(false)),
        ("!!true", json!(true)),
        ("!(1 == 2) && 2 > 1", json!(true)),
        ("false || false || true", json!(true)),
        ("true ? 1 : 1 / 0", json!(1)),
        ("false ? 1 / 0 : 2", json!(2)),
        ("false ? 1 : false ? 2 : 3", json!(3)),
        ("1 > 2 || 2 > 1 ? 'y' : 'n'", json!("y")),
    ]);
    fails(&[
        ("false || 1 / 0 == 1", EvalError::DIVIDE_BY_ZERO),
        ("1 / 0 == 1 || false", EvalError::DIVIDE_BY_ZERO),
        ("true && 1 / 0 == 1", EvalError::DIVIDE_BY_ZERO),
        ("true && 'text'", EvalError::TYPE),
        ("1 ? 2 : 3", EvalError::TYPE),
        ("!1", EvalError::TYPE),
        ("-'a'", EvalError::TYPE),
    ]);
}

#[test]
fn selection_and_membership() {
    holds(&[
        ("inputs.name", json!("orch")),
        ("inputs['name']", json!("orch")),
        ("inputs['é']", json!("ü")),
        ("inputs.people[0].name", json!("ann")),
        ("[7, 8, 9][1]", json!(8)),
        ("[7, 8, 9][0.0]", json!(7)),
        ("{'a': {'b': 5}}.a.b", json!(5)),
        ("run.id", json!("r1")),
        ("item.size + index", json!(11)),
        ("has(inputs.name)", json!(true)),
        ("has(inputs.nope)", json!(false)),
        ("has(inputs.nothing)", json!(true)),
        ("has({'a': 1}.a)", json!(true)),
        ("has(inputs.people[1].age)", json!(false)),
        ("3 in inputs.list", json!(true)),
        ("3.0 in inputs.list", json!(true)),
        ("'3' in inputs.list", json!(false)),
        ("'a' in inputs.map", json!(true)),
        ("1 in inputs.map", json!(false)),
        ("!('x' in inputs.map)", json!(true)),
        ("steps.fetch.status == 'succeeded'", json!(true)),
        ("steps.fetch.output.rows[1]", json!(2)),
        ("steps['fetch']['output'].ok", json!(true)),
        ("steps['load.it'].error.code", json!("timeout")),
        ("steps['load.it'].error", json!({"code": "timeout", "message": "too slow"})),
        ("has(steps.fetch.output) && !has(steps.fetch.error)", json!(true)),
        ("has(steps['load.it'].error)", json!(true)),
        ("has(steps.fetch.output.rows)", json!(true)),
    ]);
    fails(&[
        ("inputs.nothing.x", EvalError::TYPE),
        ("has(inputs.nothing.x)", EvalError::TYPE),
        ("has(inputs.nope.x)", EvalError::NO_FIELD),
        ("[1][-1]", EvalError::NO_INDEX),
        ("[1][0.5]", EvalError::NO_INDEX),
        ("[1]['a']", EvalError::TYPE),
        ("inputs.map[1]", EvalError::TYPE),
        ("'abc'[0]", EvalError::TYPE),
        ("1 in 'abc'", EvalError::TYPE),
        ("steps.fetch.error.code", EvalError::NO_STEP),
    ]);
}

#[test]
fn macros() {
    holds(&[
        ("[1, 2, 3].all(x, x > 0)", json!(true)),
        ("[1, 2, 3].all(x, x > 1)", json!(false)),
        ("[].all(x, 1 / 0 == 1)", json!(true)),
        ("[1, 0].all(x, 1 / x == 5)", json!(false)),
        ("[0, 1].all(x, 1 / x == 5)", json!(false)),
        ("[1, 2].exists(x, x == 2)", json!(true)),
        ("[].exists(x, true)", json!(false)),
        ("[0, 1].exists(x, 1 / x == 1)", json!(true)),
        ("['a', 1].exists(x, x > 0)", json!(true)),
        ("[1, 2, 2].exists_one(x, x == 1)", json!(true)),
        ("[1, 2, 2].exists_one(x, x == 2)", json!(false)),
        ("[1, 2].existsOne(x, x == 2)", json!(true)),
        ("[1, 2].map(x, x * 2)", json!([2, 4])),
        ("[1, 2, 3].map(x, x > 1, x * 2)", json!([4, 6])),
        ("[1, 2, 3].filter(x, x % 2 == 1)", json!([1, 3])),
        ("inputs.people.map(p, p.name)", json!(["ann", "bob"])),
        ("inputs.people.filter(p, has(p.age)).size()", json!(1)),
        ("inputs.map.map(k, k)", json!(["a", "b", "c", "d"])),
        ("inputs.map.filter(k, inputs.map[k] > 2)", json!(["c", "d"])),
        ("inputs.map.all(k, k < 'e')", json!(true)),
        ("inputs.map.exists(k, k == 'c')", json!(true)),
        ("[1, 2].map(x, [10, 20].map(y, x + y))", json!([[11, 21], [12, 22]])),
        ("[1, 2].map(x, [3].map(x, x))", json!([[3], [3]])),
        ("[[1, 2], [3]].map(inputs, inputs.size())", json!([2, 1])),
    ]);
    fails(&[
        ("[1, 0].all(x, 1 / x == 1)", EvalError::DIVIDE_BY_ZERO),
        ("[0].exists(x, 1 / x == 1)", EvalError::DIVIDE_BY_ZERO),
        ("[1, 0].exists_one(x, 1 / x == 1)", EvalError::DIVIDE_BY_ZERO),
        ("[0].map(x, 1 / x)", EvalError::DIVIDE_BY_ZERO),
        ("[1].filter(x, x)", EvalError::TYPE),
        ("'abc'.map(x, x)", EvalError::TYPE),
        ("1.0.map(x, x)", EvalError::TYPE),
    ]);
}

#[test]
fn strings() {
    holds(&[
        ("size('héé')", json!(3)),
        ("'𝒳'.size()", json!(1)),
        ("'a' + 'b'", json!("ab")),
        ("'abc'.contains('bc')", json!(true)),
        ("'abc'.contains('')", json!(true)),
        ("'abc'.startsWith('ab')", json!(true)),
        ("'abc'.endsWith('ab')", json!(false)),
        ("'AbÉ'.lowerAscii()", json!("abÉ")),
        ("'abé'.upperAscii()", json!("ABé")),
        ("' \\ta b\\n '.trim()", json!("a b")),
        ("'a,b,,c'.split(',')", json!(["a", "b", "", "c"])),
        ("'a,b,c'.split(',', 2)", json!(["a", "b,c"])),
        ("'a,b'.split(',', 0)", json!([])),
        ("'a,b'.split(',', -1)", json!(["a", "b"])),
        ("'aéb'.split('')", json!(["a", "é", "b"])),
        ("'aéb'.split('', 2)", json!(["a", "éb"])),
        ("''.split(',')", json!([""])),
        ("['a', 'b'].join()", json!("ab")),
        ("['a', 'b'].join('-')", json!("a-b")),
        ("[].join('-')", json!("")),
        ("'aaa'.replace('a', 'b')", json!("bbb")),
        ("'aaa'.replace('a', 'b', 2)", json!("bba")),
        ("'aaa'.replace('a', 'b', 0)", json!("aaa")),
        ("'ab'.replace('', '-')", json!("-a-b-")),
        ("'héllo'.substring(1)", json!("éllo")),
        ("'héllo'.substring(1, 2)", json!("é")),
        ("'abc'.substring(3)", json!("")),
        ("inputs.name.substring(1, 3)", json!("rc")),
    ]);
    fails(&[
        ("'abc'.substring(4)", EvalError::ARGUMENT),
        ("'abc'.substring(-1)", EvalError::ARGUMENT),
        ("'abc'.substring(2, 1)", EvalError::ARGUMENT),
        ("size(1)", EvalError::TYPE),
        ("inputs.count.contains('a')", EvalError::TYPE),
        ("'a'.split(1)", EvalError::TYPE),
    ]);
}

#[test]
fn lists_and_numbers() {
    holds(&[
        ("[1] + [2, 3]", json!([1, 2, 3])),
        ("size([1, 2])", json!(2)),
        ("size({'a': 1})", json!(1)),
        ("inputs.list.sort()", json!([1, 2, 3])),
        ("[2, 1.5, 1].sort()", json!([1, 1.5, 2])),
        ("['b', 'a', 'B'].sort()", json!(["B", "a", "b"])),
        ("[].sort()", json!([])),
        ("inputs.words.distinct()", json!(["b", "a"])),
        ("[1, 1.0, '1', [1], [1.0], null, null].distinct()", json!([1, "1", [1], null])),
        ("[{'a': 1}, {'a': 1}, {'a': 2}].distinct()", json!([{"a": 1}, {"a": 2}])),
        ("[[1], 2, [[3]], []].flatten()", json!([1, 2, [3]])),
        ("range(3)", json!([0, 1, 2])),
        ("range(0)", json!([])),
        ("min(3, 1, 2)", json!(1)),
        ("max(inputs.list)", json!(3)),
        ("max(1, 1.5)", json!(1.5)),
        ("min('b', 'a')", json!("a")),
    ]);
    fails(&[
        ("[1, 'a'].sort()", EvalError::TYPE),
        ("[[1]].sort()", EvalError::TYPE),
        ("[null].sort()", EvalError::TYPE),
        ("min([])", EvalError::ARGUMENT),
        ("max(null)", EvalError::TYPE),
        ("range(-1)", EvalError::ARGUMENT),
        ("[1] + 1", EvalError::TYPE),
    ]);
}

#[test]
fn conversions() {
    holds(&[
        ("int(2.9)", json!(2)),
        ("int(-2.9)", json!(-2)),
        ("int('-12')", json!(-12)),
        ("double(2) / 4", json!(0.5)),
        ("double('1.5')", json!(1.5)),
        ("string(12)", json!("12")),
        ("string(1.0)", json!("1")),
        ("string(1.5)", json!("1.5")),
        ("string(1e21)", json!("1e+21")),
        ("string(true)", json!("true")),
        ("string(9223372036854775807)", json!("9223372036854775807")),
        ("bool('true') && !bool('0')", json!(true)),
    ]);
    fails(&[
        ("int(1e19)", EvalError::OVERFLOW),
        ("int('1.5')", EvalError::ARGUMENT),
        ("int(true)", EvalError::TYPE),
        ("string([1])", EvalError::TYPE),
        ("string(null)", EvalError::TYPE),
        ("bool('yes')", EvalError::ARGUMENT),
        ("bool(1)", EvalError::TYPE),
    ]);
}
