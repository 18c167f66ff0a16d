//! The loads of `benches/peers` on apalis: jobs in memory, and in the SQLite file that is named. One line of JSON each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteStorage};
use futures::channel::mpsc::unbounded;
use futures::{SinkExt, StreamExt};
use tokio::sync::Notify;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Jobs at once.
const CONCURRENCY: usize = 100;
/// apalis-sqlite gets slower with the square of the jobs that its table holds.
const SQLITE_MOST: usize = 2_000;

/// What has run so far.
#[derive(Default)]
struct Seen {
    count: AtomicUsize,
    stamps: Mutex<Vec<Instant>>,
    all: Notify,
}

impl Seen {
    fn one(&self, of: usize) {
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == of {
            self.all.notify_one();
        }
    }

    fn stamp(&self, of: usize) {
        self.stamps.lock().expect("no job panics").push(Instant::now());
        self.one(of);
    }
}

fn size(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn report(peer: &str, load: &str, steps: usize, took: Duration, durability: &str, seen: &Seen, note: &str) {
    let seconds = took.as_secs_f64();
    let stamps = seen.stamps.lock().expect("no job panics");
    let mut between: Vec<f64> =
        stamps.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs_f64() * 1e6).collect();
    between.sort_by(f64::total_cmp);
    let mut line = serde_json::json!({
        "peer": peer, "load": load, "steps": steps, "seconds": seconds, "stepsPerSecond": steps as f64 / seconds,
        "durability": durability, "note": note,
    });
    for (name, percent) in [("p50Micros", 0.5), ("p99Micros", 0.99)] {
        let rank = (percent * between.len() as f64).ceil() as usize;
        if let Some(value) = between.get(rank.saturating_sub(1)) {
            line[name] = (*value).into();
        }
    }
    println!("{line}");
}

/// A backend in memory, and what puts jobs into it.
fn memory() -> (MemoryStorage<usize>, MemorySink<usize>) {
    let (sender, receiver) = unbounded::<Task<usize>>();
    let sender = sender.sink_map_err(MemoryStorageError::from);
    let sink = MemorySink::new(Arc::new(futures::lock::Mutex::new(Box::new(sender))));
    (MemoryStorage::new_with(sink.clone(), receiver.boxed()), sink)
}

async fn in_memory(load: &str, jobs: usize, note: &str) -> Result<(), Failed> {
    let (backend, mut sink) = memory();
    let seen = Arc::new(Seen::default());
    let counted = Arc::clone(&seen);
    let job = move |_: usize| {
        counted.one(jobs);
        async { Ok::<_, BoxDynError>(()) }
    };
    let worker = WorkerBuilder::new(load).backend(backend).concurrency(CONCURRENCY).build(job);
    let begun = Instant::now();
    // All before the worker begins: the sink loses a wake-up now and then when both want it at once.
    for at in 0..jobs {
        sink.feed(TaskBuilder::new(at).build()).await?;
    }
    sink.flush().await?;
    let running = tokio::spawn(worker.run());
    seen.all.notified().await;
    report("apalis 1.0.0, memory", load, jobs, begun.elapsed(), "none", &seen, note);
    running.abort();
    Ok(())
}

async fn chain_in_memory(length: usize) -> Result<(), Failed> {
    let (backend, mut sink) = memory();
    let seen = Arc::new(Seen::default());
    let (counted, next) = (Arc::clone(&seen), sink.clone());
    let job = move |at: usize| {
        counted.stamp(length);
        let mut next = next.clone();
        async move {
            if at + 1 < length {
                next.send(TaskBuilder::new(at + 1).build()).await?;
            }
            Ok::<_, BoxDynError>(())
        }
    };
    let worker = WorkerBuilder::new("chain").backend(backend).concurrency(CONCURRENCY).build(job);
    let begun = Instant::now();
    sink.send(TaskBuilder::new(0).build()).await?;
    let running = tokio::spawn(worker.run());
    seen.all.notified().await;
    let note = "each job adds the next one; no dependency is declared";
    report("apalis 1.0.0, memory", "chain", length, begun.elapsed(), "none", &seen, note);
    running.abort();
    Ok(())
}

/// How the connections that were used reach the disk: its setup speaks to one of them only.
async fn synchronous(pool: &sqlx::SqlitePool) -> Result<String, Failed> {
    let mut connections = Vec::new();
    while let Some(connection) = pool.try_acquire() {
        connections.push(connection);
    }
    let mut off = 0;
    for connection in &mut connections {
        let mode: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut **connection).await?;
        off += usize::from(mode == 0);
    }
    Ok(format!("synchronous=OFF on {off} of {} connections that its pool left open", connections.len()))
}

/// One load in a file of its own.
async fn on_sqlite(path: &str, load: &str, jobs: usize, chained: bool, note: &str) -> Result<(), Failed> {
    let (pool, callback) = SqliteStorage::connect_with_callback(&format!("sqlite:{path}?mode=rwc"))?;
    SqliteStorage::setup(&pool).await?;
    let config = Config::default().queue(load).batch_size(CONCURRENCY);
    let mut sink = SqliteStorage::<usize>::new(&pool).with_config(config.clone());
    let backend = SqliteStorage::<usize>::new(&pool).with_config(config).with_callback(callback);
    let seen = Arc::new(Seen::default());
    let (counted, next) = (Arc::clone(&seen), sink.clone());
    let job = move |at: usize| {
        if chained {
            counted.stamp(jobs);
        } else {
            counted.one(jobs);
        }
        let mut next = next.clone();
        async move {
            if chained && at + 1 < jobs {
                next.push(at + 1).await?;
            }
            Ok::<_, BoxDynError>(())
        }
    };
    let worker = WorkerBuilder::new(load).backend(backend).concurrency(CONCURRENCY).build(job);
    let begun = Instant::now();
    let running = tokio::spawn(worker.run());
    sink.push_bulk(if chained { vec![0] } else { (0..jobs).collect() }).await?;
    tokio::select! {
        () = seen.all.notified() => {}
        ended = running => return Err(format!("the worker ended: {ended:?}").into()),
    }
    let ended = begun.elapsed();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let durability = format!("SQLite, WAL, {}", synchronous(&pool).await?);
    report("apalis-sqlite 1.0.0", load, jobs, ended, &durability, &seen, note);
    Ok(())
}

fn fewer(jobs: usize, note: &str) -> (usize, String) {
    if jobs <= SQLITE_MOST {
        return (jobs, note.to_owned());
    }
    let why = "it gets slower with the square of the jobs in its table";
    (SQLITE_MOST, format!("{note}; {SQLITE_MOST} and not {jobs}: {why}"))
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failed> {
    let path = std::env::args().nth(1).ok_or("name a file for the database")?;
    let (jobs, chain) = (size("PEERS_JOBS", 10_000), size("PEERS_CHAIN", 1_000));
    let fan = size("PEERS_FAN", 10_000);
    let (each, joinless) =
        ("ends when the last job has run", "nothing waits for all of them: it has no joins");
    in_memory("jobs", jobs, each).await?;
    chain_in_memory(chain).await?;
    in_memory("fan-out", fan, joinless).await?;
    for (load, count, chained, note) in [
        ("jobs", jobs, false, each),
        ("chain", chain, true, "each job adds the next one; no dependency is declared"),
        ("fan-out", fan, false, joinless),
    ] {
        let (count, note) = fewer(count, note);
        on_sqlite(&format!("{path}-{load}"), load, count, chained, &note).await?;
    }
    Ok(())
}
