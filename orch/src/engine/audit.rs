//! The tenant's audit stream: what was done, by whom, why. Written before the deed, so that no effect exists without
//! its record; a record without its effect says that somebody tried.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use serde_json::Value;
use tokio::sync::Mutex;

use super::core::Core;
use super::handle::Identity;
use crate::error::Result;
use crate::id::TenantId;
use crate::ledger::{AuditAction, Stream};
use crate::payload::Payload;
use crate::proof;

/// One lock per tenant, so that this process does not race itself for the head of the stream.
#[derive(Debug, Default)]
pub(super) struct AuditTurns(std::sync::Mutex<HashMap<TenantId, Arc<Mutex<()>>>>);

impl AuditTurns {
    fn of(&self, tenant: &TenantId) -> Arc<Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(tenant.clone()).or_default())
    }
}

/// Records an action.
///
/// # Errors
/// `Conflict` after many lost races, `Unavailable`.
pub(super) async fn record(
    core: &Core,
    who: &Identity,
    action: &str,
    target: String,
    detail: &Value,
) -> Result<()> {
    let mut detail = detail.clone();
    if let (Some(ticket), Some(detail)) = (&who.ticket, detail.as_object_mut()) {
        detail.insert("ticket".to_owned(), ticket.as_str().into());
    }
    let (action, detail, reason) = (action.to_owned(), Payload::new(&detail)?, who.reason.clone());
    let event = AuditAction { action, detail, reason, target }.into();
    let turn = core.audit.of(&who.tenant);
    let _turn = turn.lock().await;
    let store = core.store.as_ref();
    proof::append(store, &who.tenant, Stream::Audit, &who.actor, core.now(), &[event]).await?;
    Ok(())
}
