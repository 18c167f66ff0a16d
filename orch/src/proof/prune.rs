//! Retention: deleting finished runs so that their heads remain.

use super::append;
use crate::error::Result;
use crate::id::{RunId, RunKey, TenantId};
use crate::ledger::{CheckpointPruned, Stream, StreamHead};
use crate::store::{PAGE_MAX, Prune, RunsQuery, Store};
use crate::time::Timestamp;

/// Runs deleted per entry.
const BATCH: usize = 500;

/// A request to delete finished runs.
#[derive(Clone, Debug)]
pub struct PruneRuns {
    /// Whose runs.
    pub tenant: TenantId,
    /// Which; those that are not there or have not ended are left alone.
    pub runs: Vec<RunId>,
    /// Who asks.
    pub actor: String,
    /// The present instant.
    pub now: Timestamp,
}

/// The runs of a tenant that ended before an instant, at most about `most` of them, and whether there may be more.
///
/// # Errors
/// As the store.
pub async fn ended_before(
    store: &dyn Store,
    tenant: &TenantId,
    before: Timestamp,
    most: usize,
) -> Result<(Vec<RunId>, bool)> {
    let mut runs = Vec::new();
    // What ended before was created before.
    let mut query = RunsQuery { to: Some(before), limit: PAGE_MAX, ..RunsQuery::all(tenant.clone()) };
    loop {
        let page = store.runs(&query).await?;
        let old = page.runs.iter().filter(|row| row.ended_at.is_some_and(|end| end < before));
        runs.extend(old.map(|row| row.run));
        match page.next {
            None => return Ok((runs, false)),
            Some(_) if runs.len() >= most => return Ok((runs, true)),
            Some(next) => query.cursor = Some(next),
        }
    }
}

/// Deletes finished runs; answers how many went. Their heads are recorded in the `checkpoint` stream first
/// (invariant P1); after a crash between the two, running it again finishes what was begun.
///
/// That record is chained but not signed. Who must tell a lawful deletion from one made up by somebody with the
/// database exports a checkpoint afterwards and keeps it: its own entry fixes everything recorded before it.
///
/// # Errors
/// As the store.
pub async fn prune_runs(store: &dyn Store, request: &PruneRuns) -> Result<usize> {
    let tenant = &request.tenant;
    let mut gone = 0;
    for batch in request.runs.chunks(BATCH) {
        let mut ended = Vec::new();
        for run in batch {
            let row = store.run(&RunKey { tenant: tenant.clone(), run: *run }).await?;
            ended.extend(row.filter(|row| row.status.is_terminal()).map(|row| (*run, row.head)));
        }
        ended.sort_unstable();
        ended.dedup();
        if ended.is_empty() {
            continue;
        }
        let heads = ended.iter().map(|(run, head)| StreamHead { head: *head, stream: Stream::Run(*run) });
        let event = CheckpointPruned { heads: heads.collect() }.into();
        append(store, tenant, Stream::Checkpoint, &request.actor, request.now, &[event]).await?;
        gone += store.prune(&Prune { tenant: tenant.clone(), runs: ended }).await?;
    }
    Ok(gone)
}
