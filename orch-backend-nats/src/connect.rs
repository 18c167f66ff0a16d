//! Connecting, and the two streams.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::{ConnectOptions, ServerAddr};
use orch::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::json;

use crate::config::{NatsAuth, NatsConfig};
use crate::error;
use crate::link::{Link, Told, pause};

/// The oldest server: the first whose streams let a single message end by itself.
const OLDEST: (i64, i64, i64) = (2, 11, 0);

/// How often the client looks whether the server is there when nothing else comes; two in vain, and it connects anew.
const PING: Duration = Duration::from_secs(10);

/// Bytes of one message of the lock; what is held in a tenant must fit.
pub(crate) const LOCK_MESSAGE_MAX: i32 = 1 << 20;

/// Bytes that the queue's stream can hold beyond a quarter more than the items may take.
const SPARE: u64 = 1 << 20;

/// Bytes of one item; identifiers are short.
const ITEM_MAX: i32 = 16 << 10;

pub(crate) async fn open(config: NatsConfig) -> Result<Link> {
    config.check()?;
    let told = Arc::new(Told::new());
    let addresses = addresses(&config)?;
    let connected = options(&config, &told).await?.connect(addresses).await;
    let client = connected.map_err(|cause| error::of_connect(&cause).with("server", config.address()))?;
    let (major, minor, patch) = OLDEST;
    if !client.is_server_compatible(major, minor, patch) {
        let error = Error::unsupported("nats server is too old; orch needs 2.11");
        return Err(error.with("server", config.address()).with("version", client.server_info().version));
    }
    let context =
        ContextBuilder::new().timeout(config.timeout).ack_timeout(config.timeout).build(client.clone());
    let link = Link::new(client, context, config, told);
    ensure_all(&link).await?;
    link.opened();
    Ok(link)
}

/// Makes the two streams of the namespace unless they are there. Answers how many bytes of the queue's may be items.
pub(crate) async fn ensure_all(link: &Link) -> Result<u64> {
    let queue = ensure(link, queue_stream(link)).await?;
    ensure(link, lock_stream(link)).await?;
    Ok(u64::try_from(queue.max_bytes).map_or(u64::MAX, |bytes| bytes.saturating_sub(SPARE) / 5 * 4))
}

/// What the stream of a queue that holds so much may hold: a cluster that is full takes no message in place of another
/// either, so it must not become full while there is something to be leased or settled.
fn with_spare(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 4).saturating_add(SPARE)
}

fn addresses(config: &NatsConfig) -> Result<Vec<ServerAddr>> {
    let scheme = if config.tls { "tls" } else { "nats" };
    let address = |(host, port): &(String, u16)| {
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        format!("{scheme}://{host}:{port}").parse().map_err(|_| {
            Error::invalid("address of the nats server does not parse").with("server", config.address())
        })
    };
    config.hosts.iter().map(address).collect()
}

async fn options(config: &NatsConfig, told: &Arc<Told>) -> Result<ConnectOptions> {
    let unreadable = |file: &std::path::Path, cause: std::io::Error| {
        Error::invalid("file cannot be read").with("file", file.display()).caused_by(cause)
    };
    let (told, address) = (Arc::clone(told), config.address());
    let mut options = ConnectOptions::new()
        .name("orch")
        .connection_timeout(config.timeout)
        .request_timeout(Some(config.timeout))
        .require_tls(config.tls)
        .ping_interval(PING)
        .reconnect_delay_callback(|attempts| match attempts {
            0 | 1 => Duration::ZERO,
            more => {
                pause(u32::try_from(more).unwrap_or(16), Duration::from_millis(25), Duration::from_secs(4))
            }
        })
        .event_callback(move |event| {
            told.hear(&address, event);
            std::future::ready(())
        });
    options = match &config.auth {
        NatsAuth::None => options,
        NatsAuth::Password { user, password } => options.user_and_password(user.clone(), password.clone()),
        NatsAuth::Token(token) => options.token(token.clone()),
        NatsAuth::Credentials(file) => {
            options.credentials_file(file).await.map_err(|cause| unreadable(file, cause))?
        }
        NatsAuth::Nkey(file) => {
            let seed = std::fs::read_to_string(file).map_err(|cause| unreadable(file, cause))?;
            options.nkey(seed.trim().to_owned())
        }
    };
    if let Some(ca) = &config.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let (Some(certificate), Some(key)) = (&config.certificate, &config.key) {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    if config.tls_first {
        options = options.tls_first();
    }
    // The embedding program may have chosen another one before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(options)
}

/// What both streams have in common: the last message of each subject, in files, and a full one refuses what is new.
fn stream(link: &Link, name: &str, subjects: Vec<String>) -> Config {
    Config {
        name: name.to_owned(),
        subjects,
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_messages: -1,
        max_messages_per_subject: 1,
        max_consumers: -1,
        num_replicas: link.config.replicas,
        allow_message_ttl: true,
        ..Config::default()
    }
}

fn queue_stream(link: &Link) -> Config {
    Config {
        description: Some("orch: what is queued and leased".to_owned()),
        max_bytes: i64::try_from(with_spare(link.config.max_bytes)).unwrap_or(i64::MAX),
        max_message_size: ITEM_MAX,
        ..stream(link, &link.names.queue, link.names.queue_subjects())
    }
}

fn lock_stream(link: &Link) -> Config {
    Config {
        description: Some("orch: slots that are held, and buckets".to_owned()),
        max_bytes: i64::try_from(link.config.max_bytes / 4).unwrap_or(i64::MAX),
        max_message_size: LOCK_MESSAGE_MAX,
        ..stream(link, &link.names.lock, link.names.lock_subjects())
    }
}

#[derive(Deserialize)]
struct Made {
    config: Config,
}

/// Makes a stream unless it is there. One that is there may differ in size, replicas and placement, which are the
/// operator's, and in nothing that the promises rest on.
async fn ensure(link: &Link, wanted: Config) -> Result<Config> {
    let info: Result<Made> = link.ask(&format!("STREAM.INFO.{}", wanted.name), &json!({})).await;
    let made = match info {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let made: Made = link.ask(&format!("STREAM.CREATE.{}", wanted.name), &wanted).await?;
            tracing::info!(stream = %wanted.name, server = %link.config.address(), "made a stream");
            made
        }
        info => info?,
    };
    let found = made.config;
    let differs = [
        ("subjects", found.subjects != wanted.subjects),
        ("retention", found.retention != wanted.retention),
        ("storage", found.storage != wanted.storage),
        ("discard", found.discard != wanted.discard || found.discard_new_per_subject),
        ("max_msgs_per_subject", found.max_messages_per_subject != wanted.max_messages_per_subject),
        ("max_age", found.max_age != Duration::ZERO),
        ("allow_msg_ttl", !found.allow_message_ttl),
        ("no_ack", found.no_ack),
        ("sealed", found.sealed),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        None => Ok(found),
        Some((setting, _)) => Err(Error::refused(
            "stream is not as orch makes it; set it right, or delete the stream to have it made",
        )
        .with("server", link.config.address())
        .with("stream", wanted.name)
        .with("setting", setting)),
    }
}
