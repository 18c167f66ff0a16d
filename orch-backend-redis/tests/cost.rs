//! What calls, steps and idle workers cost, counted at the server: commands that clients sent. `lib.rs` states them.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use orch::engine::{DagRef, Identity, Orchestrator, Submit};
use orch::executor::Failure;
use orch::ledger::RunStatus;
use orch::spec::Dag;
use orch::{Limits, TenantId};
use orch_backend_redis::{RedisBackend, RedisConfig};
use orch_servers::{Kind, Server, skipped};
use serde_json::{Value, json};

/// How long an idle worker is watched: a minute, so that nothing that comes by every so often is missed.
const WATCHED: Duration = Duration::from_secs(60);
/// How long until the runs are forgotten: the next claim strikes their tenant off the register.
const SETTLING: Duration = Duration::from_secs(25);

/// Watches a server: commands by name, without those that scripts carry out.
struct Monitor(Arc<Mutex<BTreeMap<String, u64>>>);

impl Monitor {
    fn watch(server: &Server) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream.write_all(b"MONITOR\r\n").unwrap();
        let (counts, mut lines) = (Arc::new(Mutex::default()), BufReader::new(stream).lines());
        assert_eq!(lines.next().unwrap().unwrap(), "+OK");
        let counting: Arc<Mutex<BTreeMap<String, u64>>> = Arc::clone(&counts);
        thread::spawn(move || {
            // `+1700000000.000000 [0 127.0.0.1:40000] "evalsha" "…"`, with `lua` for the address within a script.
            for line in lines.map_while(Result::ok).filter(|line| !line.contains("[0 lua]")) {
                let command = line.split('"').nth(1).unwrap_or_default().to_lowercase();
                *counting.lock().unwrap().entry(command).or_default() += 1;
            }
        });
        Self(counts)
    }

    fn take(&self) -> BTreeMap<String, u64> {
        // What was sent just now has yet to be told.
        thread::sleep(Duration::from_millis(200));
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn chain(steps: usize) -> Dag {
    let mut text = "apiVersion: orch/v1\nkind: Dag\nid: chain\nsteps:\n".to_owned();
    for step in 0..steps {
        let needs = if step == 0 { String::new() } else { format!(", needs: [s{}]", step - 1) };
        text.push_str(&format!("  - {{ id: s{step}, uses: fn/noop{needs} }}\n"));
    }
    orch::spec::parse("chain.yaml", &text, &Limits::default()).unwrap()
}

async fn open(server: &Server) -> (RedisBackend, Orchestrator) {
    let backend = RedisBackend::open(RedisConfig::new("127.0.0.1", server.port())).await.unwrap();
    let orchestrator = Orchestrator::builder()
        .store(Arc::new(backend.store()))
        .queue(Arc::new(backend.queue()))
        .lock(Arc::new(backend.lock()))
        .task("noop", |_, _: Value| async { Ok::<_, Failure>(()) })
        .start()
        .unwrap();
    (backend, orchestrator)
}

async fn run(orchestrator: &Orchestrator, dag: Dag) {
    let who = Identity::new(TenantId::new("acme").unwrap(), "test");
    let submit = Submit::new(DagRef::Unpublished(Box::new(dag)), json!({}));
    let run = orchestrator.submit(&who, submit).await.unwrap().run.run;
    assert_eq!(orchestrator.wait(&who, run).await.unwrap().status, RunStatus::Completed);
}

fn start() -> Option<Server> {
    let server = Server::start(Kind::Redis, &["--appendonly", "yes"]);
    if server.is_none() {
        skipped(Kind::Redis);
    }
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_sends_six_commands_a_minute() {
    let Some(server) = start() else { return };
    let (_backend, orchestrator) = open(&server).await;
    run(&orchestrator, chain(3)).await;
    tokio::time::sleep(SETTLING).await;
    let monitor = Monitor::watch(&server);
    tokio::time::sleep(WATCHED).await;
    let idle = monitor.take();
    orchestrator.shutdown().await;
    let all: u64 = idle.values().sum();
    assert!(all <= 6, "{idle:?}");
    assert!(all >= 2, "it is alive: {idle:?}");
    let known = ["zrange", "evalsha"];
    assert!(
        idle.keys().all(|command| known.contains(&command.as_str())),
        "asking, and nothing else: {idle:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_a_chain_costs_one_script() {
    let Some(server) = start() else { return };
    let (_backend, orchestrator) = open(&server).await;
    run(&orchestrator, chain(3)).await;
    let monitor = Monitor::watch(&server);
    run(&orchestrator, chain(200)).await;
    let sent = monitor.take();
    orchestrator.shutdown().await;
    let scripts = sent["evalsha"];
    // The beginning and the end of the run take some more, and so does a hint that comes in between.
    assert!((200..260).contains(&scripts), "{sent:?}");
    assert!(sent.values().sum::<u64>() < 300, "{sent:?}");
}
