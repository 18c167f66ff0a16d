//! Whole engines with the ledger on one backend and hints and slots on another. Servers are shared, namespaces are fresh;
//! but a Redis that is flushed in mid-run is a test's own.

use std::sync::Arc;

use orch::lock::Lock;
use orch::queue::Queue;
use orch::store::Store;
use orch_backend_mongo::{MongoBackend, MongoConfig};
use orch_backend_nats::{NatsBackend, NatsConfig};
use orch_backend_redis::{RedisBackend, RedisConfig};
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};
use orch_conformance::engine::{Backends, Seams};
use orch_servers::{Kind, Server, Shared, address, namespace, redis_command, skipped};

/// Two handles on one fresh namespace, as two processes have them.
type Two<T> = [T; 2];

async fn mongo(shared: Shared) -> Option<Two<MongoBackend>> {
    let mut config: MongoConfig = address(shared)?.parse().expect("the address reads");
    config.namespace = namespace();
    let open = || MongoBackend::open(config.clone());
    Some([open().await.expect("it is there"), open().await.expect("it opens twice")])
}

async fn nats() -> Option<Two<NatsBackend>> {
    let mut config: NatsConfig = address(Shared::Nats)?.parse().expect("the address reads");
    config.namespace = namespace();
    let open = || NatsBackend::open(config.clone());
    Some([open().await.expect("it is there"), open().await.expect("it opens twice")])
}

async fn redis() -> Option<(Two<RedisBackend>, Arc<Server>)> {
    let Some(server) = Server::start(Kind::Redis, &["--appendonly", "yes"]) else {
        skipped(Kind::Redis);
        return None;
    };
    let config = RedisConfig::new("127.0.0.1", server.port());
    let open = || RedisBackend::open(config.clone());
    Some(([open().await.expect("it is there"), open().await.expect("it opens twice")], Arc::new(server)))
}

fn seams(store: Arc<dyn Store>, queue: Arc<dyn Queue>, lock: Arc<dyn Lock>) -> Seams {
    Seams { store, queue, lock }
}

/// Hints and slots on Redis, which is flushed where a case loses hints: so are its slots.
fn with_redis(stores: Two<Arc<dyn Store>>, redis: &Two<RedisBackend>, server: &Arc<Server>) -> Backends {
    let [first, second] = stores;
    let [one, other] = redis;
    let first = seams(first, Arc::new(one.queue()), Arc::new(one.lock()));
    let second = seams(second, Arc::new(other.queue()), Arc::new(other.lock()));
    let port = server.port();
    let flush = move || {
        let flushed = redis_command(port, &["FLUSHALL"]);
        assert_eq!(flushed, "+OK");
    };
    let backends = Backends::new(first, second).keeping(Arc::clone(server));
    backends.losing_hints(move || {
        flush();
        Box::pin(async {})
    })
}

async fn mongo_and_redis() -> Option<Backends> {
    let (stores, (redis, server)) = (mongo(Shared::Mongo).await?, redis().await?);
    let stores = stores.map(|backend| Arc::new(backend.store()) as Arc<dyn Store>);
    Some(with_redis(stores, &redis, &server))
}

async fn mongo_and_nats() -> Option<Backends> {
    let ([first, second], [one, other]) = (mongo(Shared::MongoStandalone).await?, nats().await?);
    let first = seams(Arc::new(first.store()), Arc::new(one.queue()), Arc::new(one.lock()));
    let second = seams(Arc::new(second.store()), Arc::new(other.queue()), Arc::new(other.lock()));
    Some(Backends::new(first, second))
}

async fn sqlite_and_redis() -> Option<Backends> {
    let (redis, server) = redis().await?;
    let directory = tempfile::tempdir().expect("a directory is made");
    let config = SqliteConfig::new(directory.path().join("orch.db"));
    let first = SqliteBackend::open(config.clone()).await.expect("a new file opens");
    let second = SqliteBackend::open(config).await.expect("it opens twice");
    let stores = [&first, &second].map(|backend| Arc::new(backend.store()) as Arc<dyn Store>);
    Some(with_redis(stores, &redis, &server).keeping((first, second, directory)))
}

async fn redis_alone() -> Option<Backends> {
    let mut config: RedisConfig = address(Shared::RedisCluster)?.parse().expect("the address reads");
    config.namespace = namespace();
    let open = || RedisBackend::open(config.clone());
    let (first, second) = (open().await.expect("it is there"), open().await.expect("it opens twice"));
    let seams_of = |backend: &RedisBackend| {
        seams(Arc::new(backend.store()), Arc::new(backend.queue()), Arc::new(backend.lock()))
    };
    Some(Backends::new(seams_of(&first), seams_of(&second)))
}

async fn mongo_alone() -> Option<Backends> {
    let [first, second] = mongo(Shared::Mongo).await?;
    let seams_of = |backend: &MongoBackend| {
        seams(Arc::new(backend.store()), Arc::new(backend.queue()), Arc::new(backend.lock()))
    };
    Some(Backends::new(seams_of(&first), seams_of(&second)).keeping((first, second)))
}

macro_rules! suites {
    ($($open:ident)*) => {
        $(mod $open {
            orch_conformance::engine_suite!(super::$open);
        })*
    };
}

suites! { mongo_and_redis mongo_and_nats sqlite_and_redis redis_alone mongo_alone }
