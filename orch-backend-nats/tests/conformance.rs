//! The suite on NATS; the second handle is a second connection to the same namespace, as in another process.

use std::sync::Arc;

use orch::lock::Lock;
use orch::queue::Queue;
use orch_backend_nats::{NatsBackend, NatsConfig};
use orch_conformance::Pair;
use orch_servers::{Shared, address, namespace};

async fn open() -> Option<(NatsBackend, NatsBackend)> {
    // Servers reserve what a stream may hold, and there are many.
    let url = format!("{}?namespace={}&maxBytes=4194304", address(Shared::Nats)?, namespace());
    let config: NatsConfig = url.parse().expect("it is an address");
    let first = NatsBackend::open(config.clone()).await.expect("it opens");
    Some((first, NatsBackend::open(config).await.expect("it opens twice")))
}

async fn open_queue() -> Option<Pair<dyn Queue>> {
    let (first, second) = open().await?;
    Some(Pair::<dyn Queue>::new(Arc::new(first.queue()), Arc::new(second.queue())))
}

async fn open_lock() -> Option<Pair<dyn Lock>> {
    let (first, second) = open().await?;
    Some(Pair::<dyn Lock>::new(Arc::new(first.lock()), Arc::new(second.lock())))
}

mod queue {
    orch_conformance::queue_suite!(super::open_queue);
}

mod lock {
    orch_conformance::lock_suite!(super::open_lock);
}
