//! Store, queue and lock of orch on MongoDB 4.4 or later: a replica set, a sharded cluster, or one server alone.
//!
//! One append is one document, whose key is its place in the stream. So it needs no transaction, two appends on one head
//! collide, and many of them are one insert. Where a run stands in the listings is a document of its own, told around the
//! append and corrected by whoever reads it.
//!
//! # What it costs
//!
//! Commands to the server, for all items of a call together:
//!
//! | call | commands |
//! |---|---|
//! | `append` | one insert; one find where a stream goes on; one update before it where a run begins or wakes earlier; one update after it where status or wake have changed; one aggregation for every 99 streams whose head this handle does not know |
//! | `append` of rows alone | four, and one update more where a run wakes earlier |
//! | `entries` | one aggregation for every 33 streams |
//! | `run` | one |
//! | `runs`, `due` | one, and one for every 99 runs on the page |
//! | `doc`, `docs`, `put_doc` | one; two where what `put_doc` expects does not hold |
//! | `prune` | eight |
//! | `push`, `renew`, `depth` | two |
//! | `claim` | one if nothing waits; otherwise four, and two for every further round, which others that were faster bring about; three more now and then, to keep what it looks at small |
//! | `settle` | two |
//! | `wait` | none while changes are told |
//! | `acquire`, `take`, `renew`, `release` of the lock | two for each tenant; two more each time somebody else was faster |
//!
//! An idle worker costs what its engine asks for: `due` and `claim` are one command each then. Beside these its change
//! stream asks twice a minute (`getMore`), and the driver watches each server. Where there is no change stream, a waiting
//! worker looks every 500 ms ([`MongoConfig::poll_every`]).
//!
//! # What it promises
//!
//! An answered append has reached the journals of a majority, and nothing is read that may be rolled back; an address
//! that asks for less is refused, unless [`MongoConfig::allow_weak_writes`] says so. `docs/backends/mongo.md` tells the rest.
//!
//! ```no_run
//! # async fn example() -> orch::Result<()> {
//! use orch_backend_mongo::{MongoBackend, MongoConfig};
//!
//! let config: MongoConfig = "mongodb://db1,db2,db3/?replicaSet=rs&namespace=orch".parse()?;
//! let backend = MongoBackend::open(config).await?;
//! let (store, queue, lock) = (backend.store(), backend.queue(), backend.lock());
//! # drop((store, queue, lock));
//! backend.close().await;
//! # Ok(())
//! # }
//! ```

mod config;
mod connect;
mod error;
mod indexes;
mod lock;
mod queue;
mod store;

use std::sync::Arc;

use orch::Result;

pub use config::MongoConfig;
pub use lock::MongoLock;
pub use queue::MongoQueue;
pub use store::MongoStore;

use connect::Connection;

/// An open database.
#[derive(Clone, Debug)]
pub struct MongoBackend {
    connection: Arc<Connection>,
    store: MongoStore,
    queue: MongoQueue,
}

impl MongoBackend {
    /// Connects, and makes the collections and indexes that are missing.
    ///
    /// # Errors
    /// `Unavailable` when no server answers; `Refused` when it refuses the user, the user lacks a permission, or a
    /// certificate is not accepted; `Invalid` when a file of certificates or a key holds none; `Unsupported` when the
    /// server is older than 4.4, or a newer version of orch wrote the database.
    pub async fn open(config: MongoConfig) -> Result<Self> {
        let named = |error: orch::Error| {
            error.with("servers", config.servers()).with("namespace", &config.namespace).during("mongo.open")
        };
        let connection = Connection::open(config.clone()).await.map_err(named)?;
        Ok(Self::on(connection))
    }

    fn on(connection: Connection) -> Self {
        let connection = Arc::new(connection);
        let (store, queue) =
            (MongoStore::new(Arc::clone(&connection)), MongoQueue::new(Arc::clone(&connection)));
        Self { connection, store, queue }
    }

    /// The store in this database.
    #[must_use]
    pub fn store(&self) -> MongoStore {
        self.store.clone()
    }

    /// The queue in this database.
    #[must_use]
    pub fn queue(&self) -> MongoQueue {
        self.queue.clone()
    }

    /// The lock in this database.
    #[must_use]
    pub fn lock(&self) -> MongoLock {
        MongoLock::new(Arc::clone(&self.connection))
    }

    /// Closes the connections. Later calls answer `Closed`.
    pub async fn close(&self) {
        self.connection.refuse();
        // The watcher's question would keep its connection for half a minute.
        self.queue.stop_watching();
        self.store.stop_feeds();
        self.connection.shut_down().await;
    }
}

#[cfg(test)]
mod tests;
