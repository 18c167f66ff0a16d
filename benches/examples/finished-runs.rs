//! Memory with many finished runs behind a process: `cargo run --release -p orch-benches --example finished-runs`.
//!
//! Drives 100 000 runs of two steps through the engine on one SQLite file, ten thousand at a time, and prints what the
//! process holds. Linux only: it reads `/proc/self/status`.

use std::sync::Arc;

use orch_backend_sqlite::{SqliteBackend, SqliteConfig};
use orch_benches::{builder, chain, drive};

/// Resident memory in MiB.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}

#[tokio::main(worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "a measurement is printed")]
async fn main() -> orch::Result<()> {
    let folder =
        tempfile::tempdir().map_err(|cause| orch::Error::unavailable("no folder").caused_by(cause))?;
    let backend = SqliteBackend::open(SqliteConfig::new(folder.path().join("orch.db"))).await?;
    let orchestrator = builder().store(Arc::new(backend.store())).start()?;
    println!("{:>8} runs  {:>4} MiB", 0, resident().unwrap_or(0));
    for round in 1..=10 {
        for _ in 0..10 {
            drive(&orchestrator, &chain(2), 1_000).await;
        }
        let stats = orchestrator.stats();
        println!(
            "{:>8} runs  {:>4} MiB  {} loaded",
            round * 10_000,
            resident().unwrap_or(0),
            stats.loaded_runs
        );
    }
    orchestrator.shutdown().await;
    backend.close().await;
    Ok(())
}
