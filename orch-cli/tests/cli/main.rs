//! `orch` as people and scripts use it: a real process in a directory of its own.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod addresses;
mod answers;
mod bad_input;
mod crash;
mod examples;
#[cfg(all(target_os = "linux", feature = "mongo", feature = "redis"))]
mod fleet;
#[cfg(target_os = "linux")]
mod full_disk;
#[cfg(unix)]
mod kills;
mod kit;
mod machine;
mod people;
mod proof;
mod relations;
mod remote;
mod serve;
#[cfg(all(unix, feature = "mongo", feature = "redis", feature = "nats"))]
mod servers;
#[cfg(unix)]
mod tampered;
#[cfg(unix)]
mod zombies;
