//! The DAGs in `examples/dags` run as the command line runs them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod dags;
mod kit;
mod sbom;
