//! Servers that tests share, each in a namespace of its own.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::mongo;
use crate::process::Server;
use crate::program::Kind;
use crate::redis::Cluster;

/// A server that tests share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// Redis 7, one node.
    Redis,
    /// Redis 7, a cluster of three masters.
    RedisCluster,
    /// Valkey 9, one node.
    Valkey,
    /// MongoDB 6, a replica set of one.
    Mongo,
    /// MongoDB 6, standing alone.
    MongoStandalone,
    /// NATS 2.15 with JetStream.
    Nats,
}

impl Shared {
    /// Every shared server.
    pub const ALL: [Self; 6] =
        [Self::Redis, Self::RedisCluster, Self::Valkey, Self::Mongo, Self::MongoStandalone, Self::Nats];

    /// The program it is.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Redis | Self::RedisCluster => Kind::Redis,
            Self::Valkey => Kind::Valkey,
            Self::Mongo | Self::MongoStandalone => Kind::Mongo,
            Self::Nats => Kind::Nats,
        }
    }

    const fn variable(self) -> &'static str {
        match self {
            Self::Redis => "ORCH_TEST_REDIS",
            Self::RedisCluster => "ORCH_TEST_REDIS_CLUSTER",
            Self::Valkey => "ORCH_TEST_VALKEY",
            Self::Mongo => "ORCH_TEST_MONGO",
            Self::MongoStandalone => "ORCH_TEST_MONGO_STANDALONE",
            Self::Nats => "ORCH_TEST_NATS",
        }
    }

    fn start(self) -> Option<Running> {
        let one = |options: &[&str]| Server::start(self.kind(), options);
        let (url, keeps) = match self {
            Self::Redis | Self::Valkey => {
                let server = one(&["--appendonly", "yes"])?;
                (server.url(), Keeps::Server(server))
            }
            Self::RedisCluster => {
                let cluster = Cluster::start(&["--appendonly", "yes"])?;
                (cluster.url(), Keeps::Cluster(cluster))
            }
            Self::Mongo => {
                let server = one(&["--replSet", "rs"])?;
                mongo::initiate(&server);
                (format!("{}/?replicaSet=rs", server.url()), Keeps::Server(server))
            }
            Self::MongoStandalone => {
                let server = one(&[])?;
                (format!("{}/", server.url()), Keeps::Server(server))
            }
            Self::Nats => {
                let server = one(&[])?;
                (server.url(), Keeps::Server(server))
            }
        };
        Some(Running { shared: self, url, _keeps: keeps })
    }
}

#[derive(Debug)]
struct Running {
    shared: Shared,
    url: String,
    _keeps: Keeps,
}

#[derive(Debug)]
#[expect(dead_code, reason = "they live for as long as they are kept")]
enum Keeps {
    Server(Server),
    Cluster(Cluster),
}

/// Every shared server that can be had, running.
#[derive(Debug)]
pub struct SharedServers(Vec<Running>);

impl SharedServers {
    /// Starts them.
    #[must_use]
    pub fn start() -> Self {
        Self(Shared::ALL.into_iter().filter_map(Shared::start).collect())
    }

    /// What to tell test processes through their environment.
    pub fn environment(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|running| (running.shared.variable(), running.url.as_str()))
    }
}

/// Where a shared server is; nothing when it cannot be had, which has been told then ([`skipped`]).
///
/// # Panics
/// When it does not start.
#[must_use]
pub fn address(shared: Shared) -> Option<String> {
    static OWN: Mutex<Vec<Running>> = Mutex::new(Vec::new());
    if let Ok(address) = std::env::var(shared.variable()) {
        return Some(address);
    }
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    if !own.iter().any(|running| running.shared == shared) {
        own.extend(shared.start());
    }
    let address = own.iter().find(|running| running.shared == shared).map(|running| running.url.clone());
    if address.is_none() {
        skipped(shared.kind());
    }
    address
}

/// A name that no other test uses, fit for a database, a prefix of keys and a stream: letters and digits.
#[must_use]
pub fn namespace() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // The moment keeps apart processes of one id on servers that outlive them.
    let moment = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros();
    format!("t{:x}x{moment:x}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Says that a test is skipped for want of a server, as [`skipped_without`].
///
/// # Panics
/// As [`skipped_without`].
pub fn skipped(kind: Kind) {
    skipped_without(kind.name());
}

/// Says that a test is skipped for want of something, and has it counted by `cargo xtask test`.
///
/// # Panics
/// When `ORCH_REQUIRE`, a list with commas, names it.
#[expect(clippy::print_stderr, reason = "whoever runs the tests is to see it")]
pub fn skipped_without(name: &str) {
    let required = std::env::var("ORCH_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|required| required == name),
        "ORCH_REQUIRE asks for {name}, and it is not there: `cargo xtask servers` fetches servers"
    );
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped, there is no {name}: {test}");
    if let Some(list) = std::env::var_os("ORCH_SKIPPED") {
        let list = OpenOptions::new().create(true).append(true).open(list);
        // A lost line is a count too low, no more.
        let _ = list.and_then(|mut list| writeln!(list, "{name}: {test}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_command;

    #[test]
    fn every_shared_server_answers_where_it_says() {
        for shared in Shared::ALL {
            let Some(address) = address(shared) else { continue };
            let host =
                address.split("//").nth(1).and_then(|rest| rest.split(['/', ',', '?']).next()).unwrap();
            assert!(std::net::TcpStream::connect(host).is_ok(), "{address}");
            if matches!(shared.kind(), Kind::Redis | Kind::Valkey) {
                let port = host.rsplit(':').next().unwrap().parse().unwrap();
                assert_eq!(redis_command(port, &["PING"]), "+PONG");
            }
        }
    }

    #[test]
    fn a_killed_server_starts_again_on_its_port() {
        let Some(mut server) =
            Server::start(Kind::Redis, &["--appendonly", "yes", "--appendfsync", "always"])
        else {
            return skipped(Kind::Redis);
        };
        assert_eq!(redis_command(server.port(), &["SET", "k", "v"]), "+OK");
        server.kill();
        server.start_again();
        assert_eq!(redis_command(server.port(), &["GET", "k"]), "v");
    }
}
