//! The cases of the engine suite: whole engines on a trio of backends, two of them as two processes.
//!
//! Every case ends by holding the whole ledger of its tenant against the invariants, read through the second process's
//! store.

mod alone;
mod kit;
mod shared;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use orch::lock::Lock;
use orch::queue::{Claim, Queue, Settle};
use orch::store::Store;
use orch::{Timestamp, WorkerId};

pub use alone::*;
pub use shared::*;

/// What one process holds in its hands: handles on a store, a queue and a lock, of whatever backends.
#[derive(Clone, Debug)]
pub struct Seams {
    /// Where the ledger lives.
    pub store: Arc<dyn Store>,
    /// Where hints wait.
    pub queue: Arc<dyn Queue>,
    /// Where slots are counted.
    pub lock: Arc<dyn Lock>,
}

type LoseHints = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// The seams of two processes on the same fresh namespaces.
pub struct Backends {
    first: Seams,
    second: Seams,
    lose_hints: Option<LoseHints>,
    kept: Vec<Box<dyn Any + Send + Sync>>,
}

impl Backends {
    /// The handles of two processes, opened as two processes would open them.
    #[must_use]
    pub fn new(first: Seams, second: Seams) -> Self {
        Self { first, second, lose_hints: None, kept: Vec::new() }
    }

    /// Keeps `guard`, such as a temporary directory or a connection, for as long as the backends live.
    #[must_use]
    pub fn keeping(mut self, guard: impl Any + Send + Sync) -> Self {
        self.kept.push(Box::new(guard));
        self
    }

    /// How the queue loses everything behind everybody's back, such as by a flush of its server. Without it, whatever is
    /// there is claimed and settled.
    #[must_use]
    pub fn losing_hints(mut self, lose: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static) -> Self {
        self.lose_hints = Some(Arc::new(lose));
        self
    }

    /// Empties the queue.
    async fn lose_hints(&self, now: Timestamp) {
        if let Some(lose) = &self.lose_hints {
            return lose().await;
        }
        let (worker, lease) = (WorkerId::new("thief"), std::time::Duration::from_secs(10));
        let claim = Claim { worker, queues: None, tenants: None, limit: 1_000, lease, now };
        loop {
            let claimed = self.second.queue.claim(&claim).await.unwrap();
            if claimed.deliveries.is_empty() {
                return;
            }
            let settles: Vec<Settle> =
                claimed.deliveries.into_iter().map(|delivery| Settle::done(delivery.token)).collect();
            self.second.queue.settle(&settles, now).await.unwrap();
        }
    }
}

impl fmt::Debug for Backends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backends")
            .field("first", &self.first)
            .field("second", &self.second)
            .finish_non_exhaustive()
    }
}
