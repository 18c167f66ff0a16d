//! What was seen from outside the ledger: answers given, attempts executed, slots and deliveries granted.
//!
//! An [`Observed`] hands out the seams again, watched. What contradicts itself is a [`Problem`] at once; the rest is
//! held against the ledger by [`Observed::check`], together with everything that [`verify_store`](super::verify_store)
//! finds. Watch a backend where it answers, below whatever drops, delays or repeats its answers on purpose.

mod check;
mod lock;
mod queue;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use check::Outside;

use super::Problem;
use crate::digest::Digest;
use crate::error::ErrorKind;
use crate::executor::StepContext;
use crate::id::{DagId, RunId, RunKey, StepKey, TenantId};
use crate::ledger::{Head, Stream};
use crate::lock::Lock;
use crate::queue::Queue;
use crate::store::{RunRow, Store};

/// Problems kept; an observed system that is wrong at all tends to be wrong often.
const PROBLEMS: usize = 100;

/// Notes what is seen of an orchestration from outside its ledger, and checks it. Clones share what they saw.
///
/// Made for tests and simulations: it holds about 100 bytes per append, execution and submission, and one model of each
/// watched queue and lock, until it is dropped.
#[derive(Clone, Default)]
pub struct Observed(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    problems: Vec<Problem>,
    streams: BTreeMap<(TenantId, Stream), SeenStream>,
    /// Bodies of documents that each tenant wrote.
    documents: BTreeSet<(TenantId, Digest)>,
    /// How often each attempt was executed.
    executed: BTreeMap<(RunKey, StepKey, u32), u32>,
    submitted: BTreeMap<(TenantId, DagId, String, Digest), RunId>,
    queues: Vec<queue::Watched>,
    refused: u64,
}

/// What was answered about one stream.
#[derive(Debug, Default)]
struct SeenStream {
    /// The acknowledged appends, by the sequence number of the head they were made to.
    landed: BTreeMap<u64, Landed>,
    /// The heads of appends that were acknowledged although another one, or they themselves, had begun there or gone
    /// beyond; each with that one's.
    rivals: BTreeMap<Head, Head>,
    /// The heads of refused appends.
    refused: BTreeSet<Head>,
    /// The heads of appends of which nobody knows what became.
    doubtful: BTreeSet<Head>,
    /// The head that it was pruned at.
    pruned: Option<Head>,
}

/// An acknowledged append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Landed {
    /// The hash of the head it was made to.
    from: Digest,
    /// The head it led to.
    head: Head,
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("streams", &self.seen().streams.len()).finish_non_exhaustive()
    }
}

impl Observed {
    /// One that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The store, watched: L1, L2, P1, T1.
    #[must_use]
    pub fn store(&self, inner: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(store::Watched::new(inner, self.clone()))
    }

    /// The queue, watched: Q1, T1. Calls that change it take turns, so that nothing is uncertain.
    #[must_use]
    pub fn queue(&self, inner: Arc<dyn Queue>) -> Arc<dyn Queue> {
        let watched = queue::Watched::new(inner, self.clone());
        self.seen().queues.push(watched.clone());
        Arc::new(watched)
    }

    /// The lock, watched: A1. Calls that change it take turns, so that nothing is uncertain.
    #[must_use]
    pub fn lock(&self, inner: Arc<dyn Lock>) -> Arc<dyn Lock> {
        Arc::new(lock::Watched::new(inner, self.clone()))
    }

    /// An executor begins an attempt; `sandboxed` says whether what the step declares of the network is enforced.
    pub fn executed(&self, context: &StepContext, sandboxed: bool) {
        let (stream, attempt) = (Stream::Run(context.run.run), context.attempt);
        let key = (context.run.clone(), context.step.clone(), attempt);
        *self.seen().executed.entry(key).or_default() += 1;
        if context.network.is_some() && !sandboxed {
            let step = &context.step;
            let message =
                format!("attempt {attempt} of `{step}` declares its network, which is not enforced");
            self.report(Problem::new(stream, 0, "unsandboxed", message));
        }
    }

    /// A submission that asked for `token` was answered with a row.
    pub fn submitted(&self, tenant: &TenantId, token: &str, row: &RunRow) {
        self.answered(tenant, row);
        let key = (tenant.clone(), row.dag.clone(), token.to_owned(), row.inputs_hash);
        let first = *self.seen().submitted.entry(key).or_insert(row.run);
        if first != row.run {
            let message = format!("the run {first} was answered to the same token `{token}`, dag and inputs");
            self.report(Problem::new(Stream::Run(row.run), 1, "two_runs", message));
        }
    }

    /// A call with the identity of `tenant` was answered with a row.
    pub fn answered(&self, tenant: &TenantId, row: &RunRow) {
        if row.tenant != *tenant {
            self.foreign(tenant, Stream::Run(row.run), "a row");
        }
    }

    /// A call with the identity of `tenant` about a run of another tenant was answered: it must be as if the run had
    /// never been. What passes (`Unavailable` and the like) reveals nothing.
    pub fn strange<T>(&self, tenant: &TenantId, run: RunId, answer: &crate::Result<T>) {
        let hidden = answer.as_ref().is_err_and(|error| {
            error.is_retryable() || matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Closed)
        });
        if !hidden {
            self.foreign(tenant, Stream::Run(run), "an answer that betrays a run");
        }
    }

    /// Everything in the watched queues was lost by somebody's hand, as when a server is flushed.
    pub fn flushed(&self) {
        self.seen().queues.iter().for_each(queue::Watched::forget);
    }

    /// How many appends to runs were refused because others had been quicker: the races that were seen.
    #[must_use]
    pub fn races(&self) -> u64 {
        self.seen().refused
    }

    fn foreign(&self, tenant: &TenantId, stream: Stream, what: &str) {
        let message = format!("`{tenant}` was given {what} of another tenant");
        self.report(Problem::new(stream, 0, "foreign_data", message));
    }

    fn report(&self, problem: Problem) {
        let mut seen = self.seen();
        if seen.problems.len() < PROBLEMS {
            seen.problems.push(problem);
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
