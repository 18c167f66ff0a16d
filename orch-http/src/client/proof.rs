//! The record: checkpoints, exports, retention.

use std::io::Write;

use http::StatusCode;
use orch::proof::{Checkpoint, Manifest, Scope};
use orch::{Digest, Error, Result, RunId, Timestamp};
use ring::digest::{Context, SHA256};
use serde_json::json;

use super::Client;
use super::call::said;
use crate::resources::prunings::PruningView;

impl Client {
    /// Has the heads of finished runs named in the checkpoint stream, signed where the service has a key. Answers nothing when
    /// there is nothing to name.
    ///
    /// # Errors
    /// `Unavailable`, `Indeterminate`; `Corrupt` when what arrives is no checkpoint.
    pub async fn checkpoint(&self, scope: Scope) -> Result<Option<Checkpoint>> {
        let since = scope == Scope::SinceLast;
        let (status, text) = self.post("/checkpoints").json(&json!({ "sinceLast": since })).whole().await?;
        if status == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let text = std::str::from_utf8(&text);
        let text = text.map_err(|cause| Error::corrupt("a checkpoint is text").caused_by(cause))?;
        Checkpoint::from_json(text).map(Some)
    }

    /// Writes the entries of the tenant, or of one run, and answers the manifest, whose hash is that of what was written.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable` also when the export breaks off or cannot be written; `Corrupt` when something else arrived
    /// than the manifest says.
    pub async fn export(&self, run: Option<RunId>, writer: &mut (dyn Write + Send)) -> Result<Manifest> {
        let mut body = json!({});
        said(&mut body, "runId", run);
        let mut response = self.post("/exports").json(&body).flow().await?;
        let id = response.headers().get("x-export-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let id = id.ok_or_else(|| Error::corrupt("the export has no name"))?;
        let broken =
            |cause: reqwest::Error| Error::unavailable("the export broke off").caused_by(cause.without_url());
        let mut hash = Context::new(&SHA256);
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            hash.update(&chunk);
            writer
                .write_all(&chunk)
                .map_err(|cause| Error::unavailable("the export cannot be written").caused_by(cause))?;
        }
        let manifest = self.get(format!("/exports/{id}")).answer::<Manifest>().await?;
        let actual: Digest = crate::api::trace::hex(hash.finish()).parse()?;
        match actual == manifest.sha256 {
            true => Ok(manifest),
            false => Err(Error::corrupt("the export is not what its manifest says")
                .with("sha256", manifest.sha256)
                .with("actual", actual)),
        }
    }

    /// Deletes runs that ended before an instant, and answers how many went. Their heads stay in the checkpoint stream.
    ///
    /// # Errors
    /// `Unavailable`, `Indeterminate`: do it again.
    pub async fn prune(&self, ended_before: Timestamp) -> Result<u64> {
        let mut gone = 0;
        loop {
            let call = self.post("/prunings").json(&json!({ "endedBefore": ended_before }));
            let PruningView { pruned, more } = call.answer().await?;
            gone += pruned;
            if !more {
                return Ok(gone);
            }
        }
    }
}
