//! The author's document: its types, reading it, checking it.

mod check;
mod diagnostic;
mod fields;
mod graph;
mod inputs;
mod model;
mod parse;
mod read;
mod schema;
mod source;
mod suggest;
mod template;
mod visits;

pub use diagnostic::{Diagnostic, Diagnostics, PROBLEMS_MAX};
pub use inputs::{InputProblem, InputProblems, InputSchema};
pub use model::{
    ApiVersion, Concurrency, Dag, Edge, ForEach, Items, Kind, Network, OnExhausted, OnLost, ResourceLimits,
    Retry, Step, Uses,
};
pub use parse::{parse, read_value};
pub use schema::json_schema;

#[cfg(test)]
mod tests;
