//! Hostile source and hostile data: nothing panics, nothing runs away.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Fixture, bounds, compile, evaluate};
use crate::expr::{Bounds, EvalError, Expression, Template};
use crate::limits::Limits;

/// Runs on a stack no larger than a worker thread's.
fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn deep_or_endless_source_is_refused_without_exhausting_the_stack() {
    on_a_small_stack(|| {
        let limits = Limits::default();
        let units = [
            "(",
            "!",
            "-",
            "[",
            "{",
            "a?b:",
            "a.",
            "a[",
            "-!",
            "1+",
            "true?",
            "f(",
            "a.b(",
            "{'a':",
            "1 in ",
            "a[0]",
            "[1].map(x,",
            ".a",
            "a?",
            "a||b?c:",
            "a&&",
            "1<",
            "'",
            "\"\"\"",
            "(((a)))+",
            ")",
            "}",
            "é",
            "`",
            "\\",
        ];
        for unit in units {
            for tail in ["", "1", "'", "}"] {
                let mut source = unit.repeat(limits.expression_bytes / unit.len() - 1);
                source.push_str(tail);
                assert!(Expression::compile(&source, &limits).is_err(), "{unit} {tail}");
                let template = json!(format!("${{{{{source}}}}}"));
                assert!(Template::compile(&template, &limits).is_err(), "{unit} {tail}");
            }
        }
        assert!(Expression::compile(&"1".repeat(5000), &limits).unwrap_err().message.contains("bytes long"));
    });
}

#[test]
fn the_deepest_source_that_is_allowed_evaluates_on_a_small_stack() {
    on_a_small_stack(|| {
        let nested =
            |open: &str, close: &str, depth| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        assert_eq!(evaluate(&nested("(", ")", 32)).unwrap(), json!(1));
        assert!(evaluate(&nested("[", "]", 32)).is_ok());
        assert!(evaluate(&nested("{'a':", "}", 32)).is_ok());
        assert!(evaluate(&nested("[1].map(x,", ")", 32)).is_ok());
        assert!(evaluate(&nested("[1].map(x, x > 0,", ")", 32)).is_ok());
        assert_eq!(evaluate(&vec!["1"; 129].join("+")).unwrap(), json!(129));
        assert_eq!(evaluate(&format!("{}1", "false ? 2 : ".repeat(128))).unwrap(), json!(1));
        assert_eq!(evaluate(&vec!["1==1"; 400].join("&&")).unwrap(), json!(true));
        assert!(evaluate(&format!("inputs{}", ".a".repeat(128))).is_err());
        assert!(evaluate(&nested("(1+1+1+", ")", 32)).is_ok());
    });
}

#[test]
fn fuel_ends_what_grows_without_bound() {
    let doubling = format!("['{}']{}.size()", "x".repeat(100), ".map(a, a + a)".repeat(40));
    let nested = "range(1000).map(a, range(1000).map(b, range(1000)))";
    let compared = format!("[1]{0} == [1]{0}", ".map(a, [a, a])".repeat(30));
    let sorted = format!("[[1]{0}[0], [1]{0}[0]].distinct()", ".map(a, [a, a])".repeat(28));
    let replaced = format!("'{}'{}", "a".repeat(100), ".replace('a', 'aaaaaaaaaaaaaaaaaaaa')".repeat(20));
    for source in [&doubling, nested, &compared, &sorted, &replaced, "range(9223372036854775807)"] {
        assert_eq!(evaluate(source).unwrap_err().code, EvalError::FUEL, "{source}");
    }
}

#[test]
fn data_costs_fuel_by_its_length_even_where_it_ends_in_an_error() {
    let long = "0".repeat(100_000);
    let mixed: Vec<Value> = std::iter::repeat_n(json!(1), 50_000).chain([json!("x")]).collect();
    let inputs = json!({"long": long, "mixed": mixed, "map": {&long: 1}, "same": {&long: 1}});
    let fixture = Fixture { inputs, ..Fixture::new() };
    let few = Bounds { fuel: 1_000, ..bounds() };
    for source in [
        "double(inputs.long)",
        "int(inputs.long)",
        "inputs.mixed.sort()",
        "inputs.map == inputs.same",
        "inputs.map[inputs.long]",
        "inputs.long in inputs.map",
        "{inputs.long: 1}.a",
        "inputs.map.all(key, true)",
    ] {
        let error = compile(source).evaluate(&fixture, few).unwrap_err();
        assert_eq!(error.code, EvalError::FUEL, "{source}");
    }
}

#[test]
fn a_result_is_bounded_in_bytes_and_depth() {
    let shared = format!("[1]{}", ".map(a, [a, a])".repeat(40));
    assert_eq!(evaluate(&shared).unwrap_err().code, EvalError::TOO_LARGE);
    let mut deep = json!(1);
    for _ in 0..60 {
        deep = json!([deep]);
    }
    let mut fixture = Fixture::new();
    fixture.inputs = deep;
    assert!(compile("inputs").evaluate(&fixture, bounds()).is_ok());
    let error = compile("[[[[[[inputs]]]]]]").evaluate(&fixture, bounds()).unwrap_err();
    assert_eq!(error.code, EvalError::TOO_LARGE);
}

#[test]
fn an_exceeded_limit_is_not_absorbed_by_logic() {
    let fuel = Bounds { fuel: 50, ..bounds() };
    for source in [
        "size(range(100)) == 0 || true",
        "true && (size(range(100)) == 0 || true)",
        "[1, 2].exists(x, size(range(100 / x)) == 50)",
        "size(range(100)) == 0 && false",
    ] {
        let error = compile(source).evaluate(&Fixture::new(), fuel).unwrap_err();
        assert_eq!(error.code, EvalError::FUEL, "{source}");
    }
}

/// Well-formed source of bounded depth, types left to chance.
fn source() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|n| format!("({n})")),
        (-9..9_i64).prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(|x| format!("({x:e})")),
        "'[a-c é]{0,4}'",
        prop::sample::select(vec![
            "true",
            "false",
            "null",
            "inputs",
            "inputs.list",
            "inputs.map",
            "inputs.name",
            "item",
            "index",
            "run",
            "steps.fetch.output",
            "steps.fetch.status",
            "steps['load.it'].error",
            "steps.none.output",
            "[]",
            "{}",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 32, 3, |inner| {
        let operators = vec!["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "in", "&&", "||"];
        let macros = vec!["all", "exists", "exists_one", "map", "filter"];
        let methods = vec!["size", "lowerAscii", "trim", "sort", "distinct", "flatten", "join"];
        let functions = vec!["size", "int", "double", "string", "bool", "range", "min", "max"];
        prop_oneof![
            (inner.clone(), prop::sample::select(operators), inner.clone())
                .prop_map(|(a, sign, b)| format!("({a} {sign} {b})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            inner.clone().prop_map(|a| format!("(!{a})")),
            inner.clone().prop_map(|a| format!("(-{a})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})[{b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{'k': {a}, 'a': {b}}}")),
            (inner.clone(), prop::sample::select(macros), inner.clone())
                .prop_map(|(a, name, b)| format!("({a}).{name}(x, [x, {b}].size() > 1 && x == {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}).map(y, [y, {b}])")),
            (inner.clone(), prop::sample::select(methods)).prop_map(|(a, name)| format!("({a}).{name}()")),
            (inner.clone(), prop::sample::select(functions)).prop_map(|(a, name)| format!("{name}({a})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}).split({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}).substring({b})")),
            inner.prop_map(|a| format!("has(({a}).name)")),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_compiles_or_is_refused_and_never_panics(text in "\\PC{0,60}") {
        if let Err(error) = Expression::compile(&text, &Limits::default()) {
            prop_assert!(error.offset <= text.len());
        }
        let _ = Template::compile(&json!(format!("${{{{{text}}}}}")), &Limits::default());
        let _ = Template::compile(&Value::String(text), &Limits::default());
    }

    #[test]
    fn any_row_of_tokens_compiles_or_is_refused_and_never_panics(
        words in prop::collection::vec(prop::sample::select(vec![
            "(", ")", "[", "]", "{", "}", ".", ",", ":", "?", "!", "-", "+", "&&", "||", "==", "in", "inputs", "a",
            "has", "map", "all", "size", "x", "1", "1.5", "1u", "0x", "'s'", "b'\\xff'", "r'\\'", "'\\u00e9'", "'\\777'",
            "null", "true", "steps", "for", "//", "`a`", " ", "é", "'é\\xZ'", "-9223372036854775808", "1e", "@result",
        ]), 0..24)
    ) {
        let text = words.concat();
        if let Ok(expression) = Expression::compile(&text, &Limits::default()) {
            let _ = expression.evaluate(&Fixture::new(), bounds());
        }
    }

    #[test]
    fn a_random_expression_ends_within_its_fuel_and_gives_the_same_again(source in source(), fuel in 0..5_000_u64) {
        let Ok(expression) = Expression::compile(&source, &Limits::default()) else { return Ok(()) };
        let bounds = Bounds { fuel, bytes: 10_000 };
        let first = expression.evaluate(&Fixture::new(), bounds);
        let mut fixture = Fixture::new();
        // The same data, entered in another order.
        if let Value::Object(fields) = &fixture.inputs {
            fixture.inputs = Value::Object(fields.clone().into_iter().rev().collect());
        }
        prop_assert_eq!(&first, &expression.evaluate(&fixture, bounds));
        if let Ok(value) = first {
            let payload = crate::payload::Payload::new(&value).unwrap();
            prop_assert_eq!(payload.to_value(), value);
        }
    }

    #[test]
    fn integer_arithmetic_agrees_with_wider_integers(a in any::<i64>(), b in any::<i64>(), small in -9..9_i64) {
        for (a, b) in [(a, b), (a, small), (small, b), (a >> 40, b >> 40)] {
            let (x, y) = (i128::from(a), i128::from(b));
            let cases = [("+", Some(x + y)), ("-", Some(x - y)), ("*", Some(x * y)),
                         ("/", x.checked_div(y)), ("%", x.checked_rem(y))];
            for (sign, expected) in cases {
                // i64::MIN % -1 is 0 in wider integers; CEL calls it an overflow, as the machine does.
                let expected = expected.filter(|_| !(sign == "%" && a == i64::MIN && b == -1));
                let expected = expected.filter(|n| n.unsigned_abs() <= 1 << 53);
                let found = evaluate(&format!("({a}) {sign} ({b})")).ok().and_then(|value| value.as_i64());
                prop_assert_eq!(found.map(i128::from), expected, "{} {} {}", a, sign, b);
            }
        }
    }

    #[test]
    fn order_over_mixed_numbers_agrees_with_exact_arithmetic(a in any::<i64>(), near in -3..3_i64) {
        let double = a.saturating_add(near) as f64;
        let exact = i128::from(a).cmp(&(double as i128));
        prop_assert_eq!(evaluate(&format!("({a}) < ({double:?})")).unwrap(), json!(exact.is_lt()));
        prop_assert_eq!(evaluate(&format!("({a}) == ({double:?})")).unwrap(), json!(exact.is_eq()));
        prop_assert_eq!(evaluate(&format!("({double:?}) < ({a})")).unwrap(), json!(exact.is_gt()));
    }
}
