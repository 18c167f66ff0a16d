//! What the cases are made of.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::join_all;
use orch::ledger::{Chain, Event, Head, RunPaused, RunStatus, Stream};
use orch::queue::{Claim, Item};
use orch::store::{Append, EntriesPage, EntriesRequest, RunRow, Store};
use orch::{
    DagId, Digest, Error, ErrorKind, QueueName, Result, RunId, StepId, TenantId, Timestamp, WorkerId,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// An instant with digits down to the microsecond.
pub(crate) const NOW: i64 = 1_795_000_000_123_457;

pub(crate) fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(NOW + micros)
}

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

pub(crate) fn dag(name: &str) -> DagId {
    DagId::new(name).unwrap()
}

/// A run id that depends on `number` alone, so that two tenants can have the same one.
pub(crate) fn run_id(number: usize) -> RunId {
    RunId::derive(&tenant("any"), &dag("any"), &number.to_string(), &Digest::ZERO)
}

pub(crate) fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error: Error| error.kind())
}

/// Entries that say `notes`, following `head`.
pub(crate) fn append(tenant: &TenantId, stream: Stream, head: Head, notes: &[&str]) -> Append {
    let mut chain = Chain::new(tenant, stream, head);
    for note in notes {
        let event = Event::from(RunPaused { reason: Some((*note).to_owned()) });
        chain.push("suite", at(0), &event).unwrap();
    }
    let (lines, after) = chain.finish().unwrap();
    Append { tenant: tenant.clone(), stream, expected: head, lines, head: after, row: None }
}

/// An append to a run with a row that fits it.
pub(crate) fn append_row(tenant: &TenantId, number: usize, head: Head, notes: &[&str]) -> Append {
    let mut append = append(tenant, Stream::Run(run_id(number)), head, notes);
    append.row = Some(row(tenant, number, append.head));
    append
}

/// A pending run, created `number` microseconds after the beginning.
pub(crate) fn row(tenant: &TenantId, number: usize, head: Head) -> RunRow {
    RunRow {
        tenant: tenant.clone(),
        run: run_id(number),
        dag: dag("dag"),
        dag_version: None,
        status: RunStatus::Pending,
        steps: orch::ledger::StepCounts::default(),
        priority: 0,
        actor: "suite".into(),
        run_token: number.to_string(),
        plan_hash: Digest::of("plan"),
        inputs_hash: Digest::of("inputs"),
        outputs_hash: None,
        error: None,
        traceparent: None,
        replay_of: None,
        parent: None,
        created_at: at(i64::try_from(number).unwrap()),
        started_at: None,
        ended_at: None,
        wake_at: None,
        head,
    }
}

/// Appends one item and expects it to land.
pub(crate) async fn land(store: &dyn Store, append: Append) -> Head {
    let head = append.head;
    let answers = store.append(&[append]).await.unwrap();
    assert_eq!(answers.len(), 1, "one answer per item");
    answers.into_iter().for_each(|answer| answer.unwrap());
    head
}

/// Appends one item and answers the kind of its error.
pub(crate) async fn try_land(store: &dyn Store, append: Append) -> Option<ErrorKind> {
    let mut answers = store.append(&[append]).await.unwrap();
    assert_eq!(answers.len(), 1, "one answer per item");
    kind(answers.remove(0))
}

pub(crate) async fn page(
    store: &dyn Store,
    tenant: &TenantId,
    stream: Stream,
    after: u64,
    limit: usize,
) -> EntriesPage {
    let request = EntriesRequest { tenant: tenant.clone(), stream, after, limit };
    let mut pages = store.entries(&[request]).await.unwrap();
    assert_eq!(pages.len(), 1, "one page per request");
    pages.remove(0)
}

/// The whole stream in one page.
pub(crate) async fn whole(store: &dyn Store, tenant: &TenantId, stream: Stream) -> EntriesPage {
    page(store, tenant, stream, 0, 1_000_000).await
}

pub(crate) fn item(tenant: &TenantId, number: usize) -> Item {
    Item {
        tenant: tenant.clone(),
        queue: QueueName::default_queue(),
        priority: 0,
        ready_at: at(0),
        dag: dag("dag"),
        run: run_id(number),
        plan_index: 0,
        step: StepId::new("step").unwrap().into(),
        attempt: 1,
    }
}

/// A claim of everything for a second.
pub(crate) fn claim(limit: usize, now: Timestamp) -> Claim {
    let lease = Duration::from_secs(1);
    Claim { worker: WorkerId::new("worker"), queues: None, tenants: None, limit, lease, now }
}

/// Runs tasks side by side and answers in their order.
pub(crate) async fn race<T: Send + 'static>(
    tasks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let started: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
    join_all(started).await.into_iter().map(|task| task.unwrap()).collect()
}

/// Draws `cases` values from a fixed seed and holds each against `check`, which gets a tenant of its own per trial;
/// a failing value is made as small as it goes before it is shown.
pub(crate) async fn hold<S, F>(
    cases: u32,
    values: S,
    check: impl Fn(TenantId, S::Value) -> F + Send + 'static,
) where
    S: Strategy + Send + 'static,
    F: Future<Output = Result<(), TestCaseError>>,
{
    let handle = tokio::runtime::Handle::current();
    let trial = AtomicU32::new(0);
    let held = tokio::task::spawn_blocking(move || {
        let config =
            Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
        let seed = TestRng::from_seed(RngAlgorithm::ChaCha, b"orch conformance, fixed seed, 1.");
        TestRunner::new_with_rng(config, seed)
            .run(&values, |value| {
                let tenant = tenant(&format!("trial-{}", trial.fetch_add(1, Ordering::Relaxed)));
                handle.block_on(check(tenant, value))
            })
            .map_err(|failure| failure.to_string())
    });
    held.await.unwrap().unwrap_or_else(|failure| panic!("{failure}"));
}
