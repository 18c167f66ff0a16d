//! Queue and lock of orch on NATS JetStream, 2.11 or newer: one server, or a cluster.
//!
//! Two streams hold everything, and each of their messages is the present state of one thing: an item of the queue, the
//! slots of a tenant, a bucket. Whoever changes a thing writes a message that says which one it replaces; of two at once
//! the server takes the first. Each process that uses the queue has an image of its stream in memory, which the server
//! keeps up; a claim picks from the image and then writes its leases.
//!
//! # Why not a work queue of JetStream
//!
//! There, a lease ends by the server's clock, the order is that of publishing, and a repeated message is known for some
//! minutes only. Here a lease ends at the instant that the caller named, the order is that of
//! [`Item::cmp`](orch::queue::Item), tenants take turns, and an item is known for as long as it is there. What follows:
//! every process holds the whole queue, about a kilobyte for an item; a queue is for some hundred thousand items that
//! wait, not for many millions; and each process takes turns among tenants by itself.
//!
//! # What it costs
//!
//! | call | messages to the server |
//! |---|---|
//! | `push` | one for each item; one in all for those that are there |
//! | `claim` | one, and one for each item that is leased; one for each lease that was found ended and is not taken now |
//! | `renew`, `settle` | one for each delivery, all under way at once; one more when a delivery has ended |
//! | `depth` | one |
//! | `wait` | none: the image tells |
//! | `acquire`, `renew`, `release` of slots | one for each tenant; a second one to read when another process was faster, or the first time |
//! | `take` | one; a second one likewise |
//!
//! A refusal reads and writes nothing. An idle worker costs the one message of each of its claims (`src/tests.rs` counts);
//! the server says once in five seconds that it is there.
//!
//! # What it promises
//!
//! What was acknowledged outlasts the server's process, and on a cluster (`replicas=3`) the loss of any one server. It
//! outlasts loss of power as far as the server has flushed it, which is every two minutes unless its `sync_interval` is
//! `always`. As a queue it may lose everything: the ledger makes hints again. A lock that has lost its last minutes may
//! grant a slot twice until the lease ends, and a fence again; no safety property of orch rests on either. A call ends
//! within a few [timeouts](NatsConfig::timeout), whatever the server does: `Unavailable` when nothing happened,
//! `Indeterminate` when a write was not answered; both may be repeated. A lost connection is made again by itself, and
//! the image is read anew.
//!
//! # What is left behind
//!
//! An item that is settled leaves an empty message for ten seconds, so that every image hears of it. A bucket goes an hour
//! after it is full again. Of a tenant that ever held slots its last fence stays, some hundred bytes, so that fences go on.
//! `docs/backends/nats.md` tells the rest.
//!
//! ```no_run
//! # async fn example() -> orch::Result<()> {
//! use orch_backend_nats::{NatsBackend, NatsConfig};
//!
//! let config: NatsConfig = "nats://127.0.0.1:4222?namespace=orch".parse()?;
//! let backend = NatsBackend::open(config).await?;
//! let (queue, lock) = (backend.queue(), backend.lock());
//! # drop((queue, lock));
//! # Ok(())
//! # }
//! ```

mod config;
mod connect;
mod error;
mod link;
mod lock;
mod names;
mod queue;

use std::sync::Arc;

use orch::Result;

pub use config::{NatsAuth, NatsConfig};
pub use lock::NatsLock;
pub use queue::NatsQueue;

use link::Link;

/// An open connection, and the two streams of a namespace.
#[derive(Clone, Debug)]
pub struct NatsBackend {
    link: Arc<Link>,
    queue: NatsQueue,
    lock: NatsLock,
}

impl NatsBackend {
    /// Connects, and makes the two streams of the namespace if they are missing.
    ///
    /// # Errors
    /// `Unavailable` when no server can be reached; `Refused` when the server refuses the credentials, a permission is
    /// missing, TLS fails, or a stream of the name is another one; `Unsupported` when JetStream is off, the server is
    /// older than 2.11, or `replicas` need a cluster; `LimitExceeded` when the account has no room; `Invalid` when the
    /// settings are wrong or a file of them cannot be read.
    pub async fn open(config: NatsConfig) -> Result<Self> {
        let link = connect::open(config).await.map_err(|error| error.during("nats.open"))?;
        let link = Arc::new(link);
        let (queue, lock) = (NatsQueue::new(Arc::clone(&link)), NatsLock::new(Arc::clone(&link)));
        Ok(Self { link, queue, lock })
    }

    /// The queue of this namespace.
    #[must_use]
    pub fn queue(&self) -> NatsQueue {
        self.queue.clone()
    }

    /// The lock of this namespace.
    #[must_use]
    pub fn lock(&self) -> NatsLock {
        self.lock.clone()
    }

    /// Sends what is on its way and closes the connection. Later calls answer `Closed`.
    pub async fn close(&self) {
        self.link.close().await;
        self.queue.closed();
    }
}

#[cfg(test)]
mod tests;
