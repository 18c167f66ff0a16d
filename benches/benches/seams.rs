//! The seams by themselves: the same load on every embedded backend.

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use orch::ledger::{Chain, Event, Head, RunPaused, Stream};
use orch::queue::{Claim, Item, MemoryQueue, Queue, Settle};
use orch::store::{Append, MemoryStore, Store};
use orch::{DagId, Digest, QueueName, RunId, StepId, TenantId, Timestamp, WorkerId};
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};
use tokio::runtime::{Builder, Runtime};

/// Items or appends of one call.
const BATCH: u32 = 100;

/// A backend and what it lives in.
struct Backend {
    name: &'static str,
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    _folder: Option<tempfile::TempDir>,
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A fresh namespace of every backend.
fn backends(runtime: &Runtime) -> [Backend; 2] {
    let folder = tempfile::tempdir().expect("a folder");
    let config = SqliteConfig::new(folder.path().join("orch.db"));
    let sqlite = runtime.block_on(SqliteBackend::open(config)).expect("opens");
    let (store, queue) = (Arc::new(MemoryStore::new()), Arc::new(MemoryQueue::new()));
    [
        Backend { name: "memory", store, queue, _folder: None },
        Backend {
            name: "sqlite-full",
            store: Arc::new(sqlite.store()),
            queue: Arc::new(sqlite.queue()),
            _folder: Some(folder),
        },
    ]
}

fn tenant() -> TenantId {
    TenantId::new("bench").expect("bench ids fit the grammar")
}

fn run_id(number: u32) -> RunId {
    let dag = DagId::new("dag").expect("bench ids fit the grammar");
    RunId::derive(&tenant(), &dag, &number.to_string(), &Digest::ZERO)
}

fn item(queue: &str, number: u32) -> Item {
    Item {
        tenant: tenant(),
        queue: QueueName::new(queue).expect("bench ids fit the grammar"),
        priority: 0,
        ready_at: Timestamp::EPOCH,
        dag: DagId::new("dag").expect("bench ids fit the grammar"),
        run: run_id(number),
        plan_index: 0,
        step: StepId::new("step").expect("bench ids fit the grammar").into(),
        attempt: 1,
    }
}

fn claim() -> Claim {
    let (worker, limit) = (WorkerId::new("bench"), BATCH as usize);
    let lease = Duration::from_secs(60);
    Claim { worker, queues: None, tenants: None, limit, lease, now: Timestamp::EPOCH }
}

/// Pushes a batch, claims it and settles it.
async fn pass(queue: &dyn Queue, items: &[Item]) {
    queue.push(items).await.expect("pushes");
    let deliveries = queue.claim(&claim()).await.expect("claims").deliveries;
    assert_eq!(deliveries.len(), items.len());
    let settles: Vec<_> = deliveries.into_iter().map(|delivery| Settle::done(delivery.token)).collect();
    queue.settle(&settles, Timestamp::EPOCH).await.expect("settles");
}

/// Push, claim and settle, with other queues' items waiting behind these.
fn queue(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue/push claim settle");
    group.throughput(Throughput::Elements(BATCH.into()));
    let runtime = runtime();
    for waiting in [0, 10_000] {
        for backend in backends(&runtime) {
            let behind = |number| Item { priority: -1, ..item(&format!("q{number}"), number) };
            let behind: Vec<_> = (0..waiting).map(behind).collect();
            runtime.block_on(backend.queue.push(&behind)).expect("pushes");
            let items: Vec<_> = (0..BATCH).map(|number| item("default", 1_000_000 + number)).collect();
            let id = BenchmarkId::new(backend.name, format!("{waiting} other queues"));
            group.bench_function(id, |b| b.iter(|| runtime.block_on(pass(&*backend.queue, &items))));
        }
    }
    group.finish();
}

/// Appends one entry to each of a batch of streams, again and again.
fn store(c: &mut Criterion) {
    let mut group = c.benchmark_group("store/append");
    group.throughput(Throughput::Elements(BATCH.into()));
    let runtime = runtime();
    for backend in backends(&runtime) {
        let mut heads = vec![Head::EMPTY; BATCH as usize];
        group.bench_function(backend.name, |b| {
            b.iter(|| {
                let appends: Vec<_> = (0..BATCH).zip(&heads).map(|(run, head)| append(run, *head)).collect();
                let answers = runtime.block_on(backend.store.append(&appends)).expect("appends");
                assert!(answers.iter().all(Result::is_ok));
                heads = appends.iter().map(|append| append.head).collect();
            });
        });
    }
    group.finish();
}

fn append(run: u32, head: Head) -> Append {
    let stream = Stream::Run(run_id(run));
    let mut chain = Chain::new(&tenant(), stream, head);
    let event = Event::from(RunPaused { reason: Some("x".repeat(200)) });
    chain.push("bench", Timestamp::EPOCH, &event).expect("encodes");
    let (lines, after) = chain.finish().expect("encodes");
    Append { tenant: tenant(), stream, expected: head, lines, head: after, row: None }
}

criterion_group!(benches, queue, store);
criterion_main!(benches);
