//! The JSON Schema of the document: committed, current, and of one mind with the reader.

use std::path::Path;

use orch::Limits;
use orch::spec::{json_schema, parse};
use serde_json::{Value, json};

fn is_read(document: &Value) -> bool {
    parse("x.json", &document.to_string(), &Limits::default()).is_ok()
}

/// Set `ORCH_BLESS=1` to write the file anew.
#[test]
fn the_committed_schema_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/dag.schema.json");
    let current = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
    if std::env::var_os("ORCH_BLESS").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(committed == current, "docs/dag.schema.json is stale; run the tests with ORCH_BLESS=1");
}

#[test]
fn reader_and_schema_agree() {
    let schema = jsonschema::draft202012::new(&json_schema()).unwrap();
    let base =
        json!({"apiVersion": "orch/v1", "kind": "Dag", "id": "d", "steps": [{"id": "a", "uses": "http"}]});
    let with = |pointer: &str, value: Value| {
        let mut document = base.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        document.pointer_mut(parent).unwrap()[name] = value;
        document
    };
    let good = [
        base.clone(),
        with("/description", json!("x")),
        with("/description", Value::Null),
        with("/inputs", json!({"type": "object"})),
        with("/timeout", json!("1h 30m")),
        with("/edges", json!([])),
        with("/steps/0/uses", json!("dag/x@12")),
        with("/steps/0/with", json!({"a": [1, null, "${{ inputs.x }}"]})),
        with("/steps/0/forEach", json!({"items": "inputs.list", "maxParallel": 3})),
        with("/steps/0/forEach", json!({"items": [1, "a"]})),
        with("/steps/0/retry", json!({"maxAttempts": 100, "onLost": "park"})),
        with("/steps/0/concurrency", json!([{"key": "k", "limit": 1}])),
        with("/steps/0/limits", json!({"cpu": 0.5, "memory": 1})),
        with("/steps/0/network", json!({"allow": ["a:1"]})),
        with("/steps/0/secrets", json!(["A_1"])),
        with("/steps/0/priority", json!(-1000)),
        with("/steps/0/cache", json!(true)),
    ];
    for document in good {
        assert!(is_read(&document), "reader: {document}");
        assert!(schema.is_valid(&document), "schema: {document}");
    }
    let bad = [
        json!([]),
        json!({}),
        with("/apiVersion", json!("orch/v2")),
        with("/kind", json!("Job")),
        with("/id", json!("Bad Id")),
        with("/extra", json!(1)),
        with("/steps", json!([])),
        with("/steps", Value::Null),
        with("/steps/0/extra", json!(1)),
        with("/steps/0/uses", json!("shell")),
        with("/steps/0/uses", json!("dag/x@0")),
        with("/steps/0/needs", Value::Null),
        with("/steps/0/needs", json!(["A"])),
        with("/steps/0/when", json!(true)),
        with("/steps/0/timeout", json!(30)),
        with("/steps/0/forEach", json!({"items": 1})),
        with("/steps/0/forEach", json!({"items": [], "maxParallel": 0})),
        with("/steps/0/retry", json!({"maxAttempts": 101})),
        with("/steps/0/retry", json!({"maxAttempts": 0})),
        with("/steps/0/retry", json!({"onLost": "explode"})),
        with("/steps/0/concurrency", json!([{"key": "", "limit": 1}])),
        with("/steps/0/concurrency", json!([{"key": "k", "limit": 0}])),
        with("/steps/0/limits", json!({"cpu": 0})),
        with("/steps/0/limits", json!({"memory": 0})),
        with("/steps/0/network", json!({"allow": ["a"]})),
        with("/steps/0/network", json!({"allow": ["a:0"]})),
        with("/steps/0/secrets", json!(["a"])),
        with("/steps/0/priority", json!(1001)),
    ];
    for document in bad {
        assert!(!is_read(&document), "reader: {document}");
        assert!(!schema.is_valid(&document), "schema: {document}");
    }
}
