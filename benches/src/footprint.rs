//! Memory, and what lies behind many finished runs: opening their file, doing nothing beside it.

use std::future::{Pending, pending};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use orch::engine::Settings;
use orch::executor::Failure;
use orch::lock::{Lock, MemoryLock};
use orch::queue::{MemoryQueue, Queue};
use orch::spec::{Dag, Uses};
use orch::store::Store;
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};
use orch_benches::{builder, chain, drive, now, publish, settings, submit, wide};
use orch_conformance::Counted;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::figure::{Aim, Figure, Size};
use crate::machine::{cpu_time, resident};
use crate::{Failed, runtime};

/// The file of finished runs.
const FINISHED: &str = "finished.db";
/// The same with runs under way.
const ACTIVE: &str = "active.db";

const MIB: f64 = (1 << 20) as f64;

fn finished_runs(size: Size) -> usize {
    size.of(100_000, 100)
}

fn active_runs(size: Size) -> usize {
    size.of(10_000, 20)
}

/// A chain of two whose second step may be held up.
fn two() -> Dag {
    let mut dag = chain(2);
    dag.steps[1].uses = Uses::Function("second".to_owned());
    dag
}

/// Drives many runs through one process, and leaves them in a file for `open` and `idle`.
pub(crate) fn finished(dir: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    runtime()?.block_on(async {
        let backend = SqliteBackend::open(SqliteConfig::new(dir.join(FINISHED))).await?;
        let orchestrator = builder()
            .store(Arc::new(backend.store()))
            .task("second", |_, _: Value| async { Ok::<_, Failure>(()) })
            .start()?;
        let (runs, at_once) = (finished_runs(size), finished_runs(size).min(1_000));
        let mut warm = None;
        let begun = now();
        for done in 0..runs / at_once {
            if done * 10 >= runs / at_once {
                warm = warm.or_else(|| Some((done * at_once, resident()?)));
            }
            drive(&orchestrator, &two(), at_once).await;
        }
        let rate = runs as f64 / begun.elapsed().as_secs_f64();
        let loaded = orchestrator.stats().loaded_runs;
        let resident = resident();
        orchestrator.shutdown().await;
        backend.close().await;
        let what = format!("{runs} runs of two steps, SQLite FULL, {at_once} at a time");
        let mut figures = vec![
            Figure::new("finished", &*what, rate, "runs/s")
                .note(format!("{loaded} runs kept in memory at the end")),
        ];
        if let (Some((before, then)), Some(now)) = (warm, resident) {
            let each = (now - then) / (runs - before) as f64;
            let growth = format!("memory per finished run, over the last {}", runs - before);
            figures.push(Figure::new("memory.finished-run", growth, each, "B"));
            figures.push(Figure::new(
                "finished.resident",
                format!("{what}: resident after"),
                now / MIB,
                "MiB",
            ));
        }
        Ok(figures)
    })
}

/// Adds runs under way to a copy of the file: their first step is done, the second was given back unfinished.
pub(crate) fn active(dir: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    std::fs::copy(dir.join(FINISHED), dir.join(ACTIVE))?;
    runtime()?.block_on(async {
        let runs = active_runs(size);
        let held = Held::default();
        let holding = held.clone();
        let backend = SqliteBackend::open(SqliteConfig::new(dir.join(ACTIVE))).await?;
        let patience = Duration::from_millis(1);
        let orchestrator = builder()
            .settings(Settings { slots: runs, drain: patience, cached_runs: runs, ..settings() })
            .store(Arc::new(backend.store()))
            .task("second", move |_, _: Value| holding.hold())
            .start()?;
        let dag = publish(&orchestrator, &two()).await;
        submit(&orchestrator, &dag, runs).await;
        held.until(runs).await;
        orchestrator.shutdown().await;
        backend.close().await;
        Ok(Vec::new())
    })
}

/// Steps that never end, counted.
#[derive(Clone, Default)]
struct Held(Arc<AtomicUsize>);

impl Held {
    fn hold(&self) -> Pending<Result<(), Failure>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        pending()
    }

    async fn until(&self, wanted: usize) {
        while self.0.load(Ordering::Relaxed) < wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Opens the file with runs under way as a process that starts does; answers how long it takes to a step's execution.
pub(crate) fn open(dir: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    // Every round opens a file that nobody has opened before.
    let own = tempfile::tempdir_in(dir)?;
    let copy = own.path().join("opened.db");
    std::fs::copy(dir.join(ACTIVE), &copy)?;
    let begun = now();
    runtime()?.block_on(async {
        let (executed, mut first) = mpsc::unbounded_channel();
        let backend = SqliteBackend::open(SqliteConfig::new(copy)).await?;
        let orchestrator = builder()
            .store(Arc::new(backend.store()))
            .task("second", move |_, _: Value| {
                // Only the first one is waited for.
                let _ = executed.send(begun.elapsed());
                async { Ok::<_, Failure>(()) }
            })
            .start()?;
        let elapsed = first.recv().await.ok_or("no step was executed")?;
        let resident = resident();
        orchestrator.shutdown().await;
        backend.close().await;
        let what = format!("open a file of {} finished and {} active runs", finished_runs(size), active_runs(size));
        let mut figures = vec![
            Figure::new("open", format!("{what}: first step executed"), elapsed.as_secs_f64(), "s")
                .aim(Aim::AtMost(1.0))
                .note("from before opening the file, which is in the page cache, in a process that has just begun"),
        ];
        figures.extend(resident.map(|bytes| {
            Figure::new("open.resident", format!("{what}: resident then"), bytes / MIB, "MiB")
        }));
        Ok(figures)
    })
}

/// Does nothing beside the file of finished runs, and counts what that costs.
pub(crate) fn idle(dir: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    runtime()?.block_on(async {
        let backend = SqliteBackend::open(SqliteConfig::new(dir.join(FINISHED))).await?;
        let store: Counted<dyn Store> = Counted::new(Arc::new(backend.store()));
        let queue: Counted<dyn Queue> = Counted::new(Arc::new(MemoryQueue::new()));
        let lock: Counted<dyn Lock> = Counted::new(Arc::new(MemoryLock::default()));
        let orchestrator = builder()
            .store(Arc::new(store.clone()))
            .queue(Arc::new(queue.clone()))
            .lock(Arc::new(lock.clone()))
            .task("second", |_, _: Value| async { Ok::<_, Failure>(()) })
            .start()?;
        // It has worked before, and is alive.
        drive(&orchestrator, &two(), size.of(100, 2)).await;
        // What the last writes leave to do is done then: a sweep that finds nothing.
        tokio::time::sleep(Duration::from_millis(size.of(8_000, 100))).await;
        let counts =
            || [("store", store.take_counts()), ("queue", queue.take_counts()), ("lock", lock.take_counts())];
        counts();
        let watched = Duration::from_millis(size.of(30_000, 300));
        let before = cpu_time();
        tokio::time::sleep(watched).await;
        let after = cpu_time();
        let counted = counts();
        let resident = resident();
        orchestrator.shutdown().await;
        backend.close().await;

        let calls: u64 = counted[0].1.values().sum();
        let list: Vec<String> = counted
            .iter()
            .flat_map(|(seam, counts)| {
                counts.iter().map(move |(method, count)| format!("{count} {seam}.{method}"))
            })
            .collect();
        let what = format!("idle behind {} finished runs", finished_runs(size));
        // Queue and lock are in this process: asking them is no query. The note names what was asked.
        let queries = format!("{what}: queries of the store in {watched:?}");
        let mut figures =
            vec![Figure::new("idle.calls", queries, calls as f64, "queries").aim(Aim::AtMost(0.0))];
        if !list.is_empty() {
            figures[0].note = Some(list.join(", "));
        }
        if let (Some(before), Some(after)) = (before, after) {
            let share = (after - before).as_secs_f64() / watched.as_secs_f64() * 100.0;
            figures.push(
                Figure::new("idle.cpu", format!("{what}: of one core"), share, "%").aim(Aim::AtMost(1.0)),
            );
        }
        figures.extend(resident.map(|bytes| {
            Figure::new("idle.resident", format!("{what}: resident"), bytes / MIB, "MiB")
                .aim(Aim::AtMost(100.0))
        }));
        Ok(figures)
    })
}

/// What a step costs while it executes.
pub(crate) fn executing(dir: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    let runs = size.of(1_000, 10);
    steps(dir, "memory.executing-step", "memory per executing step", runs, runs * 100)
}

/// What a step costs while it waits for a place.
pub(crate) fn queued(dir: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    steps(dir, "memory.queued-step", "memory per queued step", size.of(1_000, 10), 1)
}

/// The growth of a process over runs of 100 steps each, of which `slots` at once never end.
fn steps(dir: &Path, id: &str, what: &str, runs: usize, slots: usize) -> Result<Vec<Figure>, Failed> {
    let runtime = runtime()?;
    let figures = runtime.block_on(async {
        let held = Held::default();
        let holding = held.clone();
        // On disk, so that the ledger is not counted.
        let backend = SqliteBackend::open(SqliteConfig::new(dir.join(id))).await?;
        let orchestrator = builder()
            .settings(Settings { slots, ..settings() })
            .store(Arc::new(backend.store()))
            .task("second", move |_, _: Value| holding.hold())
            .start()?;
        drive(&orchestrator, &chain(2), 10).await;
        let mut dag = wide(100);
        for step in &mut dag.steps {
            step.uses = Uses::Function("second".to_owned());
        }
        let dag = publish(&orchestrator, &dag).await;
        let before = resident();
        submit(&orchestrator, &dag, runs).await;
        held.until(slots).await;
        // What their submission needed for a moment is given back.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let figure = |(before, after): (f64, f64)| {
            let what = format!("{what}, {runs} runs of 100");
            let note = "growth of the resident process; run and hint included, the ledger is on disk";
            Figure::new(id, what, (after - before) / (runs * 100) as f64, "B").note(note)
        };
        Ok(before.zip(resident()).map(figure).into_iter().collect())
    });
    // Its steps never end: it is left as it is.
    runtime.shutdown_background();
    figures
}
