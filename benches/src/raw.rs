//! What the machine can do at most: flushes, commits, rows, hashed bytes, messages between tasks.

use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;

use orch_benches::now;
use sha2::{Digest as _, Sha256};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use crate::figure::{Figure, Size};
use crate::stats::median;
use crate::{Failed, runtime};

/// Rows of one commit that is shared.
const GROUP: u32 = 1_000;
/// Bytes of a row, and of an entry: about those of a step's.
pub(crate) const ENTRY_BYTES: usize = 400;
/// Requests under way at once.
const IN_FLIGHT: usize = 256;

pub(crate) const SHA256: &str = "SHA-256 of the same bytes";
pub(crate) const TRIPS: &str = "channel round trips, 256 under way";
pub(crate) const TRIP: &str = "channel round trip";
pub(crate) const ROWS: &str = "SQLite rows, 1000 a commit";
pub(crate) const COMMIT: &str = "SQLite commits of a row";

/// All of them by themselves.
pub(crate) fn measure(dir: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    let flushes = flushes(dir, size.of(1_000, 10))?;
    let bytes = size.of(400, 1) * 1_000_000;
    let hashed = hashes(64 << 10, bytes) * (64 << 10) as f64 / 1e6;
    let runtime = runtime()?;
    let trips = runtime.block_on(trips(size.of(500_000, 1_000)));
    let serial = runtime.block_on(serial(size.of(100_000, 100)));
    let (single, shared) = runtime.block_on(async {
        let mut sqlite = Sqlite::open(dir).await?;
        let single = sqlite.singles(size.of(1_000, 10)).await?;
        let shared = sqlite.groups(size.of(30, 2)).await?;
        sqlite.close().await.map(|()| (single, shared))
    })?;
    let per_second = |micros: &[f64]| micros.len() as f64 * 1e6 / micros.iter().sum::<f64>();
    let latent = |id: &str, what: &str, each: f64, unit: &str, mut micros: Vec<f64>| {
        Figure::new(id, what, each * per_second(&micros), unit).latencies(&mut micros)
    };
    Ok(vec![
        latent("raw.fdatasync", "raw: fdatasync of 4 KiB, appended", 1.0, "flushes/s", flushes),
        latent("raw.commit", "raw: SQLite FULL, a row a commit", 1.0, "commits/s", single),
        latent("raw.rows", "raw: SQLite FULL, 1000 rows a commit", f64::from(GROUP), "rows/s", shared),
        Figure::new("raw.sha256", "raw: SHA-256, blocks of 64 KiB, one core", hashed, "MB/s"),
        Figure::new("raw.trips", format!("raw: {TRIPS}"), trips, "trips/s"),
        latent("raw.trip", "raw: channel round trip, one after the other", 1.0, "trips/s", serial),
    ])
}

/// What appending 4 KiB and flushing takes, in microseconds.
fn flushes(dir: &Path, count: usize) -> Result<Vec<f64>, Failed> {
    let path = dir.join("flushed");
    let mut file = File::create(&path)?;
    let mut micros = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        micros.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(path)?;
    Ok(micros)
}

/// Messages of `bytes` that one core hashes a second, measured over about `total` bytes.
pub(crate) fn hashes(bytes: usize, total: usize) -> f64 {
    let message = vec![7_u8; bytes];
    let count = (total / bytes).max(1);
    let begun = now();
    for _ in 0..count {
        black_box(Sha256::digest(black_box(&message)));
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Who answers: hands every message back.
fn answering() -> mpsc::Sender<oneshot::Sender<()>> {
    let (sender, mut inbox) = mpsc::channel::<oneshot::Sender<()>>(16_384);
    tokio::spawn(async move {
        while let Some(answer) = inbox.recv().await {
            // Nobody waits any more: then nobody is waiting.
            let _ = answer.send(());
        }
    });
    sender
}

async fn trip(inbox: &mpsc::Sender<oneshot::Sender<()>>) {
    let (answer, answered) = oneshot::channel();
    inbox.send(answer).await.expect("somebody answers");
    answered.await.expect("every message is answered");
}

/// Round trips a second between tasks with many of them under way.
pub(crate) async fn trips(count: usize) -> f64 {
    let inbox = answering();
    let begun = now();
    let tasks: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let inbox = inbox.clone();
            tokio::spawn(async move {
                for _ in 0..count.div_ceil(IN_FLIGHT) {
                    trip(&inbox).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("asking does not panic");
    }
    (count.div_ceil(IN_FLIGHT) * IN_FLIGHT) as f64 / begun.elapsed().as_secs_f64()
}

/// What a round trip takes while nothing else happens, in microseconds.
pub(crate) async fn serial(count: usize) -> Vec<f64> {
    let inbox = answering();
    let task = tokio::spawn(async move {
        let mut micros = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = now();
            trip(&inbox).await;
            micros.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        micros
    });
    task.await.expect("asking does not panic")
}

/// SQLite by itself, set as orch's backend sets it, with a table like that of the entries.
pub(crate) struct Sqlite {
    connection: SqliteConnection,
    seq: i64,
}

impl Sqlite {
    pub(crate) async fn open(dir: &Path) -> Result<Self, Failed> {
        let mut connection = SqliteConnectOptions::new()
            .filename(dir.join("raw.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", "-65536")
            .pragma("mmap_size", "268435456")
            .pragma("wal_autocheckpoint", "10000")
            .disable_statement_logging()
            .connect()
            .await?;
        let table = "CREATE TABLE IF NOT EXISTS appends (stream INTEGER NOT NULL, seq INTEGER NOT NULL, \
                     lines TEXT NOT NULL, PRIMARY KEY (stream, seq)) STRICT";
        sqlx::query(table).execute(&mut connection).await?;
        Ok(Self { connection, seq: 0 })
    }

    /// What commits of one row take, in microseconds.
    pub(crate) async fn singles(&mut self, count: usize) -> Result<Vec<f64>, Failed> {
        self.commits(count, 1).await
    }

    /// What commits of [`GROUP`] rows take, each row of another stream, in microseconds.
    pub(crate) async fn groups(&mut self, count: usize) -> Result<Vec<f64>, Failed> {
        self.commits(count, GROUP).await
    }

    /// Rows a second when they share their commits.
    pub(crate) async fn rows(&mut self, count: usize) -> Result<f64, Failed> {
        let micros = self.groups(count).await?;
        Ok(f64::from(GROUP) * micros.len() as f64 * 1e6 / micros.iter().sum::<f64>())
    }

    /// Seconds that a commit of one row takes, the median of `count`.
    pub(crate) async fn commit(&mut self, count: usize) -> Result<f64, Failed> {
        Ok(median(self.singles(count).await?).unwrap_or(f64::NAN) / 1e6)
    }

    async fn commits(&mut self, count: usize, rows: u32) -> Result<Vec<f64>, Failed> {
        // SQLite makes the rows itself: what is measured is neither binding nor talking to it.
        let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) \
                      INSERT INTO appends SELECT i, ?, hex(zeroblob(?)) FROM n";
        let mut micros = Vec::with_capacity(count);
        for _ in 0..count {
            self.seq += 1;
            let query = sqlx::query(insert).bind(rows).bind(self.seq).bind((ENTRY_BYTES / 2) as i64);
            let begun = now();
            query.execute(&mut self.connection).await?;
            micros.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        Ok(micros)
    }

    pub(crate) async fn close(self) -> Result<(), Failed> {
        Ok(self.connection.close().await?)
    }
}
