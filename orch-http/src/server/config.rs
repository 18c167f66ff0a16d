//! What `orch-server` is told: a TOML file, then the environment, then flags; what comes later goes before.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orch_connect::{Address, Seam};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{Problem, problems};

/// The configuration, whole. Every field has a default, so that an empty file is a good one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// Where things are kept.
    pub backends: Backends,
    /// What this process executes.
    pub work: Work,
    /// Who gets in.
    pub auth: Auth,
    /// Whose DAGs are published.
    pub dags: Dags,
    /// How the record is proven.
    pub proof: Proof,
    /// Bounds.
    pub limits: Limits,
    /// What it says.
    pub log: Log,
    /// What is told elsewhere of what it does.
    pub telemetry: Telemetry,
}

/// Where it listens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// The address. Anything but loopback needs TLS or `behind_proxy`, and a way to authenticate.
    #[schemars(with = "String")]
    pub address: SocketAddr,
    /// A proxy in front ends TLS, and nobody reaches this address past it.
    pub behind_proxy: bool,
    /// Where callers reach the service, with the prefix that a proxy takes away, such as `https://orch.example/flows`. Proofs of
    /// possession (DPoP) are for this address; without it for whatever host the request names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// Origins of pages that may open streams besides the service's own, such as `https://console.example`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// The certificate chain, in PEM. It is read again on SIGHUP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// The authorities of which clients must have a certificate, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_ca: Option<PathBuf>,
}

impl Default for Listen {
    fn default() -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 8470));
        Self {
            address,
            behind_proxy: false,
            public_url: None,
            origins: Vec::new(),
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
        }
    }
}

/// Where things are kept. Addresses with a password are written `@FILE`, or stand in the environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Backends {
    /// Where runs are: `sqlite:PATH`, `mongodb://…`, `redis://…`, `memory:`.
    pub store: String,
    /// Where hints wait, also `nats://…`; in memory beside a file, otherwise with the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Where slots are counted, also `nats://…`; with the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    /// The directory of artifacts; `artifacts` beside a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<PathBuf>,
}

impl Default for Backends {
    fn default() -> Self {
        Self { store: "sqlite:.orch/orch.db".to_owned(), queue: None, lock: None, artifacts: None }
    }
}

/// What this process executes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Work {
    /// Whether it executes steps at all; workers outside may do it all the same.
    pub enabled: bool,
    /// Steps at once.
    #[schemars(range(min = 1, max = 100_000))]
    pub slots: usize,
    /// The queues it works for; all without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<Vec<String>>,
    /// What `fn/read` may read below, and where process steps run; nothing without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// Run `process` steps without a sandbox: whoever may publish DAGs then does what this user may do.
    pub unsandboxed_processes: bool,
    /// Seconds that an attempt counts as alive without a word from its worker.
    #[schemars(range(min = 1, max = 3600))]
    pub lease_seconds: u64,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            enabled: true,
            slots: 16,
            queues: None,
            root: None,
            unsandboxed_processes: false,
            lease_seconds: 30,
        }
    }
}

/// Who gets in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Draw a token for the user of this machine at every start. On loopback only.
    pub local_token: bool,
    /// Where that token is written, readable by this user alone.
    pub local_token_file: PathBuf,
    /// The file of hashed tokens, as `orch-server token new` writes its lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_file: Option<PathBuf>,
    /// The services whose JSON Web Tokens are taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<crate::auth::Issuer>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            local_token: true,
            local_token_file: ".orch/token".into(),
            tokens_file: None,
            issuers: Vec::new(),
        }
    }
}

/// Whose DAGs are published.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dags {
    /// Public keys (64 hex digits, Ed25519) whose signatures are trusted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<crate::api::schema::Hash>")]
    pub signers: Vec<String>,
    /// Publish only what one of them has signed.
    pub require_signature: bool,
}

/// How the record is proven.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Proof {
    /// The file with the key that checkpoints are signed with: the 32 bytes of an Ed25519 seed in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_key_file: Option<PathBuf>,
}

/// Bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: usize,
    /// Open connections of one address.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections_per_address: usize,
    /// Seconds that the head of a request, or a TLS handshake, may take.
    #[schemars(range(min = 1, max = 600))]
    pub header_seconds: u64,
    /// Seconds that a request may take which is no stream and no long poll.
    #[schemars(range(min = 1, max = 3600))]
    pub request_seconds: u64,
    /// Requests under way that are no streams.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub in_flight: usize,
    /// Workers that wait for work.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub waiting_workers: usize,
    /// Requests of a tenant per second in the long run, and twice as many at once; 0 for any number.
    #[schemars(range(max = 1_000_000))]
    pub tenant_rate: u32,
    /// Requests of one caller for one tenant per second in the long run, and twice as many at once; 0 for any number.
    #[schemars(range(max = 1_000_000))]
    pub subject_rate: u32,
    /// Bytes of a body.
    #[schemars(range(min = 1024, max = 268_435_456))]
    pub body_bytes: usize,
    /// Open streams.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub streams: usize,
    /// Seconds that requests and steps may take to end when the service is told to stop.
    #[schemars(range(min = 1, max = 3600))]
    pub drain_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 4_000,
            header_seconds: 10,
            request_seconds: 30,
            in_flight: 2_000,
            waiting_workers: 5_000,
            tenant_rate: 0,
            subject_rate: 0,
            body_bytes: 4 << 20,
            streams: 5_000,
            drain_seconds: 30,
        }
    }
}

impl Limits {
    /// How long the head of a request may take.
    pub(crate) fn header_time(&self) -> Duration {
        Duration::from_secs(self.header_seconds)
    }

    /// How long the end may take.
    pub(crate) fn drain_time(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or those by module: `info,orch=debug`.
    pub level: String,
    /// `json` for machines, `text` for people; `auto` is text on a terminal.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto }
    }
}

/// What is told elsewhere of what it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Where spans are sent (OTLP over HTTP), such as `http://127.0.0.1:4318`; `https` unless it is on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// A file of headers to send along, one `name: value` a line, for a collector that asks who sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_headers_file: Option<PathBuf>,
    /// The authorities to trust there, in PEM; those of the system without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_ca: Option<PathBuf>,
    /// The share of traces that begin here and are recorded, 0 to 1; of others, those that their caller records.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub trace_ratio: f64,
    /// A directory for `logs.ndjson`, `metrics.ndjson` and, with the feature `otel`, `traces.ndjson`, to be carried to where they are
    /// read. Each kind holds at most 256 MiB: the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Seconds between two looks at the metrics that are written there.
    #[schemars(range(min = 1, max = 86_400))]
    pub metrics_seconds: u64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            otlp_headers_file: None,
            otlp_ca: None,
            trace_ratio: 1.0,
            directory: None,
            metrics_seconds: 60,
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// A JSON document a line.
    Json,
    /// Text.
    Text,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its place.
    pub fn read(path: &Path) -> Result<Self, Vec<Problem>> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|cause| {
            vec![Problem { place: name.clone(), message: format!("cannot be read: {cause}"), hint: None }]
        })?;
        Self::parse(&name, &text)
    }

    /// Reads the text of a file called `name`.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(name: &str, text: &str) -> Result<Self, Vec<Problem>> {
        match toml::from_str::<Self>(text) {
            Ok(config) => match problems::<Self>(name, text) {
                none if none.is_empty() => Ok(config),
                some => Err(some),
            },
            Err(error) => Err(match problems::<Self>(name, text) {
                none if none.is_empty() => vec![Problem::of_toml(name, text, &error)],
                some => some,
            }),
        }
    }

    /// What cannot be as it is, however it was said.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut say = |place: &str, message: &str, hint: &str| {
            found.push(Problem {
                place: place.to_owned(),
                message: message.to_owned(),
                hint: Some(hint.to_owned()),
            });
        };
        let public = !self.listen.address.ip().is_loopback();
        let tls = self.listen.tls_cert.is_some() && self.listen.tls_key.is_some();
        if self.listen.tls_cert.is_some() != self.listen.tls_key.is_some() {
            say(
                "listen",
                "a certificate needs its key, and a key its certificate",
                "set tls_cert and tls_key",
            );
        }
        if self.listen.tls_client_ca.is_some() && !tls {
            say(
                "listen.tls_client_ca",
                "clients show certificates over TLS only",
                "set tls_cert and tls_key",
            );
        }
        if public && !tls && !self.listen.behind_proxy {
            say(
                "listen.address",
                "others can reach this address, and nothing would be encrypted",
                "set tls_cert and tls_key; or behind_proxy = true if a proxy ends TLS and nobody gets past it",
            );
        }
        if self.listen.public_url.as_deref().is_some_and(|url| crate::auth::Proofs::at(url).is_err()) {
            say("listen.public_url", "this is no address", "write it like https://orch.example/flows");
        }
        let known = self.auth.tokens_file.is_some() || !self.auth.issuers.is_empty();
        if public && !known {
            say(
                "auth",
                "others can reach this address, and nobody could tell who they are",
                "set issuers or tokens_file; the local token is for loopback only",
            );
        }
        if !public && !known && !self.auth.local_token {
            say("auth", "nobody could get in", "set local_token, tokens_file or issuers");
        }
        let Backends { store, queue, lock, .. } = &self.backends;
        for (seam, address) in
            [(Seam::Store, Some(store)), (Seam::Queue, queue.as_ref()), (Seam::Lock, lock.as_ref())]
        {
            if let Some(Err(wrong)) = address.map(|address| Address::read(seam, address)) {
                let hint = wrong.hint.unwrap_or_default();
                say(&format!("backends.{}", seam.name()), &wrong.error.sentence(), &hint);
            }
        }
        if self.log.level.parse::<tracing_subscriber::filter::Targets>().is_err() {
            say("log.level", "this is no level", "write error, warn, info, debug or trace");
        }
        if let Some(queues) = &self.work.queues
            && let Some(wrong) = queues.iter().find(|queue| orch::QueueName::new(queue).is_err())
        {
            say("work.queues", &format!("`{wrong}` is no name of a queue"), "names hold a-z 0-9 . _ -");
        }
        if self.telemetry.otlp_endpoint.is_some() && cfg!(not(feature = "otel")) {
            say(
                "telemetry.otlp_endpoint",
                "this build sends no spans",
                "build it with the feature: cargo build --release -p orch-http --features otel",
            );
        }
        if self.dags.require_signature && self.dags.signers.is_empty() {
            say("dags.require_signature", "without signers nothing could be published", "set signers");
        }
        found
    }

    /// The file that explains itself: every field with its default.
    ///
    /// # Panics
    /// Never: the defaults are TOML.
    #[must_use]
    pub fn example() -> String {
        super::problem::example::<Self>()
    }
}
