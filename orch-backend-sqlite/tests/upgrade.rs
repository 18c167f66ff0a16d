//! Files written by earlier releases: every build opens them, reads what they hold and goes on writing.
//!
//! `fixtures/schema-N.db` was written by the last build whose schema was N, and `schema-N.json` is what that build
//! read from it. With `ORCH_BLESS=1` the fixture of the current schema is made, if there is none yet; one that
//! exists is never made again.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use orch::ledger::{Chain, Event, Head, RunPaused, RunStatus, StepCounts, Stream};
use orch::lock::{Acquire, Holder, Lock, Slot, Take, Taken};
use orch::queue::{Claim, DeliveryToken, Item, Queue, Settle};
use orch::store::*;
use orch::{DagId, Digest, QueueName, RunId, StepId, TenantId, Timestamp, WorkerId};
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};
use serde_json::{Value, json};

const TENANTS: [&str; 2] = ["acme", "acme-2"];
/// The schema that this build writes.
const CURRENT: u32 = 2;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_795_000_000_123_457 + seconds * 1_000_000)
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn run_id(tenant: &TenantId, number: u32) -> RunId {
    RunId::derive(tenant, &DagId::new("scan").unwrap(), &number.to_string(), &Digest::ZERO)
}

fn fixture(schema: u32, ending: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/schema-{schema}.{ending}"))
}

fn append(tenant: &TenantId, stream: Stream, head: Head, note: &str) -> Append {
    let mut chain = Chain::new(tenant, stream, head);
    let event = Event::from(RunPaused { reason: Some(note.to_owned()) });
    chain.push("fixture", at(0), &event).unwrap();
    chain.push("fixture", at(1), &event).unwrap();
    let (lines, after) = chain.finish().unwrap();
    Append { tenant: tenant.clone(), stream, expected: head, lines, head: after, row: None }
}

fn row(tenant: &TenantId, number: u32, head: Head) -> RunRow {
    let ended = number == 1;
    RunRow {
        tenant: tenant.clone(),
        run: run_id(tenant, number),
        dag: DagId::new("scan").unwrap(),
        dag_version: Some(3),
        status: if ended { RunStatus::Completed } else { RunStatus::Running },
        steps: StepCounts { running: 1, succeeded: 7, ..StepCounts::default() },
        priority: -2,
        actor: "o'hara 🦀".into(),
        run_token: number.to_string(),
        plan_hash: Digest::of("plan"),
        inputs_hash: Digest::of("inputs"),
        outputs_hash: ended.then(|| Digest::of("outputs")),
        error: None,
        traceparent: None,
        replay_of: None,
        parent: None,
        created_at: at(i64::from(number)),
        started_at: Some(at(10)),
        ended_at: ended.then(|| at(20)),
        wake_at: (!ended).then(|| at(30)),
        head,
    }
}

fn item(tenant: &TenantId, attempt: u32, ready_at: Timestamp) -> Item {
    Item {
        tenant: tenant.clone(),
        queue: QueueName::new("gpu").unwrap(),
        priority: 4,
        ready_at,
        dag: DagId::new("scan").unwrap(),
        run: run_id(tenant, 2),
        plan_index: 5,
        step: StepId::new("sign").unwrap().into(),
        attempt,
    }
}

fn claim(tenant: &TenantId, limit: usize, now: Timestamp) -> Claim {
    let (worker, lease) = (WorkerId::new("fixture"), Duration::from_secs(60));
    Claim { worker, queues: None, tenants: Some(vec![tenant.clone()]), limit, lease, now }
}

fn holder(tenant: &TenantId, name: &str) -> Holder {
    Holder { tenant: tenant.clone(), name: name.into() }
}

fn mutex(holder: Holder, now: Timestamp) -> Acquire {
    let slots = vec![Slot { key: "signer".into(), capacity: 1 }];
    Acquire { holder, slots, lease: Duration::from_secs(60), now }
}

fn take(tenant: &TenantId) -> Take {
    Take { tenant: tenant.clone(), key: "api".into(), tokens: 2, rate: 0.0, burst: 3, now: at(0) }
}

async fn land(store: &dyn Store, append: Append) -> Head {
    let head = append.head;
    store.append(&[append]).await.unwrap().remove(0).unwrap();
    head
}

/// Fills a new file; answers the tokens of the deliveries it left under lease.
async fn fill(backend: &SqliteBackend) -> Vec<DeliveryToken> {
    let (store, queue, lock) = (backend.store(), backend.queue(), backend.lock());
    let mut tokens = Vec::new();
    for tenant in TENANTS.map(tenant) {
        for number in [1, 2] {
            let stream = Stream::Run(run_id(&tenant, number));
            let head = land(&store, append(&tenant, stream, Head::EMPTY, "first, é 🦀 \u{0}")).await;
            let mut second = append(&tenant, stream, head, &"long ".repeat(500));
            second.row = Some(row(&tenant, number, second.head));
            land(&store, second).await;
        }
        land(&store, append(&tenant, Stream::Audit, Head::EMPTY, "audit")).await;
        for (key, body) in [("scan/1", "{\"one\":1}"), ("scan/2", "{\"two\":\"é\"}"), ("scan/2", "{}")] {
            let key = DocKey { tenant: tenant.clone(), kind: "dag", key: key.into() };
            store.put_doc(&PutDoc { key, expect: Expect::Any, body: Some(body.into()) }).await.unwrap();
        }
        queue.push(&[item(&tenant, 1, at(0))]).await.unwrap();
        let delivery = queue.claim(&claim(&tenant, 1, at(0))).await.unwrap().deliveries.remove(0);
        tokens.push(delivery.token);
        queue.push(&[item(&tenant, 2, at(0)), item(&tenant, 3, at(9))]).await.unwrap();
        lock.acquire(&mutex(holder(&tenant, "first"), at(0))).await.unwrap().unwrap();
        assert_eq!(lock.take(&take(&tenant)).await.unwrap(), Taken::Granted);
    }
    tokens
}

/// Everything the file holds, as its readers see it; ends the deliveries that `tokens` name.
async fn observed(backend: &SqliteBackend, tokens: &[DeliveryToken]) -> Value {
    let (store, queue, lock) = (backend.store(), backend.queue(), backend.lock());
    let due = store.due(&DueQuery { until: at(100), after: None, limit: 10 }).await.unwrap();
    let due: Vec<_> = due.runs.iter().map(|(at, key)| json!([at, key.tenant, key.run])).collect();
    let mut tenants = Vec::new();
    for (name, token) in TENANTS.into_iter().zip(tokens) {
        let tenant = tenant(name);
        let streams = [1, 2].map(|number| Stream::Run(run_id(&tenant, number))).into_iter();
        let requests: Vec<_> = streams
            .chain([Stream::Audit])
            .map(|stream| EntriesRequest { tenant: tenant.clone(), stream, after: 0, limit: 100 })
            .collect();
        let pages = store.entries(&requests).await.unwrap();
        let streams: Vec<_> =
            pages.iter().map(|page| json!({ "lines": page.lines, "head": page.head })).collect();
        let rows = store.runs(&RunsQuery::all(tenant.clone())).await.unwrap().runs;
        let docs = DocsQuery { tenant: tenant.clone(), kind: "dag", after: None, limit: 10 };
        let docs = store.docs(&docs).await.unwrap().docs;
        let docs: Vec<_> = docs.iter().map(|doc| json!([doc.key, doc.version, doc.body])).collect();
        let depth = queue.depth(&tenant, at(1)).await.unwrap();
        let settled = queue.settle(&[Settle::done(token.clone())], at(1)).await.unwrap().remove(0);
        let claimed = queue.claim(&claim(&tenant, 9, at(10))).await.unwrap().deliveries;
        let items: Vec<_> = claimed.iter().map(|delivery| json!([delivery.item, delivery.count])).collect();
        let refused = lock.acquire(&mutex(holder(&tenant, "second"), at(59))).await.unwrap().is_none();
        let fence = lock.acquire(&mutex(holder(&tenant, "second"), at(60))).await.unwrap().unwrap()[0].fence;
        let emptied = lock.take(&take(&tenant)).await.unwrap() != Taken::Granted;
        tenants.push(json!({
            "streams": streams, "rows": rows, "docs": docs, "depth": depth, "token": token,
            "settled": settled.is_ok(), "items": items, "slotRefused": refused, "fence": fence,
            "bucketEmptied": emptied,
        }));
    }
    json!({ "due": due, "tenants": tenants })
}

/// A copy of a fixture, opened; and what the build that made it read from it.
async fn opened(schema: u32) -> (SqliteBackend, Value, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let config = SqliteConfig::new(directory.path().join("orch.db"));
    std::fs::copy(fixture(schema, "db"), &config.path).unwrap();
    let expected = std::fs::read_to_string(fixture(schema, "json")).unwrap();
    (SqliteBackend::open(config).await.unwrap(), serde_json::from_str(&expected).unwrap(), directory)
}

async fn bless() {
    let directory = tempfile::tempdir().unwrap();
    let config = SqliteConfig::new(directory.path().join("orch.db"));
    let backend = SqliteBackend::open(config.clone()).await.unwrap();
    let tokens = fill(&backend).await;
    backend.close().await;
    std::fs::copy(&config.path, fixture(CURRENT, "db")).unwrap();
    let backend = SqliteBackend::open(config).await.unwrap();
    let expected = serde_json::to_string_pretty(&observed(&backend, &tokens).await).unwrap();
    std::fs::write(fixture(CURRENT, "json"), expected + "\n").unwrap();
    backend.close().await;
}

#[tokio::test]
async fn files_of_every_schema_are_read_as_they_were_written() {
    if std::env::var_os("ORCH_BLESS").is_some() && !fixture(CURRENT, "db").exists() {
        bless().await;
    }
    for schema in 1..=CURRENT {
        let (backend, expected, _directory) = opened(schema).await;
        let tokens = expected["tenants"].as_array().unwrap().iter().map(|tenant| &tenant["token"]);
        let tokens: Vec<_> = tokens.map(|token| DeliveryToken::new(token.as_str().unwrap())).collect();
        let seen = observed(&backend, &tokens).await;
        assert_eq!(seen, expected, "schema {schema}");
    }
}

#[tokio::test]
async fn files_of_every_schema_go_on() {
    for schema in 1..=CURRENT {
        let (backend, _, directory) = opened(schema).await;
        let tenant = tenant(TENANTS[0]);
        let stream = Stream::Run(run_id(&tenant, 2));
        let request = EntriesRequest { tenant: tenant.clone(), stream, after: 0, limit: 100 };
        let before = backend.store().entries(std::slice::from_ref(&request)).await.unwrap().remove(0);
        let mut more = append(&tenant, stream, before.head, "by a later release");
        more.row = Some(row(&tenant, 1, more.head));
        more.row.as_mut().unwrap().run = run_id(&tenant, 2);
        let (lines, head) = (more.lines.clone(), land(&backend.store(), more).await);
        backend.close().await;
        let config = SqliteConfig::new(directory.path().join("orch.db"));
        let backend = SqliteBackend::open(config).await.unwrap();
        let after = backend.store().entries(&[request]).await.unwrap().remove(0);
        assert_eq!((after.lines, after.head), (before.lines + &*lines, head), "schema {schema}");
        let prune = Prune { tenant: tenant.clone(), runs: vec![(run_id(&tenant, 2), head)] };
        assert_eq!(backend.store().prune(&prune).await.unwrap(), 1, "schema {schema}");
        let one = claim(&tenant, 1, at(1));
        assert_eq!(backend.queue().claim(&one).await.unwrap().deliveries.len(), 1, "schema {schema}");
    }
}
