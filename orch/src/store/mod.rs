//! Where the ledger lives: streams of entries, a row per run, and versioned documents.
//!
//! The entries are the truth. A [`RunRow`] is what [`RunState::row`](crate::planner::RunState::row) makes of
//! them, written in the same transaction where the backend has one. Documents are small JSON texts with
//! compare-and-swap, so that a new concept needs no new backend code.

mod memory;
mod page;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::id::{DagId, RunId, RunKey, StepKey, TenantId};
use crate::ledger::{Head, RunStatus, StepCounts, Stream};
use crate::time::Timestamp;

pub use memory::MemoryStore;
pub use page::{PAGE_MAX, RunsCursor, check_page, lines_after, stale_head};

/// What a store promises about speed, reach and limits. No code asks which backend it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capability {
    /// An acknowledged append survives the death of the process.
    pub survives_process: bool,
    /// An acknowledged append survives loss of power.
    pub survives_power_loss: bool,
    /// Several processes may use it at once.
    pub shared: bool,
    /// Entries and run row land in one transaction.
    pub atomic_row: bool,
    /// Appends in one call beyond which a further one costs as much as a call of its own.
    pub append_batch: usize,
    /// Bytes of the lines of one append.
    pub append_bytes: usize,
}

/// A durable, ordered, compare-and-swapped record. The invariants are explained by id in
/// `docs/guarantees.md`.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// What this store promises.
    fn capability(&self) -> Capability;

    /// A number that is another once anybody has written since, told without asking the backend anything; nothing where
    /// that cannot be told. An engine with nothing to do asks no further for as long as it stays.
    ///
    /// # Guarantees
    /// Two equal numbers, told by the same handle, say that no append, document or pruning was answered with success in
    /// between. Different ones say nothing.
    ///
    /// # Backend notes
    /// A store that other processes write to can rarely tell, and need not.
    fn stamp(&self) -> Option<u64> {
        None
    }

    /// Appends to many streams at once.
    ///
    /// # Guarantees
    /// - L1: an append answered with `Ok` is durable as [`Capability`] says, and its entries never change.
    /// - L2: an append whose `expected` is not the head of its stream changes nothing and answers `Conflict`.
    /// - Each item lands wholly or not at all. Items are independent: one may fail while its neighbours land.
    ///   Two items on one stream apply in order.
    /// - An item without lines compares the head and replaces the row only.
    ///
    /// # Errors
    /// Per item: `Conflict`, `Invalid` and `LimitExceeded` (see [`Append::check`]), `Unavailable` (nothing was written) or `Indeterminate` (it may have
    /// been: read the head). The outer error is for the whole call and means the same for every item.
    ///
    /// # Backend notes
    /// Memory and SQLite: one transaction per call. One-document backends: the lines are the document, the row
    /// follows and is repaired from the entries on read.
    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>>;

    /// Reads entries of many streams, one page each, in the order of the requests.
    ///
    /// # Guarantees
    /// A page holds whole lines in order, without gaps, exactly the bytes that were appended; it holds at least
    /// one line if there is one after `after`, and may exceed `limit` by the rest of one append.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`. An unknown stream is an empty page with [`Head::EMPTY`].
    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>>;

    /// Reads what was appended to the runs of one tenant, all of them, in the order in which it became visible.
    ///
    /// # Guarantees
    /// - T1: only appends of the query's tenant.
    /// - A page goes on exactly where its cursor was: no append that became visible after it is missing, none comes twice,
    ///   and those of one run come in their order. Of pruned runs there may be nothing.
    /// - Without a cursor the page is empty, and its `next` is the present end.
    ///
    /// # Errors
    /// `Unsupported` where the store keeps no order over all runs, `Invalid` for a cursor that no store made, `NotFound`
    /// for one whose place is not known any more: begin anew. `Unavailable`, `Corrupt`.
    ///
    /// # Backend notes
    /// Optional: memory, SQLite, replica sets of MongoDB and single nodes of Redis have it, which keep their writers in line
    /// anyway.
    async fn feed(&self, query: &FeedQuery) -> Result<FeedPage> {
        let _ = query;
        Err(Error::unsupported("this store keeps no order over all runs"))
    }

    /// The row of one run.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>>;

    /// Lists the runs of one tenant, newest first: by creation descending, then run id.
    ///
    /// # Guarantees
    /// T1: only rows of the query's tenant. Paging by cursor neither skips nor repeats a row that did not change.
    ///
    /// # Errors
    /// `Invalid` for a cursor that this store did not make; `LimitExceeded` for a page size over the limit.
    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage>;

    /// Lists runs that must be looked at by `until`, of all tenants, by (`wake_at`, tenant, run).
    ///
    /// # Errors
    /// `Unavailable`.
    async fn due(&self, query: &DueQuery) -> Result<DuePage>;

    /// Writes one document, compare-and-swapped. Answers its new version, 0 when it was deleted.
    ///
    /// # Errors
    /// `Conflict` when [`Expect`] does not hold; nothing is changed then.
    async fn put_doc(&self, put: &PutDoc) -> Result<u64>;

    /// Reads one document.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn doc(&self, key: &DocKey) -> Result<Option<Doc>>;

    /// Lists documents of one kind by key, ascending in byte order.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `LimitExceeded` for a page size over the limit.
    async fn docs(&self, query: &DocsQuery) -> Result<DocsPage>;

    /// Deletes entries and row of finished runs whose head is still the one named. Answers how many went.
    ///
    /// # Guarantees
    /// P1: nothing of a pruned run is left. A run whose head has moved, or whose row says that it has not ended, is
    /// left alone.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn prune(&self, prune: &Prune) -> Result<usize>;
}

/// Which appends to read.
#[derive(Clone, Debug)]
pub struct FeedQuery {
    /// Whose runs.
    pub tenant: TenantId,
    /// Where the previous page ended; without it, from now on.
    pub after: Option<String>,
    /// Appends per page, 1 to 500; a page may hold fewer although more follow.
    pub limit: usize,
}

/// A page of appends.
#[derive(Clone, Debug)]
pub struct FeedPage {
    /// The appends, in the order in which they became visible.
    pub items: Vec<FeedItem>,
    /// Where the next page begins: opaque, at most 1 024 bytes.
    pub next: String,
    /// Whether more followed already.
    pub more: bool,
}

/// What was appended to a run at once.
#[derive(Clone, Debug)]
pub struct FeedItem {
    /// The run.
    pub run: RunId,
    /// The number of the first entry.
    pub first: u64,
    /// The entries, as lines.
    pub lines: String,
    /// Where a page begins that goes on after this.
    pub cursor: String,
}

/// One append to one stream.
#[derive(Clone, Debug)]
pub struct Append {
    /// Whose stream.
    pub tenant: TenantId,
    /// Which stream.
    pub stream: Stream,
    /// The head the stream must have.
    pub expected: Head,
    /// The new entries: canonical JSON lines, each ended by a newline. Empty to replace the row only.
    pub lines: Arc<str>,
    /// The head the stream has afterwards.
    pub head: Head,
    /// The run's row afterwards; only for run streams.
    pub row: Option<RunRow>,
}

/// Which entries of a stream to read.
#[derive(Clone, Debug)]
pub struct EntriesRequest {
    /// Whose stream.
    pub tenant: TenantId,
    /// Which stream.
    pub stream: Stream,
    /// Only entries with a higher sequence number.
    pub after: u64,
    /// About how many entries to return.
    pub limit: usize,
}

/// Consecutive entries of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntriesPage {
    /// The lines, each ended by a newline.
    pub lines: String,
    /// Sequence number of the last line, or the request's `after` when the page is empty.
    pub last: u64,
    /// The head of the stream when the page was read.
    pub head: Head,
}

impl EntriesPage {
    /// Whether entries follow this page.
    #[must_use]
    pub fn more(&self) -> bool {
        self.last < self.head.seq
    }
}

/// What is known of a run without reading its entries: a projection of them (invariant L3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRow {
    /// Whose run.
    pub tenant: TenantId,
    /// Which run.
    pub run: RunId,
    /// The DAG it is a run of.
    pub dag: DagId,
    /// The published version of the DAG; absent for a run of an unpublished spec.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dag_version: Option<u32>,
    /// Where the run stands.
    pub status: RunStatus,
    /// How many steps stand where.
    pub steps: StepCounts,
    /// The run's own priority.
    pub priority: i32,
    /// Who submitted it.
    pub actor: String,
    /// The token that names it among runs of the same DAG and inputs.
    pub run_token: String,
    /// SHA-256 of the plan.
    pub plan_hash: Digest,
    /// SHA-256 of the inputs.
    pub inputs_hash: Digest,
    /// SHA-256 of the outputs, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outputs_hash: Option<Digest>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// W3C trace context it was submitted with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub traceparent: Option<String>,
    /// The run this one repeats.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replay_of: Option<RunId>,
    /// The step of another run that this run carries out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<ParentStep>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its first step started.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended_at: Option<Timestamp>,
    /// When it must be looked at next, whatever happens.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wake_at: Option<Timestamp>,
    /// The head of its stream.
    pub head: Head,
}

impl RunRow {
    /// The run with its tenant.
    #[must_use]
    pub fn key(&self) -> RunKey {
        RunKey { tenant: self.tenant.clone(), run: self.run }
    }
}

/// The step that a sub-DAG's run belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStep {
    /// The attempt of the step.
    pub attempt: u32,
    /// How many runs stand above, the direct parent included.
    pub depth: u32,
    /// The run.
    pub run: RunId,
    /// The step.
    pub step: StepKey,
}

/// A filter over the runs of one tenant.
#[derive(Clone, Debug)]
pub struct RunsQuery {
    /// Whose runs.
    pub tenant: TenantId,
    /// Only runs of this DAG.
    pub dag: Option<DagId>,
    /// Only runs with this status.
    pub status: Option<RunStatus>,
    /// Only runs created at or after.
    pub from: Option<Timestamp>,
    /// Only runs created before.
    pub to: Option<Timestamp>,
    /// Rows per page, 1 to 500.
    pub limit: usize,
    /// Where the previous page ended.
    pub cursor: Option<String>,
}

impl RunsQuery {
    /// All runs of `tenant`, 50 a page.
    #[must_use]
    pub fn all(tenant: TenantId) -> Self {
        Self { tenant, dag: None, status: None, from: None, to: None, limit: 50, cursor: None }
    }
}

/// A page of runs.
#[derive(Clone, Debug)]
pub struct RunsPage {
    /// The rows.
    pub runs: Vec<RunRow>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// Which due runs to list.
#[derive(Clone, Debug)]
pub struct DueQuery {
    /// Runs whose `wake_at` is not later.
    pub until: Timestamp,
    /// Only runs after this one in the order of the listing.
    pub after: Option<(Timestamp, RunKey)>,
    /// Runs per page.
    pub limit: usize,
}

/// A page of due runs.
#[derive(Clone, Debug)]
pub struct DuePage {
    /// The runs and when each is due.
    pub runs: Vec<(Timestamp, RunKey)>,
    /// When the first run beyond `until` is due.
    pub next_at: Option<Timestamp>,
}

/// The name of a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocKey {
    /// Whose document.
    pub tenant: TenantId,
    /// What kind of document, such as `dag`.
    pub kind: &'static str,
    /// Which one.
    pub key: String,
}

/// A document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doc {
    /// Which one of its kind.
    pub key: String,
    /// 1 when first written, also after a deletion; higher by 1 with each write.
    pub version: u64,
    /// JSON text.
    pub body: String,
}

/// What must hold for a document to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// There is none yet.
    Absent,
    /// It has this version.
    Version(u64),
}

/// A write of a document.
#[derive(Clone, Debug)]
pub struct PutDoc {
    /// Which document.
    pub key: DocKey,
    /// What must hold.
    pub expect: Expect,
    /// JSON text, or nothing to delete it.
    pub body: Option<String>,
}

/// Which documents to list.
#[derive(Clone, Debug)]
pub struct DocsQuery {
    /// Whose documents.
    pub tenant: TenantId,
    /// Of which kind.
    pub kind: &'static str,
    /// Only keys after this one.
    pub after: Option<String>,
    /// Documents per page, 1 to 500.
    pub limit: usize,
}

/// A page of documents.
#[derive(Clone, Debug)]
pub struct DocsPage {
    /// The documents.
    pub docs: Vec<Doc>,
    /// Whether more follow.
    pub more: bool,
}

/// Finished runs to delete.
#[derive(Clone, Debug)]
pub struct Prune {
    /// Whose runs.
    pub tenant: TenantId,
    /// The runs, each with the head that was recorded in the checkpoint stream.
    pub runs: Vec<(RunId, Head)>,
}
