//! How the ledgers were recorded: by the real engine, in memory, on a clock that stands still until somebody waits.
//!
//! `cargo test --package orch --test golden -- --ignored` records what is not there yet. What is there stays.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use orch::engine::{DagRef, Identity, Orchestrator, OrchestratorBuilder, Resubmit, Settings, Submit};
use orch::executor::{Failure, LogStream, StepContext};
use orch::ledger::{Event, Stream};
use orch::proof::{PruneRuns, Scope, SigningKey, TakeCheckpoint, prune_runs, take_checkpoint};
use orch::queue::MemoryQueue;
use orch::store::{EntriesRequest, MemoryStore, Store};
use orch::{Clock, Limits, Payload, RunId, StepStatus, TenantId, Timestamp};
use serde_json::{Value, json};

pub(crate) const TENANT: &str = "acme";

pub(crate) fn signing_key() -> SigningKey {
    SigningKey::from_hex(&"42".repeat(32)).unwrap()
}

/// Time as tokio sees it, from an instant on.
#[derive(Debug)]
struct From(Timestamp, tokio::time::Instant);

impl Clock for From {
    fn now(&self) -> Timestamp {
        self.0.plus(self.1.elapsed())
    }
}

fn who(actor: &str) -> Identity {
    Identity::new(TenantId::new(TENANT).unwrap(), actor)
}

/// One life of the process that all is recorded with.
struct Life {
    store: MemoryStore,
    orchestrator: Orchestrator,
    clock: Arc<From>,
}

fn parsed(document: &str) -> Box<orch::spec::Dag> {
    let text = format!("apiVersion: orch/v1\nkind: Dag\n{document}");
    let dag = orch::spec::parse("golden.yaml", &text, &Limits::default());
    Box::new(dag.unwrap_or_else(|problems| panic!("{problems}")))
}

fn tasks(builder: OrchestratorBuilder) -> OrchestratorBuilder {
    builder
        .task("echo", |_, input: Value| async move { Ok::<_, Failure>(input) })
        .task("flaky", |context: StepContext, fails: u32| async move {
            context.log.line(LogStream::Stdout, &format!("attempt {}", context.attempt));
            if context.attempt <= fails {
                return Err(Failure::retryable("flaky", "not yet"));
            }
            Ok(context.attempt)
        })
        .task("broken", |_, _: Value| async move { Err::<(), _>(Failure::fatal("broken", "it is no use")) })
        .task("nap", |context: StepContext, seconds: u64| async move {
            for second in 0..seconds {
                context.progress.note(&format!("{second} of {seconds} s"));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok::<_, Failure>(seconds)
        })
}

impl Life {
    /// `part` tells the names apart that are drawn in different lives.
    fn begin(store: &MemoryStore, at: &str, part: &'static str) -> Self {
        let clock = Arc::new(From(at.parse().unwrap(), tokio::time::Instant::now()));
        let drawn = AtomicU32::new(0);
        let settings =
            Settings { lease: Duration::from_secs(3), sandbox: Some("none".into()), ..Settings::default() };
        let orchestrator = tasks(Orchestrator::builder())
            .store(Arc::new(store.clone()))
            .queue(Arc::new(MemoryQueue::new()))
            .clock(Arc::clone(&clock) as Arc<dyn Clock>)
            .tokens(move || format!("{part}-{}", drawn.fetch_add(1, Ordering::Relaxed)))
            .settings(settings)
            .label("recorder")
            .start()
            .unwrap();
        Self { store: store.clone(), orchestrator, clock }
    }

    async fn submit(&self, document: &str, inputs: Value) -> RunId {
        let submit = Submit::new(DagRef::Unpublished(parsed(document)), inputs);
        self.orchestrator.submit(&who("alice"), submit).await.unwrap().run.run
    }

    async fn ended(&self, run: RunId) {
        let alice = who("alice");
        let wait = self.orchestrator.wait(&alice, run);
        tokio::time::timeout(Duration::from_secs(100_000), wait).await.unwrap().unwrap();
    }

    async fn until(&self, run: RunId, step: &str, status: StepStatus) {
        for _ in 0..100_000 {
            let state = self.orchestrator.inspect(&who("alice"), run).await.unwrap();
            let at = state.find(&step.parse().unwrap());
            if at.is_some_and(|at| state.get(at).unwrap().status == status) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("`{step}` never is {status}");
    }

    async fn lines(&self, stream: Stream) -> String {
        let tenant = TenantId::new(TENANT).unwrap();
        let request = EntriesRequest { tenant, stream, after: 0, limit: 500 };
        self.store.entries(&[request]).await.unwrap().remove(0).lines
    }
}

/// What was recorded, by the name of its file.
type Kept = BTreeMap<String, String>;

/// Runs `story` in a process of its own, which dies without a word when it is told.
fn live<F: Future>(story: impl FnOnce() -> F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(story())
}

async fn well(life: &Life, kept: &mut Kept) {
    let document = r#"
id: well
inputs: { type: object, properties: { names: { type: array, items: { type: string } }, deep: { type: boolean, default: false } } }
steps:
  - { id: fetch, uses: fn/flaky, with: 1, retry: { maxAttempts: 3, backoff: 2s } }
  - { id: each, uses: fn/echo, needs: [fetch], forEach: { items: inputs.names, maxParallel: 2 }, with: { name: "${{ item }}", place: "${{ index }}" } }
  - { id: none, uses: fn/echo, forEach: { items: [] } }
  - { id: deep, uses: fn/echo, needs: [fetch], when: inputs.deep }
  - { id: after-deep, uses: fn/echo, needs: [deep] }
  - { id: long, uses: fn/nap, with: 4 }
  - { id: join, uses: fn/echo, needs: [each, long, none], with: { all: "${{ steps.each.output.map(o, o.name) }}", run: "${{ run.id }}", é: "\u2028\"" }, concurrency: [{ key: join, limit: 1 }], priority: 5 }
"#;
    let submit = Submit {
        run_token: Some("monday".into()),
        priority: 7,
        rationale: Some("a first run".into()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        ..Submit::new(DagRef::Unpublished(parsed(document)), json!({ "names": ["né", "b", "c"] }))
    };
    let run = life.orchestrator.submit(&who("alice"), submit).await.unwrap().run.run;
    life.ended(run).await;
    kept.insert("well".into(), life.lines(Stream::Run(run)).await);
}

async fn retried(life: &Life, kept: &mut Kept) {
    let document = r#"
id: retried
steps:
  - { id: a, uses: fn/echo, with: 1 }
  - { id: b, uses: fn/flaky, needs: [a], with: 2, retry: { maxAttempts: 2, backoff: 1s } }
  - { id: c, uses: fn/echo, needs: [b], with: "${{ steps.b.output }}" }
  - { id: clean, uses: fn/echo, needs: [b], when: steps.b.status == 'failed', with: "${{ steps.b.error.code }}" }
  - { id: m, uses: fn/flaky, forEach: { items: [0, 1, 2] }, with: "${{ item }}" }
  - { id: twisted, uses: fn/echo, with: "${{ inputs.missing.deeply }}" }
"#;
    let run = life.submit(document, json!({})).await;
    life.ended(run).await;
    let why = who("bob").because("the service is back");
    life.orchestrator.retry(&why, run, vec!["b".parse().unwrap(), "m".parse().unwrap()]).await.unwrap();
    life.ended(run).await;
    kept.insert("failed-and-retried".into(), life.lines(Stream::Run(run)).await);
}

async fn parked(life: &Life, kept: &mut Kept) {
    let document = r#"
id: parked
steps:
  - { id: a, uses: fn/flaky, with: 1, retry: { onExhausted: park } }
  - { id: b, uses: fn/echo, needs: [a] }
"#;
    let run = life.submit(document, json!({})).await;
    life.until(run, "a", StepStatus::Parked).await;
    life.orchestrator.retry(&who("bob"), run, vec![]).await.unwrap();
    life.ended(run).await;
    kept.insert("parked-and-retried".into(), life.lines(Stream::Run(run)).await);
    let document = r#"
id: given-up
steps:
  - { id: a, uses: fn/broken, retry: { onExhausted: park } }
  - { id: b, uses: fn/echo, needs: [a] }
  - { id: c, uses: fn/nap, with: 600 }
  - { id: m, uses: fn/nap, forEach: { items: [1, 600, 600], maxParallel: 2 }, with: "${{ item }}" }
  - { id: g, uses: gate/approval }
"#;
    let run = life.submit(document, json!({})).await;
    life.until(run, "m[2]", StepStatus::Running).await;
    life.orchestrator.cancel(&who("bob").because("no longer needed"), run).await.unwrap();
    life.ended(run).await;
    kept.insert("parked-and-cancelled".into(), life.lines(Stream::Run(run)).await);
}

async fn gates(life: &Life, kept: &mut Kept) {
    let document = r#"
id: gates
steps:
  - { id: approve, uses: gate/approval, with: { ask: "go?" }, timeout: 1h }
  - { id: policy, uses: gate/policy, needs: [approve], with: { by: "${{ steps.approve.output.actor }}" } }
  - { id: late, uses: gate/approval, timeout: 30s }
  - { id: z, uses: fn/echo, needs: [policy], with: "${{ steps.policy.output }}" }
"#;
    let run = life.submit(document, json!({})).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (carol, opa) = (who("carol").because("looks good"), who("opa").because("not on fridays"));
    life.orchestrator.decide(&carol, run, "approve".parse().unwrap(), true).await.unwrap();
    life.until(run, "policy", StepStatus::Waiting).await;
    life.orchestrator.decide(&opa, run, "policy".parse().unwrap(), false).await.unwrap();
    life.ended(run).await;
    kept.insert("gates".into(), life.lines(Stream::Run(run)).await);
}

async fn waits(life: &Life, kept: &mut Kept) {
    let document = r#"
id: waits
steps:
  - { id: nap, uses: wait/sleep, with: { duration: 90s } }
  - { id: early, uses: wait/signal, needs: [nap], with: { name: go } }
  - { id: never, uses: wait/signal, with: { name: never }, timeout: 200s }
  - { id: z, uses: fn/echo, needs: [early], with: "${{ steps.early.output }}" }
"#;
    let run = life.submit(document, json!({})).await;
    let signal = |value: Value| {
        let payload = Payload::new(&value).unwrap();
        async move { life.orchestrator.signal(&who("dave"), run, "go", payload).await.unwrap() }
    };
    signal(json!({ "n": 1.5, "text": "é" })).await;
    life.until(run, "z", StepStatus::Succeeded).await;
    signal(json!(null)).await;
    life.ended(run).await;
    kept.insert("signals-and-sleeps".into(), life.lines(Stream::Run(run)).await);
}

async fn sub_dags(life: &Life, kept: &mut Kept) {
    let child = r#"
id: child
inputs: { type: object, properties: { n: { type: integer } } }
steps:
  - { id: out, uses: fn/flaky, with: "${{ inputs.n }}" }
"#;
    life.orchestrator.publish(&who("alice"), *parsed(child)).await.unwrap();
    let document = r#"
id: parent
steps:
  - { id: bad, uses: dag/child@1, with: { n: 1 }, retry: { maxAttempts: 2, backoff: 10s } }
  - { id: each, uses: dag/child@1, forEach: { items: [0], maxParallel: 1 }, with: { n: "${{ item }}" } }
  - { id: z, uses: fn/echo, needs: [each], with: "${{ steps.each.output }}" }
"#;
    let run = life.submit(document, json!({})).await;
    life.ended(run).await;
    kept.insert("sub-dags".into(), life.lines(Stream::Run(run)).await);
    let mut number = 0;
    let lines = life.lines(Stream::Run(run)).await;
    for read in orch::ledger::read_chain(orch::ledger::Head::EMPTY, &lines) {
        if let Event::StepStarted(started) = read.unwrap().0.event
            && let Some(child) = started.child_run
        {
            number += 1;
            kept.insert(format!("sub-dags-child-{number}"), life.lines(Stream::Run(child)).await);
        }
    }
}

async fn reused(life: &Life, kept: &mut Kept) {
    let document = r#"
id: reused
steps:
  - { id: a, uses: fn/echo, cache: true, with: { x: 1 } }
  - { id: b, uses: fn/echo, needs: [a], with: "${{ steps.a.output }}" }
  - { id: g, uses: gate/approval, needs: [a] }
  - { id: m, uses: fn/echo, needs: [g], forEach: { items: [1, 2] }, with: "${{ item }}" }
  - { id: z, uses: fn/echo, needs: [b, m], with: "${{ steps.m.output }}" }
"#;
    let mut first = None;
    for name in ["cached-first", "cached-again"] {
        let run = life.submit(document, json!({})).await;
        life.until(run, "g", StepStatus::Waiting).await;
        life.orchestrator.decide(&who("carol"), run, "g".parse().unwrap(), true).await.unwrap();
        life.ended(run).await;
        kept.insert(name.into(), life.lines(Stream::Run(run)).await);
        first = first.or(Some(run));
    }
    let why = who("bob").because("the end was wrong");
    let rerun = life
        .orchestrator
        .rerun(&why, first.unwrap(), &"z".parse().unwrap(), Resubmit::default())
        .await
        .unwrap();
    life.ended(rerun.run.run).await;
    kept.insert("rerun".into(), life.lines(Stream::Run(rerun.run.run)).await);
}

async fn held(life: &Life, kept: &mut Kept) {
    let document = r#"
id: held
steps:
  - { id: a, uses: fn/nap, with: 2 }
  - { id: b, uses: fn/echo, needs: [a], with: 1 }
"#;
    let run = life.submit(document, json!({})).await;
    life.until(run, "a", StepStatus::Running).await;
    life.orchestrator.pause(&who("bob").because("maintenance"), run).await.unwrap();
    life.until(run, "a", StepStatus::Succeeded).await;
    life.orchestrator.resume(&who("bob").because("done"), run).await.unwrap();
    life.ended(run).await;
    kept.insert("paused-and-resumed".into(), life.lines(Stream::Run(run)).await);
}

async fn late(life: &Life, kept: &mut Kept) {
    let document = r#"
id: late
timeout: 10s
steps:
  - { id: a, uses: fn/echo, with: 1 }
  - { id: slow, uses: fn/nap, needs: [a], with: 90, timeout: 4s, retry: { maxAttempts: 5, backoff: 1s } }
  - { id: z, uses: fn/echo, needs: [slow] }
"#;
    let run = life.submit(document, json!({})).await;
    life.ended(run).await;
    life.orchestrator.retry(&who("bob"), run, vec![]).await.unwrap();
    life.until(run, "slow", StepStatus::Running).await;
    life.orchestrator.cancel(&who("bob"), run).await.unwrap();
    life.ended(run).await;
    kept.insert("out-of-time".into(), life.lines(Stream::Run(run)).await);
    let document = "\nid: total\nsteps:\n  - { id: slow, uses: fn/flaky, with: 99, totalTimeout: 10s, retry: { maxAttempts: 50, backoff: 4s } }\n";
    let run = life.submit(document, json!({})).await;
    life.ended(run).await;
    kept.insert("out-of-total-time".into(), life.lines(Stream::Run(run)).await);
}

/// What its first process has begun when it dies, the second finds lost.
const LOST: &str = r#"
id: lost
steps:
  - { id: a, uses: fn/nap, with: 5 }
  - { id: b, uses: fn/nap, with: 5, retry: { onLost: park } }
  - { id: c, uses: fn/nap, with: 5, retry: { onLost: fail } }
  - { id: z, uses: fn/echo, needs: [a] }
"#;

/// A checkpoint of everything, one of what came after, and runs that are pruned after each.
async fn proofs(life: &Life, kept: &mut Kept) {
    let detail = json!({ "to": "é", "size": 1 });
    life.orchestrator.audit(&who("host"), "report.sent", "report/7", &detail).await.unwrap();
    let (tenant, actor) = (TenantId::new(TENANT).unwrap(), "alice".to_owned());
    for scope in [Scope::All, Scope::SinceLast] {
        let run = life.submit("\nid: passing\nsteps:\n  - { id: a, uses: fn/echo }\n", json!({})).await;
        life.ended(run).await;
        let (key, now) = (Some(signing_key()), life.clock.now());
        let checkpoint = TakeCheckpoint { tenant: tenant.clone(), actor: actor.clone(), now, scope, key };
        take_checkpoint(&life.store, &checkpoint).await.unwrap();
        let prune = PruneRuns { tenant: tenant.clone(), runs: vec![run], actor: actor.clone(), now };
        prune_runs(&life.store, &prune).await.unwrap();
    }
    kept.insert("audit".into(), life.lines(Stream::Audit).await);
    kept.insert("checkpoint".into(), life.lines(Stream::Checkpoint).await);
}

fn everything() -> Kept {
    let (store, mut kept) = (MemoryStore::new(), Kept::new());
    let lost = live(|| async {
        let life = Life::begin(&store, "2026-01-01T00:00:00Z", "first");
        let run = life.submit(LOST, json!({})).await;
        for step in ["a", "b", "c"] {
            life.until(run, step, StepStatus::Running).await;
        }
        run
    });
    live(|| async {
        let life = Life::begin(&store, "2026-01-01T00:05:00Z", "second");
        life.until(lost, "z", StepStatus::Succeeded).await;
        life.orchestrator.retry(&who("bob"), lost, vec![]).await.unwrap();
        life.ended(lost).await;
        kept.insert("lost".into(), life.lines(Stream::Run(lost)).await);
        well(&life, &mut kept).await;
        retried(&life, &mut kept).await;
        parked(&life, &mut kept).await;
        gates(&life, &mut kept).await;
        waits(&life, &mut kept).await;
        sub_dags(&life, &mut kept).await;
        reused(&life, &mut kept).await;
        held(&life, &mut kept).await;
        late(&life, &mut kept).await;
        proofs(&life, &mut kept).await;
        life.orchestrator.shutdown().await;
    });
    kept
}

#[test]
#[ignore = "a chore, not a test: records what is not there yet"]
fn record_what_is_not_there_yet() {
    for (name, lines) in everything() {
        let path = super::folder("ledgers").join(format!("{name}.ndjson"));
        if !path.exists() {
            std::fs::write(path, lines).unwrap();
        }
    }
}
