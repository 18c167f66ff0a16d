//! `fn/write`: an artifact, and a file if asked for.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::room::{Room, inside};
use super::source::{load, present};
use super::{Failure, apart, invalid};
use crate::executor::StepContext;
use crate::ledger::ArtifactRef;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Write {
    name: String,
    media_type: Option<String>,
    text: Option<String>,
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
    lines: Option<Vec<Value>>,
    artifact: Option<ArtifactRef>,
    /// Where to put a file, below the directory of the DAG.
    path: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Written {
    artifact: ArtifactRef,
    /// Where the file is, from the output directory on.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
}

/// Keeps a text as it is, a value as indented JSON, lines each ended by a newline (what is not a string as compact
/// JSON), or the bytes of an artifact under another name.
pub(super) async fn write(
    context: StepContext,
    input: Write,
    output: Option<Arc<Path>>,
) -> Result<Written, Failure> {
    if input.name.is_empty() || input.name.len() > 255 || input.name.chars().any(char::is_control) {
        return Err(invalid("name: 1 to 255 bytes without control characters"));
    }
    let file = match (&input.path, output) {
        (None, _) => None,
        (Some(path), Some(output)) => Some((output, inside(path)?)),
        (Some(_), None) => {
            return Err(Failure::fatal(
                "no_output_root",
                "this process was given no directory to write files to",
            ));
        }
    };
    let (bytes, usual) = match (input.text, input.value, input.lines, input.artifact) {
        (Some(text), None, None, None) => (text.into(), "text/plain".to_owned()),
        (None, Some(value), None, None) => {
            (Bytes::from(format!("{value:#}\n")), "application/json".to_owned())
        }
        (None, None, Some(lines), None) => (joined(&lines).into(), "text/plain".to_owned()),
        (None, None, None, Some(artifact)) => (load(&context, &artifact).await?, artifact.media_type),
        _ => return Err(invalid("needs exactly one of `text`, `value`, `lines` and `artifact`")),
    };
    let media_type = input.media_type.unwrap_or(usual);
    let artifact = context.artifacts.put(media_type, Some(input.name), bytes.clone()).await?;
    let Some((output, path)) = file else { return Ok(Written { artifact, path: None }) };
    let folder = format!("{}-out", context.dag);
    let written = Path::new(&folder).join(&path).display().to_string();
    let attempt = format!("{}/{}", context.idempotency_key(), context.attempt);
    apart(move || Room::create(&output)?.below(&folder)?.write(&path, &bytes, &attempt)).await?;
    Ok(Written { artifact, path: Some(written) })
}

fn joined(lines: &[Value]) -> String {
    let line =
        |value: &Value| value.as_str().map_or_else(|| format!("{value}\n"), |text| format!("{text}\n"));
    lines.iter().map(line).collect()
}
