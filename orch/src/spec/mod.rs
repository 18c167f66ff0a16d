//! The author's document: its types, reading it, checking it.

mod diagnostic;
mod model;
mod source;

pub use diagnostic::{Diagnostic, Diagnostics, PROBLEMS_MAX};
pub use model::{
    ApiVersion, Concurrency, Dag, Edge, ForEach, Items, Kind, Network, OnExhausted, OnLost, ResourceLimits,
    Retry, Step, Uses,
};
