//! A whole engine whose hints and slots are on NATS, and whose ledger is elsewhere.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use orch::engine::{DagRef, Identity, Orchestrator, Submit};
use orch::executor::{Failure, StepContext};
use orch::store::MemoryStore;
use orch::{RunStatus, TenantId};
use orch_backend_nats::{NatsBackend, NatsConfig};
use orch_servers::{Kind, Server, skipped};
use serde_json::json;

const DAG: &str = "
apiVersion: orch/v1
kind: Dag
id: many
steps:
  - id: each
    uses: fn/work
    forEach: { items: inputs.items }
    with: '${{ item }}'
    concurrency:
      - { key: room, limit: 3 }
  - id: last
    uses: fn/work
    needs: [each]
    with: 0
";

/// How many items are worked on at once.
#[derive(Default)]
struct Room {
    now: AtomicUsize,
    most: AtomicUsize,
}

async fn start(port: u16, store: &MemoryStore, room: &Arc<Room>) -> Orchestrator {
    let mut config = NatsConfig::new("127.0.0.1", port);
    config.timeout = Duration::from_secs(2);
    let backend = NatsBackend::open(config).await.unwrap();
    let room = Arc::clone(room);
    let work = move |_: StepContext, item: u64| {
        let room = Arc::clone(&room);
        async move {
            let now = room.now.fetch_add(usize::from(item > 0), Ordering::SeqCst);
            room.most.fetch_max(now + usize::from(item > 0), Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            room.now.fetch_sub(usize::from(item > 0), Ordering::SeqCst);
            Ok::<_, Failure>(item)
        }
    };
    Orchestrator::builder()
        .store(Arc::new(store.clone()))
        .queue(Arc::new(backend.queue()))
        .lock(Arc::new(backend.lock()))
        .task("work", work)
        .start()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_engines_finish_runs_though_the_server_is_killed_between() {
    let Some(mut server) = Server::start(Kind::Nats, &[]) else { return skipped(Kind::Nats) };
    let (store, room) = (MemoryStore::new(), Arc::new(Room::default()));
    let first = start(server.port(), &store, &room).await;
    let second = start(server.port(), &store, &room).await;
    let who = Identity::new(TenantId::new("acme.eu").unwrap(), "test");
    let dag = || orch::spec::parse("many.yaml", DAG, &orch::Limits::default()).unwrap();
    let mut runs = Vec::new();
    for turn in 0..3_u64 {
        let inputs = json!({ "items": (1..=12).map(|n| turn * 100 + n).collect::<Vec<_>>() });
        let engine = if turn == 1 { &second } else { &first };
        runs.push(
            engine
                .submit(&who, Submit::new(DagRef::Unpublished(Box::new(dag())), inputs))
                .await
                .unwrap()
                .run
                .run,
        );
        if turn == 1 {
            server.kill();
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.start_again();
        }
    }
    for run in runs {
        let done = tokio::time::timeout(Duration::from_secs(120), first.wait(&who, run)).await;
        assert_eq!(done.expect("a run ends").unwrap().status, RunStatus::Completed);
    }
    let most = room.most.load(Ordering::SeqCst);
    assert!((1..=3).contains(&most), "{most} at once");
    first.shutdown().await;
    second.shutdown().await;
}
