//! Any document survives being written and read.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::id::{QueueName, StepId};
use crate::time::Span;

fn span() -> impl Strategy<Value = Span> {
    (0_u64..100_000_000).prop_map(|millis| Span::new(Duration::from_millis(millis)))
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        (-(1_i64 << 53)..=1 << 53).prop_map(Value::from),
        prop::num::f64::NORMAL
            .prop_filter("an integer beyond 2^53 in canonical JSON", |n| {
                n.fract() != 0.0 || n.abs() <= 1e15 || n.abs() >= 1e21
            })
            .prop_map(Value::from),
        "[^$]{0,12}".prop_map(Value::from),
        "(yes|no|on|null|~|1e3|0x10|007|1_0|.nan|- a|a: b|#c|\\*x|&x|!x| a |''|\"\"|)".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[^$]{0,5}", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn uses() -> impl Strategy<Value = Uses> {
    prop_oneof![
        Just(Uses::Process),
        Just(Uses::Http),
        Just(Uses::GateApproval),
        Just(Uses::Sleep),
        Just(Uses::Signal),
        (1_u32..9).prop_map(|version| format!("dag/sub@{version}").parse().unwrap()),
        "[a-z0-9][a-z0-9._-]{0,9}".prop_map(Uses::Function),
        "[a-z0-9][a-z0-9._-]{0,9}".prop_map(Uses::Worker),
    ]
}

prop_compose! {
    fn retry()(
        max_attempts in 1_u32..=100,
        backoff in span(),
        max_backoff in span(),
        non_retryable in prop::collection::vec("[a-z]{1,5}", 0..3),
        on_exhausted in prop_oneof![Just(OnExhausted::Fail), Just(OnExhausted::Park)],
        on_lost in prop_oneof![Just(OnLost::Retry), Just(OnLost::Fail), Just(OnLost::Park)],
    ) -> Retry {
        Retry { max_attempts, backoff, max_backoff, non_retryable, on_exhausted, on_lost }
    }
}

prop_compose! {
    fn resource_limits()(
        cpu in prop::option::of(0.01_f64..64.0),
        memory in prop::option::of(1_u64..1 << 40),
        processes in prop::option::of(1_u32..1000),
        wall in prop::option::of(span()),
    ) -> ResourceLimits {
        ResourceLimits { cpu, memory, processes, wall, output: memory }
    }
}

prop_compose! {
    fn step()(
        uses in uses(),
        with in value(),
        when in prop::option::of("[a-z =!]{1,9}".prop_filter("no syntax error", |text| !text.contains("!!"))),
        items in prop::option::of(prop::collection::vec(value(), 0..3)),
        retry in retry(),
        timeout in prop::option::of(span()),
        queue in "[a-z]{1,5}",
        priority in -1000_i32..=1000,
        concurrency in prop::collection::vec(("[a-z ]{1,5}", 1_u32..9), 0..2),
        limits in prop::option::of(resource_limits()),
        allow in prop::option::of(prop::collection::vec("[a-z]{1,5}:[1-9][0-9]{0,3}", 0..2)),
        cache in any::<bool>(),
    ) -> Step {
        let with = match uses {
            Uses::Sleep => json!({"duration": "5s", "more": with}),
            Uses::Signal => json!({"name": "go"}),
            _ => with,
        };
        let repeats = uses.is_task() || matches!(uses, Uses::Dag { .. });
        let for_each = items.filter(|_| repeats);
        heeded(Step {
            id: StepId::new("x").unwrap(),
            cache: cache && uses.is_task(),
            uses,
            needs: Vec::new(),
            with,
            when,
            for_each: for_each.map(|items| ForEach { items: Items::List(items), max_parallel: Some(priority.unsigned_abs() + 1) }),
            retry,
            timeout,
            total_timeout: timeout,
            queue: QueueName::new(queue).unwrap(),
            priority,
            concurrency: concurrency.into_iter().map(|(key, limit)| Concurrency { key, limit }).collect(),
            limits,
            network: allow.map(|allow| Network { allow }),
            secrets: vec!["TOKEN".to_owned()],
        })
    }
}

/// The step without the fields that its kind does not heed.
fn heeded(step: Step) -> Step {
    if step.uses.is_task() {
        return step;
    }
    let carried = matches!(step.uses, Uses::Dag { .. });
    Step {
        queue: QueueName::default_queue(),
        concurrency: Vec::new(),
        limits: None,
        network: None,
        secrets: Vec::new(),
        retry: if carried { step.retry } else { Retry::default() },
        total_timeout: step.total_timeout.filter(|_| carried),
        priority: if carried { step.priority } else { 0 },
        ..step
    }
}

prop_compose! {
    /// Step `i` may need any step before it.
    fn any_dag()(
        steps in prop::collection::vec((step(), any::<u8>()), 1..6),
        description in prop::option::of("\\PC{0,9}"),
        timeout in prop::option::of(span()),
        inputs in any::<bool>(),
    ) -> Dag {
        let name = |index: usize| StepId::new(format!("s{index}")).unwrap();
        let steps = steps.into_iter().enumerate().map(|(index, (step, mask))| Step {
            id: name(index),
            needs: (0..index).filter(|need| mask & (1 << need) != 0).map(name).collect(),
            ..step
        });
        Dag {
            api_version: ApiVersion::V1,
            kind: Kind::Dag,
            id: "d".parse().unwrap(),
            description,
            inputs: inputs.then(|| json!({"type": "object", "properties": {"a": {"default": 1}}})),
            timeout,
            steps: steps.collect(),
            edges: Vec::new(),
        }
    }
}

/// JSON with the characters escaped that YAML does not allow unescaped.
fn scalar(value: &Value) -> String {
    let escape = |c: char| match c {
        '\u{7f}'..='\u{9f}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => format!("\\u{:04x}", u32::from(c)),
        _ => c.to_string(),
    };
    value.to_string().chars().map(escape).collect()
}

/// Block YAML with quoted strings, so that every indentation and list is exercised.
fn yaml(value: &Value, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    match value {
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                out.push_str(&format!("\n{pad}-"));
                yaml(item, indent + 1, out);
            }
        }
        Value::Object(fields) if !fields.is_empty() => {
            for (name, field) in fields {
                out.push_str(&format!("\n{pad}{}:", scalar(&json!(name))));
                yaml(field, indent + 1, out);
            }
        }
        _ => out.push_str(&format!(" {}", scalar(value))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_document_written_as_json_or_yaml_reads_back_the_same(dag in any_dag()) {
        let value = serde_json::to_value(&dag).unwrap();
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let read = read(&text);
            prop_assert_eq!(read.as_ref(), Ok(&dag));
        }
        let mut text = String::new();
        yaml(&value, 0, &mut text);
        let read = read(&text);
        prop_assert_eq!(read.as_ref(), Ok(&dag), "{}", text);
    }

    #[test]
    fn a_mutated_document_never_panics(dag in any_dag(), cuts in prop::collection::vec((any::<prop::sample::Index>(), "\\PC{0,2}"), 1..4), json in any::<bool>()) {
        let value = serde_json::to_value(&dag).unwrap();
        let mut text = String::new();
        if json { text = value.to_string() } else { yaml(&value, 0, &mut text) }
        for (at, insert) in cuts {
            let at = text.floor_char_boundary(at.index(text.len()));
            let end = text.ceil_char_boundary((at + insert.len()).min(text.len()));
            text.replace_range(at..end, &insert);
        }
        if let Err(report) = read(&text) {
            prop_assert!(!report.problems.is_empty());
            let mut sorted = report.problems.clone();
            sorted.sort_by_key(|p| (p.line, p.column, p.code));
            prop_assert_eq!(sorted, report.problems);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&String::from_utf8_lossy(&bytes));
    }
}
