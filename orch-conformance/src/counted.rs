//! What an engine asks of its backends, counted: idle cost is a number, not a feeling.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use orch::lock::{Acquire, Grant, Holder, Lock, Take, Taken};
use orch::queue::{Claim, Claimed, DeliveryToken, Depth, Item, Queue, Settle};
use orch::store::*;
use orch::{Result, RunKey, TenantId, Timestamp};

/// A seam that counts the calls to each of its methods and passes them on. Clones share their counts.
///
/// ```
/// use std::sync::Arc;
/// use orch::store::{MemoryStore, Store};
/// use orch_conformance::Counted;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> orch::Result<()> {
/// let store: Counted<dyn Store> = Counted::new(Arc::new(MemoryStore::new()));
/// store.append(&[]).await?;
/// assert_eq!(store.take_counts(), [("append", 1)].into());
/// # Ok(())
/// # }
/// ```
pub struct Counted<S: ?Sized> {
    inner: Arc<S>,
    counts: Arc<Mutex<Counts>>,
}

/// Calls by method name; methods that were not called are left out.
pub type Counts = BTreeMap<&'static str, u64>;

impl<S: ?Sized> Counted<S> {
    /// Counts what is asked of `inner` from now on. [`Store::capability`] and [`Store::stamp`] ask
    /// nothing of a backend and are not counted.
    #[must_use]
    pub fn new(inner: Arc<S>) -> Self {
        Self { inner, counts: Arc::default() }
    }

    /// Calls since the last look, by method.
    #[must_use]
    pub fn take_counts(&self) -> Counts {
        std::mem::take(&mut *self.counts())
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, method: &'static str) -> &S {
        *self.counts().entry(method).or_default() += 1;
        &self.inner
    }
}

impl<S: ?Sized> Clone for Counted<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), counts: Arc::clone(&self.counts) }
    }
}

impl<S: ?Sized> fmt::Debug for Counted<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted").field("counts", &*self.counts()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Counted<dyn Store> {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    fn stamp(&self) -> Option<u64> {
        self.inner.stamp()
    }

    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>> {
        self.call("append").append(appends).await
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        self.call("entries").entries(requests).await
    }

    async fn feed(&self, query: &FeedQuery) -> Result<FeedPage> {
        self.call("feed").feed(query).await
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        self.call("run").run(key).await
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        self.call("runs").runs(query).await
    }

    async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        self.call("due").due(query).await
    }

    async fn put_doc(&self, put: &PutDoc) -> Result<u64> {
        self.call("put_doc").put_doc(put).await
    }

    async fn doc(&self, key: &DocKey) -> Result<Option<Doc>> {
        self.call("doc").doc(key).await
    }

    async fn docs(&self, query: &DocsQuery) -> Result<DocsPage> {
        self.call("docs").docs(query).await
    }

    async fn prune(&self, prune: &Prune) -> Result<usize> {
        self.call("prune").prune(prune).await
    }
}

#[async_trait]
impl Queue for Counted<dyn Queue> {
    async fn push(&self, items: &[Item]) -> Result<()> {
        self.call("push").push(items).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.call("claim").claim(claim).await
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        self.call("renew").renew(tokens, until, now).await
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        self.call("settle").settle(settles, now).await
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        self.call("wait").wait(timeout).await
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        self.call("depth").depth(tenant, now).await
    }
}

#[async_trait]
impl Lock for Counted<dyn Lock> {
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        self.call("acquire").acquire(acquire).await
    }

    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>> {
        self.call("renew").renew(holders, until, now).await
    }

    async fn release(&self, holders: &[Holder]) -> Result<()> {
        self.call("release").release(holders).await
    }

    async fn take(&self, take: &Take) -> Result<Taken> {
        self.call("take").take(take).await
    }
}
