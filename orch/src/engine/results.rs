//! Earlier results, for steps that say `cache: true`. Losing one costs a repetition, nothing else.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::core::Core;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::ledger::ReusedFrom;
use crate::payload::Payload;
use crate::store::{DocKey, Expect, PutDoc};

#[derive(Serialize, Deserialize)]
struct Kept {
    from: ReusedFrom,
    output: Payload,
}

fn key(tenant: &TenantId, result: Digest) -> DocKey {
    DocKey { tenant: tenant.clone(), kind: "result", key: result.to_string() }
}

/// The result kept under this key, and where it comes from.
pub(super) async fn find(
    core: &Core,
    tenant: &TenantId,
    result: Digest,
) -> Result<Option<(Payload, ReusedFrom)>> {
    let Some(doc) = core.store.doc(&key(tenant, result)).await? else { return Ok(None) };
    let kept: Kept = serde_json::from_str(&doc.body).map_err(|cause| {
        Error::corrupt("a kept result has another shape").with("key", result).caused_by(cause)
    })?;
    Ok(Some((kept.output, kept.from)))
}

/// Keeps a result; the first one stays.
pub(super) fn keep(core: &Arc<Core>, tenant: TenantId, result: Digest, output: Payload, from: ReusedFrom) {
    let owner = Arc::clone(core);
    core.tasks.spawn(async move {
        let Ok(body) = serde_json::to_string(&Kept { from, output }) else { return };
        let put = PutDoc { key: key(&tenant, result), expect: Expect::Absent, body: Some(body) };
        if let Err(error) = owner.store.put_doc(&put).await
            && error.kind() != crate::error::ErrorKind::Conflict
        {
            tracing::warn!(%error, "a result cannot be kept for reuse");
        }
    });
}
