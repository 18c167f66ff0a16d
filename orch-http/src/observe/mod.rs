//! What operations see: metrics of the engine, the backends, requests and streams.
//!
//! The names are those of the platform, and bounded in number: tenants beyond [`TENANTS_MAX`] share one label, operations
//! come from the table of routes, everything else from an enumeration.

mod bounded;
mod metrics;

pub use bounded::TENANTS_MAX;
pub use metrics::Metrics;
pub(crate) use metrics::{Answered, plain};
