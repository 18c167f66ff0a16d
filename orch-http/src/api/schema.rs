//! How the vocabulary of orch looks in schemas.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;

/// What identifiers match.
pub(crate) const SLUG: &str = "^[a-z0-9][a-z0-9._-]{0,127}$";

macro_rules! words {
    ($( $(#[$doc:meta])* $name:ident: $schema:tt, )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub(crate) struct $name;

            impl JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($schema)
                }
            }
        )*
    };
}

words! {
    /// A tenant, a DAG, a step, a queue, the type of a job.
    Slug: { "type": "string", "pattern": SLUG },
    /// The id of a run.
    RunId: { "type": "string", "pattern": "^[0-9a-f]{32}$" },
    /// A step of a run, `id` or `id[index]`.
    StepKey: { "type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,127}(\\[(0|[1-9][0-9]*)\\])?$" },
    /// SHA-256 in lowercase hex.
    Hash: { "type": "string", "pattern": "^[0-9a-f]{64}$" },
    /// An instant in UTC.
    Time: { "type": "string", "format": "date-time" },
    /// Any JSON.
    Json: {},
    /// Any text.
    Text: { "type": "string" },
    /// Any bytes.
    Binary: { "type": "string", "format": "binary" },
    /// Any JSON object.
    Object: { "type": "object" },
    /// Where a run stands.
    RunStatus: { "type": "string", "enum": ["pending", "running", "paused", "completed", "failed", "cancelled"] },
    /// Where a step stands.
    StepStatus: { "type": "string", "enum": [
        "pending", "queued", "running", "waiting", "succeeded", "failed", "skipped", "parked", "cancelled"
    ] },
}

/// Any JSON at all, read as it is.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Anything(pub(crate) Value);

impl JsonSchema for Anything {
    fn schema_name() -> Cow<'static, str> {
        "Anything".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        Schema::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(schema: &Schema) -> Vec<String> {
        let words = schema.get("enum").and_then(|words| words.as_array()).cloned().unwrap_or_default();
        words.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    }

    #[test]
    fn the_statuses_are_those_of_the_ledger() {
        let mut generator = SchemaGenerator::default();
        let runs: Vec<_> = orch::RunStatus::ALL.iter().map(ToString::to_string).collect();
        let steps: Vec<_> = orch::StepStatus::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(words(&RunStatus::json_schema(&mut generator)), runs);
        assert_eq!(words(&StepStatus::json_schema(&mut generator)), steps);
    }
}
