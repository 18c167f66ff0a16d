//! The suite on SQLite; the second handle is a second backend on the same file, as in another process.

use std::sync::Arc;

use orch::lock::Lock;
use orch::queue::Queue;
use orch::store::Store;
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};
use orch_conformance::Pair;
use orch_conformance::engine::{Backends, Seams};

async fn open() -> (SqliteBackend, SqliteBackend, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory is made");
    let config = SqliteConfig::new(directory.path().join("orch.db"));
    let first = SqliteBackend::open(config.clone()).await.expect("a new file opens");
    (first, SqliteBackend::open(config).await.expect("it opens twice"), directory)
}

async fn open_store() -> Pair<dyn Store> {
    let (first, second, directory) = open().await;
    Pair::<dyn Store>::new(Arc::new(first.store()), Arc::new(second.store())).keeping(directory)
}

async fn open_queue() -> Pair<dyn Queue> {
    let (first, second, directory) = open().await;
    Pair::<dyn Queue>::new(Arc::new(first.queue()), Arc::new(second.queue())).keeping(directory)
}

async fn open_lock() -> Pair<dyn Lock> {
    let (first, second, directory) = open().await;
    Pair::<dyn Lock>::new(Arc::new(first.lock()), Arc::new(second.lock())).keeping(directory)
}

mod store {
    orch_conformance::store_suite!(super::open_store);
}

mod queue {
    orch_conformance::queue_suite!(super::open_queue);
}

mod lock {
    orch_conformance::lock_suite!(super::open_lock);
}

fn seams(backend: &SqliteBackend) -> Seams {
    Seams {
        store: Arc::new(backend.store()),
        queue: Arc::new(backend.queue()),
        lock: Arc::new(backend.lock()),
    }
}

async fn open_engine() -> Backends {
    let (first, second, directory) = open().await;
    Backends::new(seams(&first), seams(&second)).keeping(directory)
}

mod engine {
    orch_conformance::engine_suite!(super::open_engine);
}
