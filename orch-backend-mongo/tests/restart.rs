//! A server that dies, comes back, or stands still, and a wire to it that fails.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orch::ledger::{Chain, Event, Head, RunPaused, Stream, read_chain};
use orch::queue::{Claim, Item, Queue, Settle};
use orch::store::{Append, EntriesRequest, Store};
use orch::{DagId, Digest, ErrorKind, RunId, TenantId, Timestamp};
use orch_backend_mongo::{MongoBackend, MongoConfig, MongoStore};
use orch_servers::{Kind, Proxy, Server, Wire, initiate, initiate_set, primary, skipped};

fn tenant() -> TenantId {
    TenantId::new("a").unwrap()
}

fn stream(number: usize) -> Stream {
    let dag = DagId::new("dag").unwrap();
    Stream::Run(RunId::derive(&tenant(), &dag, &number.to_string(), &Digest::ZERO))
}

fn note(stream: Stream, expected: Head, text: &str) -> Append {
    let mut chain = Chain::new(&tenant(), stream, expected);
    chain.push("test", Timestamp::EPOCH, &Event::from(RunPaused { reason: Some(text.to_owned()) })).unwrap();
    let (lines, head) = chain.finish().unwrap();
    Append { tenant: tenant(), stream, expected, lines, head, row: None }
}

async fn read(store: &MongoStore, stream: Stream) -> orch::Result<(String, Head)> {
    let request = EntriesRequest { tenant: tenant(), stream, after: 0, limit: 1_000_000 };
    let page = store.entries(&[request]).await?.remove(0);
    Ok((page.lines, page.head))
}

/// Reads until the server answers.
async fn read_in_the_end(store: &MongoStore, stream: Stream) -> (String, Head) {
    for _ in 0..300 {
        match read(store, stream).await {
            Ok(found) => return found,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the server never answered");
}

/// Appends until it is told to stop; answers what was acknowledged, as text.
async fn append_on_and_on(store: MongoStore, stream: Stream, stop: Arc<AtomicBool>) -> (String, u32) {
    let (mut head, mut acknowledged, mut doubts) = (Head::EMPTY, String::new(), 0);
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let append = note(stream, head, &format!("note {number}"));
        let answer = match store.append(std::slice::from_ref(&append)).await {
            Ok(mut answers) => answers.remove(0),
            Err(error) => Err(error),
        };
        match answer {
            Ok(()) => {
                head = append.head;
                acknowledged.push_str(&append.lines);
            }
            Err(error) if error.kind() == ErrorKind::Indeterminate => {
                // As the contract says: read, then go on from what is there.
                doubts += 1;
                let (lines, actual) = read_in_the_end(&store, stream).await;
                assert!(lines.starts_with(&acknowledged), "what was acknowledged is there");
                (head, acknowledged) = (actual, lines);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    (acknowledged, doubts)
}

/// Answers how often an answer was lost.
async fn killed_again_and_again(mut server: Server, url: String) -> u32 {
    written_while(url, async move {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            server.kill();
            tokio::time::sleep(Duration::from_millis(100)).await;
            server = tokio::task::spawn_blocking(move || {
                server.start_again();
                server
            })
            .await
            .unwrap();
        }
        vec![server]
    })
    .await
}

/// Appends to several streams while servers are harmed, and holds what is there afterwards against what was acknowledged.
/// Answers how often an answer was lost.
async fn written_while(url: String, harm: impl Future<Output = Vec<Server>>) -> u32 {
    let backend = MongoBackend::open(MongoConfig::new(url).unwrap()).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|number| tokio::spawn(append_on_and_on(backend.store(), stream(number), Arc::clone(&stop))))
        .collect();
    let _servers = harm.await;
    let mut doubts = 0;
    let (_, before) = read_in_the_end(&backend.store(), stream(0)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    for (number, writer) in writers.into_iter().enumerate() {
        let (acknowledged, doubtful) = writer.await.unwrap();
        doubts += doubtful;
        let (lines, head) = read_in_the_end(&backend.store(), stream(number)).await;
        assert!(lines.starts_with(&acknowledged), "every acknowledged append is there");
        assert!(lines.lines().count() - acknowledged.lines().count() <= 1, "and nothing but one more");
        let chained = read_chain(Head::EMPTY, &lines).map(|entry| entry.unwrap().2).last();
        assert_eq!(chained, Some(head), "the entries are chained");
        if number == 0 {
            assert!(head.seq > before.seq, "the store goes on by itself");
        }
    }
    doubts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_every_acknowledged_append_outlives_a_kill_of_a_replica_set() {
    let Some(server) = Server::start(Kind::Mongo, &["--replSet", "rs"]) else { return skipped(Kind::Mongo) };
    initiate(&server);
    let url = format!("{}/?replicaSet=rs", server.url());
    // The driver repeats what it can prove not to do twice, so answers need not be lost here.
    killed_again_and_again(server, url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_every_acknowledged_append_outlives_a_kill_of_a_standalone() {
    let Some(server) = Server::start(Kind::Mongo, &[]) else { return skipped(Kind::Mongo) };
    let url = server.url();
    let doubts = killed_again_and_again(server, url).await;
    assert!(doubts > 0, "the server was killed in the middle of appends");
}

/// The primary is killed, and another time stopped while the others elect one that goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_every_acknowledged_append_outlives_the_loss_of_one_primary_after_the_other() {
    let start = || Server::start(Kind::Mongo, &["--replSet", "rs", "--oplogSize", "50"]);
    let Some(mut servers) = (0..3).map(|_| start()).collect::<Option<Vec<_>>>() else {
        return skipped(Kind::Mongo);
    };
    initiate_set(&servers);
    let hosts: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
    let url = format!("mongodb://{}/?replicaSet=rs&heartbeatFrequencyMS=500", hosts.join(","));
    let harm = tokio::task::spawn_blocking(move || {
        for kills in [true, false, true] {
            std::thread::sleep(Duration::from_secs(1));
            let old = primary(servers.iter());
            let at = servers.iter().position(|server| server.port() == old).unwrap();
            if kills {
                servers[at].kill()
            } else {
                servers[at].freeze()
            }
            let new = primary(servers.iter().filter(|server| server.port() != old));
            assert_ne!(old, new, "another is elected");
            // The new one is written to while the old one is away.
            std::thread::sleep(Duration::from_secs(1));
            if kills { servers[at].start_again() } else { servers[at].thaw() }
        }
        servers
    });
    written_while(url, async { harm.await.unwrap() }).await;
}

fn item(number: usize) -> Item {
    let Stream::Run(run) = stream(number) else { panic!("a run") };
    Item {
        tenant: tenant(),
        queue: orch::QueueName::default_queue(),
        priority: 0,
        ready_at: Timestamp::EPOCH,
        dag: DagId::new("dag").unwrap(),
        run,
        plan_index: 0,
        step: orch::StepId::new("step").unwrap().into(),
        attempt: 1,
    }
}

fn claim(limit: usize) -> Claim {
    let (worker, lease) = (orch::WorkerId::new("worker"), Duration::from_secs(60));
    Claim { worker, queues: None, tenants: None, limit, lease, now: Timestamp::EPOCH }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q1_items_outlive_a_kill_and_waiting_goes_on() {
    let Some(mut server) = Server::start(Kind::Mongo, &["--replSet", "rs"]) else {
        return skipped(Kind::Mongo);
    };
    initiate(&server);
    let url = format!("{}/?replicaSet=rs&pollMS=200", server.url());
    let backend = MongoBackend::open(MongoConfig::new(url.as_str()).unwrap()).await.unwrap();
    let queue = backend.queue();
    queue.wait(Duration::from_secs(5)).await.unwrap();
    queue.push(&(0..20).map(item).collect::<Vec<_>>()).await.unwrap();
    let leased = queue.claim(&claim(5)).await.unwrap().deliveries;
    assert_eq!(leased.len(), 5);
    server.kill();
    assert!(queue.push(&[item(99)]).await.unwrap_err().is_retryable());
    // Nothing is told while the server is away, so a wait is short.
    for _ in 0..3 {
        tokio::time::timeout(Duration::from_secs(20), queue.wait(Duration::from_secs(3_600)))
            .await
            .unwrap()
            .unwrap();
    }
    server.start_again();
    let mut taken = Vec::new();
    for _ in 0..300 {
        match queue.claim(&claim(50)).await {
            Ok(claimed) => taken.extend(claimed.deliveries),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}"),
        }
        if taken.len() >= 15 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((15..=16).contains(&taken.len()), "what was pushed is there, what was leased is leased");
    let settles: Vec<_> = leased.into_iter().map(|delivery| Settle::done(delivery.token)).collect();
    assert!(queue.settle(&settles, Timestamp::EPOCH).await.unwrap().iter().all(Result::is_ok));
    // The stream is opened anew: a push of another process wakes who waits, long before the hour is over.
    let other = MongoBackend::open(MongoConfig::new(url).unwrap()).await.unwrap();
    let waiting = queue.clone();
    let waiter = tokio::spawn(async move { waiting.wait(Duration::from_secs(3_600)).await });
    other.queue().push(&[item(200)]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), waiter).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_given_up_in_time() {
    let Some(server) = Server::start(Kind::Mongo, &["--replSet", "rs"]) else { return skipped(Kind::Mongo) };
    initiate(&server);
    let url = format!("{}/?replicaSet=rs&callTimeoutMS=1000", server.url());
    let backend = MongoBackend::open(MongoConfig::new(url).unwrap()).await.unwrap();
    let store = backend.store();
    let first = note(stream(1), Head::EMPTY, "before");
    store.append(std::slice::from_ref(&first)).await.unwrap().remove(0).unwrap();
    server.freeze();
    let second = note(stream(1), first.head, "while it stands still");
    let patience = Duration::from_secs(20);
    let answer = tokio::time::timeout(patience, store.append(std::slice::from_ref(&second))).await.unwrap();
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Indeterminate);
    let answer = tokio::time::timeout(patience, read(&store, stream(1))).await.unwrap();
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
    server.thaw();
    let (lines, head) = read_in_the_end(&store, stream(1)).await;
    assert!(head == first.head || head == second.head, "{lines}");
    let third = note(stream(1), head, "after");
    // What stood still may land now, and then this is told of it.
    match store.append(std::slice::from_ref(&third)).await.unwrap().remove(0) {
        Ok(()) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}"),
    }
}

/// A store behind a wire that can fail.
async fn wired() -> Option<(Server, Proxy, MongoStore)> {
    let Some(server) = Server::start(Kind::Mongo, &["--replSet", "rs"]) else {
        skipped(Kind::Mongo);
        return None;
    };
    initiate(&server);
    let proxy = Proxy::before(server.port());
    let options =
        "directConnection=true&callTimeoutMS=1000&serverSelectionTimeoutMS=1000&heartbeatFrequencyMS=500";
    let url = format!("mongodb://127.0.0.1:{}/?{options}", proxy.port());
    let backend = MongoBackend::open(MongoConfig::new(url).unwrap()).await.unwrap();
    Some((server, proxy, backend.store()))
}

async fn land(store: &MongoStore, expected: Head, text: &str) -> Result<Head, ErrorKind> {
    let append = note(stream(1), expected, text);
    let answer = store.append(std::slice::from_ref(&append)).await.map(|mut answers| answers.remove(0));
    answer.and_then(|answer| answer).map(|()| append.head).map_err(|error| error.kind())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_dropped_reply_is_indeterminate_and_reading_tells() {
    let Some((_server, proxy, store)) = wired().await else { return };
    let mut acknowledged = land(&store, Head::EMPTY, "first").await.unwrap();
    let mut landed = 0;
    for round in 0..3 {
        proxy.set(Wire::DropsReplies);
        let text = format!("in doubt {round}");
        let expected = note(stream(1), acknowledged, &text).head;
        assert_eq!(land(&store, acknowledged, &text).await, Err(ErrorKind::Indeterminate));
        proxy.set(Wire::Sound);
        let (_, head) = read_in_the_end(&store, stream(1)).await;
        assert!(head == acknowledged || head == expected, "wholly or not at all");
        landed += u32::from(head == expected);
        acknowledged = head;
    }
    assert!(landed > 0 && proxy.struck() >= 3, "the fault struck: {landed} of {} landed", proxy.struck());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wire_that_is_cut_mends_and_one_that_is_slow_only_takes_longer() {
    let Some((_server, proxy, store)) = wired().await else { return };
    let mut acknowledged = land(&store, Head::EMPTY, "first").await.unwrap();
    for round in 0..3 {
        proxy.set(Wire::Cut);
        assert!(land(&store, acknowledged, "lost").await.is_err(), "round {round}");
        proxy.set(Wire::Sound);
        assert_eq!(
            read_in_the_end(&store, stream(1)).await.1,
            acknowledged,
            "what never arrived is not there"
        );
        acknowledged = land(&store, acknowledged, "kept").await.unwrap();
    }
    proxy.set(Wire::Delays(Duration::from_millis(20)));
    for number in 0..3 {
        acknowledged = land(&store, acknowledged, &format!("slow {number}")).await.unwrap();
    }
    assert_eq!(read_in_the_end(&store, stream(1)).await.1, acknowledged);
    assert!(proxy.struck() >= 6, "the fault struck: {}", proxy.struck());
}
