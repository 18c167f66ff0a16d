//! The author's document: its types, reading it, checking it.

mod model;

pub use model::{
    ApiVersion, Concurrency, Dag, Edge, ForEach, Items, Kind, Network, OnExhausted, OnLost, ResourceLimits,
    Retry, Step, Uses,
};
