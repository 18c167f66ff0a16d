//! Store, queue and lock of orch in one SQLite file.
//!
//! One writer connection per process commits in groups; readers never wait for it (WAL). Several processes may use
//! the same file on one machine; a network disk is not supported. Everything is set-based: a call with a thousand
//! items is a handful of statements.
//!
//! # What it costs to do nothing
//!
//! An idle worker asks its store nothing: for as long as neither the file nor its log has changed, there is nothing new
//! to be found ([`stamp`](orch::store::Store::stamp)). A queue in the file it asks three times a minute, which only
//! reads: no idle worker takes the write lock or writes a byte (`tests/idle.rs`). A worker whose
//! queue is in the file looks ten times a second, too, whether another process has committed: one number in shared memory, on a
//! connection of its own. A claim costs what it asks for: for each asked queue, or for all queues at once, it looks
//! up as many tenants as it wants items, however many wait. [`depth`](orch::queue::Queue::depth) counts every item of the tenant.
//!
//! # What is left behind
//!
//! What is deleted is overwritten with zeros (`secure_delete`), in the file when its log is next moved into it: at
//! closing, or after some 40 MiB of changes. Slots of a holder that never came back go an hour after their lease, a
//! few with each acquisition of any slot. Below the file, disks keep what they like: encrypt them.
//!
//! # Looking at a copy
//!
//! [`SqliteConfig::read_only`] opens a file that may not be written, on a disk that may not either: evidence. Readers
//! of a file in WAL mode share memory beside it; where they cannot make that and the file has no log (`-wal`), it is
//! read as one that never changes (SQLite's `immutable`). A copy of a database in use needs its `-wal` file, and a
//! directory that may be written.
//!
//! ```
//! # async fn example() -> orch::Result<()> {
//! use orch_backend_sqlite::{SqliteBackend, SqliteConfig};
//!
//! let backend = SqliteBackend::open(SqliteConfig::new(".orch/orch.db")).await?;
//! let (store, queue, lock) = (backend.store(), backend.queue(), backend.lock());
//! # drop((store, queue, lock));
//! backend.close().await;
//! # Ok(())
//! # }
//! ```

mod config;
mod connect;
mod error;
mod integrity;
mod lock;
mod queue;
mod store;
mod writer;

use std::sync::Arc;

use orch::{Error, Result};
use sqlx::SqlitePool;

pub use config::{SqliteConfig, Synchronous};
pub use lock::SqliteLock;
pub use queue::SqliteQueue;
pub use store::SqliteStore;

use writer::Writer;

/// An open database file.
#[derive(Clone, Debug)]
pub struct SqliteBackend {
    database: Arc<Database>,
    queue: SqliteQueue,
}

/// What the three seams share.
#[derive(Debug)]
struct Database {
    /// Nothing when the file was opened for reading only.
    writer: Option<Writer>,
    readers: SqlitePool,
    config: SqliteConfig,
}

impl Database {
    fn writer(&self) -> Result<&Writer> {
        let refused =
            || Error::refused("database was opened for reading only; nothing can be recorded in it");
        self.writer.as_ref().ok_or_else(|| refused().with("path", self.config.path.display()))
    }
}

impl SqliteBackend {
    /// Opens the file, makes it if it is missing, and brings its schema up to date; with
    /// [`read_only`](SqliteConfig::read_only) it does none of these, and whatever would write is `Refused`.
    ///
    /// # Errors
    /// `Refused` when permissions forbid it or the file belongs to another program; `Corrupt` when it is damaged or
    /// no database; `Unsupported` when a newer version of orch wrote it; `Unavailable` when the disk is full or
    /// another process keeps it locked.
    pub async fn open(config: SqliteConfig) -> Result<Self> {
        let opened = connect::open(&config).await;
        let connections =
            opened.map_err(|error| error.with("path", config.path.display()).during("sqlite.open"))?;
        let writer = connections.writer.map(Writer::start);
        let database = Arc::new(Database { writer, readers: connections.readers, config });
        Ok(Self { queue: SqliteQueue::new(Arc::clone(&database)), database })
    }

    /// The store in this file.
    #[must_use]
    pub fn store(&self) -> SqliteStore {
        SqliteStore::new(Arc::clone(&self.database))
    }

    /// The queue in this file.
    #[must_use]
    pub fn queue(&self) -> SqliteQueue {
        self.queue.clone()
    }

    /// The lock in this file.
    #[must_use]
    pub fn lock(&self) -> SqliteLock {
        SqliteLock::new(Arc::clone(&self.database))
    }

    /// Whether it was opened for reading only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.database.config.read_only
    }

    /// Reads the whole file, of all tenants, and answers what is damaged in it: pages, as SQLite checks them, then
    /// runs without entries, entries without a row, columns that differ from what they stand for, and gaps. Some 100
    /// findings of each at most; nothing when it is sound. What the entries say, verifying the ledger shows.
    ///
    /// # Errors
    /// `Unavailable`. What cannot be read is a finding.
    pub async fn integrity(&self) -> Result<Vec<String>> {
        integrity::check(&self.database.readers).await
    }

    /// Finishes what was asked, moves everything into the main file and closes it. Later calls answer `Closed`.
    pub async fn close(&self) {
        self.queue.close().await;
        self.database.readers.close().await;
        if let Some(writer) = &self.database.writer {
            writer.close().await;
        }
    }
}

#[cfg(test)]
mod tests;

/// The embedding guide as doc tests. They stand here and not in `orch` because they show a durable orchestrator.
#[cfg(doctest)]
#[doc = include_str!("../../docs/embedding.md")]
struct EmbeddingGuide;

/// The README's program, likewise.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
