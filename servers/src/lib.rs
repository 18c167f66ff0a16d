//! Real servers for the tests of orch: started as child processes on free ports in directories of their own, stopped by
//! process id.
//!
//! A test that only needs *a* server asks for a shared one ([`address`]) and works in a [`namespace`] of its
//! own: `cargo xtask test` starts each server once and says where it is; without that, each test process starts its own.
//! A test that harms its server starts one for itself ([`Server::start`]).
//!
//! The programs are fetched by `cargo xtask servers` ([`fetch`]). Where one cannot be had, a test says that it was
//! skipped and passes ([`skipped`]), unless `ORCH_REQUIRE` names the server: then it fails.

mod certificates;
mod fetch;
mod mongo;
mod process;
mod program;
mod proxy;
mod redis;
mod shared;

pub use certificates::certificate;
pub use fetch::fetch;
pub use mongo::{initiate, initiate_set, primary, step_down};
pub use process::Server;
pub use program::{Kind, PROMTOOL, Program};
pub use proxy::{Proxy, Wire};
pub use redis::{Cluster, redis_command};
pub use shared::{Shared, SharedServers, address, namespace, skipped, skipped_without};
