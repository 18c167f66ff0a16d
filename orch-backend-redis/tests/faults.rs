//! What becomes of calls when the server, or the wire to it, fails. Time is real here: a call must end within its bound.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]
#![expect(clippy::disallowed_methods, reason = "how long a failing call takes is measured by the clock")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use orch::ErrorKind;
use orch::ledger::{Chain, Event, Head, RunPaused, Stream};
use orch::queue::Queue as _;
use orch::store::{Append, EntriesRequest, Store};
use orch_backend_redis::{RedisBackend, RedisConfig, RedisStore};
use orch_servers::{Kind, Proxy, Server, Wire, skipped};

/// How long a command may take in these tests.
const TIMEOUT: Duration = Duration::from_millis(300);
/// By when a call that fails must have answered: connecting again may come on top.
const BOUND: Duration = Duration::from_secs(8);

fn append(head: Head, note: &str) -> Append {
    let tenant = orch::TenantId::new("t").unwrap();
    let mut chain = Chain::new(&tenant, Stream::Audit, head);
    let event = Event::from(RunPaused { reason: Some(note.to_owned()) });
    chain.push("test", orch::Timestamp::from_micros(1), &event).unwrap();
    let (lines, after) = chain.finish().unwrap();
    Append { tenant, stream: Stream::Audit, expected: head, lines, head: after, row: None }
}

async fn head(store: &RedisStore) -> Option<Head> {
    let tenant = orch::TenantId::new("t").unwrap();
    let request = EntriesRequest { tenant, stream: Stream::Audit, after: 0, limit: 1_000_000 };
    let page = store.entries(&[request]).await.ok()?.remove(0);
    assert_eq!(page.last, page.head.seq, "no gaps");
    Some(page.head)
}

/// Appends one entry; answers the new head, or why not, within the bound.
async fn land(store: &RedisStore, head: Head, note: &str) -> Result<Head, ErrorKind> {
    let (append, begun) = (append(head, note), Instant::now());
    let answer = store.append(std::slice::from_ref(&append)).await;
    assert!(begun.elapsed() < BOUND, "a call took {:?}", begun.elapsed());
    answer.and_then(|mut answers| answers.remove(0)).map(|()| append.head).map_err(|error| error.kind())
}

/// Reads until the server answers again, without opening anything anew.
async fn recovered(store: &RedisStore) -> Head {
    let begun = Instant::now();
    loop {
        if let Some(head) = head(store).await {
            return head;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "the server is not found again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn connect(port: u16) -> RedisBackend {
    let mut config = RedisConfig::new("127.0.0.1", port);
    config.timeout = TIMEOUT;
    RedisBackend::open(config).await.unwrap()
}

fn server() -> Option<Server> {
    let server = Server::start(Kind::Redis, &["--appendonly", "yes", "--appendfsync", "always"]);
    if server.is_none() {
        skipped(Kind::Redis);
    }
    server
}

#[tokio::test]
async fn l1_a_killed_server_loses_nothing_acknowledged_and_is_found_again() {
    let Some(mut server) = server() else { return };
    let store = connect(server.port()).await.store();
    let mut acknowledged = Head::EMPTY;
    for round in 0..5 {
        for entry in 0..40 {
            acknowledged = land(&store, acknowledged, &format!("{round}.{entry}")).await.unwrap();
        }
        server.kill();
        let failed = land(&store, acknowledged, "nobody hears this").await.unwrap_err();
        assert!(matches!(failed, ErrorKind::Unavailable | ErrorKind::Indeterminate), "{failed:?}");
        server.start_again();
        assert_eq!(recovered(&store).await, acknowledged, "round {round}");
    }
}

#[tokio::test]
async fn l1_a_dropped_reply_is_indeterminate_and_reading_tells() {
    let Some(server) = server() else { return };
    let proxy = Proxy::before(server.port());
    let store = connect(proxy.port()).await.store();
    let mut acknowledged = land(&store, Head::EMPTY, "first").await.unwrap();
    let mut landed = 0;
    for round in 0..5 {
        proxy.set(Wire::DropsReplies);
        let expected = append(acknowledged, &round.to_string()).head;
        assert_eq!(land(&store, acknowledged, &round.to_string()).await, Err(ErrorKind::Indeterminate));
        proxy.set(Wire::Sound);
        let head = recovered(&store).await;
        assert!(head == acknowledged || head == expected, "wholly or not at all");
        landed += u32::from(head == expected);
        acknowledged = head;
    }
    assert!(landed > 0 && proxy.struck() >= 5, "the fault struck: {landed} of {} landed", proxy.struck());
}

#[tokio::test]
async fn a_cut_wire_fails_quickly_and_mends() {
    let Some(server) = server() else { return };
    let proxy = Proxy::before(server.port());
    let store = connect(proxy.port()).await.store();
    let mut acknowledged = land(&store, Head::EMPTY, "first").await.unwrap();
    for round in 0..3 {
        proxy.set(Wire::Cut);
        assert!(land(&store, acknowledged, "lost").await.is_err(), "round {round}");
        proxy.set(Wire::Sound);
        acknowledged = recovered(&store).await;
        acknowledged = land(&store, acknowledged, "kept").await.unwrap();
    }
    assert!(proxy.struck() > 0);
}

#[tokio::test]
async fn a_slow_wire_only_takes_longer() {
    let Some(server) = server() else { return };
    let proxy = Proxy::before(server.port());
    let store = connect(proxy.port()).await.store();
    proxy.set(Wire::Delays(Duration::from_millis(20)));
    let mut acknowledged = Head::EMPTY;
    for entry in 0..5 {
        acknowledged = land(&store, acknowledged, &entry.to_string()).await.unwrap();
    }
    assert_eq!(recovered(&store).await.seq, 5);
    assert!(proxy.struck() >= 10, "both ways were slow");
}

#[tokio::test]
async fn a_frozen_server_is_given_up_within_the_bound() {
    let Some(server) = server() else { return };
    let store = connect(server.port()).await.store();
    let acknowledged = land(&store, Head::EMPTY, "first").await.unwrap();
    server.freeze();
    let failed = land(&store, acknowledged, "late").await;
    let read = head(&store).await;
    server.thaw();
    assert_eq!((failed, read), (Err(ErrorKind::Indeterminate), None));
    // What was on its way may arrive when the server goes on; it is whole then.
    assert!(recovered(&store).await.seq >= acknowledged.seq);
}

#[tokio::test]
async fn who_waits_is_told_again_after_the_server_came_back() {
    let Some(mut server) = server() else { return };
    let (one, other) = (connect(server.port()).await, connect(server.port()).await);
    let (waiting, pushing) = (one.queue(), other.queue());
    // The first wait begins the subscription.
    waiting.wait(Duration::from_millis(500)).await.unwrap();
    server.kill();
    server.start_again();
    let waiting = Arc::new(waiting);
    let begun = Instant::now();
    loop {
        let waiter = Arc::clone(&waiting);
        let wait = tokio::spawn(async move { waiter.wait(Duration::from_secs(60)).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        // Only a change tells: pushing what is there does not.
        let step = orch::StepId::new(format!("s{}", begun.elapsed().as_millis())).unwrap();
        let item = orch::queue::Item {
            tenant: orch::TenantId::new("t").unwrap(),
            queue: orch::QueueName::default_queue(),
            priority: 0,
            ready_at: orch::Timestamp::EPOCH,
            dag: orch::DagId::new("d").unwrap(),
            run: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            plan_index: 0,
            step: step.into(),
            attempt: 1,
        };
        let pushed = pushing.push(&[item]).await;
        if pushed.is_ok() && tokio::time::timeout(Duration::from_secs(2), wait).await.is_ok() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "nobody is told");
    }
    one.close().await;
    assert_eq!(waiting.wait(Duration::from_secs(1)).await.unwrap_err().kind(), ErrorKind::Closed);
}
