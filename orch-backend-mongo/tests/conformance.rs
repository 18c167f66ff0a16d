//! The suite on MongoDB, as a replica set and standing alone; the second handle is a second backend on the same database,
//! as in another process.

use std::sync::Arc;

use orch::lock::Lock;
use orch::queue::Queue;
use orch::store::Store;
use orch_backend_mongo::{MongoBackend, MongoConfig};
use orch_conformance::Pair;
use orch_servers::{Shared, address, namespace};

async fn open(shared: Shared) -> Option<(MongoBackend, MongoBackend)> {
    let mut config = MongoConfig::new(address(shared)?).expect("the address parses");
    config.namespace = namespace();
    let first = MongoBackend::open(config.clone()).await.expect("a new database opens");
    Some((first, MongoBackend::open(config).await.expect("it opens twice")))
}

async fn open_store(shared: Shared) -> Option<Pair<dyn Store>> {
    let (first, second) = open(shared).await?;
    Some(Pair::<dyn Store>::new(Arc::new(first.store()), Arc::new(second.store())))
}

async fn open_queue(shared: Shared) -> Option<Pair<dyn Queue>> {
    let (first, second) = open(shared).await?;
    Some(Pair::<dyn Queue>::new(Arc::new(first.queue()), Arc::new(second.queue())))
}

async fn open_lock(shared: Shared) -> Option<Pair<dyn Lock>> {
    let (first, second) = open(shared).await?;
    Some(Pair::<dyn Lock>::new(Arc::new(first.lock()), Arc::new(second.lock())))
}

macro_rules! suites {
    ($server:ident, $shared:ident) => {
        mod $server {
            use orch_conformance::Pair;
            use orch_servers::Shared;

            mod store {
                async fn open() -> Option<super::Pair<dyn orch::store::Store>> {
                    crate::open_store(super::Shared::$shared).await
                }
                orch_conformance::store_suite!(open);
            }

            mod queue {
                async fn open() -> Option<super::Pair<dyn orch::queue::Queue>> {
                    crate::open_queue(super::Shared::$shared).await
                }
                orch_conformance::queue_suite!(open);
            }

            mod lock {
                async fn open() -> Option<super::Pair<dyn orch::lock::Lock>> {
                    crate::open_lock(super::Shared::$shared).await
                }
                orch_conformance::lock_suite!(open);
            }
        }
    };
}

suites!(replica_set, Mongo);
suites!(standalone, MongoStandalone);
