//! What is told elsewhere of what the service does: spans, and metrics for whoever has no Prometheus.

use std::io::Write as _;
use std::time::Duration;

use orch::{Orchestrator, Result};
use tokio::time::{MissedTickBehavior, interval};

use super::archive::Archive;
use super::config::Telemetry;
use crate::Metrics;
use crate::observe::sample_lines;
#[cfg(feature = "otel")]
use crate::observe::{Collector, Otlp, SpanLines, Traces};

/// More bytes than a file with headers holds.
#[cfg(feature = "otel")]
const HEADERS_BYTES: u64 = 64 << 10;

/// Begins to tell of spans, if anybody wants to know.
#[cfg(feature = "otel")]
pub(super) fn traces(telemetry: &Telemetry) -> Result<Option<Traces>> {
    let mut collectors: Vec<Box<dyn Collector>> = Vec::new();
    if let Some(address) = &telemetry.otlp_endpoint {
        let headers = telemetry.otlp_headers_file.as_deref().map(headers).transpose()?.unwrap_or_default();
        collectors.push(Box::new(Otlp::new(address, headers, telemetry.otlp_ca.as_deref())?));
    }
    if let Some(directory) = &telemetry.directory {
        collectors.push(Box::new(SpanLines::new(Archive::open(directory, "traces.ndjson")?)));
    }
    Ok((!collectors.is_empty()).then(|| Traces::start(collectors, telemetry.trace_ratio)))
}

/// The headers in a file. What they say is not repeated: it may be a secret.
#[cfg(feature = "otel")]
fn headers(file: &std::path::Path) -> Result<std::collections::HashMap<String, String>> {
    use orch::Error;
    let named =
        |error: Error| error.with("setting", "telemetry.otlp_headers_file").with("file", file.display());
    let text = orch_connect::read_text(file, HEADERS_BYTES)
        .map_err(|cause| named(Error::unavailable("the headers cannot be read").caused_by(cause)))?;
    let mut headers = std::collections::HashMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = || named(Error::invalid("a header is written `name: value`")).with("line", number);
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let good = http::HeaderName::try_from(name.trim()).is_ok()
            && http::HeaderValue::from_str(value.trim()).is_ok();
        if !good {
            return Err(wrong());
        }
        headers.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    Ok(headers)
}

/// Writes the metrics down now and then, until it is dropped, and once more when told.
#[derive(Debug)]
pub(super) struct Looks {
    task: tokio::task::JoinHandle<()>,
    archive: Archive,
    metrics: Metrics,
    orch: Orchestrator,
}

impl Looks {
    /// Begins, if they are to be written anywhere.
    pub(super) fn start(
        telemetry: &Telemetry,
        metrics: &Metrics,
        orch: &Orchestrator,
    ) -> Result<Option<Self>> {
        let Some(directory) = &telemetry.directory else { return Ok(None) };
        let archive = Archive::open(directory, "metrics.ndjson")?;
        let (into, of, about) = (archive.clone(), metrics.clone(), orch.clone());
        let mut ticks = interval(Duration::from_secs(telemetry.metrics_seconds));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let task = tokio::spawn(async move {
            loop {
                ticks.tick().await;
                look(&into, &of, &about).await;
            }
        });
        Ok(Some(Self { task, archive, metrics: metrics.clone(), orch: orch.clone() }))
    }

    /// The last look.
    pub(super) async fn end(self) {
        self.task.abort();
        look(&self.archive, &self.metrics, &self.orch).await;
    }
}

async fn look(archive: &Archive, metrics: &Metrics, orch: &Orchestrator) {
    let lines = sample_lines(&metrics.text(orch).await, orch.now());
    if let Err(error) = archive.clone().write_all(lines.as_bytes()) {
        tracing::warn!(%error, "metrics cannot be written");
    }
}
