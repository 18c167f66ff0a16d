//! Where spans go: to a collector over OTLP (HTTP, protobuf), or into a file as OTLP's JSON, a document a line.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_proto::tonic::trace::v1::TracesData;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use orch::{Error, Result};

use super::traces::Collector;
use crate::outgoing;

/// How long a collector may take for a batch.
const TIME: Duration = Duration::from_secs(10);
/// Below the address of a collector (OTLP 1, "OTLP/HTTP request").
const PATH: &str = "/v1/traces";

/// Sends spans to a collector.
pub struct Otlp(SpanExporter);

impl Otlp {
    /// A collector at an address such as `http://127.0.0.1:4318`, over `https` unless it is on this machine, with headers such as
    /// one that authenticates.
    ///
    /// # Errors
    /// `Invalid` for another address, and for certificate authorities that cannot be read.
    pub fn new(address: &str, headers: HashMap<String, String>, authorities: Option<&Path>) -> Result<Self> {
        let url = outgoing::address(address)?;
        let client = outgoing::client(authorities, Some(TIME))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(format!("{}{PATH}", url.as_str().trim_end_matches('/')))
            .with_headers(headers)
            .with_timeout(TIME)
            .build();
        let mut exporter = exporter
            .map_err(|cause| Error::invalid("spans cannot be sent").with("url", &url).caused_by(cause))?;
        exporter.set_resource(&resource());
        Ok(Self(exporter))
    }
}

impl fmt::Debug for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Otlp")
    }
}

#[async_trait]
impl Collector for Otlp {
    async fn collect(&self, spans: Vec<SpanData>) -> Result<(), String> {
        self.0.export(spans).await.map_err(|error| error.to_string())
    }
}

/// Writes spans as lines, which a collector of OpenTelemetry reads as well (`otlpjsonfile`).
pub struct SpanLines<W>(Mutex<W>);

impl<W: Write + Send> SpanLines<W> {
    /// Lines that go to `writer`, each with one call.
    pub const fn new(writer: W) -> Self {
        Self(Mutex::new(writer))
    }
}

impl<W> fmt::Debug for SpanLines<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpanLines")
    }
}

#[async_trait]
impl<W: Write + Send + 'static> Collector for SpanLines<W> {
    async fn collect(&self, spans: Vec<SpanData>) -> Result<(), String> {
        let resource = ResourceAttributesWithSchema::from(&resource());
        let document = TracesData { resource_spans: group_spans_by_resource_and_scope(spans, &resource) };
        let mut line = serde_json::to_vec(&document).map_err(|error| error.to_string())?;
        line.push(b'\n');
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(&line)
            .map_err(|error| error.to_string())
    }
}

/// Who tells.
fn resource() -> Resource {
    Resource::builder_empty()
        .with_attributes([
            opentelemetry::KeyValue::new("service.name", "orch"),
            opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build()
}
