//! Queue and lock of orch on NATS JetStream.

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
