//! Text that a step names in one of several ways.

use bytes::Bytes;
use serde::{Deserialize, Deserializer};

use super::{Failure, TEXT_BYTES_MAX, invalid};
use crate::executor::StepContext;
use crate::ledger::ArtifactRef;

/// The text itself or that of an artifact: exactly one of the two, whose names are given for the message.
pub(super) async fn text_of(
    context: &StepContext,
    names: &str,
    text: Option<String>,
    artifact: Option<ArtifactRef>,
) -> Result<String, Failure> {
    let text = match (text, artifact) {
        (Some(text), None) => text,
        (None, Some(artifact)) => load_text(context, &artifact).await?,
        (None, None) => return Err(invalid(format!("needs {names}"))),
        (Some(_), Some(_)) => return Err(invalid(format!("takes {names}, not both"))),
    };
    if text.len() > TEXT_BYTES_MAX {
        return Err(too_large(text.len() as u64));
    }
    Ok(text)
}

/// The text of an artifact.
pub(super) async fn load_text(context: &StepContext, artifact: &ArtifactRef) -> Result<String, Failure> {
    if artifact.size > TEXT_BYTES_MAX as u64 {
        return Err(too_large(artifact.size));
    }
    String::from_utf8(load(context, artifact).await?.into()).map_err(|error| {
        Failure::fatal("not_text", format!("artifact {} is not UTF-8: {error}", artifact.hash))
    })
}

/// The bytes of an artifact.
pub(super) async fn load(context: &StepContext, artifact: &ArtifactRef) -> Result<Bytes, Failure> {
    Ok(context.artifacts.get(&artifact.hash).await?)
}

fn too_large(size: u64) -> Failure {
    Failure::fatal("too_large", format!("text of {size} bytes is over the limit of {TEXT_BYTES_MAX}"))
}

/// Tells a field that is `null` from one that is absent; goes with `#[serde(default)]`.
pub(super) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
