//! The engine in memory: whole runs of steps that do nothing.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use orch_benches::{builder, chain, drive, fan_out};
use tokio::runtime::Builder;

fn engine(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine/memory");
    group.sample_size(10);
    let loads = [("1000 runs x 10 steps", chain(10), 1_000), ("fan-out 10000", fan_out(10_000), 1), ("chain 1000", chain(1_000), 1)];
    for (name, dag, runs) in loads {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let orchestrator = runtime.block_on(async { builder().start().expect("starts") });
        let steps = if dag.steps.len() == 1 { 10_000 } else { dag.steps.len() };
        group.throughput(Throughput::Elements((runs * steps) as u64));
        group.bench_function(name, |b| b.iter(|| runtime.block_on(drive(&orchestrator, &dag, runs))));
        runtime.block_on(orchestrator.shutdown());
    }
    group.finish();
}

criterion_group!(benches, engine);
criterion_main!(benches);
