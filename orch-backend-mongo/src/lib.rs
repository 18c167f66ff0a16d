//! Store, queue and lock of orch on MongoDB.

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
    /// `Unavailable` when no server answers; `Refused` when it refuses the user or the user lacks a permission;
    /// `Unsupported` when the server is older than 4.4, or a newer version of orch wrote the database.
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
        self.connection.shut_down().await;
    }
}

#[cfg(test)]
mod tests;
