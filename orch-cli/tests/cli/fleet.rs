//! Four workers on one ledger in MongoDB, with hints and slots on Redis, while whatever can go wrong does: workers are
//! killed and stopped, servers are killed, flushed, deposed, and run out of disk.
//!
//! `ORCH_FLEET=RUNS,ITEMS` sets how much there is to do: `1000,10000` is what `docs/backends.md` tells of.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use orch::engine::{DagRef, Identity, Orchestrator, Roles, Settings, Submit};
use orch::ledger::{Event, Head, RunStatus, Stream, read_chain};
use orch::store::{EntriesRequest, RunRow, RunsQuery, Store};
use orch::{Limits, RunId, TenantId};
use orch_connect::{Access, Address, Backends, Places, Seam};
use orch_servers::{Kind, Server, initiate, redis_command, skipped, step_down};
use rustix::process::Signal;

use crate::kit::{Lab, Worker};

/// Processes that work at a time.
const WORKERS: usize = 4;
/// Steps of a run: layers of ten.
const STEPS: usize = 100;
/// Runs, and items of one more run, unless the environment says otherwise.
const LOAD: (usize, usize) = (30, 400);
/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(600);

fn load() -> (usize, usize) {
    let Ok(text) = std::env::var("ORCH_FLEET") else { return LOAD };
    let (runs, items) = text.split_once(',').expect("ORCH_FLEET=RUNS,ITEMS");
    (runs.parse().unwrap(), items.parse().unwrap())
}

/// Servers, workers, and a process that only submits.
struct Fleet {
    lab: Lab,
    mongo: Server,
    redis: Server,
    workers: Vec<Worker>,
    runtime: tokio::runtime::Runtime,
}

impl Fleet {
    /// Starts the servers; nothing when one is missing.
    fn muster(mongo: Option<Server>, redis: Option<Server>) -> Option<Self> {
        let Some(mongo) = mongo else {
            skipped(Kind::Mongo);
            return None;
        };
        let Some(redis) = redis else {
            skipped(Kind::Redis);
            return None;
        };
        initiate(&mongo);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Some(Self { lab: Lab::new(), mongo, redis, workers: Vec::new(), runtime })
    }

    /// A replica set of one, and a Redis that forgets everything when it is killed.
    fn usual() -> Option<Self> {
        Self::muster(Server::start(Kind::Mongo, &["--replSet", "rs"]), Server::start(Kind::Redis, &[]))
    }

    fn store(&self) -> String {
        // A server that was deposed is asked again soon.
        format!("{}/fleet?replicaSet=rs&heartbeatFrequencyMS=500", self.mongo.url())
    }

    fn args<'a>(&'a self, words: &[&'a str], store: &'a str, queue: &'a str) -> Vec<&'a str> {
        [words, &["--store", store, "--queue", queue, "--lock", queue]].concat()
    }

    fn worker(&self) -> Worker {
        let (store, queue) = (self.store(), self.redis.url());
        Worker::start(&self.lab, &self.args(&["work", "--lease", "2s", "--slots", "64"], &store, &queue))
    }

    fn work(&mut self) {
        self.workers = (0..WORKERS).map(|_| self.worker()).collect();
    }

    /// Submits everything; answers the runs.
    fn submit(&self, runs: usize, items: usize) -> Vec<RunId> {
        self.runtime.block_on(async {
            let places =
                Places::read(&self.store(), Some(&self.redis.url()), Some(&self.redis.url())).unwrap();
            let mut backends = Backends::default();
            let builder = Orchestrator::builder();
            let builder = backends.build(builder, &places, Access::Write, &Seam::ALL).await.unwrap();
            let roles = Roles { submit: true, schedule: false, work: false };
            let orchestrator = builder.settings(Settings { roles, ..Settings::default() }).start().unwrap();
            let mut ids = Vec::new();
            for (text, count) in [(layers(), runs), (fan_out(items), 1)] {
                let dag = orch::spec::parse("fleet.yaml", &text, &Limits::default()).unwrap();
                let version = orchestrator.publish(&who(), dag.clone()).await.unwrap().version;
                for _ in 0..count {
                    let submit = Submit::new(DagRef::Version(dag.id.clone(), version), serde_json::json!({}));
                    ids.push(orchestrator.submit(&who(), submit).await.unwrap().run.run);
                }
            }
            orchestrator.shutdown().await;
            backends.close().await;
            ids
        })
    }

    /// The rows of all runs; nothing while the server is away.
    fn rows(&self) -> Option<Vec<RunRow>> {
        self.with_store(async |store| {
            let (mut rows, mut query) = (Vec::new(), RunsQuery::all(who().tenant));
            query.limit = 500;
            loop {
                let page = store.runs(&query).await.ok()?;
                rows.extend(page.runs);
                match page.next {
                    Some(next) => query.cursor = Some(next),
                    None => return Some(rows),
                }
            }
        })
    }

    fn with_store<T>(&self, look: impl AsyncFn(&dyn Store) -> Option<T>) -> Option<T> {
        self.runtime.block_on(async {
            let address = Address::read(Seam::Store, &self.store()).unwrap();
            let mut backends = Backends::default();
            let store = backends.get(&address, Access::Read).await.ok()?.store()?;
            let seen = look(store.as_ref()).await;
            backends.close().await;
            seen
        })
    }

    /// How many of the steps have succeeded so far, as far as the rows tell.
    fn progress(&self) -> usize {
        self.told().unwrap_or_default()
    }

    /// The same, or nothing while the store does not answer.
    fn told(&self) -> Option<usize> {
        let rows = self.rows()?;
        Some(rows.iter().map(|row| usize::try_from(row.steps.succeeded).unwrap()).sum())
    }

    /// Waits until so many steps have succeeded.
    fn reach(&self, steps: usize) {
        assert!(wait_until(|| self.progress() >= steps), "{} of {steps} steps are reached", self.progress());
    }

    /// Waits until every run has completed, and holds all of it against the invariants.
    fn finish(self, ids: &[RunId], items: usize) {
        let mut rows = Vec::new();
        wait_until(|| {
            rows = self.rows().unwrap_or_default();
            rows.len() == ids.len() && rows.iter().all(|row| row.status.is_terminal())
        });
        let open: Vec<_> = rows.iter().filter(|row| row.status != RunStatus::Completed).collect();
        assert!(rows.len() == ids.len() && open.is_empty(), "{} runs, open: {open:?}", rows.len());
        for row in &rows {
            let successes = self.with_store(async |store| Some(successes(store, row.run).await)).unwrap();
            let expected = if row.dag.as_str() == "wide" { items + 1 } else { STEPS };
            assert_eq!(successes.len(), expected, "{row:?}");
            let twice: Vec<_> = successes.iter().filter(|(_, count)| **count != 1).collect();
            assert!(twice.is_empty(), "R1: {twice:?}");
        }
        let (store, queue) = (self.store(), self.redis.url());
        let verified = self.lab.orch(&self.args(&["ledger", "verify"], &store, &queue));
        assert_eq!(verified.code, 0, "{verified:?}");
    }
}

/// Looks again and again, ten times as long not as it takes, so that the server is there for the workers.
#[expect(clippy::disallowed_methods, reason = "how long a look takes is measured by the clock")]
fn wait_until(mut holds: impl FnMut() -> bool) -> bool {
    let patience = Instant::now() + PATIENCE;
    while Instant::now() < patience {
        let begun = Instant::now();
        if holds() {
            return true;
        }
        std::thread::sleep((begun.elapsed() * 10).max(Duration::from_millis(100)));
    }
    false
}

fn who() -> Identity {
    Identity::new(TenantId::new("default").unwrap(), "fleet")
}

/// How often each step of a run has succeeded.
async fn successes(store: &dyn Store, run: RunId) -> BTreeMap<String, usize> {
    let request =
        EntriesRequest { tenant: who().tenant, stream: Stream::Run(run), after: 0, limit: usize::MAX };
    let page = store.entries(&[request]).await.unwrap().remove(0);
    let mut counts = BTreeMap::new();
    for entry in read_chain(Head::EMPTY, &page.lines) {
        if let Event::StepSucceeded(succeeded) = entry.unwrap().0.event {
            *counts.entry(succeeded.step.to_string()).or_default() += 1;
        }
    }
    counts
}

fn layers() -> String {
    let mut text = "apiVersion: orch/v1\nkind: Dag\nid: layers\nsteps:\n".to_owned();
    for step in 0..STEPS {
        let needs = match step.checked_sub(10) {
            Some(before) => format!(", needs: [s{before}]"),
            None => String::new(),
        };
        text.push_str(&format!("  - {{ id: s{step}, uses: fn/noop{needs} }}\n"));
    }
    text
}

fn fan_out(items: usize) -> String {
    let items: Vec<usize> = (0..items).collect();
    format!(
        "apiVersion: orch/v1\nkind: Dag\nid: wide\nsteps:\n  - {{ id: each, uses: fn/noop, forEach: {{ items: {items:?} }} }}\n"
    )
}

#[test]
fn r1_r4_four_workers_that_are_killed_in_turn_finish_many_runs_and_a_wide_one() {
    let Some(mut fleet) = Fleet::usual() else { return };
    let (runs, items) = load();
    let ids = fleet.submit(runs, items);
    fleet.work();
    let all = runs * STEPS + items;
    let mut kills = 0;
    for round in 1..=8 {
        fleet.reach(all * round / 10);
        let victim = round % WORKERS;
        kills += usize::from(fleet.workers[victim].kill().code().is_none());
        fleet.workers[victim] = fleet.worker();
    }
    assert_eq!(kills, 8, "every kill met a worker that lived");
    fleet.finish(&ids, items);
}

#[test]
fn r1_r4_servers_that_are_flushed_killed_and_deposed_lose_nothing() {
    let Some(mut fleet) = Fleet::usual() else { return };
    let (runs, items) = load();
    let ids = fleet.submit(runs, items);
    fleet.work();
    let all = runs * STEPS + items;
    // Everything that waits is gone, and so are leases and slots.
    fleet.reach(all / 10);
    assert_eq!(redis_command(fleet.redis.port(), &["FLUSHALL"]), "+OK");
    fleet.reach(all * 2 / 10);
    fleet.redis.kill();
    std::thread::sleep(Duration::from_secs(1));
    fleet.redis.start_again();
    fleet.reach(all * 4 / 10);
    fleet.mongo.kill();
    std::thread::sleep(Duration::from_secs(1));
    fleet.mongo.start_again();
    fleet.reach(all * 6 / 10);
    step_down(&fleet.mongo, 2);
    fleet.reach(all * 7 / 10);
    // One worker is believed dead, and comes back when others have its work.
    fleet.workers[0].signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(4));
    fleet.workers[0].signal(Signal::CONT);
    fleet.reach(all * 8 / 10);
    fleet.mongo.freeze();
    std::thread::sleep(Duration::from_secs(3));
    fleet.mongo.thaw();
    fleet.finish(&ids, items);
}

/// A small disk with a server's data on it.
struct Disk(std::path::PathBuf);

impl Disk {
    /// Mounts a disk in memory at `at`; false where that is not permitted. Mounting takes root.
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        let required = std::env::var("ORCH_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "tmpfs"),
            "a tmpfs is required and cannot be mounted"
        );
        None
    }

    /// Leaves no room.
    fn fill(&self) {
        use std::io::Write as _;
        let mut ballast = std::fs::File::create(self.0.join("ballast")).unwrap();
        // It ends with an error when the disk is full.
        while ballast.write_all(&[0; 64 << 10]).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the server may still be there.
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn r1_r4_a_ledger_whose_disk_is_full_goes_on_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(directory.path(), "600m") else { return };
    if Server::start(Kind::Mongo, &[]).is_none() {
        return skipped(Kind::Mongo);
    }
    let mongo = Server::start_in(Kind::Mongo, directory, &["--replSet", "rs", "--oplogSize", "50"]);
    let Some(mut fleet) = Fleet::muster(Some(mongo), Server::start(Kind::Redis, &[])) else { return };
    let ids = fleet.submit(20, 100);
    fleet.work();
    fleet.reach(200);
    disk.fill();
    std::thread::sleep(Duration::from_secs(6));
    let stuck = fleet.progress();
    std::thread::sleep(Duration::from_secs(1));
    // Where MongoDB has ended itself meanwhile, it records nothing either.
    if let Some(progress) = fleet.told() {
        assert_eq!(progress, stuck, "nothing can be recorded");
    }
    disk.empty();
    // MongoDB ends itself when it cannot write its journal; whoever runs it starts it again.
    fleet.mongo.kill();
    fleet.mongo.start_again();
    assert!(stuck < 20 * STEPS + 100, "the disk was full before everything was done");
    fleet.finish(&ids, 100);
    drop(disk);
}
