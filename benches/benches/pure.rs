//! The pure rooms: planning, deciding and folding, encoding and hashing entries, expressions.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use orch::ledger::{Chain, Entry, Event, Head, RunCreated, StepSucceeded, Stream};
use orch::planner::attempt::{Finish, Start};
use orch::planner::{Plan, RunState, advance, attempt};
use orch::{Digest, Limits, Payload, RunId, Timestamp, WorkerId};
use orch_benches::{fan_out, layered, who, wide};

fn limits() -> Limits {
    Limits { steps: Limits::STEPS_CEILING, ..Limits::default() }
}

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

/// The state of a fresh run.
fn created(plan: &Arc<Plan>) -> RunState {
    let inputs = Payload::parse("{}").expect("json");
    let created = RunCreated {
        dag_id: plan.dag().id.clone(),
        dag_version: None,
        inputs_hash: inputs.digest(),
        inputs,
        parent: None,
        plan: plan.document().clone(),
        plan_hash: plan.hash(),
        priority: 0,
        rationale: None,
        replay_of: None,
        run_token: "bench".to_owned(),
        sandbox: None,
        traceparent: None,
    };
    let who = who();
    let run = RunId::derive(&who.tenant, &plan.dag().id, "bench", &Digest::ZERO);
    let entry = Entry {
        actor: who.actor,
        at: Timestamp::EPOCH,
        event: Event::from(created),
        prev: Digest::ZERO,
        seq: 1,
        stream: Stream::Run(run),
        tenant: who.tenant,
    };
    RunState::open(&entry, Head::EMPTY, |_| Ok(Arc::clone(plan))).expect("valid")
}

/// Runs a whole run through the rules alone; answers how many events that took.
fn decide_all(mut state: RunState, limits: &Limits) -> u64 {
    let worker = WorkerId::new("bench");
    let output = Payload::null();
    let mut now = Timestamp::EPOCH;
    let mut events = advance(&mut state, now, "orch", limits).expect("valid").len() as u64;
    while state.ended.is_none() {
        now = now.plus(std::time::Duration::from_micros(1));
        let queued: Vec<_> = state.queued().collect();
        for at in queued {
            let attempt = state.get(at).expect("queued").attempt;
            let start = Start {
                at,
                attempt,
                worker: worker.clone(),
                executor: "1".to_owned(),
                lease: std::time::Duration::from_secs(30),
            };
            let finish = Finish {
                at,
                attempt,
                worker: Some(worker.clone()),
                outcome: orch::executor::Outcome::Succeeded(output.clone()),
                logs: None,
            };
            for event in attempt::start(&state, &start, now).expect("queued") {
                state.apply(now, "bench", &event).expect("valid");
                events += 1;
            }
            let event = attempt::finish(&state, finish, now, limits).expect("running");
            state.apply(now, "bench", &event).expect("valid");
            events += 1 + advance(&mut state, now, "orch", limits).expect("valid").len() as u64;
        }
    }
    events
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
    let output = Payload::parse("{\"count\":3,\"name\":\"openssl\"}").expect("json");
    let event = Event::from(StepSucceeded {
        attempt: 1,
        logs: None,
        output_hash: output.digest(),
        output: Some(output),
        reused: None,
        step: "normalize[17]".parse().expect("a step key"),
    });
    let who = who();
    let run = RunId::derive(&who.tenant, &wide(1).id, "bench", &Digest::ZERO);
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("step.succeeded", |b| {
        b.iter(|| {
            let mut chain = Chain::new(&who.tenant, Stream::Run(run), Head::EMPTY);
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
