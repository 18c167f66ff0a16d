//! What becomes of calls when the server, the wire to it or somebody else's hand in the stream fails. Time is real here:
//! a call must end within its bound.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]
#![expect(clippy::disallowed_methods, reason = "how long a failing call takes is measured by the clock")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures::future::join_all;
use orch::lock::{Acquire, Holder, Lock as _, Slot, Take};
use orch::queue::{Claim, Claimed, Item, Queue as _, Settle};
use orch::{DagId, Digest, ErrorKind, QueueName, Result, RunId, StepId, TenantId, Timestamp, WorkerId};
use orch_backend_nats::{NatsBackend, NatsConfig, NatsQueue};
use orch_servers::{Kind, Proxy, Server, Shared, Wire, address, namespace, skipped};

/// How long the server may take for an answer in these tests.
const TIMEOUT: Duration = Duration::from_millis(700);
/// By when a call that fails must have answered.
const BOUND: Duration = Duration::from_secs(5);
/// The length of a lease.
const LEASE: Duration = Duration::from_secs(60);

fn start() -> Option<Server> {
    let server = Server::start(Kind::Nats, &[]);
    if server.is_none() {
        skipped(Kind::Nats);
    }
    server
}

async fn connect(port: u16) -> NatsBackend {
    let mut config = NatsConfig::new("127.0.0.1", port);
    config.timeout = TIMEOUT;
    config.max_bytes = 16 << 20;
    NatsBackend::open(config).await.unwrap()
}

/// A backend on the shared server, its namespace, and the stream of its queue.
async fn shared(max_bytes: u64) -> Option<(NatsBackend, jetstream::stream::Stream)> {
    let (url, name) = (address(Shared::Nats)?, namespace());
    let mut config: NatsConfig = url.parse().unwrap();
    config.namespace.clone_from(&name);
    config.max_bytes = max_bytes;
    let backend = NatsBackend::open(config).await.unwrap();
    let context = jetstream::new(async_nats::connect(url).await.unwrap());
    Some((backend, context.get_stream(format!("orch_{name}_queue")).await.unwrap()))
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000).plus(Duration::from_secs(seconds))
}

fn item(number: usize) -> Item {
    let (tenant, dag) = (TenantId::new("t").unwrap(), DagId::new("dag").unwrap());
    Item {
        queue: QueueName::default_queue(),
        priority: 0,
        ready_at: at(0),
        run: RunId::derive(&tenant, &dag, &number.to_string(), &Digest::ZERO),
        plan_index: 0,
        step: StepId::new("step").unwrap().into(),
        attempt: 1,
        tenant,
        dag,
    }
}

fn items(count: usize) -> Vec<Item> {
    (0..count).map(item).collect()
}

fn claim(limit: usize, seconds: u64) -> Claim {
    Claim { worker: WorkerId::new("w"), queues: None, tenants: None, limit, lease: LEASE, now: at(seconds) }
}

fn acquire(name: &str, keys: impl IntoIterator<Item = String>) -> Acquire {
    let slots = keys.into_iter().map(|key| Slot { key, capacity: 1 }).collect();
    let holder = Holder { tenant: TenantId::new("t").unwrap(), name: name.to_owned() };
    Acquire { holder, slots, lease: LEASE, now: at(0) }
}

fn done(claimed: Claimed) -> Vec<Settle> {
    claimed.deliveries.into_iter().map(|delivery| Settle::done(delivery.token)).collect()
}

/// The kind of error of a call, which ends within the bound.
async fn kind<T>(call: impl Future<Output = Result<T>>) -> Option<ErrorKind> {
    let begun = Instant::now();
    let kind = call.await.err().map(|error| error.kind());
    assert!(begun.elapsed() < BOUND, "a call took {:?}", begun.elapsed());
    kind
}

/// Claims until the server answers again, without opening anything anew.
async fn recovered(queue: &NatsQueue, limit: usize, seconds: u64) -> Claimed {
    let begun = Instant::now();
    loop {
        if let Ok(claimed) = queue.claim(&claim(limit, seconds)).await {
            return claimed;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the server is not found again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_found_again_and_keeps_what_it_acknowledged() {
    let Some(mut server) = start() else { return };
    let backend = connect(server.port()).await;
    let (queue, lock) = (backend.queue(), backend.lock());
    queue.push(&items(50)).await.unwrap();
    let held = queue.claim(&claim(10, 0)).await.unwrap();
    let grants = lock.acquire(&acquire("h", ["x".to_owned()])).await.unwrap().unwrap();

    server.kill();
    for _ in 0..3 {
        let unavailable = Some(ErrorKind::Unavailable);
        let claimed = kind(queue.claim(&claim(1, 0))).await;
        assert_eq!(claimed, unavailable);
        assert!(kind(queue.push(&[item(99)])).await.is_some_and(ErrorKind::is_retryable));
        assert!(
            kind(lock.acquire(&acquire("i", ["y".to_owned()]))).await.is_some_and(ErrorKind::is_retryable)
        );
        assert_eq!(kind(queue.wait(Duration::from_millis(10))).await, None, "waiting is not asking");
    }
    server.start_again();

    let rest = recovered(&queue, 100, 1).await;
    assert_eq!(rest.deliveries.len(), 40, "what is leased stays leased, what waits waits");
    let settled = queue.settle(&[done(held), done(rest)].concat(), at(2)).await.unwrap();
    assert!(settled.iter().all(Result::is_ok), "deliveries outlast the server: {settled:?}");
    assert!(queue.depth(&item(0).tenant, at(2)).await.unwrap().is_empty());
    let again = lock.acquire(&acquire("h", ["x".to_owned()])).await.unwrap().unwrap();
    assert_eq!(again[0].fence, grants[0].fence, "and so do slots");
    assert!(lock.acquire(&acquire("i", ["x".to_owned()])).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_lets_no_call_hang() {
    let Some(server) = start() else { return };
    let backend = connect(server.port()).await;
    let (queue, lock) = (backend.queue(), backend.lock());
    queue.push(&items(20)).await.unwrap();
    let tokens = queue.claim(&claim(10, 0)).await.unwrap();
    let tokens: Vec<_> = tokens.deliveries.into_iter().map(|delivery| delivery.token).collect();
    lock.acquire(&acquire("h", ["x".to_owned()])).await.unwrap().unwrap();

    server.freeze();
    // Its threads stop one after the other.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (unavailable, unknown) = (Some(ErrorKind::Unavailable), Some(ErrorKind::Indeterminate));
    assert_eq!(kind(queue.claim(&claim(1, 0))).await, unavailable);
    assert_eq!(kind(queue.depth(&item(0).tenant, at(0))).await, unavailable);
    assert_eq!(kind(queue.push(&[item(99)])).await, unknown);
    assert_eq!(kind(queue.renew(&tokens, at(900), at(1))).await, unknown);
    let holder = acquire("h", []).holder;
    assert_eq!(kind(lock.renew(std::slice::from_ref(&holder), at(900), at(1))).await, unknown);
    assert_eq!(kind(lock.renew(&[holder], at(900), at(1))).await, unavailable, "it cannot be read anew");
    let many = join_all((0..50).map(|n| {
        let (lock, acquire) = (lock.clone(), acquire(&format!("h{n}"), [format!("k{n}")]));
        async move { lock.acquire(&acquire).await.map(drop) }
    }));
    let begun = Instant::now();
    assert!(many.await.into_iter().all(|answer| answer.is_err_and(|error| error.is_retryable())));
    assert!(begun.elapsed() < BOUND, "who waits for each other waits no longer: {:?}", begun.elapsed());
    server.thaw();

    let rest = recovered(&queue, 100, 2).await;
    let renewed = queue.renew(&tokens, at(950), at(2)).await.unwrap();
    assert!(renewed.iter().all(Result::is_ok), "{renewed:?}");
    // The push was on its way, and may be pushed again in any case.
    queue.push(&[item(99)]).await.unwrap();
    let late = queue.claim(&claim(100, 2)).await.unwrap();
    assert_eq!(rest.deliveries.len() + late.deliveries.len(), 11, "each item once");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_on_the_wire_leave_nothing_twice() {
    let Some(server) = start() else { return };
    let proxy = Proxy::before(server.port());
    let backend = connect(proxy.port()).await;
    let queue = backend.queue();
    queue.push(&items(5)).await.unwrap();
    assert_eq!(queue.claim(&claim(1, 0)).await.unwrap().deliveries.len(), 1);
    proxy.set(Wire::DropsReplies);
    assert_eq!(kind(queue.push(&items(10))).await, Some(ErrorKind::Indeterminate));
    assert_eq!(kind(queue.claim(&claim(1, 0))).await, Some(ErrorKind::Unavailable));
    assert!(proxy.struck() > 0);
    proxy.set(Wire::Cut);
    assert!(kind(queue.push(&items(10))).await.is_some_and(ErrorKind::is_retryable));
    proxy.set(Wire::Sound);
    let claimed = recovered(&queue, 100, 1).await;
    queue.push(&items(10)).await.unwrap();
    let late = queue.claim(&claim(100, 1)).await.unwrap();
    assert_eq!(claimed.deliveries.len() + late.deliveries.len(), 9, "all but the leased one, each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_settle_every_item_once_and_leave_nothing() {
    let Some((first, mut stream)) = shared(64 << 20).await else { return };
    let url = format!("{}?namespace={}", address(Shared::Nats).unwrap(), {
        let name = &stream.cached_info().config.name;
        name.strip_prefix("orch_").and_then(|name| name.strip_suffix("_queue")).unwrap()
    });
    let second = NatsBackend::open(url.parse().unwrap()).await.unwrap();
    let workers = (0..6).map(|n: usize| {
        let queue = if n.is_multiple_of(2) { first.queue() } else { second.queue() };
        tokio::spawn(async move {
            let mut settled: BTreeMap<String, u32> = BTreeMap::new();
            for round in 0.. {
                // Everybody pushes everything, in pieces of their own.
                let piece: Vec<_> = (0..300).filter(|item| (item + n) % 10 == round).map(item).collect();
                if round < 10 {
                    queue.push(&piece).await.unwrap();
                }
                let claimed = queue.claim(&claim(17, 0)).await.unwrap().deliveries;
                if claimed.is_empty() && round >= 10 {
                    return settled;
                }
                let ids: Vec<_> = claimed.iter().map(|delivery| delivery.item.id()).collect();
                let ends: Vec<_> = claimed
                    .into_iter()
                    .map(|delivery| match delivery.count {
                        1 => Settle::release(delivery.token, at(0)),
                        _ => Settle { release_until: Some(at(9_999)), ..Settle::done(delivery.token) },
                    })
                    .collect();
                let answers = queue.settle(&ends, at(1)).await.unwrap();
                assert!(answers.iter().all(Result::is_ok), "a lease is one worker's: {answers:?}");
                for (id, end) in ids.into_iter().zip(ends) {
                    *settled.entry(id).or_default() += u32::from(end.release_until == Some(at(9_999)));
                }
            }
            settled
        })
    });
    let settled: Vec<_> = join_all(workers).await.into_iter().map(Result::unwrap).collect();
    for number in 0..300 {
        let times: u32 = settled.iter().filter_map(|settled| settled.get(&item(number).id())).sum();
        assert_eq!(times, 1, "item {number}");
    }
    // What rests far in the future is there still, from either side.
    let rest = second.queue().claim(&claim(1_000, 9_999)).await.unwrap();
    assert_eq!(rest.deliveries.len(), 300);
    assert!(first.queue().settle(&done(rest), at(9_999)).await.unwrap().iter().all(Result::is_ok));
    let begun = Instant::now();
    while stream.info().await.unwrap().state.messages > 0 {
        assert!(begun.elapsed() < Duration::from_secs(40), "the ends of items go by themselves");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_takes_no_more_and_lets_what_is_there_be_done() {
    let Some((backend, stream)) = shared(1 << 20).await else { return };
    let queue = backend.queue();
    let mut pushed = 0;
    let error = loop {
        let more: Vec<_> = (pushed..pushed + 100).map(item).collect();
        match queue.push(&more).await {
            Ok(()) => pushed += 100,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
    assert!(format!("{error:?}").contains("queue is full"), "{error:?}");
    assert!(pushed >= 1_000, "an item takes no kilobyte: {pushed}");
    // Whoever does not look pushes on, to the brim of the stream itself.
    let subject = stream.cached_info().config.subjects[0].replace("*.*", "t.x");
    let context = jetstream::new(async_nats::connect(address(Shared::Nats).unwrap()).await.unwrap());
    for number in 0.. {
        let filled = context.publish(format!("{subject}{number}"), vec![0; 300].into()).await.unwrap().await;
        if filled.is_err() {
            assert!(number > 100, "there was room left: {number}");
            break;
        }
    }
    let claimed = queue.claim(&claim(10_000, 0)).await.unwrap();
    assert!(claimed.deliveries.len() >= pushed, "all are leased though there is no room");
    let tokens: Vec<_> = claimed.deliveries.iter().map(|delivery| delivery.token.clone()).collect();
    assert!(queue.renew(&tokens, at(99), at(1)).await.unwrap().iter().all(Result::is_ok));
    let half = Claimed { deliveries: claimed.deliveries[..pushed / 2].to_vec(), ..Claimed::default() };
    assert!(queue.settle(&done(half), at(2)).await.unwrap().iter().all(Result::is_ok));
    let back: Vec<_> =
        tokens[pushed / 2..].iter().map(|token| Settle::release(token.clone(), at(3))).collect();
    assert!(queue.settle(&back, at(2)).await.unwrap().iter().all(Result::is_ok));
    queue.push(&[item(1_000_000)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_to_the_stream_is_found_out() {
    let Some((backend, stream)) = shared(4 << 20).await else { return };
    let queue = backend.queue();
    queue.push(&items(20)).await.unwrap();
    let held = queue.claim(&claim(5, 0)).await.unwrap();
    // Emptied: nobody is told of it.
    stream.purge().await.unwrap();
    assert!(queue.claim(&claim(100, 1)).await.unwrap().deliveries.is_empty(), "they are gone");
    let lost = queue.settle(&done(held), at(1)).await.unwrap();
    assert!(
        lost.iter().all(|answer| answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::LeaseLost))
    );
    queue.push(&items(20)).await.unwrap();
    assert_eq!(recovered(&queue, 100, 1).await.deliveries.len(), 20);
    // A foreign message is passed over, and so is an item in the place of another tenant's.
    let name = stream.cached_info().config.name.clone();
    let context = jetstream::new(async_nats::connect(address(Shared::Nats).unwrap()).await.unwrap());
    let subject = stream.cached_info().config.subjects[0].replace("*.*", "t.x");
    context.publish(subject.clone(), "nonsense".into()).await.unwrap().await.unwrap();
    let lease = format!("{:08x}-{:016x}-{:016x}", 0, 0, 0);
    let smuggled = serde_json::json!({ "v": 1, "lease": lease, "item": item(40) }).to_string();
    context.publish(subject.replace(".t.", ".other."), smuggled.into()).await.unwrap().await.unwrap();
    queue.push(&[item(30)]).await.unwrap();
    assert_eq!(queue.claim(&claim(100, 1)).await.unwrap().deliveries.len(), 1);
    let depth = queue.depth(&item(0).tenant, at(1)).await.unwrap();
    assert_eq!((depth[0].ready, depth[0].leased), (0, 21));
    // Deleted: it is made again.
    context.delete_stream(&name).await.unwrap();
    let begun = Instant::now();
    while queue.push(&items(3)).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the stream is not made again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(recovered(&queue, 100, 1).await.deliveries.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_stream_was_deleted_begins_anew() {
    let Some((backend, stream)) = shared(4 << 20).await else { return };
    let lock = backend.lock();
    assert!(lock.acquire(&acquire("h", ["x".to_owned()])).await.unwrap().is_some());
    let name = stream.cached_info().config.name.replace("_queue", "_lock");
    let context = jetstream::new(async_nats::connect(address(Shared::Nats).unwrap()).await.unwrap());
    context.delete_stream(&name).await.unwrap();
    let begun = Instant::now();
    while lock.acquire(&acquire("i", ["x".to_owned()])).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the stream is not made again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let holder = acquire("h", []).holder;
    let lost = lock.renew(&[holder], at(900), at(1)).await.unwrap().remove(0);
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::LeaseLost, "it has learnt that");
}

#[tokio::test]
async fn what_does_not_fit_into_a_message_is_refused() {
    let Some((backend, _)) = shared(16 << 20).await else { return };
    let lock = backend.lock();
    let long = |n: usize| format!("{n}-{}", "k".repeat(100));
    let error = lock.acquire(&acquire("h", (0..10_000).map(long))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
    assert!(lock.acquire(&acquire("h", (0..5_000).map(long))).await.unwrap().is_some(), "that fits");
    let take = Take {
        tenant: TenantId::new("t").unwrap(),
        key: "k".repeat(2_000),
        tokens: 1,
        rate: 1.0,
        burst: 1,
        now: at(0),
    };
    assert_eq!(kind(lock.take(&take)).await, Some(ErrorKind::LimitExceeded));
}
