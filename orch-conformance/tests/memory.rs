//! The suite on the in-memory seams.

use std::sync::Arc;

use orch::lock::{Lock, MemoryLock};
use orch::queue::{MemoryQueue, Queue};
use orch::store::{MemoryStore, Store};
use orch_conformance::Pair;
use orch_conformance::engine::{Backends, Seams};

async fn open_store() -> Pair<dyn Store> {
    let store = MemoryStore::new();
    Pair::new(Arc::new(store.clone()), Arc::new(store))
}

async fn open_queue() -> Pair<dyn Queue> {
    let queue = MemoryQueue::new();
    Pair::new(Arc::new(queue.clone()), Arc::new(queue))
}

async fn open_lock() -> Pair<dyn Lock> {
    let lock = MemoryLock::new();
    Pair::new(Arc::new(lock.clone()), Arc::new(lock))
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

async fn open_engine() -> Backends {
    let (store, queue, lock) = (MemoryStore::new(), MemoryQueue::new(), MemoryLock::new());
    let seams = || Seams {
        store: Arc::new(store.clone()),
        queue: Arc::new(queue.clone()),
        lock: Arc::new(lock.clone()),
    };
    Backends::new(seams(), seams())
}

mod engine {
    orch_conformance::engine_suite!(super::open_engine);
}
