//! How the service behaves: plain data, apart from what it is built from.

use std::time::Duration;

use http::HeaderName;
use orch::proof::{PublicKey, SigningKey};
use tokio_util::sync::CancellationToken;

use crate::auth::Authentication;
use crate::observe::Metrics;

/// How the service behaves.
#[derive(Debug)]
pub struct Settings {
    /// How callers prove who they are. With nothing in it, nobody gets in.
    pub authentication: Authentication,
    /// The headers that may name the tenant; the first is the one that answers speak of.
    pub tenant_headers: Vec<HeaderName>,
    /// Bounds on size, count and time.
    pub limits: HttpLimits,
    /// Whose DAGs are published.
    pub dags: DagSettings,
    /// How streams behave.
    pub streams: StreamSettings,
    /// The key that checkpoints are signed with; unsigned ones without it.
    pub checkpoint_key: Option<SigningKey>,
    /// What is counted and measured; the same that the engine is observed by.
    pub metrics: Metrics,
    /// Who is told of requests as spans; the same that the engine is observed by.
    #[cfg(feature = "otel")]
    pub traces: Option<crate::observe::Traces>,
    /// Fires when the service is to end: it is no longer ready, and streams and long polls end.
    pub closing: CancellationToken,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            authentication: Authentication::default(),
            tenant_headers: vec![
                HeaderName::from_static("x-stella-tenant"),
                HeaderName::from_static("x-stellaops-tenant"),
            ],
            limits: HttpLimits::default(),
            dags: DagSettings::default(),
            streams: StreamSettings::default(),
            checkpoint_key: None,
            metrics: Metrics::default(),
            #[cfg(feature = "otel")]
            traces: None,
            closing: CancellationToken::new(),
        }
    }
}

/// The bounds of requests.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Bytes of a body. 4 MiB by default: a document of the largest size fits.
    pub body_bytes: usize,
    /// How long a request may take that is no stream and no long poll. 30 s by default.
    pub request_time: Duration,
    /// Requests under way that are no streams; further ones are answered with 503 at once. 2 000 by default.
    pub in_flight: usize,
    /// Workers that wait for work in this process; further ones are answered with 503 at once. 5 000 by default.
    pub waiting_workers: usize,
    /// How often a tenant may ask, all its callers together. Unlimited by default.
    pub tenant_rate: Option<RateLimit>,
    /// How often one caller may ask for one tenant. Unlimited by default.
    pub subject_rate: Option<RateLimit>,
}

/// How often something may happen: a token bucket of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// How often in the long run, more than 0.
    pub per_second: f64,
    /// How often at once, at least 1.
    pub burst: u32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            body_bytes: 4 << 20,
            request_time: Duration::from_secs(30),
            in_flight: 2_000,
            waiting_workers: 5_000,
            tenant_rate: None,
            subject_rate: None,
        }
    }
}

/// How streams of events behave.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// How often a stream with nothing to say shows that it lives. 15 s by default. A WebSocket client that answers two of
    /// these with nothing is gone.
    pub heartbeat: Duration,
    /// How long a client may refuse to take a message before its stream is ended. 10 s by default.
    pub send_time: Duration,
    /// The last messages of a tenant that are kept for its listeners, 16 to 65 536. Who falls behind further is cut off, and
    /// may resume. 4 096 by default.
    pub buffer: usize,
    /// Streams of this process at most; further ones are answered with 503. 5 000 by default.
    pub streams: usize,
    /// Origins of pages that may open streams besides the service's own, such as `https://console.example`.
    pub origins: Vec<String>,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            send_time: Duration::from_secs(10),
            buffer: 4_096,
            streams: 5_000,
            origins: Vec::new(),
        }
    }
}

/// Whose DAGs are published.
#[derive(Clone, Debug, Default)]
pub struct DagSettings {
    /// The keys that may vouch for a document. None by default, so that no signature is good.
    pub signers: Vec<PublicKey>,
    /// Whether a document needs a signature of one of them.
    pub require_signature: bool,
}
