//! The inputs of a run: the JSON Schema they must satisfy, and its defaults.

use std::fmt;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use super::diagnostic::PROBLEMS_MAX;
use crate::error::{Error, Result};

/// Bytes a compiled pattern may take; the engine is linear in the text, so this also bounds its time.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Bytes of the pointers to all values of a schema together: the validator keeps a copy of each.
const POINTER_BYTES_MAX: usize = 64 << 20;

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// A compiled JSON Schema (2020-12) for the inputs of a run. It never reads a file or the network.
#[derive(Clone, Debug)]
pub struct InputSchema {
    schema: Value,
    validator: Validator,
}

/// What is wrong with the inputs of a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InputProblem {
    /// Where, as a JSON pointer into the inputs.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
}

/// Everything that is wrong with the inputs of a run, ordered by place: the source of the error that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputProblems(pub Vec<InputProblem>);

impl fmt::Display for InputProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, InputProblem { pointer, message }) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { "; " } else { "" })?;
            match pointer.as_str() {
                "" => f.write_str(message)?,
                pointer => write!(f, "{pointer}: {message}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for InputProblems {}

/// Why a schema cannot be used, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SchemaProblem {
    pub(super) pointer: String,
    pub(super) message: String,
}

impl InputSchema {
    /// Compiles `schema`.
    ///
    /// # Errors
    /// `Invalid`, with the JSON pointer, when it is no JSON Schema 2020-12, refers to anything outside
    /// itself, holds a pattern that is too large or needs backtracking, or can make one value be looked at too often.
    pub fn compile(schema: &Value) -> Result<Self> {
        Self::build(schema).map_err(|problems| {
            let first = problems.into_iter().next();
            let (pointer, message) = first.map_or_else(Default::default, |p| (p.pointer, p.message));
            Error::invalid("`inputs` is not a usable json schema").with("at", pointer).with("reason", message)
        })
    }

    /// As [`InputSchema::compile`], with every reference that leads outside.
    pub(super) fn build(schema: &Value) -> Result<Self, Vec<SchemaProblem>> {
        let mut problems = Vec::new();
        if let Some(draft) = schema.get("$schema").filter(|draft| draft.as_str() != Some(DRAFT)) {
            let message = format!("`$schema` is {draft}, but only 2020-12 is understood");
            problems.push(SchemaProblem { pointer: "/$schema".to_owned(), message });
        }
        if !find_outside(schema, &mut String::new(), &mut problems, &mut 0) {
            let message = "the names in the schema are too long for so many values below them".to_owned();
            problems.push(SchemaProblem { pointer: String::new(), message });
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let costly = super::visits::check(schema);
        if !costly.is_empty() {
            return Err(costly);
        }
        let patterns =
            PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(patterns)
            .should_validate_formats(true)
            .offline()
            .build(schema)
            .map_err(|error| {
                let pointer = error.instance_path().to_string();
                vec![SchemaProblem { pointer, message: error.to_string() }]
            })?;
        Ok(Self { schema: schema.clone(), validator })
    }

    /// Checks `inputs` after filling in the defaults of absent properties, at the top and in nested objects.
    ///
    /// # Errors
    /// Every problem, ordered by place.
    pub fn validate(&self, inputs: &Value) -> Result<Value, Vec<InputProblem>> {
        let mut inputs = inputs.clone();
        fill_defaults(&self.schema, &mut inputs);
        let mut problems: Vec<InputProblem> = self
            .validator
            .iter_errors(&inputs)
            .map(|error| InputProblem {
                pointer: error.instance_path().to_string(),
                message: error.to_string(),
            })
            .collect();
        problems.sort();
        if problems.is_empty() { Ok(inputs) } else { Err(problems) }
    }
}

/// Finds references that lead out of the schema; false when its pointers have more than [`POINTER_BYTES_MAX`]. The
/// spec reader has bounded the depth.
fn find_outside(
    schema: &Value,
    pointer: &mut String,
    problems: &mut Vec<SchemaProblem>,
    spent: &mut usize,
) -> bool {
    let length = pointer.len();
    *spent += length;
    let mut descend = |name: &str, value: &Value| {
        pointer.push('/');
        pointer.push_str(&super::source::escape(name));
        let reference = value.as_str().filter(|_| matches!(name, "$ref" | "$dynamicRef"));
        let outside = reference.filter(|target| !target.starts_with('#'));
        if let Some(target) = outside.filter(|_| problems.len() < PROBLEMS_MAX) {
            let target = super::fields::shown(target);
            let message = format!("`{target}` leads outside; a reference begins with `#`");
            problems.push(SchemaProblem { pointer: pointer.clone(), message });
        }
        let within = find_outside(value, pointer, problems, spent);
        pointer.truncate(length);
        within
    };
    let within = match schema {
        Value::Object(fields) => fields.iter().all(|(name, value)| descend(name, value)),
        Value::Array(items) => {
            items.iter().enumerate().all(|(index, value)| descend(&index.to_string(), value))
        }
        _ => true,
    };
    within && *spent <= POINTER_BYTES_MAX
}

/// Fills in `default` of absent properties. Only `properties` are followed, never combinators: which of
/// those applies depends on the very values being filled in. An absent object without a default stays absent.
fn fill_defaults(schema: &Value, value: &mut Value) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let Some(fields) = value.as_object_mut() else { return };
    for (name, property) in properties {
        if let Some(default) = property.get("default").filter(|_| !fields.contains_key(name)) {
            fields.insert(name.clone(), default.clone());
        }
        if let Some(field) = fields.get_mut(name) {
            fill_defaults(property, field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_filled_in_at_the_top_and_below_and_never_overwrite() {
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "default": "eu"},
            "scan": {"type": "object", "properties": {"depth": {"default": 3}, "deep": {"type": "boolean"}}},
            "list": {"default": []},
            "plain": {"type": "object", "properties": {"x": {"type": "integer"}}},
        }});
        let schema = InputSchema::compile(&schema).unwrap();
        assert_eq!(schema.validate(&json!({})).unwrap(), json!({"region": "eu", "list": []}));
        assert_eq!(
            schema.validate(&json!({"scan": {}})).unwrap(),
            json!({"region": "eu", "scan": {"depth": 3}, "list": []})
        );
        assert_eq!(
            schema.validate(&json!({"region": "us", "scan": {"depth": 0}, "list": [1]})).unwrap(),
            json!({"region": "us", "scan": {"depth": 0}, "list": [1]})
        );
    }

    #[test]
    fn every_problem_of_the_inputs_is_told_with_its_place() {
        let schema = json!({"type": "object", "required": ["a"], "additionalProperties": false, "properties": {
            "a": {"type": "string"}, "b": {"items": {"type": "integer", "minimum": 0}}}});
        let problems = InputSchema::compile(&schema).unwrap().validate(&json!({"b": [1, -1, "x"], "c": 1}));
        let pointers: Vec<_> = problems.unwrap_err().into_iter().map(|problem| problem.pointer).collect();
        assert_eq!(pointers, ["", "", "/b/1", "/b/2"]);
    }

    #[test]
    fn a_schema_that_leads_outside_is_refused_with_every_place() {
        let schema = json!({"$ref": "https://example.org/a", "properties": {
            "x": {"$ref": "file:///etc/passwd"}, "y": {"$ref": "#/$defs/y"}, "z": {"$dynamicRef": "z.json"}},
            "$defs": {"y": {}}});
        let pointers: Vec<_> =
            InputSchema::build(&schema).unwrap_err().into_iter().map(|problem| problem.pointer).collect();
        assert_eq!(pointers, ["/$ref", "/properties/x/$ref", "/properties/z/$dynamicRef"]);
    }

    #[test]
    fn a_schema_of_another_draft_or_with_wrong_keywords_is_refused() {
        for schema in [
            json!({"$schema": "http://json-schema.org/draft-07/schema#"}),
            json!({"type": "strnig"}),
            json!({"properties": {"a": {"minimum": "x"}}}),
            json!({"$ref": "#/$defs/nowhere"}),
            json!([]),
            json!({"pattern": "(a"}),
            json!({"pattern": "^(?=a)b"}),
            json!({"pattern": "(((a{1000}){1000}){1000})"}),
        ] {
            assert!(InputSchema::compile(&schema).is_err(), "{schema}");
        }
    }

    #[test]
    fn a_schema_whose_pointers_would_fill_the_memory_is_refused() {
        let many = vec![json!({"type": "string"}); 1_000];
        let schema = |length: usize| {
            let properties = serde_json::Map::from_iter([("x".repeat(length), json!({"anyOf": many}))]);
            InputSchema::compile(&json!({"properties": properties}))
        };
        assert!(schema(100).is_ok());
        assert!(schema(100_000).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn a_schema_that_refers_to_itself_is_refused_unless_it_goes_deeper() {
        for schema in [
            json!({"$ref": "#"}),
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
            json!({"allOf": [{"$ref": "#"}]}),
        ] {
            let error = InputSchema::compile(&schema).unwrap_err().to_string();
            assert!(error.contains("without going deeper"), "{error}");
        }
        let schema = json!({"$defs": {"tree": {"properties": {"kids": {"items": {"$ref": "#/$defs/tree"}}}}},
            "$ref": "#/$defs/tree"});
        let schema = InputSchema::compile(&schema).unwrap();
        assert!(schema.validate(&json!({"kids": [{"kids": []}]})).is_ok());
    }
}
