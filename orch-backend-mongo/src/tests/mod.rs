//! The database itself: what a dead process left, pruning against appending, what a call costs, who is let in.

mod cost;
mod crashes;
mod opening;
mod segments;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::event::EventHandler;
use mongodb::event::command::CommandEvent;
use orch::ledger::{Chain, Event, Head, RunPaused, Stream};
use orch::lock::{Acquire, Holder, Lock, Slot, Take};
use orch::queue::{Claim, Item, Queue, Settle};
use orch::store::*;
use orch::{DagId, Digest, ErrorKind, RunId, RunStatus, TenantId, Timestamp};
use orch_servers::{Kind, Server, Shared, address, namespace, skipped};

use super::*;
use crate::indexes::{APPENDS, QUEUE, RUNS};

fn config(shared: Shared) -> Option<MongoConfig> {
    let mut config = MongoConfig::new(address(shared)?).unwrap();
    config.namespace = namespace();
    Some(config)
}

async fn open() -> Option<MongoBackend> {
    Some(MongoBackend::open(config(Shared::Mongo)?).await.unwrap())
}

fn tenant() -> TenantId {
    TenantId::new("a").unwrap()
}

fn run_id(number: usize) -> RunId {
    RunId::derive(&tenant(), &DagId::new("dag").unwrap(), &number.to_string(), &Digest::ZERO)
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_000_000 + micros)
}

fn row(number: usize, head: Head, status: RunStatus, wake: Option<i64>) -> RunRow {
    RunRow {
        tenant: tenant(),
        run: run_id(number),
        dag: DagId::new("dag").unwrap(),
        dag_version: None,
        status,
        steps: orch::ledger::StepCounts::default(),
        priority: 0,
        actor: "test".into(),
        run_token: number.to_string(),
        plan_hash: Digest::ZERO,
        inputs_hash: Digest::ZERO,
        outputs_hash: None,
        error: None,
        traceparent: None,
        replay_of: None,
        parent: None,
        created_at: at(0),
        started_at: None,
        ended_at: None,
        wake_at: wake.map(at),
        head,
    }
}

/// One entry that says `note`, with a row that says `status` and `wake`.
fn entry(number: usize, expected: Head, note: &str, status: RunStatus, wake: Option<i64>) -> Append {
    let stream = Stream::Run(run_id(number));
    let mut chain = Chain::new(&tenant(), stream, expected);
    chain.push("test", at(0), &Event::from(RunPaused { reason: Some(note.to_owned()) })).unwrap();
    let (lines, head) = chain.finish().unwrap();
    let row = Some(row(number, head, status, wake));
    Append { tenant: tenant(), stream, expected, lines, head, row }
}

async fn append(store: &MongoStore, append: &Append) -> Result<Head> {
    store.append(std::slice::from_ref(append)).await?.remove(0)?;
    Ok(append.head)
}

/// A run that is running and wakes at `wake`.
async fn begin(store: &MongoStore, number: usize, wake: Option<i64>) -> Head {
    append(store, &entry(number, Head::EMPTY, "begun", RunStatus::Running, wake)).await.unwrap()
}

async fn page(store: &MongoStore, number: usize) -> EntriesPage {
    let request =
        EntriesRequest { tenant: tenant(), stream: Stream::Run(run_id(number)), after: 0, limit: 1_000 };
    store.entries(&[request]).await.unwrap().remove(0)
}

async fn due(store: &MongoStore, until: i64) -> Vec<(i64, RunId)> {
    let page = store.due(&DueQuery { until: at(until), after: None, limit: 100 }).await.unwrap();
    page.runs.into_iter().map(|(wake, key)| (wake.as_micros() - at(0).as_micros(), key.run)).collect()
}

async fn listed(store: &MongoStore, status: RunStatus) -> Vec<RunId> {
    let query = RunsQuery { status: Some(status), ..RunsQuery::all(tenant()) };
    store.runs(&query).await.unwrap().runs.into_iter().map(|row| row.run).collect()
}

async fn prune(store: &MongoStore, number: usize, head: Head) -> usize {
    store.prune(&Prune { tenant: tenant(), runs: vec![(run_id(number), head)] }).await.unwrap()
}

fn documents(backend: &MongoBackend, collection: &str) -> mongodb::Collection<Document> {
    backend.connection.collection(collection)
}

fn listing_of(number: usize) -> Document {
    doc! {"_id": format!("a/{}", run_id(number))}
}

async fn listing(backend: &MongoBackend, number: usize) -> Option<Document> {
    documents(backend, RUNS).find_one(listing_of(number)).await.unwrap()
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// Puts the listings back to `before`, as if the process had died after the append and before it told them.
async fn forget_what_was_told(backend: &MongoBackend, number: usize, before: Document) {
    documents(backend, RUNS).replace_one(listing_of(number), before).await.unwrap();
}

fn item(number: usize) -> Item {
    Item {
        tenant: tenant(),
        queue: orch::QueueName::default_queue(),
        priority: 0,
        ready_at: at(0),
        dag: DagId::new("dag").unwrap(),
        run: run_id(number),
        plan_index: 0,
        step: orch::StepId::new("step").unwrap().into(),
        attempt: 1,
    }
}

fn claim(limit: usize) -> Claim {
    let (worker, lease) = (orch::WorkerId::new("worker"), Duration::from_secs(60));
    Claim { worker, queues: None, tenants: None, limit, lease, now: at(0) }
}
