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
}

/// The file's content with its size and digest.
pub(super) async fn read(_: StepContext, input: Read, root: Arc<Path>) -> Result<Found, Failure> {
    let bytes_max = input.max_bytes.unwrap_or(TEXT_BYTES_MAX as u64);
    if bytes_max > TEXT_BYTES_MAX as u64 {
        return Err(invalid(format!("maxBytes: at most {TEXT_BYTES_MAX}")));
    }
    apart(move || {
        let bytes = Room::open(&root)?.read(&input.path, bytes_max)?;
        let (size, sha256) = (bytes.len() as u64, Digest::of(&bytes));
        let content = match input.form {
            Form::Base64 => Content::Base64(STANDARD.encode(bytes)),
            Form::Text => Content::Text(String::from_utf8(bytes).map_err(|error| {
                let message = format!("{}: {error}; read it `as: base64`", input.path);
                Failure::fatal("not_text", message)
            })?),
        };
        Ok(Found { path: input.path, size, sha256, content })
    })
    .await
}
