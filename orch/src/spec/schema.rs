//! The JSON Schema of the document format, for editors and for checks outside orch.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::model::Dag;

/// The JSON Schema (2020-12) of the document, made from its types. It covers the shape; what depends on more
/// than one place (needs, cycles, expressions) only [`parse`](super::parse) checks.
#[must_use]
pub fn json_schema() -> Value {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Dag>();
    let mut schema = schema.to_value();
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("$id".to_owned(), json!("urn:orch:dag:v1"));
        fields.insert("title".to_owned(), json!("orch DAG"));
    }
    schema
}
