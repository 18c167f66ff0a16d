//! The same loads with the ledger on servers of this machine.

use std::path::Path;
use std::sync::Arc;

use orch::engine::Orchestrator;
use orch_backend_redis::{RedisBackend, RedisConfig};
use orch_benches::{builder, now};
use orch_servers::{Kind, Server};

use crate::engine::{chain_of, loads, throughput};
use crate::figure::{Aim, Figure, Size};
use crate::timed::Timed;
use crate::{Failed, runtime, tell};

const LUA: &str = "Redis: Lua of three commands, 256 under way";
const TRIP: &str = "Redis: one round trip";

/// A Redis server whose log is flushed before a write is answered: nothing acknowledged is lost with power.
fn redis_server() -> Option<Server> {
    let server = Server::start(Kind::Redis, &["--appendonly", "yes", "--appendfsync", "always"]);
    if server.is_none() {
        tell("there is no redis server; `cargo xtask servers` fetches one");
    }
    server
}

async fn connect(server: &Server) -> Result<RedisBackend, Failed> {
    Ok(RedisBackend::open(server.url().parse::<RedisConfig>()?).await?)
}

/// Ledger and hints on Redis.
pub(crate) fn redis(_: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    let Some(server) = redis_server() else { return Ok(Vec::new()) };
    runtime()?.block_on(async {
        let mut figures = Vec::new();
        let backend = connect(&server).await?;
        for load in loads(size) {
            let raw = scripts(&server, size.of(100_000, 100)).await?;
            let store = Timed::new(Arc::new(backend.store()));
            let orchestrator =
                builder().store(Arc::new(store.clone())).queue(Arc::new(backend.queue())).start()?;
            let (rate, mut micros) = throughput(&orchestrator, &store, &load).await;
            let (id, what) = (format!("redis.{}", load.id), format!("Redis store and queue, {}", load.what));
            let note = format!("{} appends to the store; p50 and p99 are theirs", micros.len());
            let figure = Figure::new(&id, what, rate, "steps/s").latencies(&mut micros).note(note);
            figures.push(figure.raw(LUA, raw).aim(Aim::AtLeast(30_000.0)));
            orchestrator.shutdown().await;
        }
        Ok(figures)
    })
}

/// A chain on Redis: a durable append a step.
pub(crate) fn chain_redis(_: &Path, size: Size) -> Result<Vec<Figure>, Failed> {
    let Some(server) = redis_server() else { return Ok(Vec::new()) };
    runtime()?.block_on(async {
        let trip = round_trip(&server, size.of(5_000, 10)).await?;
        let backend = connect(&server).await?;
        let builder = Orchestrator::builder().queue(Arc::new(backend.queue()));
        let measured = chain_of(builder, Arc::new(backend.store()), size).await?;
        let figure = measured.figure("redis.chain", "Redis store and queue");
        let p50 = figure.p50_micros.unwrap_or(f64::NAN);
        let step = format!("{}: p50 from step to step", figure.what);
        Ok(vec![
            figure.raw(TRIP, 1.0 / trip),
            Figure::new("redis.chain.step", step, p50 / 1e6, "s").raw(TRIP, trip).aim(Aim::AtMost(150e-6)),
        ])
    })
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
