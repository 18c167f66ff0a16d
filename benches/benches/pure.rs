//! The pure rooms: planning, deciding and folding, encoding and hashing entries.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use orch::Timestamp;
use orch::ledger::{Chain, Head};
use orch::planner::Plan;
use orch_benches::rules::{created, decide_all, limits, stream, succeeded};
use orch_benches::{fan_out, layered, who};

fn plan(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    group.sample_size(10);
    for (count, width) in [(1_000, 50), (100_000, 1_000)] {
        let dag = layered(count, width);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("layered/{count}"), |b| {
            b.iter_batched(
                || dag.clone(),
                |dag| Plan::new(dag, &limits()).expect("valid"),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide+fold");
    group.sample_size(10);
    for (name, dag) in [("layered/10000", layered(10_000, 100)), ("fan-out/10000", fan_out(10_000))] {
        let plan = Arc::new(Plan::new(dag, &limits()).expect("valid"));
        let events = decide_all(created(&plan), &limits());
        group.throughput(Throughput::Elements(events));
        group.bench_function(name, |b| {
            b.iter_batched(|| created(&plan), |state| decide_all(state, &limits()), BatchSize::LargeInput);
        });
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode+chain+hash");
    group.sample_size(10);
    let (who, stream, event) = (who(), stream(), succeeded());
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("step.succeeded", |b| {
        b.iter(|| {
            let mut chain = Chain::new(&who.tenant, stream, Head::EMPTY);
            for _ in 0..1_000 {
                chain.push("bench", Timestamp::EPOCH, black_box(&event)).expect("encodes");
            }
            chain.finish().expect("encodes")
        });
    });
    group.finish();
}

criterion_group!(benches, plan, decide, encode);
criterion_main!(benches);
