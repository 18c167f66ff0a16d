//! The suite on real servers; the second handle is a second connection, as another process has.

use std::sync::Arc;

use orch::lock::Lock;
use orch::queue::Queue;
use orch::store::Store;
use orch_backend_redis::{RedisBackend, RedisConfig};
use orch_conformance::Pair;
use orch_servers::{Shared, address, namespace};

async fn open(server: Shared) -> Option<(RedisBackend, RedisBackend)> {
    let mut config: RedisConfig = address(server)?.parse().expect("the address reads");
    config.namespace = namespace();
    let first = RedisBackend::open(config.clone()).await.expect("the server is there");
    Some((first, RedisBackend::open(config).await.expect("it opens twice")))
}

macro_rules! on {
    ($server:ident, $shared:expr) => {
        mod $server {
            use super::*;

            async fn open_store() -> Option<Pair<dyn Store>> {
                let (first, second) = open($shared).await?;
                Some(Pair::<dyn Store>::new(Arc::new(first.store()), Arc::new(second.store())))
            }

            async fn open_queue() -> Option<Pair<dyn Queue>> {
                let (first, second) = open($shared).await?;
                Some(Pair::<dyn Queue>::new(Arc::new(first.queue()), Arc::new(second.queue())))
            }

            async fn open_lock() -> Option<Pair<dyn Lock>> {
                let (first, second) = open($shared).await?;
                Some(Pair::<dyn Lock>::new(Arc::new(first.lock()), Arc::new(second.lock())))
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
        }
    };
}

on!(redis, Shared::Redis);
on!(redis_cluster, Shared::RedisCluster);
on!(valkey, Shared::Valkey);
