//! Tampering in every way, and what verification says of it.

mod checkpoints;
mod exports;
mod invariants;
mod stores;
mod tampering;

use serde_json::json;

use super::*;
use crate::id::{RunId, TenantId};
use crate::ledger::Event;
use crate::payload::Payload;
use crate::planner::tests::{Sim, dag_of, fatal, good, plan_from, plan_of, task, with};
use crate::store::{Append, MemoryStore};
use crate::time::Timestamp;

fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

/// A short run that ended well.
fn small() -> Sim {
    let plan = plan_of(&[with(task("a", &[]), json!({"with": {"x": "${{ inputs.x }}"}}))]);
    let mut sim = Sim::with_inputs(&plan, &json!({"x": "é"}));
    sim.run("a", good());
    sim
}

/// A run with something of everything that failed.
fn mixed(token: &str) -> Sim {
    let plan = plan_from(dag_of(&[
        task("a", &[]),
        with(task("m", &["a"]), json!({"forEach": {"items": [1, 2]}, "with": {"i": "${{ item }}"}})),
        with(task("z", &["m"]), json!({"retry": {"maxAttempts": 2}})),
    ]));
    let mut sim = Sim::unopened(&plan, &json!({}), token);
    sim.settle();
    sim.run("a", good());
    sim.run("m[1]", good());
    sim.run("m[0]", good());
    sim.run("z", fatal());
    sim
}

/// What a store holds of one run.
#[derive(Clone)]
struct Kept {
    lines: Vec<String>,
    head: Head,
    row: RunRow,
}

fn kept(sim: &Sim) -> Kept {
    let lines = sim.lines.lines().map(str::to_owned).collect();
    Kept { lines, head: sim.state.head, row: sim.state.row() }
}

/// A store made of what is given, whether it is true or not.
async fn put(store: &MemoryStore, kept: &Kept) {
    let lines: String = kept.lines.iter().map(|line| format!("{line}\n")).collect();
    let head = Head { hash: kept.head.hash, seq: kept.lines.len() as u64 };
    let row = RunRow { head, ..kept.row.clone() };
    let stream = Stream::Run(kept.row.run);
    let append =
        Append { tenant: tenant(), stream, expected: Head::EMPTY, lines: lines.into(), head, row: Some(row) };
    store.append(&[append]).await.unwrap().pop().unwrap().unwrap();
}

async fn store_of(runs: &[&Sim]) -> MemoryStore {
    let store = MemoryStore::new();
    for sim in runs {
        put(&store, &kept(sim)).await;
    }
    store
}

async fn verify(store: &MemoryStore, options: &VerifyOptions) -> Report {
    verify_store(store, &tenant(), options).await.unwrap()
}

async fn audit(store: &MemoryStore, what: &str) {
    let event = crate::ledger::AuditAction {
        action: what.into(),
        detail: Payload::null(),
        reason: None,
        target: "x".into(),
    };
    append(store, &tenant(), Stream::Audit, "alice", Timestamp::EPOCH, &[Event::from(event)]).await.unwrap();
}

fn key() -> SigningKey {
    SigningKey::from_hex(&"42".repeat(32)).unwrap()
}

async fn checkpoint(store: &MemoryStore, scope: Scope) -> Option<Checkpoint> {
    let now = Timestamp::from_micros(7);
    let request = TakeCheckpoint { tenant: tenant(), actor: "alice".into(), now, scope, key: Some(key()) };
    take_checkpoint(store, &request).await.unwrap()
}

async fn prune_them(store: &MemoryStore, runs: Vec<RunId>) -> usize {
    let request = PruneRuns { tenant: tenant(), runs, actor: "alice".into(), now: Timestamp::from_micros(9) };
    prune_runs(store, &request).await.unwrap()
}
