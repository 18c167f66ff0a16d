//! Whole runs of steps that do nothing.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use orch::engine::{Orchestrator, OrchestratorBuilder};
use orch::executor::Failure;
use orch::spec::Dag;
use orch::store::{MemoryStore, Store};
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};
use orch_benches::{builder, chain, drive, fan_out, layered, now, publish, run_all, settings};
use serde_json::Value;

use crate::figure::{Aim, Figure, Size};
use crate::raw::{self, Sqlite};
use crate::stats::median;
use crate::timed::Timed;
use crate::{Failed, runtime};

pub(crate) struct Load {
    pub(crate) id: &'static str,
    pub(crate) what: String,
    pub(crate) dag: Dag,
    pub(crate) runs: usize,
    pub(crate) steps: usize,
}

/// What the aims are about: many runs, and one wide run.
pub(crate) fn loads(size: Size) -> [Load; 2] {
    let (runs, wide) = size.of((1_000, 100_000), (10, 100));
    [
        Load {
            id: "runs",
            what: format!("{runs} runs of 100 steps (10 layers of 10)"),
            dag: layered(100, 10),
            runs,
            steps: runs * 100,
        },
        Load { id: "fan-out", what: format!("fan-out of {wide}"), dag: fan_out(wide), runs: 1, steps: wide },
    ]
}

/// Everything in memory.
pub(crate) fn memory(_: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    runtime()?.block_on(async {
        let mut figures = Vec::new();
        for load in loads(size) {
            let store = Timed::new(Arc::new(MemoryStore::new()));
            let orchestrator = builder().store(Arc::new(store.clone())).start()?;
            let trips = raw::trips(size.of(200_000, 1_000)).await;
            let (rate, mut micros) = throughput(&orchestrator, &store, &load).await;
            let (id, what) = (format!("memory.{}", load.id), format!("in memory, {}", load.what));
            let figure = Figure::new(&id, what, rate, "steps/s").latencies(&mut micros);
            figures.push(figure.raw(raw::TRIPS, trips).aim(Aim::AtLeast(400_000.0)));
            orchestrator.shutdown().await;
        }
        Ok(figures)
    })
}

/// Everything durable in one file, `synchronous=FULL`.
pub(crate) fn sqlite(dir: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    runtime()?.block_on(async {
        let mut figures = Vec::new();
        let mut sqlite = Sqlite::open(dir).await?;
        for load in loads(size) {
            let backend = SqliteBackend::open(SqliteConfig::new(dir.join(load.id))).await?;
            let store = Timed::new(Arc::new(backend.store()));
            let orchestrator = builder().store(Arc::new(store.clone())).start()?;
            let rows = sqlite.rows(size.of(20, 1)).await?;
            let (rate, mut micros) = throughput(&orchestrator, &store, &load).await;
            let (id, what) = (format!("sqlite.{}", load.id), format!("SQLite FULL, {}", load.what));
            let note = format!("{} appends to the store; p50 and p99 are theirs", micros.len());
            let figure = Figure::new(&id, what, rate, "steps/s").latencies(&mut micros).note(note);
            figures.push(figure.raw(raw::ROWS, rows).aim(Aim::AtLeast(50_000.0)));
            orchestrator.shutdown().await;
            backend.close().await;
        }
        sqlite.close().await?;
        Ok(figures)
    })
}

/// Steps a second, from the submission until the last run has ended, and what the appends took.
pub(crate) async fn throughput(orchestrator: &Orchestrator, store: &Timed, load: &Load) -> (f64, Vec<f64>) {
    // The first runs make caches, connections and files grow.
    drive(orchestrator, &layered(100, 10), load.runs.min(20)).await;
    let dag = publish(orchestrator, &load.dag).await;
    store.take();
    let begun = now();
    run_all(orchestrator, &dag, load.runs).await;
    (load.steps as f64 / begun.elapsed().as_secs_f64(), store.take())
}

/// A chain in memory: what a step costs when nothing can be shared.
pub(crate) fn chain_memory(_: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    runtime()?.block_on(async {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let trip = median(raw::serial(size.of(20_000, 100)).await).unwrap_or(f64::NAN);
        let measured = chain_of(Orchestrator::builder(), store, size).await?;
        let figure = measured.figure("memory.chain", "in memory");
        Ok(vec![figure.raw(raw::TRIP, 1e6 / trip)])
    })
}

/// A chain on SQLite: a durable commit a step.
pub(crate) fn chain_sqlite(dir: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    runtime()?.block_on(async {
        let mut sqlite = Sqlite::open(dir).await?;
        let before = sqlite.commit(size.of(500, 5)).await?;
        let backend = SqliteBackend::open(SqliteConfig::new(dir.join("chain"))).await?;
        let measured = chain_of(Orchestrator::builder(), Arc::new(backend.store()), size).await?;
        backend.close().await;
        let commit = f64::midpoint(before, sqlite.commit(size.of(500, 5)).await?);
        sqlite.close().await?;
        let figure = measured.figure("sqlite.chain", "SQLite FULL");
        let p50 = figure.p50_micros.unwrap_or(f64::NAN);
        let what = figure.what.clone();
        Ok(vec![
            figure.raw(raw::COMMIT, 1.0 / commit),
            Figure::new(
                "sqlite.chain.step",
                format!("{what}: p50 ÷ one commit"),
                p50 / 1e6 / commit,
                "commits",
            )
            .aim(Aim::AtMost(1.5)),
            Figure::new(
                "sqlite.chain.commits",
                format!("{what}: commits a step"),
                measured.appends,
                "commits",
            )
            .aim(Aim::AtMost(1.5))
            .note("appends to the store, the submission's included; each is at most one durable commit"),
        ])
    })
}

pub(crate) struct Chain {
    length: usize,
    rate: f64,
    /// From one step's execution to the next one's, in microseconds.
    between: Vec<f64>,
    /// Appends per step.
    appends: f64,
}

impl Chain {
    pub(crate) fn figure(&self, id: &str, place: &str) -> Figure {
        let what = format!("{place}, chain of {}", self.length);
        Figure::new(id, what, self.rate, "steps/s").latencies(&mut self.between.clone())
    }
}

/// Measures a chain with `store`; everything else is the builder's.
pub(crate) async fn chain_of(
    builder: OrchestratorBuilder,
    store: Arc<dyn Store>,
    size: Size,
) -> Result<Chain, Failed> {
    let length = size.of(1_000, 50);
    let stamps: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (store, noted) = (Timed::new(store), Arc::clone(&stamps));
    let noop = move |_, _: Value| {
        noted.lock().unwrap_or_else(PoisonError::into_inner).push(now());
        async { Ok::<_, Failure>(()) }
    };
    let builder = builder.settings(settings()).store(Arc::new(store.clone()));
    let orchestrator = builder.task("noop", noop).start()?;
    drive(&orchestrator, &chain(100), 1).await;
    let dag = publish(&orchestrator, &chain(length)).await;
    let take = || std::mem::take(&mut *stamps.lock().unwrap_or_else(PoisonError::into_inner));
    take();
    store.take();
    let begun = now();
    run_all(&orchestrator, &dag, 1).await;
    let rate = length as f64 / begun.elapsed().as_secs_f64();
    let (stamps, appends) = (take(), store.take().len());
    orchestrator.shutdown().await;
    let between = stamps.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs_f64() * 1e6).collect();
    Ok(Chain { length, rate, between, appends: appends as f64 / length as f64 })
}
