//! The engine: whole runs of steps that do nothing, in memory and durable in one SQLite file.

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use orch::spec::Dag;
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};
use orch_benches::{builder, chain, drive, fan_out};
use tokio::runtime::{Builder, Runtime};

struct Load {
    name: &'static str,
    dag: Dag,
    runs: usize,
    steps: usize,
}

fn loads() -> [Load; 3] {
    [
        Load { name: "1000 runs x 10 steps", dag: chain(10), runs: 1_000, steps: 10_000 },
        Load { name: "fan-out 10000", dag: fan_out(10_000), runs: 1, steps: 10_000 },
        Load { name: "chain 1000", dag: chain(1_000), runs: 1, steps: 1_000 },
    ]
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn memory(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine/memory");
    group.sample_size(10);
    for load in loads() {
        let runtime = runtime();
        let orchestrator = runtime.block_on(async { builder().start().expect("starts") });
        group.throughput(Throughput::Elements(load.steps as u64));
        group.bench_function(load.name, |b| {
            b.iter(|| runtime.block_on(drive(&orchestrator, &load.dag, load.runs)))
        });
        runtime.block_on(orchestrator.shutdown());
    }
    group.finish();
}

/// `synchronous=FULL`: every answered append survives loss of power.
fn sqlite(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine/sqlite-full");
    group.sample_size(10);
    for load in loads() {
        let runtime = runtime();
        let folder = tempfile::tempdir().expect("a folder");
        let config = SqliteConfig::new(folder.path().join("orch.db"));
        let backend = runtime.block_on(SqliteBackend::open(config)).expect("opens");
        let store = Arc::new(backend.store());
        let orchestrator = runtime.block_on(async { builder().store(store).start().expect("starts") });
        group.throughput(Throughput::Elements(load.steps as u64));
        group.bench_function(load.name, |b| {
            b.iter(|| runtime.block_on(drive(&orchestrator, &load.dag, load.runs)))
        });
        runtime.block_on(async {
            orchestrator.shutdown().await;
            backend.close().await;
        });
    }
    group.finish();
}

criterion_group!(benches, memory, sqlite);
criterion_main!(benches);
