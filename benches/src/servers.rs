//! The same loads with the ledger on servers of this machine.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::doc;
use orch::engine::{Orchestrator, Roles, Settings};
use orch::ledger::RunStatus;
use orch::store::RunsQuery;
use orch_backend_mongo::{MongoBackend, MongoConfig};
use orch_backend_redis::{RedisBackend, RedisConfig};
use orch_benches::{builder, now, publish, settings, submit, who};
use orch_servers::{Kind, Server, initiate};

use crate::engine::{chain_of, loads, throughput};
use crate::figure::{Aim, Figure, Size};
use crate::timed::Timed;
use crate::{Failed, runtime, tell};

const LUA: &str = "Redis: Lua of three commands, 256 under way";
const TRIP: &str = "Redis: one round trip";
const INSERT: &str = "MongoDB: documents of 1 KiB, 1000 an insert, j: true";
/// Processes that work, where several do.
const PROCESSES: usize = 4;

/// How a Redis server's log reaches the disk: what it is called, and the words for it.
const FSYNC: [(&str, &str); 2] = [("redis", "everysec"), ("redis-always", "always")];

fn start(kind: Kind, options: &[&str]) -> Option<Server> {
    let server = Server::start(kind, options);
    if server.is_none() {
        tell(&format!("there is no {} server; `cargo xtask servers` fetches one", kind.name()));
    }
    server
}

/// A Redis server that keeps a log and flushes it every second, or before each answer.
fn redis_server(fsync: &str) -> Option<Server> {
    start(Kind::Redis, &["--appendonly", "yes", "--appendfsync", fsync])
}

/// A MongoDB replica set of one.
fn mongo_server() -> Option<Server> {
    let server = start(Kind::Mongo, &["--replSet", "rs"])?;
    initiate(&server);
    Some(server)
}

fn mongo_url(server: &Server) -> String {
    format!("{}/bench?replicaSet=rs", server.url())
}

async fn connect(server: &Server) -> Result<RedisBackend, Failed> {
    Ok(RedisBackend::open(server.url().parse::<RedisConfig>()?).await?)
}

/// Ledger and hints on Redis.
pub(crate) fn redis(_: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    let mut figures = Vec::new();
    for (name, fsync) in FSYNC {
        let Some(server) = redis_server(fsync) else { return Ok(figures) };
        figures.extend(runtime()?.block_on(redis_with(&server, name, fsync, size))?);
    }
    Ok(figures)
}

async fn redis_with(server: &Server, name: &str, fsync: &str, size: Size) -> Result<Vec<Figure>, Failed> {
    let mut figures = Vec::new();
    let backend = connect(server).await?;
    for load in loads(size) {
        let raw = scripts(server, size.of(100_000, 100)).await?;
        let store = Timed::new(Arc::new(backend.store()));
        let builder = builder().store(Arc::new(store.clone())).queue(Arc::new(backend.queue()));
        let orchestrator = builder.start()?;
        let (rate, mut micros) = throughput(&orchestrator, &store, &load).await;
        let (id, what) =
            (format!("{name}.{}", load.id), format!("Redis ({fsync}) store and queue, {}", load.what));
        let note = format!("{} appends to the store; p50 and p99 are theirs", micros.len());
        let figure = Figure::new(&id, what, rate, "steps/s").latencies(&mut micros).note(note).raw(LUA, raw);
        figures.push(if fsync == "always" { figure } else { figure.aim(Aim::AtLeast(30_000.0)) });
        orchestrator.shutdown().await;
    }
    Ok(figures)
}

/// A chain on Redis: an append a step.
pub(crate) fn chain_redis(_: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    let mut figures = Vec::new();
    for (name, fsync) in FSYNC {
        let Some(server) = redis_server(fsync) else { return Ok(figures) };
        let (trip, measured) = runtime()?.block_on(async {
            let trip = round_trip(&server, size.of(5_000, 10)).await?;
            let backend = connect(&server).await?;
            let builder = Orchestrator::builder().queue(Arc::new(backend.queue()));
            Ok::<_, Failed>((trip, chain_of(builder, Arc::new(backend.store()), size).await?))
        })?;
        let figure = measured.figure(&format!("{name}.chain"), &format!("Redis ({fsync}) store and queue"));
        let p50 = figure.p50_micros.unwrap_or(f64::NAN);
        let step = format!("{}: p50 from step to step", figure.what);
        let step = Figure::new(&format!("{name}.chain.step"), step, p50 / 1e6, "s").raw(TRIP, trip);
        figures.push(figure.raw(TRIP, 1.0 / trip));
        figures.push(if fsync == "always" { step } else { step.aim(Aim::AtMost(150e-6)) });
    }
    Ok(figures)
}

/// The ledger on MongoDB, hints in memory.
pub(crate) fn mongo(_: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    let Some(server) = mongo_server() else { return Ok(Vec::new()) };
    runtime()?.block_on(async {
        let mut figures = Vec::new();
        let backend = MongoBackend::open(mongo_url(&server).parse::<MongoConfig>()?).await?;
        for load in loads(size) {
            let raw = inserts(&server, size.of(100, 1)).await?;
            let store = Timed::new(Arc::new(backend.store()));
            let orchestrator = builder().store(Arc::new(store.clone())).start()?;
            let (rate, mut micros) = throughput(&orchestrator, &store, &load).await;
            let (id, what) =
                (format!("mongo.{}", load.id), format!("MongoDB, hints in memory, {}", load.what));
            let note = format!("{} appends to the store; p50 and p99 are theirs", micros.len());
            let figure = Figure::new(&id, what, rate, "steps/s").latencies(&mut micros).note(note);
            figures.push(figure.raw(INSERT, raw).aim(Aim::AtLeast(15_000.0)));
            orchestrator.shutdown().await;
        }
        Ok(figures)
    })
}

/// The ledger on MongoDB and hints on Redis, shared by several processes that work.
pub(crate) fn processes(_: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    let Some((mongo, redis)) = mongo_server().zip(redis_server("everysec")) else { return Ok(Vec::new()) };
    let urls = [mongo_url(&mongo), redis.url()];
    let mut workers = Workers::default();
    for _ in 0..PROCESSES {
        workers.0.push(
            Command::new(std::env::current_exe()?).arg("--work").args(&urls).stdin(Stdio::piped()).spawn()?,
        );
    }
    runtime()?.block_on(async {
        let orchestrator = shared(&urls, Roles { work: false, ..Roles::ALL }).await?;
        let mut figures = Vec::new();
        // The workers are there once they have finished something.
        let warm = publish(&orchestrator, &orch_benches::layered(100, 10)).await;
        submit(&orchestrator, &warm, PROCESSES * 4).await;
        ended(&orchestrator).await?;
        for load in loads(size) {
            let dag = publish(&orchestrator, &load.dag).await;
            let begun = now();
            submit(&orchestrator, &dag, load.runs).await;
            ended(&orchestrator).await?;
            let rate = load.steps as f64 / begun.elapsed().as_secs_f64();
            let what = format!("MongoDB and Redis, {PROCESSES} processes, {}", load.what);
            let figure = Figure::new(&format!("processes.{}", load.id), what, rate, "steps/s");
            figures.push(figure.aim(Aim::AtLeast(10_000.0)));
        }
        orchestrator.shutdown().await;
        Ok(figures)
    })
}

/// Processes that end when this is dropped.
#[derive(Default)]
struct Workers(Vec<Child>);

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            // It may have ended by itself.
            let _ = (worker.kill(), worker.wait());
        }
    }
}

/// Works on what others submit, until its standard input is closed.
pub(crate) fn work(urls: &[String]) -> Result<(), Failed> {
    let runtime = runtime()?;
    let orchestrator = runtime.block_on(shared(urls, Roles::ALL))?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    runtime.block_on(orchestrator.shutdown());
    Ok(())
}

async fn shared(urls: &[String], roles: Roles) -> Result<Orchestrator, Failed> {
    let [mongo, redis] = urls else { return Err("two addresses are needed".into()) };
    let mongo = MongoBackend::open(mongo.parse::<MongoConfig>()?).await?;
    let redis = RedisBackend::open(redis.parse::<RedisConfig>()?).await?;
    let settings = Settings { roles, ..settings() };
    let builder = builder().settings(settings).store(Arc::new(mongo.store()));
    Ok(builder.queue(Arc::new(redis.queue())).lock(Arc::new(redis.lock())).start()?)
}

/// Waits until every run has completed.
async fn ended(orchestrator: &Orchestrator) -> Result<(), Failed> {
    loop {
        let (begun, mut open) = (now(), 0);
        for status in RunStatus::ALL.iter().copied() {
            let query = RunsQuery { status: Some(status), limit: 1, ..RunsQuery::all(who().tenant) };
            let found = orchestrator.runs(&who(), query).await?.runs.len();
            match status {
                RunStatus::Completed => {}
                _ if !status.is_terminal() => open += found,
                _ if found > 0 => return Err(format!("a run is {status}").into()),
                _ => {}
            }
        }
        if open == 0 {
            return Ok(());
        }
        // The servers are there for the workers.
        tokio::time::sleep((begun.elapsed() * 10).max(Duration::from_millis(20))).await;
    }
}

/// Scripts a second that append to a stream and set two fields, many of them under way.
async fn scripts(server: &Server, count: usize) -> Result<f64, Failed> {
    let text = "redis.call('RPUSH', KEYS[1], ARGV[1]) redis.call('HSET', KEYS[2], 'a', ARGV[1]) \
                return redis.call('HSET', KEYS[2], 'b', ARGV[1])";
    let connection = redis::Client::open(server.url())?.get_multiplexed_async_connection().await?;
    let script = Arc::new(redis::Script::new(text));
    let begun = now();
    let tasks = (0..256).map(|task| {
        let (mut connection, script) = (connection.clone(), Arc::clone(&script));
        tokio::spawn(async move {
            let keys = [format!("raw:l{task}"), format!("raw:h{task}")];
            for _ in 0..count.div_ceil(256) {
                let mut call = script.prepare_invoke();
                call.key(&keys[0]).key(&keys[1]).arg([7_u8; 400].as_slice());
                call.invoke_async::<redis::Value>(&mut connection).await?;
            }
            redis::RedisResult::Ok(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    Ok((count.div_ceil(256) * 256) as f64 / begun.elapsed().as_secs_f64())
}

/// Seconds that a round trip takes while nothing else happens.
async fn round_trip(server: &Server, count: usize) -> Result<f64, Failed> {
    let mut connection = redis::Client::open(server.url())?.get_multiplexed_async_connection().await?;
    let begun = now();
    for _ in 0..count {
        redis::cmd("PING").query_async::<redis::Value>(&mut connection).await?;
    }
    Ok(begun.elapsed().as_secs_f64() / count as f64)
}

/// Documents a second that are durable when they are answered.
async fn inserts(server: &Server, count: usize) -> Result<f64, Failed> {
    let client =
        mongodb::Client::with_uri_str(format!("{}&w=majority&journal=true", mongo_url(server))).await?;
    let collection = client.database("raw").collection::<mongodb::bson::Document>("raw");
    let text = "x".repeat(1 << 10);
    let begun = now();
    for call in 0..count {
        let document =
            |at: usize| doc! { "_id": format!("{:x}.{call}.{at}", std::process::id()), "lines": &text };
        collection.insert_many((0..1_000).map(document)).ordered(false).await?;
    }
    let rate = (count * 1_000) as f64 / begun.elapsed().as_secs_f64();
    collection.drop().await?;
    Ok(rate)
}
