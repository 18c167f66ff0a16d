//! Following all runs of a tenant.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Notify;

use super::core::{Core, closed};
use super::handle::{Identity, Orchestrator};
use super::watch::POLL;
use crate::error::Result;
use crate::id::{RunId, TenantId};
use crate::ledger::Entry;
use crate::store::{FeedItem, FeedQuery};

/// Appends read at once.
const PAGE: usize = 100;

/// What was appended to a run at once.
#[derive(Debug)]
pub struct FeedEntries {
    /// The run.
    pub run: RunId,
    /// The entries, in order.
    pub entries: Vec<Entry>,
    /// Where a feed begins that goes on after this.
    pub cursor: String,
}

/// The entries of all runs of a tenant, as they become visible.
#[derive(Debug)]
pub struct RunFeed {
    core: Arc<Core>,
    tenant: TenantId,
    told: Arc<Notify>,
    ready: VecDeque<FeedItem>,
    /// Where the next page begins.
    next: String,
}

impl Orchestrator {
    /// Follows all runs of the tenant: from after a cursor, or from now on.
    ///
    /// What this process appends is told at once, what others append within a second.
    ///
    /// # Errors
    /// As [`Store::feed`](crate::store::Store::feed).
    pub async fn feed(&self, who: &Identity, after: Option<String>) -> Result<RunFeed> {
        let (core, tenant) = (Arc::clone(&self.core), who.tenant.clone());
        let told = core.watchers.of_tenant(&tenant);
        let query = FeedQuery { tenant: tenant.clone(), after, limit: PAGE };
        let page = core.store.feed(&query).await?;
        Ok(RunFeed { core, tenant, told, ready: page.items.into(), next: page.next })
    }
}

impl RunFeed {
    /// Where a feed begins that brings what [`next`](Self::next) has not brought yet. For a feed that was opened after a
    /// cursor and has brought nothing: that cursor, or one that says the same.
    #[must_use]
    pub fn end(&self) -> &str {
        &self.next
    }

    /// What was appended next. Whoever stops waiting loses nothing.
    ///
    /// # Errors
    /// `NotFound` when the place was pruned away, `Corrupt`, `Unavailable`, `Closed`.
    pub async fn next(&mut self) -> Result<FeedEntries> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                let entries = item.lines.lines().map(Entry::read).collect::<Result<_>>()?;
                return Ok(FeedEntries { run: item.run, entries, cursor: item.cursor });
            }
            let told = Arc::clone(&self.told);
            let mut told = std::pin::pin!(told.notified());
            // Registered before reading, so that what lands after the read is not missed.
            told.as_mut().enable();
            let query =
                FeedQuery { tenant: self.tenant.clone(), after: Some(self.next.clone()), limit: PAGE };
            let page = self.core.store.feed(&query).await?;
            self.next = page.next;
            self.ready = page.items.into();
            if !self.ready.is_empty() || page.more {
                continue;
            }
            tokio::select! {
                biased;
                () = told => {}
                () = tokio::time::sleep(POLL) => {}
                () = self.core.closed.cancelled() => return Err(closed()),
            }
        }
    }
}
