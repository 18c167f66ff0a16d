//! The tenant's audit stream: what was done, by whom, why. Written before the deed, so that no effect exists without
//! its record; a record without its effect says that somebody tried.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use serde_json::Value;
use tokio::sync::Mutex;

use super::core::Core;
use super::handle::Identity;
use crate::error::{Error, ErrorKind, Result};
use crate::id::TenantId;
use crate::ledger::{AuditAction, Chain, Head, Stream};
use crate::payload::Payload;
use crate::store::{Append, EntriesRequest};

/// Races lost before the caller is told.
const TRIES: usize = 64;

/// The heads of the audit streams as last seen; one lock per tenant, so that this process does not race itself.
#[derive(Debug, Default)]
pub(super) struct AuditHeads(std::sync::Mutex<HashMap<TenantId, Arc<Mutex<Option<Head>>>>>);

impl AuditHeads {
    fn of(&self, tenant: &TenantId) -> Arc<Mutex<Option<Head>>> {
        let mut heads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(heads.entry(tenant.clone()).or_default())
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
    let event = AuditAction {
        action: action.to_owned(),
        detail: Payload::new(detail)?,
        reason: who.reason.clone(),
        target,
    }
    .into();
    let known = core.audit.of(&who.tenant);
    let mut known = known.lock().await;
    for _ in 0..TRIES {
        let expected = match *known {
            Some(head) => head,
            None => read_head(core, &who.tenant).await?,
        };
        let mut chain = Chain::new(&who.tenant, Stream::Audit, expected);
        chain.push(&who.actor, core.now(), &event)?;
        let (lines, head) = chain.finish()?;
        let append =
            Append { tenant: who.tenant.clone(), stream: Stream::Audit, expected, lines, head, row: None };
        *known = None;
        match core.store.append(&[append]).await?.pop() {
            Some(Ok(())) => {
                *known = Some(head);
                return Ok(());
            }
            Some(Err(error)) if error.kind() == ErrorKind::Conflict => {}
            Some(Err(error)) => return Err(error),
            None => return Err(Error::internal("a store answers every append")),
        }
    }
    Err(Error::conflict("the audit stream is too busy").with("tenant", &who.tenant))
}

async fn read_head(core: &Core, tenant: &TenantId) -> Result<Head> {
    let request =
        EntriesRequest { tenant: tenant.clone(), stream: Stream::Audit, after: u64::MAX >> 12, limit: 1 };
    let page = core.store.entries(&[request]).await?.pop();
    page.map(|page| page.head).ok_or_else(|| Error::internal("a store answers every request"))
}
