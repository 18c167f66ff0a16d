use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::spec::diagnostic::Diagnostics;

fn tree(text: &str) -> Result<Value, Diagnostics> {
    let mut problems = Problems::default();
    let node = read(text, &Limits::default(), &mut problems);
    match node {
        Some(node) if problems.is_empty() => Ok(node.to_value()),
        _ => Err(problems.into_diagnostics("x", text)),
    }
}

/// The codes and places of the problems.
fn problems(text: &str) -> Vec<(&'static str, usize, usize)> {
    tree(text).unwrap_err().problems.iter().map(|p| (p.code, p.line, p.column)).collect()
}

#[test]
fn yaml_scalars_are_those_of_version_1_2() {
    let text = "a: yes\nb: true\nc: 1_000\nd: 0o17\ne: 1.5\nf: ~\ng: 'x'\nh: no\ni: 0x1F\n404: x\nj: 12:30:45\nk: 2024-01-01\n";
    let value = json!({"a": "yes", "b": true, "c": "1_000", "d": 15, "e": 1.5, "f": null, "g": "x",
        "h": "no", "i": 31, "404": "x", "j": "12:30:45", "k": "2024-01-01"});
    assert_eq!(tree(text).unwrap(), value);
}

#[test]
fn names_that_come_twice_are_all_reported_with_both_places() {
    let report = tree("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n").unwrap_err();
    let places: Vec<_> = report.problems.iter().map(|p| (p.path.as_str(), p.line, p.column)).collect();
    assert_eq!(places, [("/b/c", 4, 3), ("/a", 5, 1)]);
    assert!(report.problems[0].message.ends_with("(first at line 3, column 3)"));
    assert_eq!(problems("{\"a\":1,\n \"a\":2}"), [("duplicate-field", 2, 2)]);
}

#[test]
fn integers_beyond_2_pow_53_are_refused_where_they_stand() {
    for number in ["9007199254740993", "-9007199254740993", "99999999999999999999999"] {
        assert_eq!(problems(&format!("a:\n  - {number}\n")), [("inexact-integer", 2, 5)], "{number}");
        assert_eq!(problems(&format!("{{\"a\":\n {number}}}")), [("inexact-integer", 2, 2)], "{number}");
    }
    assert_eq!(tree("a: 9007199254740992").unwrap(), json!({"a": 9_007_199_254_740_992_u64}));
    // Canonical JSON spells whole floats below 10^21 as integers.
    assert_eq!(problems("a: 1e20"), [("inexact-integer", 1, 4)]);
    assert_eq!(tree("a: 1e21").unwrap(), json!({"a": 1e21}));
}

#[test]
fn numbers_that_are_not_finite_are_refused_where_they_stand() {
    for number in [".nan", ".inf", "-.Inf", "+.INF", "1e999"] {
        assert_eq!(problems(&format!("a: 1\nb: {number}\n")), [("not-finite", 2, 4)], "{number}");
    }
    for number in ["1e999", "NaN", "Infinity", "-Infinity"] {
        assert_eq!(problems(&format!("{{\"a\": {number}}}")), [("not-finite", 1, 7)], "{number}");
    }
    assert_eq!(tree(r#"{"NaN \" Infinity": "\\"}"#).unwrap(), json!({"NaN \" Infinity": "\\"}));
    for text in ["[xNaN]", "[1 NaN]", "{NaN: 1}", "[Infinity", "[NaN2]"] {
        assert_eq!(tree(text).unwrap_err().problems[0].code, "syntax", "{text}");
    }
}

#[test]
fn an_odd_number_hides_no_other_problem() {
    let report = tree("a: [.inf]\nb: &x 007\nc: *x\nd: 9007199254740993\na: .nan\n").unwrap_err();
    let found: Vec<_> = report.problems.iter().map(|p| (p.code, p.path.as_str(), p.line)).collect();
    assert_eq!(
        found,
        [
            ("not-finite", "/a/0", 1),
            ("ambiguous-number", "/b", 2),
            ("inexact-integer", "/d", 4),
            ("duplicate-field", "/a", 5),
            ("not-finite", "", 5),
        ]
    );
    let report = tree("{\"é\": [NaN, -Infinity],\n \"b\": 9007199254740993}").unwrap_err();
    let found: Vec<_> = report.problems.iter().map(|p| (p.code, p.path.as_str(), p.column)).collect();
    assert_eq!(found, [("not-finite", "/é/0", 8), ("not-finite", "/é/1", 13), ("inexact-integer", "/b", 7)]);
}

#[test]
fn a_document_over_the_limit_is_not_said_to_have_a_size() {
    // A reader of files may have cut it.
    let report = tree(&"x".repeat((4 << 20) + 1)).unwrap_err();
    assert_eq!(report.problems[0].message, "the document has more than 4194304 bytes");
}

#[test]
fn json_is_read_as_json_and_nothing_more() {
    assert_eq!(
        tree("{\"a\":\t[1,\n\t2.0, \"\\u00e9\\ud83d\\ude00\", null]}").unwrap(),
        json!({"a": [1, 2.0, "é😀", null]})
    );
    assert_eq!(tree("\u{feff}{\"<<\": {\"b\\n\": true}}").unwrap(), json!({"<<": {"b\n": true}}));
    for text in [
        "{a: 1}",
        "{\"a\": yes}",
        "{\"a\": 1,}",
        "{\"a\": 1} # c",
        "{\"a\": 'x'}",
        "{\"a\": 01}",
        "{\"a\": \"\\ud800\"}",
    ] {
        assert_eq!(tree(text).unwrap_err().problems[0].code, "syntax", "{text}");
    }
    assert_eq!(problems("{\n  \"é\": trux }"), [("syntax", 2, 11)]);
}

#[test]
fn a_name_that_a_json_reader_gives_a_meaning_is_refused() {
    assert_eq!(problems("a:\n  $serde_json::private::RawValue: '1'\n"), [("reserved-name", 2, 3)]);
    assert_eq!(problems("{\"\\u0024serde_json::private::Number\": 1}"), [("reserved-name", 1, 2)]);
}

#[test]
fn text_that_aliases_copy_counts_by_its_length() {
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 1_000].join(", "));
    assert_eq!(problems(&text)[0].0, "limit-exceeded");
    let text = format!("a: &a {{{}: 1}}\nb: [{}]\n", "x".repeat(1_000), vec!["*a"; 10_000].join(", "));
    assert_eq!(problems(&text)[0].0, "limit-exceeded");
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1_000), vec!["*a"; 1_000].join(", "));
    assert!(tree(&text).is_ok());
}

#[test]
fn yaml_that_json_cannot_say_is_refused() {
    for (text, code) in [
        ("a: !custom 1", "syntax"),
        ("? [1, 2]\n: 3", "syntax"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "merge-key"),
        ("a: 1\n---\nb: 2\n", "syntax"),
        ("a: &x [*x]", "syntax"),
        ("a: *nowhere", "syntax"),
        ("a: 007", "ambiguous-number"),
        ("a: -01.5", "ambiguous-number"),
        ("a: !!int x", "syntax"),
        ("a: !!binary aGk=", "syntax"),
        ("*x : 1", "syntax"),
        (": 1", "syntax"),
        ("a: [1, 2", "syntax"),
        ("a:\n\t- 1", "syntax"),
    ] {
        assert_eq!(tree(text).unwrap_err().problems[0].code, code, "{text}");
    }
}

#[test]
fn byte_order_marks_and_windows_line_ends_change_nothing() {
    let text = "\u{feff}a: 1\r\nb:\r\n  - 9007199254740993\r\n";
    assert_eq!(problems(text), [("inexact-integer", 3, 5)]);
    assert_eq!(problems("\u{feff}{\"a\": 9007199254740993}"), [("inexact-integer", 1, 7)]);
}

#[test]
fn a_yaml_syntax_error_says_where() {
    assert_eq!(problems("a: 1\nb: [1, }\n")[0].1, 2);
}

#[test]
fn aliases_are_allowed_within_a_budget() {
    assert_eq!(tree("a: &x [1]\nb: *x\n").unwrap(), json!({"a": [1], "b": [1]}));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let below = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(", "));
    }
    assert_eq!(tree(&bomb).unwrap_err().problems[0].code, "limit-exceeded");
}

#[test]
fn documents_over_a_limit_are_refused_unread() {
    let long = "x".repeat(10 << 20);
    assert_eq!(problems(&long), [("limit-exceeded", 1, 1)]);
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("- ", ""), ("a: [", "]")] {
        let deep = open.repeat(100_000) + &close.repeat(100_000);
        assert!(tree(&deep).is_err(), "{open}");
        let deep = format!("x: {deep}");
        assert!(tree(&deep).is_err(), "x: {open}");
    }
    let block: String = (0..1_000).map(|level| " ".repeat(level) + "a:\n").collect();
    assert_eq!(tree(&block).unwrap_err().problems[0].code, "limit-exceeded");
}

#[test]
fn the_deepest_configurable_nesting_fits_the_stack() {
    let limits = Limits { spec_depth: usize::MAX, ..Limits::default() };
    for text in ["[".repeat(DEPTH_CEILING) + &"]".repeat(DEPTH_CEILING), "- ".repeat(DEPTH_CEILING) + "x"] {
        let mut problems = Problems::default();
        assert!(read(&text, &limits, &mut problems).is_some(), "{problems:?}");
        assert!(problems.is_empty());
        assert!(read(&format!("- {text}"), &limits, &mut problems).is_none());
    }
}

#[test]
fn places_in_json_do_not_depend_on_how_deep_they_are() {
    // A reader that scans each level anew takes minutes here, one that reads once takes a second.
    let text = "[".repeat(60) + &"1,".repeat(500_000) + "9007199254740993" + &"]".repeat(60);
    assert_eq!(problems(&text), [("inexact-integer", 1, 60 + 1_000_000 + 1)]);
}

#[test]
fn a_path_longer_than_a_report_wants_is_cut() {
    let report = tree(&format!("{{\"{}\": [9007199254740993]}}", "é".repeat(10_000))).unwrap_err();
    let path = &report.problems[0].path;
    assert!(path.ends_with('…') && path.len() < 1_100, "{} bytes", path.len());
}

#[test]
fn offsets_become_lines_and_columns_of_characters() {
    let index = LineIndex::new("aé\nß😀x\n");
    assert_eq!(index.position(0), (1, 1));
    assert_eq!(index.position(3), (1, 3));
    assert_eq!(index.position(4), (2, 1));
    assert_eq!(index.position(10), (2, 3));
    assert_eq!(index.position(12), (3, 1));
    assert_eq!(index.offset(2, 2), 4);
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-(1_i64 << 53)..=1 << 53).prop_map(Value::from),
        prop::num::f64::NORMAL
            .prop_filter("an integer beyond 2^53 in canonical JSON", |n| {
                n.fract() != 0.0 || n.abs() <= 1e15 || n.abs() >= 1e21
            })
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[ -~]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn json_reads_as_serde_json_reads_it(value in any_value(), pretty in any::<bool>()) {
        let value = json!([value]);
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        prop_assert_eq!(tree(&text.unwrap()).unwrap(), value);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC*|[\\[\\]{}:,&*!|>'\"%@`?# \\n\\t0-9a-z.-]{0,60}") {
        let _ = tree(&text);
    }
}
