//! Connecting, and what is looked at when a connection is new.

use std::fmt;
use std::path::Path;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use orch::{Error, Result};
use redis::aio::{ConnectionLike as _, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterClientBuilder, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, FromRedisValue, RedisError, RedisResult,
    ServerErrorKind, TlsCertificates,
};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::RedisConfig;
use crate::error::{Access, is_read_only, mapped, of_opening};
use crate::facts::Facts;
use crate::script::PROBE;

/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(3);

/// How often a command is sent to the node that its slot is said to lie on.
const MOVES: u32 = 3;

/// A server or a cluster, and how it is reached.
pub(crate) struct Server {
    line: Line,
    /// The connection, and the how manieth it is.
    link: RwLock<(u64, Link)>,
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

/// What connections are made of.
enum Line {
    Single(Client, ConnectionManagerConfig),
    Cluster(ClusterClient, ClusterConfig),
}

impl Line {
    /// A connection that is made when the first command wants it.
    fn link(&self) -> RedisResult<Link> {
        Ok(match self {
            Self::Single(client, settings) => {
                Link::Single(client.get_connection_manager_lazy(settings.clone())?)
            }
            Self::Cluster(client, settings) => {
                Link::Cluster(client.get_pending_async_connection_with_config(settings.clone()))
            }
        })
    }
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
        matches!(self.line, Line::Cluster(..))
    }

    /// Where everybody is told of hints.
    pub(crate) fn channel(&self) -> String {
        format!("{}:wake", self.config.namespace)
    }

    /// Sends one command. Calls share a connection and do not wait for each other.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let (number, link) = self.link.read().unwrap_or_else(PoisonError::into_inner).clone();
        let value = match link {
            Link::Single(mut connection) => {
                connection.req_packed_command(command).await.and_then(redis::Value::extract_error)
            }
            Link::Cluster(connection) => follow(connection, command).await,
        };
        if let Err(error) = &value
            && is_better_left(error)
        {
            self.leave(number);
        }
        Ok(redis::from_redis_value(value?)?)
    }

    /// Gives up a connection that may never answer again; the next command makes another.
    fn leave(&self, number: u64) {
        let mut link = self.link.write().unwrap_or_else(PoisonError::into_inner);
        if link.0 == number
            && let Ok(fresh) = self.line.link()
        {
            *link = (number + 1, fresh);
        }
    }

    pub(crate) async fn read<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        self.query(command).await.map_err(|error| mapped(&error, Access::Read))
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

/// Sends a command to its node of a cluster. Only one that a node did not carry out, since its slot lies elsewhere, is sent
/// again. A slot that is on its way to another node (`ASK`) is not followed: there, a script would find half of its keys.
async fn follow(mut connection: ClusterConnection, command: &Cmd) -> RedisResult<redis::Value> {
    let mut answer = Ok(redis::Value::Nil);
    for _ in 0..MOVES {
        answer = connection.req_packed_command(command).await.and_then(redis::Value::extract_error);
        let moved = |error: &RedisError| error.kind() == redis::ErrorKind::Server(ServerErrorKind::Moved);
        if !answer.as_ref().is_err_and(moved) {
            break;
        }
    }
    answer
}

/// Whether the connection is worth no second try: a peer that is gone without a word keeps it open for a quarter of an
/// hour, and one that became a replica takes no more writes.
fn is_better_left(error: &RedisError) -> bool {
    error.is_timeout() || is_read_only(error)
}

pub(crate) async fn open(config: RedisConfig) -> Result<Server> {
    if config.hosts.is_empty() {
        return Err(Error::invalid("no host is named"));
    }
    config.check()?;
    // TLS needs a provider of cryptography; whoever embeds orch may have chosen one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificates = certificates(&config)?;
    let nodes = config.hosts.iter().map(|host| client(&config, host, certificates.clone()));
    let failed = |error: RedisError| mapped(&error, Access::Read);
    let nodes = nodes.collect::<RedisResult<Vec<_>>>().map_err(failed)?;
    let (node, facts) = reach(&config, &nodes).await?;
    facts.check()?;
    let line = line(&config, node, facts.is_cluster(), certificates).map_err(failed)?;
    let link = RwLock::new((0, line.link().map_err(failed)?));
    let (warnings, survives_power_loss) = facts.persistence();
    let server =
        Server { line, link, version: facts.version(), warnings, survives_power_loss, nodes, config };
    let key = format!("{{{}:probe:{}}}", server.config.namespace, std::process::id());
    PROBE.on(&[&key]).arg(server.channel()).send::<i64>(&server).await?;
    server.subscribe(&server.channel()).await.map_err(failed)?;
    Ok(server)
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

/// The first host that answers, and what it says of itself.
async fn reach(config: &RedisConfig, nodes: &[Client]) -> Result<(Client, Facts)> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(config.timeout));
    let mut last = None;
    for node in nodes {
        let asked = async {
            let connection = node.get_multiplexed_async_connection_with_config(&settings).await?;
            Facts::ask(connection).await
        };
        match asked.await {
            Ok(facts) => return Ok((node.clone(), facts)),
            Err(error) => last = Some(error),
        }
    }
    let error = last.map(|error| of_opening(&error, config.tls));
    Err(error.unwrap_or_else(|| Error::invalid("no host is named")))
}

/// What connections to one node, or to a cluster, are made of.
fn line(
    config: &RedisConfig,
    node: Client,
    in_cluster: bool,
    certificates: Option<TlsCertificates>,
) -> RedisResult<Line> {
    if !in_cluster {
        let settings = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(config.timeout));
        return Ok(Line::Single(node, settings));
    }
    let nodes: Vec<_> = config.hosts.iter().map(|host| config.node(host)).collect();
    let builder = ClusterClientBuilder::new(nodes)
        .tcp_settings(RedisConfig::wire())
        .connection_timeout(CONNECT)
        .response_timeout(config.timeout)
        // The first command of a connection waits for it, too.
        .overall_response_timeout(Some(CONNECT + config.timeout))
        // The driver would send again what may have been carried out, and tell only how that went.
        .retries(0);
    let builder = match certificates {
        Some(certificates) => builder.certs(certificates),
        None => builder,
    };
    let settings = ClusterConfig::new().set_response_timeout(config.timeout);
    Ok(Line::Cluster(builder.build()?, settings))
}

fn certificates(config: &RedisConfig) -> Result<Option<TlsCertificates>> {
    let root_cert = config.ca.as_deref().map(certificates_of).transpose()?;
    let client_tls = match (config.certificate.as_deref(), config.key.as_deref()) {
        (Some(certificate), Some(key)) => {
            Some(ClientTlsConfig { client_cert: certificates_of(certificate)?, client_key: key_of(key)? })
        }
        _ => None,
    };
    let some = config.tls && (root_cert.is_some() || client_tls.is_some());
    Ok(some.then_some(TlsCertificates { client_tls, root_cert }))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|cause| {
        Error::invalid("a certificate or key cannot be read").with("path", path.display()).caused_by(cause)
    })
}

/// A file of certificates. The driver would take one without any for a list of nobody to trust.
fn certificates_of(path: &Path) -> Result<Vec<u8>> {
    let text = read(path)?;
    let wrong = || Error::invalid("a file holds no certificate (PEM)").with("path", path.display());
    let mut known = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|cause| wrong().caused_by(cause.to_string()))?;
        known.add(certificate).map_err(|cause| wrong().caused_by(cause.to_string()))?;
    }
    if known.is_empty() { Err(wrong()) } else { Ok(text) }
}

fn key_of(path: &Path) -> Result<Vec<u8>> {
    let text = read(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(Error::invalid("a file holds no private key (PEM)").with("path", path.display())),
    }
}
