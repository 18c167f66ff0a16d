//! What operations see: metrics of the engine, the backends, requests and streams; the ends of runs in the log; spans.
//!
//! The names are those of the platform, and bounded in number: tenants beyond [`TENANTS_MAX`] share one label, operations
//! come from the table of routes, everything else from an enumeration.

mod bounded;
mod metrics;
#[cfg(feature = "otel")]
mod otlp;
mod run_log;
#[cfg(feature = "server")]
mod samples;
#[cfg(feature = "otel")]
mod traces;

pub use bounded::TENANTS_MAX;
pub use metrics::Metrics;
pub(crate) use metrics::{Answered, plain};
#[cfg(feature = "otel")]
pub use otlp::{Otlp, SpanLines};
pub use run_log::RunLog;
#[cfg(feature = "server")]
pub(crate) use samples::lines as sample_lines;
#[cfg(feature = "otel")]
pub(crate) use traces::AnsweredRequest;
#[cfg(feature = "otel")]
pub use traces::{Collector, Traces};
