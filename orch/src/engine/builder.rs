//! Building an orchestrator: settings are data, everything else is a component.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::change::Worker;
use super::commit::Committer;
use super::core::{Core, SecretSource, TokenSource};
use super::handle::Orchestrator;
use super::observe::Observer;
use super::settings::Settings;
use super::{submit, sweep, work};
use crate::artifact::Artifacts;
use crate::error::{Error, Result};
use crate::executor::{Executors, Secret, StepContext, TaskResult};
use crate::id::{TenantId, WorkerId};
use crate::lock::{Lock, MemoryLock};
use crate::queue::{MemoryQueue, Queue};
use crate::store::{MemoryStore, Store};
use crate::time::{Clock, SystemClock};

/// Requests that may wait for a committer; beyond that, callers wait.
const INBOX: usize = 16_384;
/// Committers share the runs; more than this many would only make each append smaller.
const COMMITTERS_MAX: usize = 8;

/// Collects the components of an [`Orchestrator`]. What is not given is in memory.
pub struct OrchestratorBuilder {
    store: Option<Arc<dyn Store>>,
    queue: Option<Arc<dyn Queue>>,
    outside: Option<Arc<dyn Queue>>,
    lock: Option<Arc<dyn Lock>>,
    executors: Executors,
    artifacts: Option<Artifacts>,
    secrets: SecretSource,
    clock: Arc<dyn Clock>,
    tokens: TokenSource,
    settings: Settings,
    label: Option<String>,
    observers: Vec<Arc<dyn Observer>>,
}

impl std::fmt::Debug for OrchestratorBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OrchestratorBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Default for OrchestratorBuilder {
    fn default() -> Self {
        Self {
            store: None,
            queue: None,
            outside: None,
            lock: None,
            executors: Executors::new(),
            artifacts: None,
            secrets: Arc::new(|_, _| None),
            clock: Arc::new(SystemClock),
            tokens: Arc::new(submit::draw_token),
            settings: Settings::default(),
            label: None,
            observers: Vec::new(),
        }
    }
}

impl OrchestratorBuilder {
    /// Where the ledger lives. Without one: in memory, gone with the process.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Where hints wait. Without one: in memory, made again from the ledger at every start.
    #[must_use]
    pub fn queue(mut self, queue: Arc<dyn Queue>) -> Self {
        self.queue = Some(queue);
        self
    }

    /// Where hints at steps wait that workers outside lease ([`Orchestrator::lease`]): a queue of its own, never the one
    /// of [`queue`](Self::queue), as an engine claims from that whatever it finds there. Without one: in memory, so that
    /// only a worker that asks this very process hears of a step at once, and one that asks another within half a minute.
    #[must_use]
    pub fn outside_queue(mut self, queue: Arc<dyn Queue>) -> Self {
        self.outside = Some(queue);
        self
    }

    /// Where slots and tokens are counted. Without one: in memory, so limits hold within this process only.
    #[must_use]
    pub fn lock(mut self, lock: Arc<dyn Lock>) -> Self {
        self.lock = Some(lock);
        self
    }

    /// What runs steps.
    #[must_use]
    pub fn executors(mut self, executors: Executors) -> Self {
        self.executors = executors;
        self
    }

    /// Registers an async function for steps that use `fn/NAME`; see [`Executors::task`].
    #[must_use]
    pub fn task<T, F, Fut>(mut self, name: &str, function: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(StepContext, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: TaskResult + Send> + Send + 'static,
    {
        self.executors = self.executors.task(name, function);
        self
    }

    /// Where artifacts and logs go. Without one: in memory.
    #[must_use]
    pub fn artifacts(mut self, artifacts: Artifacts) -> Self {
        self.artifacts = Some(artifacts);
        self
    }

    /// Where the values of declared secrets come from. Without one: there are none.
    #[must_use]
    pub fn secrets(
        mut self,
        source: impl Fn(&TenantId, &str) -> Option<Secret> + Send + Sync + 'static,
    ) -> Self {
        self.secrets = Arc::new(source);
        self
    }

    /// Where the time comes from.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where the names of workers and of runs without a token come from; without one, UUIDv7 drawn at random. No name may
    /// come twice, in any process: a worker that bears another's name could record for it. For simulations, which
    /// repeat themselves only if these do.
    #[must_use]
    pub fn tokens(mut self, source: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.tokens = Arc::new(source);
        self
    }

    /// Who hears of what this process records. Several may: each is named with a call of its own.
    #[must_use]
    pub fn observe(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observers.push(observer);
        self
    }

    /// How it behaves.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// A name for people in the worker's id, such as the host's.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Starts the engine on the current tokio runtime.
    ///
    /// # Errors
    /// `Invalid` for settings out of range or executors that cannot be registered.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> Result<Orchestrator> {
        self.settings.check()?;
        self.executors.check()?;
        let label = self.label.unwrap_or_else(|| "worker".to_owned());
        if label.is_empty() || label.len() > 64 || label.chars().any(char::is_control) {
            return Err(Error::invalid("a label holds 1 to 64 bytes and no control characters"));
        }
        // New at every start: a restarted process must not pass for the one that died.
        let id = WorkerId::new(format!("{label}/{}", (self.tokens)()));
        let threads = tokio::runtime::Handle::current().metrics().num_workers();
        let (inboxes, requests): (Vec<_>, Vec<_>) =
            (0..threads.min(COMMITTERS_MAX)).map(|_| mpsc::channel(INBOX)).unzip();
        let rebuild = self.queue.is_none();
        let core = Arc::new(Core {
            store: self.store.unwrap_or_else(|| Arc::new(MemoryStore::default())),
            queue: self.queue.unwrap_or_else(|| Arc::new(MemoryQueue::default())),
            outside: self.outside.unwrap_or_else(|| Arc::new(MemoryQueue::default())),
            desk: Default::default(),
            lock: self.lock.unwrap_or_else(|| Arc::new(MemoryLock::default())),
            executors: self.executors,
            artifacts: self.artifacts.unwrap_or_else(Artifacts::memory),
            secrets: self.secrets,
            clock: self.clock,
            tokens: self.tokens,
            actor: id.as_str().into(),
            worker: Worker { id, lease: self.settings.lease },
            loaded: inboxes.iter().map(|_| AtomicUsize::new(0)).collect(),
            landed: Default::default(),
            inboxes,
            places: Arc::new(Semaphore::new(self.settings.slots)),
            backlog: Default::default(),
            active: Default::default(),
            line: Default::default(),
            threads,
            plans: Default::default(),
            watchers: Default::default(),
            alarm: Default::default(),
            audit: Default::default(),
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
            tasks: TaskTracker::new(),
            health: Default::default(),
            returns: Default::default(),
            observers: self.observers,
            settings: self.settings,
        });
        let roles = core.settings.roles;
        for (number, inbox) in requests.into_iter().enumerate() {
            core.tasks.spawn(Committer::new(Arc::clone(&core), number, inbox).run());
        }
        if roles.schedule {
            core.tasks.spawn(sweep::sweep_loop(Arc::clone(&core), rebuild));
        }
        if roles.work {
            core.tasks.spawn(work::claim_loop(Arc::clone(&core)));
            core.tasks.spawn(work::renew_loop(Arc::clone(&core)));
        }
        Ok(Orchestrator { core })
    }
}
