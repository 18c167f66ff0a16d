//! Store, queue and lock of orch on Redis or Valkey: one node, or a cluster.
//!
//! Everything that changes is a Lua script, so that it happens at once and wholly; none is sent a second time after a lost
//! answer, which would hide what the first time did. What belongs together lies in one hash slot: a run with its log and
//! its places in the listings, a tenant's queue, a tenant's slots.
//!
//! # What it costs
//!
//! | call | scripts or commands |
//! |---|---|
//! | `append`, `entries` | one for all items; in a cluster one for each shard that is touched, all at once |
//! | `due` | one; in a cluster one for each of the 16 shards |
//! | `run`, `docs`, `doc`, `put_doc` | one |
//! | `runs` | two; in a cluster up to two for each shard |
//! | `push`, `renew`, `settle` | one for each tenant; in a cluster `push` needs one more |
//! | `claim` | one, and one for each tenant that has items, as far as the limit goes |
//! | `wait` | none: a subscription tells |
//! | `acquire`, `renew`, `release` of slots | one for each tenant |
//! | `take` | two |
//!
//! A step of a chain costs one script. An idle worker asks three times a minute for work and three times for runs that are
//! due: six commands a minute on one node (`tests/cost.rs`), 51 in a cluster.
//!
//! # What it promises
//!
//! As a queue it may lose everything: the ledger makes hints again. As a store it promises what the server's persistence
//! does: with `appendfsync always` an acknowledged append survives loss of power, with `everysec` the last second may be
//! gone, and replication is asynchronous, so a failover may lose what the replica had not yet got. [`RedisBackend::open`]
//! looks at the server's settings and [warns](RedisBackend::warnings). `docs/backends/redis.md` tells the rest.
//!
//! ```no_run
//! # async fn example() -> orch::Result<()> {
//! use orch_backend_redis::{RedisBackend, RedisConfig};
//!
//! let config: RedisConfig = "redis://127.0.0.1:6379/0?namespace=orch".parse()?;
//! let backend = RedisBackend::open(config).await?;
//! let (store, queue, lock) = (backend.store(), backend.queue(), backend.lock());
//! # drop((store, queue, lock));
//! # Ok(())
//! # }
//! ```

mod config;
mod connect;
mod error;
mod facts;
mod lock;
mod order;
mod queue;
mod script;
mod store;

use std::sync::Arc;

use orch::Result;

pub use config::RedisConfig;
pub use lock::RedisLock;
pub use queue::RedisQueue;
pub use store::RedisStore;

use connect::Server;

/// An open connection to a server or a cluster.
#[derive(Clone, Debug)]
pub struct RedisBackend {
    server: Arc<Server>,
    queue: RedisQueue,
}

impl RedisBackend {
    /// Connects, and looks at the server's version, role and settings.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be reached or is loading its data; `Refused` when it wants other credentials, forbids
    /// a command that is needed, or is a replica; `Unsupported` when it is older than 6.2; `Invalid` when the settings
    /// are wrong, or a file of certificates or a key holds none.
    pub async fn open(config: RedisConfig) -> Result<Self> {
        let address = config.address();
        let server = connect::open(config).await;
        let server = server.map_err(|error| error.with("address", address).during("redis.open"))?;
        let server = Arc::new(server);
        for warning in &server.warnings {
            tracing::warn!(address = server.config.address(), "{warning}");
        }
        Ok(Self { queue: RedisQueue::new(Arc::clone(&server)), server })
    }

    /// The store on this server.
    #[must_use]
    pub fn store(&self) -> RedisStore {
        RedisStore::new(Arc::clone(&self.server))
    }

    /// The queue on this server.
    #[must_use]
    pub fn queue(&self) -> RedisQueue {
        self.queue.clone()
    }

    /// The lock on this server.
    #[must_use]
    pub fn lock(&self) -> RedisLock {
        RedisLock::new(Arc::clone(&self.server))
    }

    /// The server's name and version, such as `redis 7.0.15` or `valkey 9.1.2 cluster`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.server.version
    }

    /// What in the server's settings could lose data, and what would be lost; nothing when all is well.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.server.warnings
    }

    /// Ends listening for hints; later waits answer `Closed`. Connections end with the last handle.
    pub async fn close(&self) {
        self.queue.close();
    }
}
