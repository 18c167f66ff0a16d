//! The service as a program of its own: configuration, connections, the beginning and the end.

mod archive;
mod config;
mod listen;
mod log;
mod problem;
mod program;
mod telemetry;
mod tokens;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orch::engine::{Orchestrator, Roles, Settings as EngineSettings};
use orch::executor::{Builtins, Executors, ProcessExecutor, ProcessSettings};
use orch::proof::SigningKey;
use orch::{Artifacts, Error, QueueName};
use orch_connect::{Access, Advised, Places, Seam};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

pub use config::{Auth, Backends, Config, Dags, Limits, Listen, Log, LogFormat, Telemetry, Work};
pub use log::start as start_log;
pub use problem::Problem;
pub use program::program;
pub use tokens::new_token;

use crate::auth::{Authentication, Issuers, LocalToken, Proofs};
use crate::observe::RunLog;
use crate::{DagSettings, HttpLimits, Metrics, RateLimit, Settings, StreamSettings};

/// How long what did not end by itself is waited for at the very end.
const GRACE: Duration = Duration::from_secs(5);
/// More bytes than a file with a key holds.
const KEY_BYTES: u64 = 1 << 10;

/// Who is told what, at the start and at the end.
pub trait Told {
    /// The service listens.
    fn started(&mut self, at: &Started);
}

/// Where a service that has started is found.
#[derive(Debug)]
pub struct Started {
    /// Where it really listens: a port of 0 has become one.
    pub address: SocketAddr,
    /// Its root, such as `http://127.0.0.1:8470`.
    pub url: String,
    /// Where its store is, without credentials.
    pub store: String,
    /// Where the token of this machine's user is written.
    pub token_file: Option<PathBuf>,
    /// What could lose data, or is not as it should be.
    pub warnings: Vec<String>,
}

/// Runs the service until it is told to stop (SIGTERM, SIGINT): then it accepts nothing more, lets requests and steps end, and
/// answers. A second signal ends the process at once, with 130.
///
/// # Errors
/// `Invalid` for a configuration that cannot be, `Unavailable` when the address cannot be listened on or a backend cannot be
/// reached, and as the backends' own.
pub async fn run(config: &Config, told: &mut (dyn Told + Send)) -> Result<(), Advised> {
    if let Some(problem) = config.check().into_iter().next() {
        let error = Error::invalid(problem.message).with("setting", problem.place);
        return Err(Advised { error, hint: problem.hint });
    }
    let tls = listen::Tls::read(&config.listen)?;
    let (authentication, token_file) = authentication(config)?;
    let listener = TcpListener::bind(config.listen.address).await.map_err(|cause| {
        Error::unavailable("the address cannot be listened on")
            .with("address", config.listen.address)
            .caused_by(cause)
    })?;
    let address = listener
        .local_addr()
        .map_err(|cause| Error::internal("a listener has no address").caused_by(cause))?;
    let places = Places::read(
        &config.backends.store,
        config.backends.queue.as_deref(),
        config.backends.lock.as_deref(),
    )?;
    let mut backends = orch_connect::Backends::default();
    let metrics = Metrics::default();
    let builder = Orchestrator::builder()
        .observe(metrics.observer())
        .observe(Arc::new(RunLog))
        .settings(engine_settings(config)?)
        .label("server")
        .executors(executors(config));
    #[cfg(feature = "otel")]
    let traces = telemetry::traces(&config.telemetry)?;
    #[cfg(feature = "otel")]
    let builder = match &traces {
        Some(traces) => builder.observe(Arc::new(traces.clone())),
        None => builder,
    };
    let builder = backends.build(builder, &places, Access::Write, &Seam::ALL).await?;
    let mut builder = backends.serve_outside(builder, &places).await?;
    if let Some(directory) = places.artifacts(config.backends.artifacts.as_deref()) {
        builder = builder.artifacts(Artifacts::local(&directory)?);
    }
    let orchestrator = builder.start()?;
    let looks = telemetry::Looks::start(&config.telemetry, &metrics, &orchestrator)?;
    let settings = Settings {
        metrics,
        #[cfg(feature = "otel")]
        traces: traces.clone(),
        ..settings(config, authentication)?
    };
    let closing = settings.closing.clone();
    let router = crate::router(orchestrator.clone(), settings);
    let scheme = if tls.is_some() { "https" } else { "http" };
    told.started(&Started {
        address,
        url: format!("{scheme}://{address}"),
        store: places.store.to_string(),
        token_file: token_file.as_ref().map(|file| file.0.clone()),
        warnings: backends.warnings().map(|(address, warning)| format!("{address}: {warning}")).collect(),
    });
    let stopped = closing.clone();
    let (listen, reloaded) = (config.listen.clone(), tls.clone());
    let signals = tokio::spawn(async move { heed_signals(&stopped, reloaded, &listen).await });
    listen::serve(listener, tls, router, &config.limits, closing).await;
    orchestrator.shutdown().await;
    if let Some(looks) = looks {
        looks.end().await;
    }
    #[cfg(feature = "otel")]
    if let Some(traces) = traces {
        traces.finish().await;
    }
    backends.close().await;
    signals.abort();
    drop(token_file);
    Ok(())
}

/// Stops at the first signal to stop, exits at the second, and reads certificates again at SIGHUP.
async fn heed_signals(
    closing: &tokio_util::sync::CancellationToken,
    tls: Option<listen::Tls>,
    listen: &Listen,
) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {
                match tls.as_ref().map(|tls| tls.reload(listen)) {
                    Some(Ok(())) => tracing::info!("the certificates were read again"),
                    Some(Err(error)) => tracing::error!(%error, "the old certificates stay in use"),
                    None => {}
                }
                continue;
            }
        }
        if closing.is_cancelled() {
            tracing::warn!("told to stop twice: what runs is left to whoever looks after it next");
            std::process::exit(130);
        }
        tracing::info!("told to stop: nothing more is accepted, and what runs may end");
        closing.cancel();
    }
}

/// A file that is there for as long as the process.
struct TokenFile(PathBuf);

impl Drop for TokenFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(%error, "the file of the local token was gone");
        }
    }
}

fn authentication(config: &Config) -> Result<(Authentication, Option<TokenFile>), Advised> {
    let mut authentication = Authentication::default();
    let mut file = None;
    if config.auth.local_token && config.listen.address.ip().is_loopback() {
        let (token, text) = LocalToken::draw();
        write_token(&config.auth.local_token_file, text.expose())?;
        authentication.local = Some(token);
        file = Some(TokenFile(config.auth.local_token_file.clone()));
    }
    if let Some(path) = &config.auth.tokens_file {
        authentication.tokens = tokens::read(path)?;
    }
    authentication.issuers = Issuers::new(config.auth.issuers.clone())?;
    if let Some(public) = &config.listen.public_url {
        authentication.proofs = Proofs::at(public)?;
    }
    Ok((authentication, file))
}

/// Writes a file that nobody else may read.
fn write_token(path: &Path, text: &str) -> orch::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let write = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // An old one may be readable by others: its rights would stay.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|cause| {
        Error::unavailable("the local token cannot be written").with("file", path.display()).caused_by(cause)
    })
}

fn engine_settings(config: &Config) -> orch::Result<EngineSettings> {
    let queues = config.work.queues.as_ref().map(|queues| queues.iter().map(QueueName::new).collect());
    Ok(EngineSettings {
        roles: Roles { work: config.work.enabled, ..Roles::ALL },
        slots: config.work.slots,
        queues: queues.transpose()?,
        lease: Duration::from_secs(config.work.lease_seconds),
        drain: config.limits.drain_time(),
        grace: GRACE,
        sandbox: config.work.unsandboxed_processes.then(|| "none".to_owned()),
        ..EngineSettings::default()
    })
}

fn executors(config: &Config) -> Executors {
    let builtins = Builtins { root: config.work.root.clone(), output: config.work.root.clone() };
    let executors = builtins.register(Executors::new());
    if !config.work.unsandboxed_processes {
        return executors;
    }
    let root = config.work.root.clone().unwrap_or_else(|| PathBuf::from("."));
    let process = ProcessExecutor::unsandboxed(ProcessSettings::below(root));
    executors.executor("process", env!("CARGO_PKG_VERSION"), Arc::new(process))
}

fn checkpoint_key(config: &Config) -> orch::Result<Option<SigningKey>> {
    let Some(path) = &config.proof.checkpoint_key_file else { return Ok(None) };
    let named =
        |error: Error| error.with("setting", "proof.checkpoint_key_file").with("file", path.display());
    let text = orch_connect::read_text(path, KEY_BYTES)
        .map_err(|cause| named(Error::unavailable("the key cannot be read").caused_by(cause)))?;
    SigningKey::from_hex(text.trim()).map(Some).map_err(named)
}

fn rate(per_second: u32) -> Option<RateLimit> {
    let limit = RateLimit { per_second: per_second.into(), burst: per_second.saturating_mul(2) };
    (per_second > 0).then_some(limit)
}

fn settings(config: &Config, authentication: Authentication) -> orch::Result<Settings> {
    let signers: orch::Result<_> = config.dags.signers.iter().map(|key| key.parse()).collect();
    Ok(Settings {
        authentication,
        limits: HttpLimits {
            body_bytes: config.limits.body_bytes,
            request_time: Duration::from_secs(config.limits.request_seconds),
            in_flight: config.limits.in_flight,
            waiting_workers: config.limits.waiting_workers,
            tenant_rate: rate(config.limits.tenant_rate),
            subject_rate: rate(config.limits.subject_rate),
        },
        streams: StreamSettings {
            streams: config.limits.streams,
            origins: config.listen.origins.clone(),
            ..StreamSettings::default()
        },
        checkpoint_key: checkpoint_key(config)?,
        dags: DagSettings { signers: signers?, require_signature: config.dags.require_signature },
        ..Settings::default()
    })
}
