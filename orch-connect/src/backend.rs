//! Open backends: what is named twice is opened once.

use std::sync::Arc;

use orch::lock::Lock;
use orch::queue::Queue;
use orch::store::Store;
use orch::{ErrorKind, OrchestratorBuilder};
#[cfg(feature = "mongo")]
use orch_backend_mongo::MongoBackend;
#[cfg(feature = "nats")]
use orch_backend_nats::NatsBackend;
#[cfg(feature = "redis")]
use orch_backend_redis::RedisBackend;
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};

use crate::address::{Address, Places, Seam};
use crate::advice::{Advised, advice};

/// What is to be done with a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Look only: a file that may not be written is opened for reading.
    Read,
    /// Everything.
    Write,
}

/// An open backend.
#[derive(Clone, Debug)]
pub enum Backend {
    /// Nothing to be opened: every engine has seams in memory.
    Memory,
    /// A file.
    Sqlite(SqliteBackend),
    /// MongoDB.
    #[cfg(feature = "mongo")]
    Mongo(MongoBackend),
    /// Redis or Valkey.
    #[cfg(feature = "redis")]
    Redis(RedisBackend),
    /// NATS.
    #[cfg(feature = "nats")]
    Nats(NatsBackend),
}

impl Backend {
    async fn open(address: &Address, access: Access) -> orch::Result<Self> {
        Ok(match address {
            Address::Memory => Self::Memory,
            Address::Sqlite(config) => Self::Sqlite(open_file(config.clone(), access).await?),
            #[cfg(feature = "mongo")]
            Address::Mongo(config) => Self::Mongo(MongoBackend::open((**config).clone()).await?),
            #[cfg(feature = "redis")]
            Address::Redis(config) => Self::Redis(RedisBackend::open((**config).clone()).await?),
            #[cfg(feature = "nats")]
            Address::Nats(config) => Self::Nats(NatsBackend::open((**config).clone()).await?),
        })
    }

    /// Its store; nothing in memory, and where it has none.
    #[must_use]
    pub fn store(&self) -> Option<Arc<dyn Store>> {
        match self {
            Self::Memory => None,
            Self::Sqlite(backend) => Some(Arc::new(backend.store())),
            #[cfg(feature = "mongo")]
            Self::Mongo(backend) => Some(Arc::new(backend.store())),
            #[cfg(feature = "redis")]
            Self::Redis(backend) => Some(Arc::new(backend.store())),
            #[cfg(feature = "nats")]
            Self::Nats(_) => None,
        }
    }

    /// Its queue; nothing in memory.
    #[must_use]
    pub fn queue(&self) -> Option<Arc<dyn Queue>> {
        match self {
            Self::Memory => None,
            Self::Sqlite(backend) => Some(Arc::new(backend.queue())),
            #[cfg(feature = "mongo")]
            Self::Mongo(backend) => Some(Arc::new(backend.queue())),
            #[cfg(feature = "redis")]
            Self::Redis(backend) => Some(Arc::new(backend.queue())),
            #[cfg(feature = "nats")]
            Self::Nats(backend) => Some(Arc::new(backend.queue())),
        }
    }

    /// Its lock; nothing in memory.
    #[must_use]
    pub fn lock(&self) -> Option<Arc<dyn Lock>> {
        match self {
            Self::Memory => None,
            Self::Sqlite(backend) => Some(Arc::new(backend.lock())),
            #[cfg(feature = "mongo")]
            Self::Mongo(backend) => Some(Arc::new(backend.lock())),
            #[cfg(feature = "redis")]
            Self::Redis(backend) => Some(Arc::new(backend.lock())),
            #[cfg(feature = "nats")]
            Self::Nats(backend) => Some(Arc::new(backend.lock())),
        }
    }

    /// What runs there, where it says so.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        match self {
            #[cfg(feature = "redis")]
            Self::Redis(backend) => Some(backend.version().to_owned()),
            _ => None,
        }
    }

    /// What about it could lose data.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        match self {
            #[cfg(feature = "redis")]
            Self::Redis(backend) => backend.warnings().to_vec(),
            _ => Vec::new(),
        }
    }

    async fn close(self) {
        match self {
            Self::Memory => {}
            Self::Sqlite(backend) => backend.close().await,
            #[cfg(feature = "mongo")]
            Self::Mongo(backend) => backend.close().await,
            #[cfg(feature = "redis")]
            Self::Redis(backend) => backend.close().await,
            #[cfg(feature = "nats")]
            Self::Nats(backend) => backend.close().await,
        }
    }
}

/// The backends that a process has open.
#[derive(Debug, Default)]
pub struct Backends(Vec<(Address, Backend)>);

impl Backends {
    /// The backend at an address, opened unless it is.
    ///
    /// # Errors
    /// As the backend's own `open`.
    pub async fn get(&mut self, address: &Address, access: Access) -> orch::Result<Backend> {
        if let Some((_, backend)) = self.0.iter().find(|(open, _)| open == address) {
            return Ok(backend.clone());
        }
        let backend = Backend::open(address, access).await?;
        self.0.push((address.clone(), backend.clone()));
        Ok(backend)
    }

    /// Hands an orchestrator the seams of these places: each is given what its backend has, and what that has not stays
    /// in memory. Only the named `seams` are opened.
    ///
    /// # Errors
    /// As the backend's own `open`, with advice.
    pub async fn build(
        &mut self,
        mut builder: OrchestratorBuilder,
        places: &Places,
        access: Access,
        seams: &[Seam],
    ) -> Result<OrchestratorBuilder, Advised> {
        for seam in seams {
            let address = places.get(*seam);
            let backend = self.get(address, access).await;
            let backend = backend.map_err(|error| Advised { hint: advice(&error, address), error })?;
            builder = match seam {
                Seam::Store => backend.store().into_iter().fold(builder, OrchestratorBuilder::store),
                Seam::Queue => backend.queue().into_iter().fold(builder, OrchestratorBuilder::queue),
                Seam::Lock => backend.lock().into_iter().fold(builder, OrchestratorBuilder::lock),
            };
        }
        Ok(builder)
    }

    /// Gives an orchestrator that serves workers outside the queue that their hints wait in: beside the other queue, in a
    /// namespace or file of its own, so that all processes on it share both.
    ///
    /// # Errors
    /// As the backend's own `open`, with advice.
    pub async fn serve_outside(
        &mut self,
        builder: OrchestratorBuilder,
        places: &Places,
    ) -> Result<OrchestratorBuilder, Advised> {
        let address = places.queue.outside();
        let backend = self.get(&address, Access::Write).await;
        let backend = backend.map_err(|error| Advised { hint: advice(&error, &address), error })?;
        Ok(backend.queue().into_iter().fold(builder, OrchestratorBuilder::outside_queue))
    }

    /// The file among them, if there is one.
    #[must_use]
    pub fn sqlite(&self) -> Option<&SqliteBackend> {
        self.0.iter().find_map(|(_, backend)| match backend {
            Backend::Sqlite(backend) => Some(backend),
            #[allow(unreachable_patterns, reason = "without a server's feature there is memory only")]
            _ => None,
        })
    }

    /// What about them could lose data.
    pub fn warnings(&self) -> impl Iterator<Item = (&Address, String)> {
        self.0.iter().flat_map(|(address, backend)| {
            backend.warnings().into_iter().map(move |warning| (address, warning))
        })
    }

    /// Closes them all.
    pub async fn close(self) {
        for (_, backend) in self.0 {
            backend.close().await;
        }
    }
}

/// Opens a file; for reading only where it may not be written and the command only looks.
async fn open_file(config: SqliteConfig, access: Access) -> orch::Result<SqliteBackend> {
    let mut look = config.clone();
    look.read_only = true;
    let looks = access == Access::Read;
    if looks && std::fs::metadata(&config.path).is_ok_and(|file| file.permissions().readonly()) {
        return SqliteBackend::open(look).await;
    }
    match SqliteBackend::open(config).await {
        Err(error) if looks && error.kind() == ErrorKind::Refused => SqliteBackend::open(look).await,
        opened => opened,
    }
}
