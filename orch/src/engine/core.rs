//! What all parts of the engine share.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::active::ActiveAttempts;
use super::change::{Answer, Change, Request, Worker};
use super::desk::Desk;
use super::execute::Line;
use super::health::Health;
use super::observe::Observer;
use super::settings::Settings;
use super::slots::Returns;
use super::sweep::Alarm;
use super::watch::Watchers;
use crate::artifact::Artifacts;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::executor::Executors;
use crate::executor::Secret;
use crate::id::RunKey;
use crate::limits::Limits;
use crate::lock::Lock;
use crate::payload::Payload;
use crate::planner::{Plan, SharedPlan};
use crate::queue::Queue;
use crate::store::Store;
use crate::time::{Clock, Timestamp};

/// Where the values of the secrets that steps declare come from.
pub type SecretSource = Arc<dyn Fn(&crate::id::TenantId, &str) -> Option<Secret> + Send + Sync>;

/// Where the names of workers and of runs without a token come from; no two may be the same.
pub type TokenSource = Arc<dyn Fn() -> String + Send + Sync>;

/// The components and the settings, and the little state that belongs to the process and not to a run.
pub(super) struct Core {
    pub(super) store: Arc<dyn Store>,
    pub(super) queue: Arc<dyn Queue>,
    /// Hints at what waits for workers outside.
    pub(super) outside: Arc<dyn Queue>,
    pub(super) desk: Desk,
    pub(super) lock: Arc<dyn Lock>,
    pub(super) executors: Executors,
    pub(super) artifacts: Artifacts,
    pub(super) secrets: SecretSource,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tokens: TokenSource,
    pub(super) settings: Settings,
    pub(super) worker: Worker,
    /// The actor that the entries of this worker name.
    pub(super) actor: Arc<str>,
    /// One for each committer.
    pub(super) inboxes: Vec<mpsc::Sender<Request>>,
    pub(super) places: Arc<Semaphore>,
    pub(super) backlog: Backlog,
    pub(super) active: ActiveAttempts,
    pub(super) line: Line,
    /// Threads of the runtime.
    pub(super) threads: usize,
    /// Runs that each committer keeps in memory.
    pub(super) loaded: Vec<AtomicUsize>,
    /// Appends that have landed.
    pub(super) landed: AtomicU64,
    pub(super) plans: Plans,
    pub(super) watchers: Watchers,
    pub(super) alarm: Alarm,
    pub(super) audit: super::audit::AuditTurns,
    /// Fires when nothing new is to be claimed.
    pub(super) closing: CancellationToken,
    /// Fires when everything stops.
    pub(super) closed: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) health: Health,
    pub(super) returns: Returns,
    pub(super) observers: Vec<Arc<dyn Observer>>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("worker", &self.worker)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Core {
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    /// Asks for a change and waits until it is durable or refused.
    pub(super) async fn request(&self, key: RunKey, actor: Arc<str>, change: Change) -> Result<Answer> {
        let (reply, answer) = oneshot::channel();
        self.send(Request { key, actor, change, reply: Some(reply), tries: 0, asked: 0 }).await?;
        answer.await.map_err(|_| closed())?
    }

    /// Asks for a change without waiting for it.
    pub(super) async fn send(&self, request: Request) -> Result<()> {
        // Run ids are hashes: any byte of them is as good as another.
        let inbox = &self.inboxes[usize::from(request.key.run.as_bytes()[0]) % self.inboxes.len()];
        inbox.send(request).await.map_err(|_| closed())
    }

    /// Asks that a run be looked at, with `due` because the store lists it as due.
    pub(super) async fn look(&self, key: RunKey, due: bool) -> Result<()> {
        let actor = Arc::clone(&self.actor);
        self.send(Request { key, actor, change: Change::Look { due }, reply: None, tries: 0, asked: 0 }).await
    }

    /// Sleeps until `at` by the clock, or until the engine is closed.
    pub(super) async fn sleep_until(&self, at: Timestamp) {
        let span = at.since(self.now());
        tokio::select! {
            biased;
            () = tokio::time::sleep(span) => {}
            () = self.closed.cancelled() => {}
        }
    }

    pub(super) fn plan_of(&self, document: &Payload) -> Result<SharedPlan> {
        self.plans.get(document, self.limits())
    }
}

/// Whether hints may be waiting that came before what a finished step makes runnable.
#[derive(Debug)]
pub(super) struct Backlog {
    /// Counts pushes.
    pushed: AtomicU64,
    /// The count when a claim that found the queue empty began; [`u64::MAX`] when the last one did not.
    emptied: AtomicU64,
}

impl Default for Backlog {
    fn default() -> Self {
        Self { pushed: AtomicU64::new(0), emptied: AtomicU64::new(u64::MAX) }
    }
}

impl Backlog {
    /// Hints are about to be pushed.
    pub(super) fn grow(&self) {
        self.pushed.fetch_add(1, Ordering::AcqRel);
    }

    /// A claim begins; what it finds says nothing of pushes after this.
    pub(super) fn look(&self) -> u64 {
        self.pushed.load(Ordering::Acquire)
    }

    /// The claim that began at `look` has found all there was, or as much as it asked for.
    pub(super) fn seen(&self, look: u64, all: bool) {
        self.emptied.store(if all { look } else { u64::MAX }, Ordering::Release);
    }

    pub(super) fn is_there(&self) -> bool {
        self.emptied.load(Ordering::Acquire) != self.pushed.load(Ordering::Acquire)
    }
}

pub(super) fn closed() -> Error {
    Error::closed("the orchestrator has been shut down")
}

/// Plans by the hash of their document: the runs of one DAG version share one.
#[derive(Debug, Default)]
pub(super) struct Plans(Mutex<PlanCache>);

#[derive(Debug, Default)]
struct PlanCache {
    plans: HashMap<Digest, SharedPlan>,
    order: VecDeque<Digest>,
}

impl Plans {
    /// The most plans kept; runs under way keep theirs beyond that.
    const MAX: usize = 256;

    /// The plan with this hash, if it is kept.
    pub(super) fn find(&self, hash: &Digest) -> Option<SharedPlan> {
        self.lock().plans.get(hash).map(Arc::clone)
    }

    fn get(&self, document: &Payload, limits: &Limits) -> Result<SharedPlan> {
        if let Some(plan) = self.find(&document.digest()) {
            return Ok(plan);
        }
        let plan = Arc::new(Plan::read(document, limits)?);
        self.put(&plan);
        Ok(plan)
    }

    pub(super) fn put(&self, plan: &SharedPlan) {
        let mut cache = self.lock();
        if cache.plans.insert(plan.hash(), Arc::clone(plan)).is_none() {
            cache.order.push_back(plan.hash());
            if cache.order.len() > Self::MAX
                && let Some(oldest) = cache.order.pop_front()
            {
                cache.plans.remove(&oldest);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PlanCache> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
