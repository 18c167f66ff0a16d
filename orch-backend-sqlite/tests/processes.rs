//! Three processes on one file: a thousand items, each recorded once, though one process is killed in the middle.
//!
//! The test binary starts itself again, once per worker.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use orch::ledger::{Chain, Event, Head, RunPaused, Stream, read_chain};
use orch::queue::{Claim, Delivery, Item, Queue, Settle};
use orch::store::{Append, EntriesRequest, Store};
use orch::{Clock, DagId, Digest, ErrorKind, QueueName, RunId, StepId, SystemClock, TenantId, WorkerId};
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};

const ITEMS: u32 = 1_000;
const STREAMS: u32 = 4;
/// How many items the process that is killed holds then, and how many of these it has recorded.
const HELD: usize = 20;
const RECORDED: usize = 10;
const LEASE: Duration = Duration::from_secs(3);

/// Tells a worker where the file is, and whether it is the one to be killed.
const FILE: &str = "ORCH_TEST_FILE";
const VICTIM: &str = "ORCH_TEST_VICTIM";

fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn run_id(number: u32) -> RunId {
    RunId::derive(&tenant(), &DagId::new("dag").unwrap(), &number.to_string(), &Digest::ZERO)
}

fn item(number: u32) -> Item {
    Item {
        tenant: tenant(),
        queue: QueueName::default_queue(),
        priority: 0,
        ready_at: orch::Timestamp::EPOCH,
        dag: DagId::new("dag").unwrap(),
        run: run_id(number % STREAMS),
        plan_index: number,
        step: StepId::new(format!("step-{number}")).unwrap().into(),
        attempt: 1,
    }
}

/// What a worker knows of one stream.
struct Known {
    head: Head,
    /// Which items are recorded, and how often each had been delivered then.
    items: BTreeMap<String, u32>,
}

impl Known {
    fn nothing() -> Self {
        Self { head: Head::EMPTY, items: BTreeMap::new() }
    }

    /// Reads what was appended since.
    async fn refresh(&mut self, store: &dyn Store, stream: Stream) {
        let request = EntriesRequest { tenant: tenant(), stream, after: self.head.seq, limit: 100_000 };
        let page = store.entries(&[request]).await.unwrap().remove(0);
        for entry in read_chain(self.head, &page.lines) {
            let (entry, _, head) = entry.unwrap();
            let Event::RunPaused(RunPaused { reason: Some(note) }) = entry.event else {
                panic!("a foreign entry")
            };
            let (id, count) = note.split_once(' ').unwrap();
            let before = self.items.insert(id.to_owned(), count.parse().unwrap());
            assert_eq!(before, None, "{id} is recorded twice");
            self.head = head;
        }
        assert_eq!(self.head, page.head, "the entries lead to the head");
    }
}

/// Records a delivery unless it is recorded: reads, compares and swaps, as the engine does.
async fn record(store: &dyn Store, known: &mut Known, delivery: &Delivery) {
    let stream = Stream::Run(delivery.item.run);
    loop {
        known.refresh(store, stream).await;
        if known.items.contains_key(&delivery.item.id()) {
            return;
        }
        let mut chain = Chain::new(&tenant(), stream, known.head);
        let note = format!("{} {}", delivery.item.id(), delivery.count);
        chain.push("worker", SystemClock.now(), &Event::from(RunPaused { reason: Some(note) })).unwrap();
        let (lines, head) = chain.finish().unwrap();
        let append = Append { tenant: tenant(), stream, expected: known.head, lines, head, row: None };
        match store.append(&[append]).await.unwrap().remove(0) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}"),
        }
    }
}

/// The life of one process; started by the test below.
#[tokio::test]
#[ignore = "a worker: started by the test as a process of its own"]
async fn worker() {
    let file = std::env::var(FILE).expect("started by the test");
    let victim = std::env::var_os(VICTIM).is_some();
    let backend = SqliteBackend::open(SqliteConfig::new(&file)).await.unwrap();
    let (store, queue) = (backend.store(), backend.queue());
    let mut streams: BTreeMap<RunId, Known> = BTreeMap::new();
    let mut done = 0;
    loop {
        let now = SystemClock.now();
        let (worker, last) = (WorkerId::new(format!("{}", std::process::id())), victim && done >= 50);
        let limit = if last { HELD } else { 7 };
        let claim = Claim { worker, queues: None, tenants: None, limit, lease: LEASE, now };
        let deliveries = queue.claim(&claim).await.unwrap().deliveries;
        for delivery in deliveries.iter().take(if last { RECORDED } else { limit }) {
            record(&store, streams.entry(delivery.item.run).or_insert_with(Known::nothing), delivery).await;
        }
        if last && deliveries.len() == HELD {
            std::fs::write(format!("{file}.stalled"), "").unwrap();
            std::future::pending::<()>().await;
        }
        done += deliveries.len();
        if deliveries.is_empty() {
            if queue.depth(&tenant(), SystemClock.now()).await.unwrap().is_empty() {
                break;
            }
            queue.wait(Duration::from_millis(500)).await.unwrap();
        }
        let settles: Vec<_> = deliveries.into_iter().map(|delivery| Settle::done(delivery.token)).collect();
        // A lease that ended in the meantime is another worker's to settle.
        queue.settle(&settles, SystemClock.now()).await.unwrap();
    }
    backend.close().await;
}

/// A started worker, ended when the test ends.
struct Worker(Child);

impl Worker {
    fn start(file: &Path, victim: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "worker", "--nocapture"]).env(FILE, file).stdout(Stdio::null());
        if victim {
            command.env(VICTIM, "1");
        }
        Self(command.spawn().unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail when it has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}: not within a minute");
}

#[tokio::test]
async fn q1_l2_three_processes_record_each_item_once_though_one_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("orch.db");
    let backend = SqliteBackend::open(SqliteConfig::new(&file)).await.unwrap();
    backend.queue().push(&(0..ITEMS).map(item).collect::<Vec<_>>()).await.unwrap();
    let mut victim = Worker::start(&file, true);
    let mut others = [Worker::start(&file, false), Worker::start(&file, false)];
    let stalled = directory.path().join("orch.db.stalled");
    until("the victim holds items", || stalled.exists()).await;
    // SIGKILL.
    victim.0.kill().unwrap();
    assert!(!victim.0.wait().unwrap().success());
    for other in &mut others {
        until("a worker ends", || other.0.try_wait().unwrap().is_some()).await;
        assert!(other.0.wait().unwrap().success());
    }
    let mut recorded = BTreeMap::new();
    for stream in 0..STREAMS {
        let mut known = Known::nothing();
        known.refresh(&backend.store(), Stream::Run(run_id(stream))).await;
        recorded.append(&mut known.items);
    }
    let expected: BTreeSet<_> = (0..ITEMS).map(|number| item(number).id()).collect();
    assert_eq!(recorded.keys().cloned().collect::<BTreeSet<_>>(), expected, "each item is recorded once");
    let again = recorded.values().filter(|count| **count > 1).count();
    assert!(again >= HELD - RECORDED, "what the victim held came back: {again}");
    assert!(backend.queue().depth(&tenant(), SystemClock.now()).await.unwrap().is_empty(), "nothing is left");
    backend.close().await;
}
