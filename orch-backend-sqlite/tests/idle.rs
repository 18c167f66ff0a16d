//! What an engine with nothing to do asks of the file, behind a few finished runs.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orch::TenantId;
use orch::engine::{DagRef, Identity, Orchestrator, Roles, Settings, Submit};
use orch::executor::Failure;
use orch::ledger::RunStatus;
use orch::lock::Lock;
use orch::queue::{MemoryQueue, Queue};
use orch::spec::Dag;
use orch::store::Store;
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};
use orch_conformance::{Counted, Counts};
use serde_json::{Value, json};

/// Operations per method on the queue that an idle worker may perform in a minute: see the crate's documentation.
const PER_MINUTE: u64 = 3;
/// How long the runs' last writes take to settle, and the sweep, which comes by every five seconds, to come by once.
const SETTLING: Duration = Duration::from_secs(8);
/// How long each worker is watched. Long enough for a round of what comes by every twenty seconds.
const WATCHED: Duration = Duration::from_secs(21);

const DAG: &str = "
apiVersion: orch/v1
kind: Dag
id: idle
steps:
  - id: one
    uses: fn/noop
  - id: two
    uses: fn/noop
    needs: [one]
";

async fn finish_some_runs(orchestrator: &Orchestrator) {
    let who = Identity::new(TenantId::new("acme").unwrap(), "test");
    let version = orchestrator.publish(&who, dag()).await.unwrap().version;
    for number in 0..5 {
        let submit = Submit::new(DagRef::Version(dag().id, version), json!({ "number": number }));
        let run = orchestrator.submit(&who, submit).await.unwrap().run.run;
        assert_eq!(orchestrator.wait(&who, run).await.unwrap().status, RunStatus::Completed);
    }
}

fn dag() -> Dag {
    orch::spec::parse("idle.yaml", DAG, &orch::Limits::default()).unwrap()
}

/// How much was written: the log of a small file grows with every change.
fn written(path: &Path) -> u64 {
    std::fs::metadata(path.with_extension("db-wal")).unwrap().len()
}

/// Counts what an idle engine asks of store, queue and lock.
async fn idle(queue: impl FnOnce(&SqliteBackend) -> Arc<dyn Queue>) -> [Counts; 3] {
    let directory = tempfile::tempdir().unwrap();
    let config = SqliteConfig::new(directory.path().join("orch.db"));
    let backend = SqliteBackend::open(config.clone()).await.unwrap();
    let store: Counted<dyn Store> = Counted::new(Arc::new(backend.store()));
    let queue: Counted<dyn Queue> = Counted::new(queue(&backend));
    let lock: Counted<dyn Lock> = Counted::new(Arc::new(backend.lock()));
    let orchestrator = Orchestrator::builder()
        .store(Arc::new(store.clone()))
        .queue(Arc::new(queue.clone()))
        .lock(Arc::new(lock.clone()))
        .task("noop", |_, _: Value| async { Ok::<_, Failure>(()) })
        .start()
        .unwrap();
    finish_some_runs(&orchestrator).await;
    // What the runs left to do is done then: a settle, a wait that saw the last commit, a sweep that found nothing.
    tokio::time::sleep(SETTLING).await;
    let before = written(&config.path);
    let busy = [store.take_counts(), queue.take_counts(), lock.take_counts()];
    assert!(busy[0]["append"] > 0 && busy[1]["claim"] > 0, "the counters count: {busy:?}");
    tokio::time::sleep(WATCHED).await;
    let idle = [store.take_counts(), queue.take_counts(), lock.take_counts()];
    assert_eq!(written(&config.path), before, "an idle worker writes nothing");
    orchestrator.shutdown().await;
    backend.close().await;
    idle
}

fn check([store, queue, lock]: [Counts; 3]) {
    let most = (WATCHED.as_secs() * PER_MINUTE).div_ceil(60);
    assert!(lock.is_empty(), "{lock:?}");
    assert!(store.is_empty(), "nobody wrote, so nobody asks: {store:?}");
    assert!(queue.keys().all(|method| ["claim", "wait"].contains(method)), "{queue:?}");
    for (method, count) in &queue {
        assert!(*count <= most, "{method} was called {count} times, not at most {most}: {queue:?}");
    }
    assert!(queue["claim"] > 0, "it was alive: {queue:?}");
}

#[tokio::test]
async fn an_idle_worker_with_its_queue_in_memory_asks_the_file_nothing() {
    check(idle(|_| Arc::new(MemoryQueue::new())).await);
}

#[tokio::test]
async fn an_idle_worker_with_its_queue_in_the_file_asks_for_work_three_times_a_minute() {
    check(idle(|backend| Arc::new(backend.queue())).await);
}

#[tokio::test]
async fn what_another_process_writes_wakes_an_idle_one() {
    let directory = tempfile::tempdir().unwrap();
    let config = SqliteConfig::new(directory.path().join("orch.db"));
    let (first, second) =
        (SqliteBackend::open(config.clone()).await.unwrap(), SqliteBackend::open(config).await.unwrap());
    let start = |backend: &SqliteBackend, roles| {
        let settings = Settings { sweep_every: Duration::from_millis(500), roles, ..Settings::default() };
        let builder = Orchestrator::builder().store(Arc::new(backend.store())).settings(settings);
        builder.task("noop", |_, _: Value| async { Ok::<_, Failure>(()) }).start().unwrap()
    };
    let worker = start(&first, Roles::ALL);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let stamp = first.store().stamp();
    assert!(stamp.is_some() && stamp == first.store().stamp(), "nothing has happened for long");
    // A process that only accepts runs: who works learns of them from the file alone.
    let accepts = start(&second, Roles { submit: true, schedule: false, work: false });
    let who = Identity::new(TenantId::new("acme").unwrap(), "test");
    let submit = Submit::new(DagRef::Unpublished(Box::new(dag())), json!({}));
    let run = accepts.submit(&who, submit).await.unwrap().run.run;
    assert_ne!(first.store().stamp(), stamp);
    let ended = tokio::time::timeout(Duration::from_secs(60), worker.wait(&who, run)).await;
    assert_eq!(ended.expect("it is found").unwrap().status, RunStatus::Completed);
    worker.shutdown().await;
    accepts.shutdown().await;
}
