//! The store.
//!
//! One append is one document in `appends`, whose `_id` is the stream and the number of the entry it follows: two appends on one
//! head collide on it. `runs` holds a document per run that says where its row stands in the listings; it is written around
//! the append and corrected when it is read.

use std::sync::Arc;

use async_trait::async_trait;
use orch::store::*;
use orch::{Result, RunKey};

use crate::connect::Connection;
use crate::error::Doing;

mod append;
mod chunk;
mod docs;
mod entries;
mod feed;
mod known;
mod listing;
mod place;
mod prune;
mod row;

use chunk::name_of;
use feed::Feeds;
use known::Cache;

/// A [`Store`] in a MongoDB database. Cheap to clone; clones share what they know of the heads of streams.
#[derive(Clone, Debug)]
pub struct MongoStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Arc<Connection>,
    cache: Cache,
    feeds: Feeds,
}

/// The lines of one append: together with a row of up to 3 MiB they fit a document of 16 MiB.
const APPEND_BYTES: usize = 12 << 20;

impl MongoStore {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        // What was answered may be lost where writes are weak, so nothing is known then.
        let cache = Cache::new(connection.is_durable());
        Self(Arc::new(Inner { connection, cache, feeds: Feeds::default() }))
    }

    /// Ends all feeds; who follows one learns that the database was closed.
    pub(crate) fn stop_feeds(&self) {
        self.0.feeds.close();
    }

    /// Does `work` in a task of its own.
    async fn run<T, W>(&self, doing: Doing, work: impl FnOnce(Arc<Inner>) -> W) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        self.0.connection.run(doing, work(Arc::clone(&self.0))).await
    }
}

impl Inner {
    fn capability(&self) -> Capability {
        Capability {
            survives_process: true,
            survives_power_loss: self.connection.is_durable(),
            shared: true,
            atomic_row: false,
            append_batch: 1_000,
            append_bytes: APPEND_BYTES,
        }
    }
}

#[async_trait]
impl Store for MongoStore {
    fn capability(&self) -> Capability {
        self.0.capability()
    }

    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>> {
        if appends.is_empty() {
            return Ok(Vec::new());
        }
        let appends = appends.to_vec();
        self.run(Doing::Writing, |inner| async move { Ok(inner.append(&appends).await) }).await
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let requests = requests.to_vec();
        self.run(Doing::Reading, |inner| async move { inner.entries(&requests).await }).await
    }

    async fn feed(&self, query: &FeedQuery) -> Result<FeedPage> {
        check_page(query.limit)?;
        let query = query.clone();
        self.run(Doing::Reading, |inner| async move { inner.feed(&query).await }).await
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        let name = name_of(&key.tenant, orch::ledger::Stream::Run(key.run));
        self.run(Doing::Reading, |inner| async move {
            let mut stands = inner.stands(std::slice::from_ref(&name)).await?;
            Ok(stands.remove(&name).and_then(|stand| stand.row))
        })
        .await
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        check_page(query.limit)?;
        let cursor = query.cursor.as_deref().map(RunsCursor::parse).transpose()?;
        let query = query.clone();
        self.run(Doing::Reading, |inner| async move { inner.runs(&query, cursor).await }).await
    }

    async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        let query = query.clone();
        self.run(Doing::Reading, |inner| async move { inner.due(&query).await }).await
    }

    async fn put_doc(&self, put: &PutDoc) -> Result<u64> {
        let put = put.clone();
        self.run(Doing::Writing, |inner| async move { inner.put_doc(&put).await }).await
    }

    async fn doc(&self, key: &DocKey) -> Result<Option<Doc>> {
        let key = key.clone();
        self.run(Doing::Reading, |inner| async move { inner.doc(&key).await }).await
    }

    async fn docs(&self, query: &DocsQuery) -> Result<DocsPage> {
        check_page(query.limit)?;
        let query = query.clone();
        self.run(Doing::Reading, |inner| async move { inner.docs(&query).await }).await
    }

    async fn prune(&self, prune: &Prune) -> Result<usize> {
        let prune = prune.clone();
        self.run(Doing::Writing, |inner| async move { inner.prune(&prune).await }).await
    }
}
