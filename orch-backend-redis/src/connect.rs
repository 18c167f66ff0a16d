//! Connecting, and what is looked at when a connection is new.

use std::fmt;
use std::time::Duration;

use orch::{Error, ErrorKind, Result};
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{Client, ClientTlsConfig, Cmd, FromRedisValue, RedisResult, TlsCertificates};

use crate::config::RedisConfig;
use crate::error::{Access, mapped};

/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(3);
/// The oldest version that is spoken to: it has exclusive ranges over streams.
const OLDEST: (u32, u32) = (6, 2);

/// A server or a cluster, and how it is reached.
pub(crate) struct Server {
    link: Link,
    pub(crate) config: RedisConfig,
    pub(crate) version: String,
    pub(crate) warnings: Vec<String>,
    /// An acknowledged write survives loss of power.
    pub(crate) survives_power_loss: bool,
    nodes: Vec<Client>,
}

#[derive(Clone)]
enum Link {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("config", &self.config)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Whether keys of different slots lie on different nodes.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.link, Link::Cluster(_))
    }

    /// Sends one command. Calls share a connection and do not wait for each other.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let value = match &self.link {
            Link::Single(connection) => connection.clone().req_packed_command(command).await?,
            Link::Cluster(connection) => connection.clone().req_packed_command(command).await?,
        };
        Ok(redis::from_redis_value(value.extract_error()?)?)
    }

    pub(crate) async fn read<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        self.query(command).await.map_err(|error| mapped(&error, Access::Read))
    }

    pub(crate) async fn write<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        self.query(command).await.map_err(|error| mapped(&error, Access::Write))
    }

    /// A subscription to `channel` on any node that answers.
    pub(crate) async fn subscribe(&self, channel: &str) -> RedisResult<redis::aio::PubSubStream> {
        let mut last = None;
        for node in &self.nodes {
            let opened = async {
                let mut subscription = node.get_async_pubsub().await?;
                subscription.subscribe(channel).await?;
                Ok(subscription.into_on_message())
            };
            match tokio::time::timeout(CONNECT, opened).await {
                Ok(Ok(messages)) => return Ok(messages),
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = Some(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            }
        }
        Err(last.unwrap_or_else(|| (redis::ErrorKind::InvalidClientConfig, "no hosts").into()))
    }
}

pub(crate) async fn open(config: RedisConfig) -> Result<Server> {
    if config.hosts.is_empty() {
        return Err(Error::invalid("no host is named"));
    }
    // TLS needs a provider of cryptography; whoever embeds orch may have chosen one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificates = certificates(&config)?;
    let nodes = config.hosts.iter().map(|host| client(&config, host, certificates.clone()));
    let nodes = nodes.collect::<RedisResult<Vec<_>>>().map_err(|error| mapped(&error, Access::Read))?;
    let (manager, info) = reach(&config, &nodes).await?;
    let facts = Facts::read(&info);
    facts.check()?;
    let link = match facts.of("cluster_enabled") == "1" {
        false => Link::Single(manager),
        true => Link::Cluster(cluster(&config, certificates).await?),
    };
    let fsync = match &link {
        Link::Single(manager) => fsync(manager.clone()).await,
        Link::Cluster(connection) => fsync(connection.clone()).await,
    };
    let (warnings, survives_power_loss) = facts.persistence(fsync.as_deref());
    Ok(Server { link, version: facts.version(), warnings, survives_power_loss, nodes, config })
}

fn client(
    config: &RedisConfig,
    host: &(String, u16),
    certificates: Option<TlsCertificates>,
) -> RedisResult<Client> {
    match certificates {
        Some(certificates) => Client::build_with_tls(config.node(host), certificates),
        None => Client::open(config.node(host)),
    }
}

/// A connection to the first host that answers, and what the server says of itself.
async fn reach(config: &RedisConfig, nodes: &[Client]) -> Result<(ConnectionManager, String)> {
    let settings = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(config.timeout));
    let mut last = None;
    for node in nodes {
        let opened = async {
            let mut manager = node.get_connection_manager_with_config(settings.clone()).await?;
            let info: String = redis::cmd("INFO").query_async(&mut manager).await?;
            Ok((manager, info))
        };
        match opened.await {
            Ok(opened) => return Ok(opened),
            Err(error) => last = Some(error),
        }
    }
    let error = last.map(|error: redis::RedisError| mapped(&error, Access::Read));
    Err(error.unwrap_or_else(|| Error::invalid("no host is named")))
}

async fn cluster(config: &RedisConfig, certificates: Option<TlsCertificates>) -> Result<ClusterConnection> {
    let nodes: Vec<_> = config.hosts.iter().map(|host| config.node(host)).collect();
    let mut builder = ClusterClientBuilder::new(nodes)
        .connection_timeout(CONNECT)
        .response_timeout(config.timeout)
        .overall_response_timeout(Some(config.timeout * 2))
        .retries(3);
    if let Some(certificates) = certificates {
        builder = builder.certs(certificates);
    }
    let connected = async { builder.build()?.get_async_connection().await };
    connected.await.map_err(|error| mapped(&error, Access::Read))
}

fn certificates(config: &RedisConfig) -> Result<Option<TlsCertificates>> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|cause| {
            Error::invalid("a certificate or key cannot be read")
                .with("path", path.display())
                .caused_by(cause)
        })
    };
    let root_cert = config.ca.as_ref().map(read).transpose()?;
    let client_tls = match (&config.certificate, &config.key) {
        (Some(certificate), Some(key)) => {
            Some(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
        }
        _ => None,
    };
    let some = config.tls && (root_cert.is_some() || client_tls.is_some());
    Ok(some.then_some(TlsCertificates { client_tls, root_cert }))
}

/// How the server's log reaches the disk; nothing when the user may not ask.
async fn fsync(mut connection: impl ConnectionLike) -> Option<String> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg("appendfsync");
    let settings: Vec<String> = command.query_async(&mut connection).await.ok()?;
    settings.into_iter().nth(1)
}

/// What `INFO` says.
struct Facts<'a>(&'a str);

impl<'a> Facts<'a> {
    fn read(info: &'a str) -> Self {
        Self(info)
    }

    fn of(&self, name: &str) -> &'a str {
        let lines = self.0.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| *key == name).map(|(_, value)| value.trim()).next().unwrap_or_default()
    }

    fn version(&self) -> String {
        let (name, version) = match self.of("valkey_version") {
            "" => ("redis", self.of("redis_version")),
            version => ("valkey", version),
        };
        let cluster = if self.of("cluster_enabled") == "1" { " cluster" } else { "" };
        format!("{name} {version}{cluster}")
    }

    fn check(&self) -> Result<()> {
        let mut numbers = self.of("redis_version").split('.').map_while(|number| number.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version < OLDEST {
            return Err(Error::unsupported(
                "the server is too old; orch needs redis 6.2 or later, or valkey",
            )
            .with("version", self.of("redis_version")));
        }
        if self.of("role") == "slave" && self.of("cluster_enabled") != "1" {
            return Err(Error::refused("the server is a replica; name its master"));
        }
        if self.of("loading") == "1" {
            return Err(Error::new(ErrorKind::Unavailable, "the server is loading its data"));
        }
        Ok(())
    }

    /// What could be lost, and whether an acknowledged write survives loss of power.
    fn persistence(&self, fsync: Option<&str>) -> (Vec<String>, bool) {
        let mut warnings = Vec::new();
        let (policy, limited) = (self.of("maxmemory_policy"), self.of("maxmemory") != "0");
        if policy != "noeviction" && (limited || policy.is_empty()) {
            warnings.push(format!(
                "maxmemory-policy is `{policy}`: the server may throw keys away. As a store it would lose runs; as a \
                 queue, hints that the sweep makes again. Set `noeviction`"
            ));
        }
        let aof = self.of("aof_enabled") == "1";
        if !aof {
            warnings.push(
                "append-only file is off: a restart of the server loses what was written since its last snapshot. As \
                 a store it would lose runs; as a queue, hints that the sweep makes again. Set `appendonly yes`"
                    .to_owned(),
            );
        } else if fsync != Some("always") {
            warnings.push(format!(
                "appendfsync is {}: loss of power may lose the last moments of an acknowledged record. As a store set \
                 `appendfsync always`; as a queue nothing is needed",
                fsync.map_or("not known (CONFIG GET is not allowed)".to_owned(), |fsync| format!("`{fsync}`")),
            ));
        }
        (warnings, aof && fsync == Some("always"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_lose_data_is_told() {
        let told = |info: &str, fsync| Facts::read(info).persistence(fsync);
        let (warnings, survives) =
            told("maxmemory:0\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n", Some("always"));
        assert_eq!((warnings.len(), survives), (0, true));
        let (warnings, survives) = told("maxmemory:5\nmaxmemory_policy:allkeys-lru\naof_enabled:0\n", None);
        assert_eq!((warnings.len(), survives), (2, false));
        let (warnings, survives) =
            told("maxmemory:0\nmaxmemory_policy:noeviction\naof_enabled:1\n", Some("everysec"));
        assert_eq!((warnings.len(), survives), (1, false));
        assert!(warnings[0].contains("everysec"));
        assert!(
            told("maxmemory:0\nmaxmemory_policy:noeviction\naof_enabled:1\n", None).0[0]
                .contains("not allowed")
        );
    }

    #[test]
    fn old_servers_and_replicas_are_refused() {
        let kind = |info: &str| Facts::read(info).check().err().map(|error| error.kind());
        assert_eq!(kind("redis_version:6.0.16\nrole:master\n"), Some(ErrorKind::Unsupported));
        assert_eq!(kind("redis_version:7.0.15\nrole:slave\n"), Some(ErrorKind::Refused));
        assert_eq!(kind("redis_version:7.0.15\nrole:master\nloading:1\n"), Some(ErrorKind::Unavailable));
        assert_eq!(kind("redis_version:6.2.0\nrole:master\nloading:0\n"), None);
        let valkey = "redis_version:7.2.4\nvalkey_version:9.1.2\ncluster_enabled:1\n";
        assert_eq!(Facts::read(valkey).version(), "valkey 9.1.2 cluster");
    }
}
