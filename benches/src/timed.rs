//! A store that notes how long each append takes.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use orch::store::*;
use orch::{Result, RunKey};
use orch_benches::now;

/// Passes calls on. On SQLite a call of `append` costs at most one commit: the writer may merge several.
#[derive(Clone, Debug)]
pub(crate) struct Timed {
    inner: Arc<dyn Store>,
    micros: Arc<Mutex<Vec<f64>>>,
}

impl Timed {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, micros: Arc::default() }
    }

    /// What the appends since the last look took, in microseconds.
    pub(crate) fn take(&self) -> Vec<f64> {
        std::mem::take(&mut *self.micros.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Store for Timed {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    fn stamp(&self) -> Option<u64> {
        self.inner.stamp()
    }

    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>> {
        let begun = now();
        let answer = self.inner.append(appends).await;
        let micros = begun.elapsed().as_secs_f64() * 1e6;
        self.micros.lock().unwrap_or_else(PoisonError::into_inner).push(micros);
        answer
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        self.inner.entries(requests).await
    }

    async fn feed(&self, query: &FeedQuery) -> Result<FeedPage> {
        self.inner.feed(query).await
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        self.inner.run(key).await
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        self.inner.runs(query).await
    }

    async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        self.inner.due(query).await
    }

    async fn put_doc(&self, put: &PutDoc) -> Result<u64> {
        self.inner.put_doc(put).await
    }

    async fn doc(&self, key: &DocKey) -> Result<Option<Doc>> {
        self.inner.doc(key).await
    }

    async fn docs(&self, query: &DocsQuery) -> Result<DocsPage> {
        self.inner.docs(query).await
    }

    async fn prune(&self, prune: &Prune) -> Result<usize> {
        self.inner.prune(prune).await
    }
}
