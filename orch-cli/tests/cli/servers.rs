//! `orch` on real servers, alone and mixed.

use std::time::Duration;

use orch_servers::{Kind, Server, Shared, address, namespace, redis_command, skipped};
use rustix::process::Signal;

use crate::kit::{Lab, Worker};

const DIAMOND: &str = "
steps:
  - { id: a, uses: fn/noop }
  - { id: b, uses: fn/noop, needs: [a] }
  - { id: c, uses: fn/noop, needs: [a] }
  - { id: d, uses: fn/noop, needs: [b, c] }
";

/// Addresses of store, queue and lock; the latter two only if they are not the store's.
struct Trio {
    store: String,
    queue: Option<String>,
    lock: Option<String>,
}

impl Trio {
    fn args(&self) -> Vec<&str> {
        let mut args = vec!["--store", &self.store];
        for (option, address) in [("--queue", &self.queue), ("--lock", &self.lock)] {
            if let Some(address) = address {
                args.extend([option, address]);
            }
        }
        args
    }

    fn with<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [words, &self.args()].concat()
    }
}

/// The address of a shared server with a namespace.
fn at(shared: Shared, namespace: &str) -> Option<String> {
    let address = address(shared)?;
    let joint = match (address.contains('?'), shared) {
        (true, _) => "&",
        // A query needs a path before it there.
        (false, Shared::Mongo | Shared::MongoStandalone) if !address.ends_with('/') => "/?",
        (false, _) => "?",
    };
    Some(format!("{address}{joint}namespace={namespace}"))
}

/// What can be had of: each server for everything, and mixtures.
fn trios() -> Vec<(&'static str, Trio)> {
    let name = namespace();
    let one = |shared| Some(Trio { store: at(shared, &name)?, queue: None, lock: None });
    let mixed = |store, queue, lock| {
        Some(Trio {
            store: at(store, &format!("{name}m"))?,
            queue: Some(at(queue, &name)?),
            lock: Some(at(lock, &name)?),
        })
    };
    let trios = [
        ("mongo", one(Shared::Mongo)),
        ("redis", one(Shared::Redis)),
        ("mongo, nats", mixed(Shared::Mongo, Shared::Nats, Shared::Nats)),
        ("redis, nats, mongo", mixed(Shared::Redis, Shared::Nats, Shared::Mongo)),
    ];
    trios.into_iter().filter_map(|(name, trio)| Some((name, trio?))).collect()
}

#[test]
fn runs_go_on_in_whatever_process_and_every_command_finds_them() {
    for (name, trio) in trios() {
        let lab = Lab::new();
        lab.dag("diamond", DIAMOND);
        let ended = lab.orch(&trio.with(&["run", "diamond.yaml"]));
        assert_eq!(ended.code, 0, "{name}: {ended:?}");
        // Recorded by one, carried on by another.
        assert_eq!(lab.orch(&trio.with(&["run", "diamond.yaml", "--no-work"])).code, 0, "{name}");
        let work = lab.orch(&trio.with(&["work", "--until-idle"]));
        assert_eq!(work.code, 0, "{name}: {work:?}");
        let list = lab.json(&trio.with(&["runs", "list"]));
        let statuses: Vec<_> = list["runs"].as_array().unwrap().iter().map(|run| &run["status"]).collect();
        assert_eq!(statuses, ["completed", "completed"], "{name}");
        let verified = lab.orch(&trio.with(&["ledger", "verify"]));
        assert_eq!(verified.code, 0, "{name}: {verified:?}");
        assert_eq!(lab.orch(&trio.with(&["runs", "show", "latest"])).code, 0, "{name}");
        assert!(!lab.path(".orch/orch.db").exists(), "{name}: nothing is kept in a file");
    }
}

#[test]
fn the_doctor_looks_at_each_of_the_three() {
    for (name, trio) in trios() {
        let lab = Lab::new();
        let report = lab.json(&trio.with(&["doctor"]));
        assert_eq!(report["ok"], true, "{name}: {report}");
        let found = |what: &str| {
            let findings = report["findings"].as_array().unwrap();
            let finding =
                findings.iter().find(|finding| finding["what"] == what && finding["warning"].is_null());
            finding.unwrap_or_else(|| panic!("{name}: {what}: {report}"))["found"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        for what in ["store", "queue", "lock"] {
            assert!(found(what).contains("answers in "), "{name}: {report}");
        }
        assert!(found("store").contains("several processes may use it"), "{name}: {report}");
        if trio.store.starts_with("redis") {
            assert!(found("store").contains("redis 7"), "{name}: {report}");
        }
    }
}

#[test]
fn r4_of_two_workers_one_is_killed_and_the_other_finishes() {
    for (name, trio) in trios() {
        let lab = Lab::new();
        let sleepy = "steps:\n  - { id: each, uses: process, forEach: { items: [1, 2, 3, 4, 5, 6, 7, 8] }, with: { command: sleep, args: ['1'] } }\n";
        lab.dag("sleepy", sleepy);
        let work = ["work", "--sandbox", "none", "--slots", "2", "--lease", "2s"];
        assert_eq!(lab.orch(&trio.with(&["run", "sleepy.yaml", "--no-work"])).code, 0, "{name}");
        let mut doomed = Worker::start(&lab, &trio.with(&work));
        doomed.hear("sleepy");
        std::thread::sleep(Duration::from_millis(700));
        doomed.kill();
        let heir = lab.orch(&trio.with(&[&work[..], &["--until-idle"]].concat()));
        assert_eq!(heir.code, 0, "{name}: {heir:?}");
        let list = lab.json(&trio.with(&["runs", "list"]));
        assert_eq!(list["runs"][0]["status"], "completed", "{name}: {list}");
        assert_eq!(lab.orch(&trio.with(&["ledger", "verify"])).code, 0, "{name}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named_without_the_password() {
    let lab = Lab::new();
    lab.dag("diamond", DIAMOND);
    for (option, address) in [
        ("--store", "redis://me:s3cret@127.0.0.1:1?timeout=500"),
        ("--store", "mongodb://me:s3cret@127.0.0.1:1/?serverSelectionTimeoutMS=500"),
        ("--queue", "nats://me:s3cret@127.0.0.1:1?timeout=500"),
    ] {
        let ended = lab.orch(&["run", "diamond.yaml", option, address]);
        assert_eq!(ended.code, 1, "{address}: {ended:?}");
        assert!(
            ended.stderr.contains("127.0.0.1:1") && ended.stderr.contains("hint"),
            "{address}: {ended:?}"
        );
        let doctor = lab.orch(&["doctor", option, address]);
        assert_eq!(doctor.code, 1, "{address}: {doctor:?}");
        for said in [ended.all(), doctor.all()] {
            assert!(!said.contains("s3cret") && !said.contains("panicked"), "{said}");
        }
    }
}

#[test]
fn r4_a_worker_outlives_an_outage_of_its_server() {
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = Server::start(Kind::Redis, &durable) else { return skipped(Kind::Redis) };
    let trio = Trio { store: server.url(), queue: None, lock: None };
    let lab = Lab::new();
    lab.dag("diamond", DIAMOND);
    assert_eq!(lab.orch(&trio.with(&["run", "diamond.yaml"])).code, 0);
    let mut worker = Worker::start(&lab, &trio.with(&["work"]));
    std::thread::sleep(Duration::from_secs(2));
    server.kill();
    worker.hear("⚠");
    std::thread::sleep(Duration::from_secs(3));
    server.start_again();
    assert_eq!(lab.orch(&trio.with(&["run", "diamond.yaml", "--no-work"])).code, 0);
    let ended = || lab.json(&trio.with(&["runs", "list"]))["runs"][0]["status"] == "completed";
    let in_time = (0..300).any(|_| {
        std::thread::sleep(Duration::from_millis(200));
        ended()
    });
    assert!(in_time, "the worker comes back");
    worker.signal(Signal::INT);
    assert_eq!(worker.end().code, 0);
}

#[test]
fn r4_a_run_that_is_followed_outlives_an_outage_of_its_server() {
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = Server::start(Kind::Redis, &durable) else { return skipped(Kind::Redis) };
    let trio = Trio { store: server.url(), queue: None, lock: None };
    let lab = Lab::new();
    let steps = "
steps:
  - { id: slow, uses: process, with: { command: sleep, args: ['4'] } }
  - { id: after, uses: fn/noop, needs: [slow] }
";
    lab.dag("slow", steps);
    let mut run = Worker::start(&lab, &trio.with(&["run", "slow.yaml", "--sandbox", "none"]));
    run.hear("running  slow");
    server.kill();
    // The step ends while there is nobody to tell.
    run.hear("⚠");
    std::thread::sleep(Duration::from_secs(6));
    server.start_again();
    let ended = run.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    let shown = lab.json(&trio.with(&["runs", "show", "latest"]));
    assert_eq!(shown["status"], "completed", "{shown}");
    assert_eq!(shown["stepStates"][0]["attempts"], 1, "what it did was kept until it could be told: {shown}");
    assert_eq!(lab.orch(&trio.with(&["ledger", "verify"])).code, 0);
}

#[test]
fn an_idle_worker_asks_its_server_a_few_times_a_minute() {
    let Some(server) = Server::start(Kind::Redis, &[]) else { return skipped(Kind::Redis) };
    let trio = Trio { store: server.url(), queue: None, lock: None };
    let lab = Lab::new();
    let worker = Worker::start(&lab, &trio.with(&["work"]));
    // Everything it asks is a script; what that does inside the server is counted there, too, and does not concern us.
    let asked = || -> u64 {
        let stats = redis_command(server.port(), &["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.trim().strip_prefix("cmdstat_evalsha:calls="));
        let count = line.and_then(|line| line.split(',').next());
        count.unwrap_or_else(|| panic!("{stats}")).parse().unwrap()
    };
    // Its looks at the runs grow rare.
    std::thread::sleep(Duration::from_secs(20));
    let before = asked();
    std::thread::sleep(Duration::from_secs(30));
    let count = asked() - before;
    assert!((2..=12).contains(&count), "{count} scripts in half a minute");
    worker.signal(Signal::INT);
    assert_eq!(worker.end().code, 0);
}
