//! Clearing away old documents of the service, a few whenever a new one comes.

use orch::store::{Doc, DocKey, DocsQuery, Expect, PutDoc, Store};
use orch::{ErrorKind, TenantId};

/// Documents looked at, of those that come after a key.
const LOOKED_AT: usize = 100;

/// Deletes old documents of a kind. What somebody else has changed or deleted meanwhile stays as it is.
///
/// # Errors
/// As the store.
pub(crate) async fn forget(
    store: &dyn Store,
    tenant: &TenantId,
    kind: &'static str,
    after: Option<String>,
    is_old: impl FnMut(&Doc) -> bool + Send,
) -> orch::Result<()> {
    let query = DocsQuery { tenant: tenant.clone(), kind, after, limit: LOOKED_AT };
    let mut docs = store.docs(&query).await?.docs;
    docs.retain(is_old);
    for doc in docs {
        let key = DocKey { tenant: tenant.clone(), kind, key: doc.key };
        match store.put_doc(&PutDoc { key, expect: Expect::Version(doc.version), body: None }).await {
            Err(error) if error.kind() != ErrorKind::Conflict => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
