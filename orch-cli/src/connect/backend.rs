//! Open backends: what is named twice is opened once.

use std::sync::Arc;

use orch::ErrorKind;
use orch::lock::Lock;
use orch::queue::Queue;
use orch::store::Store;
#[cfg(feature = "mongo")]
use orch_backend_mongo::MongoBackend;
#[cfg(feature = "nats")]
use orch_backend_nats::NatsBackend;
#[cfg(feature = "redis")]
use orch_backend_redis::RedisBackend;
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};

use super::{Address, Mode};

/// An open backend.
#[derive(Clone, Debug)]
pub(crate) enum Backend {
    /// Nothing to be opened: every engine has seams in memory.
    Memory,
    Sqlite(SqliteBackend),
    #[cfg(feature = "mongo")]
    Mongo(MongoBackend),
    #[cfg(feature = "redis")]
    Redis(RedisBackend),
    #[cfg(feature = "nats")]
    Nats(NatsBackend),
}

impl Backend {
    async fn open(address: &Address, mode: Mode<'_>) -> orch::Result<Self> {
        Ok(match address {
            Address::Memory => Self::Memory,
            Address::Sqlite(config) => Self::Sqlite(open_file(config.clone(), mode).await?),
            #[cfg(feature = "mongo")]
            Address::Mongo(config) => Self::Mongo(MongoBackend::open((**config).clone()).await?),
            #[cfg(feature = "redis")]
            Address::Redis(config) => Self::Redis(RedisBackend::open((**config).clone()).await?),
            #[cfg(feature = "nats")]
            Address::Nats(config) => Self::Nats(NatsBackend::open((**config).clone()).await?),
        })
    }

    /// Its store; nothing in memory, and where it has none.
    pub(crate) fn store(&self) -> Option<Arc<dyn Store>> {
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
    pub(crate) fn queue(&self) -> Option<Arc<dyn Queue>> {
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
    pub(crate) fn lock(&self) -> Option<Arc<dyn Lock>> {
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
    pub(crate) fn version(&self) -> Option<String> {
        match self {
            #[cfg(feature = "redis")]
            Self::Redis(backend) => Some(backend.version().to_owned()),
            _ => None,
        }
    }

    /// What about it could lose data.
    pub(crate) fn warnings(&self) -> Vec<String> {
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
pub(crate) struct Backends(Vec<(Address, Backend)>);

impl Backends {
    /// The backend at an address, opened unless it is.
    ///
    /// # Errors
    /// As the backend's own `open`.
    pub(crate) async fn get(&mut self, address: &Address, mode: Mode<'_>) -> orch::Result<Backend> {
        if let Some((_, backend)) = self.0.iter().find(|(open, _)| open == address) {
            return Ok(backend.clone());
        }
        let backend = Backend::open(address, mode).await?;
        self.0.push((address.clone(), backend.clone()));
        Ok(backend)
    }

    /// The file among them, if there is one.
    pub(crate) fn sqlite(&self) -> Option<&SqliteBackend> {
        self.0.iter().find_map(|(_, backend)| match backend {
            Backend::Sqlite(backend) => Some(backend),
            #[allow(unreachable_patterns, reason = "without a server's feature there is memory only")]
            _ => None,
        })
    }

    /// What about them could lose data.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = (&Address, String)> {
        self.0.iter().flat_map(|(address, backend)| {
            backend.warnings().into_iter().map(move |warning| (address, warning))
        })
    }

    /// Closes them all.
    pub(crate) async fn close(self) {
        for (_, backend) in self.0 {
            backend.close().await;
        }
    }
}

/// Opens a file; for reading only where it may not be written and the command only looks.
async fn open_file(config: SqliteConfig, mode: Mode<'_>) -> orch::Result<SqliteBackend> {
    let mut look = config.clone();
    look.read_only = true;
    let looks = matches!(mode, Mode::Look);
    if looks && std::fs::metadata(&config.path).is_ok_and(|file| file.permissions().readonly()) {
        return SqliteBackend::open(look).await;
    }
    match SqliteBackend::open(config).await {
        Err(error) if looks && error.kind() == ErrorKind::Refused => SqliteBackend::open(look).await,
        opened => opened,
    }
}
