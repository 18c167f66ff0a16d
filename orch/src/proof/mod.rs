//! Proof that the ledger is what happened: verification, export, signed checkpoints, retention, comparison.
//!
//! Verification trusts nothing but the bytes of the entries. It re-computes every hash, re-folds every run by the
//! rules that the engine itself works by, and compares what is stored beside the entries with what follows from
//! them. What a chain alone cannot show, a cut tail or a stream that is gone, the heads in checkpoints do: keep an
//! exported checkpoint, or at least the public key, where whoever could change the database cannot reach it.
//!
//! What the ledger alone cannot show, such as an acknowledged append that is gone or a slot granted twice, an
//! [`Observed`] notes at the seams while it happens, and holds against the ledger afterwards.

mod append;
mod checkpoint;
mod compare;
mod export;
mod observed;
mod prune;
mod stream;
#[cfg(test)]
mod tests;
mod verify;

pub use append::append;
pub use checkpoint::{Checkpoint, PublicKey, Scope, SigningKey, TakeCheckpoint, take_checkpoint};
pub use compare::{StepComparison, compare};
pub use export::{Counts, Manifest, export, export_again};
pub use observed::{Observed, Outside};
pub use prune::{PruneRuns, ended_before, prune_runs};
pub use stream::{Problem, StreamVerifier};
pub use verify::{Report, VerifyOptions, verify_export, verify_store};

use crate::error::Result;
use crate::id::TenantId;
use crate::ledger::{Head, Stream};
use crate::store::{EntriesPage, EntriesRequest, RunRow, RunsQuery, Store};

/// Entries read at once.
const PAGE: usize = 500;

/// Beyond every sequence number that a store can hold: asks for the head alone.
const END: u64 = i64::MAX as u64;

/// A page of a stream's entries after `after`.
async fn read_page(
    store: &dyn Store,
    tenant: &TenantId,
    stream: Stream,
    after: u64,
    limit: usize,
) -> Result<EntriesPage> {
    let request = EntriesRequest { tenant: tenant.clone(), stream, after, limit };
    let pages = store.entries(&[request]).await.map_err(|error| error.with("stream", stream))?;
    Ok(pages.into_iter().next().unwrap_or(EntriesPage {
        lines: String::new(),
        last: after,
        head: Head::EMPTY,
    }))
}

/// A page of a tenant's runs and where the next one begins.
async fn read_runs(
    store: &dyn Store,
    tenant: &TenantId,
    cursor: Option<String>,
    limit: usize,
) -> Result<(Vec<RunRow>, Option<String>)> {
    let query = RunsQuery { limit, cursor, ..RunsQuery::all(tenant.clone()) };
    let page = store.runs(&query).await?;
    Ok((page.runs, page.next))
}
