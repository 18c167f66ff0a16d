//! `fn/read`: a file below the working root.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::room::Room;
use super::{Failure, TEXT_BYTES_MAX, apart, invalid};
use crate::digest::Digest;
use crate::executor::StepContext;
use crate::ledger::ArtifactRef;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Read {
    path: String,
    #[serde(default, rename = "as")]
    form: Form,
    max_bytes: Option<u64>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    #[default]
    Text,
    Base64,
    /// Kept as an artifact: any size up to the limit, and the ledger holds its digest only.
    Artifact,
}

#[derive(Debug, Serialize)]
pub(super) struct Found {
    path: String,
    size: u64,
    sha256: Digest,
    #[serde(flatten)]
    content: Content,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Content {
    Text(String),
    Base64(String),
    Artifact(ArtifactRef),
}

/// The file's content with its size and digest.
pub(super) async fn read(context: StepContext, input: Read, root: Arc<Path>) -> Result<Found, Failure> {
    let bytes_max = input.max_bytes.unwrap_or(TEXT_BYTES_MAX as u64);
    if bytes_max > TEXT_BYTES_MAX as u64 {
        return Err(invalid(format!("maxBytes: at most {TEXT_BYTES_MAX}")));
    }
    let path = input.path.clone();
    let bytes = apart(move || Room::open(&root)?.read(&path, bytes_max)).await?;
    let (size, sha256) = (bytes.len() as u64, Digest::of(&bytes));
    let content = match input.form {
        Form::Base64 => Content::Base64(STANDARD.encode(bytes)),
        Form::Text => Content::Text(String::from_utf8(bytes).map_err(|error| {
            let message = format!("{}: {error}; read it `as: base64`", input.path);
            Failure::fatal("not_text", message)
        })?),
        Form::Artifact => {
            let media_type = "application/octet-stream";
            Content::Artifact(context.artifacts.put(media_type, Some(input.path.clone()), bytes).await?)
        }
    };
    Ok(Found { path: input.path, size, sha256, content })
}
