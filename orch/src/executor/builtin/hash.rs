//! `fn/hash`: SHA-256 digests.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::source::{load, present};
use super::{Failure, invalid};
use crate::digest::Digest;
use crate::executor::StepContext;
use crate::ledger::ArtifactRef;
use crate::payload::Payload;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hash {
    text: Option<String>,
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
    items: Option<Vec<Value>>,
    artifact: Option<ArtifactRef>,
}

#[derive(Debug, Serialize)]
pub(super) struct Hashed {
    sha256: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<Digest>>,
}

/// The digest of a text, of a value's canonical JSON (RFC 8785), of an artifact, or of each item of a list and of
/// the list as a value.
pub(super) async fn hash(context: StepContext, input: Hash) -> Result<Hashed, Failure> {
    let (sha256, items) = match (input.text, input.value, input.items, input.artifact) {
        (Some(text), None, None, None) => (Digest::of(text), None),
        (None, Some(value), None, None) => (Payload::new(&value)?.digest(), None),
        (None, None, Some(items), None) => {
            let each = items.iter().map(of_value).collect::<Result<_, _>>()?;
            (Payload::new(&Value::Array(items))?.digest(), Some(each))
        }
        (None, None, None, Some(artifact)) => (Digest::of(load(&context, &artifact).await?), None),
        _ => return Err(invalid("needs exactly one of `text`, `value`, `items` and `artifact`")),
    };
    Ok(Hashed { sha256, items })
}

/// The digest of a string's own bytes, or of another value's canonical JSON.
pub(super) fn of_value(value: &Value) -> Result<Digest, Failure> {
    match value {
        Value::String(text) => Ok(Digest::of(text)),
        other => Ok(Payload::new(other)?.digest()),
    }
}
