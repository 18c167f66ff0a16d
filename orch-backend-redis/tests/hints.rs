//! What becomes of hints in hard cases: keys that the server threw away, a tenant that comes and goes, one whose keys do not
//! read, and more items than fit one script.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeSet;
use std::time::Duration;

use orch::queue::{Claim, Delivery, Item, Queue as _, Settle};
use orch::{ErrorKind, Timestamp};
use orch_backend_redis::{RedisBackend, RedisConfig, RedisQueue};
use orch_servers::{Kind, Server, redis_command, skipped};

async fn start() -> Option<(Server, RedisQueue)> {
    let Some(server) = Server::start(Kind::Redis, &[]) else {
        skipped(Kind::Redis);
        return None;
    };
    let backend = RedisBackend::open(RedisConfig::new("127.0.0.1", server.port())).await.unwrap();
    Some((server, backend.queue()))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

fn item(tenant: &str, step: &str, ready_at: i64) -> Item {
    Item {
        tenant: orch::TenantId::new(tenant).unwrap(),
        queue: orch::QueueName::default_queue(),
        priority: 0,
        ready_at: at(ready_at),
        dag: orch::DagId::new("d").unwrap(),
        run: "0123456789abcdef0123456789abcdef".parse().unwrap(),
        plan_index: 0,
        step: orch::StepId::new(step).unwrap().into(),
        attempt: 1,
    }
}

async fn claim(queue: &RedisQueue, now: i64, limit: usize) -> orch::Result<Vec<Delivery>> {
    let claim = Claim {
        worker: orch::WorkerId::new("w"),
        queues: None,
        tenants: None,
        limit,
        lease: Duration::from_secs(30),
        now: at(now),
    };
    queue.claim(&claim).await.map(|claimed| claimed.deliveries)
}

async fn settle(queue: &RedisQueue, deliveries: &[Delivery], now: i64) -> usize {
    let settles: Vec<_> = deliveries.iter().map(|delivery| Settle::done(delivery.token.clone())).collect();
    let answers = queue.settle(&settles, at(now)).await.unwrap();
    answers.iter().filter(|answer| answer.is_ok()).count()
}

#[tokio::test]
async fn whichever_key_is_evicted_items_that_are_pushed_again_are_delivered_once() {
    for key in ["items", "ready:default", "delayed", "leased", "queues", "now"] {
        let Some((server, queue)) = start().await else { return };
        let [leased, ready, delayed] = [item("t", "a", 5), item("t", "b", 5), item("t", "c", 20)];
        queue.push(&[leased.clone(), ready.clone()]).await.unwrap();
        assert_eq!(claim(&queue, 10, 1).await.unwrap()[0].item, leased);
        queue.push(std::slice::from_ref(&delayed)).await.unwrap();
        let evicted = redis_command(server.port(), &["DEL", &format!("{{orch:queue:t}}:{key}")]);
        assert_eq!(evicted, ":1", "{key}");
        // As the sweep does; twice, for the first item is under a lease until 40.
        let all = [leased, ready, delayed];
        queue.push(&all).await.unwrap();
        queue.push(&all).await.unwrap();
        let mut delivered = claim(&queue, 25, 10).await.unwrap();
        let under_lease = usize::from(key != "items");
        assert_eq!(delivered.len(), 3 - under_lease, "{key}");
        assert_eq!(settle(&queue, &delivered, 25).await, delivered.len(), "{key}");
        delivered.extend(claim(&queue, 41, 10).await.unwrap());
        assert_eq!(delivered.len(), 3, "{key}");
        let steps: BTreeSet<_> = delivered.iter().map(|delivery| delivery.item.step.to_string()).collect();
        assert_eq!(steps.len(), 3, "{key}");
    }
}

#[tokio::test]
async fn an_index_that_outlived_its_items_ends_no_lease_and_delivers_nothing_twice() {
    let Some((server, queue)) = start().await else { return };
    let item = item("t", "a", 5);
    queue.push(std::slice::from_ref(&item)).await.unwrap();
    assert_eq!(claim(&queue, 10, 1).await.unwrap().len(), 1);
    assert_eq!(redis_command(server.port(), &["DEL", "{orch:queue:t}:items"]), ":1");
    queue.push(std::slice::from_ref(&item)).await.unwrap();
    let again = claim(&queue, 20, 10).await.unwrap();
    assert_eq!(again.len(), 1);
    // The lease of before would have ended at 40; this one ends at 50.
    assert!(claim(&queue, 45, 10).await.unwrap().is_empty());
    assert_eq!(settle(&queue, &again, 45).await, 1);
}

#[tokio::test]
async fn a_tenant_that_comes_back_is_not_struck_off_by_who_saw_it_before() {
    let Some((server, queue)) = start().await else { return };
    let number = || redis_command(server.port(), &["ZSCORE", "{orch:tenants}", "t"]);
    let mut seen = BTreeSet::new();
    for round in 0..3 {
        queue.push(&[item("t", "a", 5)]).await.unwrap();
        assert!(seen.insert(number()), "what is compared before it is struck off is another each time");
        let deliveries = claim(&queue, 10 + round, 1).await.unwrap();
        assert_eq!(settle(&queue, &deliveries, 10 + round).await, 1);
        assert!(claim(&queue, 10 + round, 1).await.unwrap().is_empty());
        assert_eq!(number(), "$-1", "it has nothing, and is struck off");
    }
}

#[tokio::test]
async fn a_tenant_whose_keys_do_not_read_keeps_nothing_from_others() {
    let Some((server, queue)) = start().await else { return };
    queue.push(&[item("bad", "a", 5), item("good", "a", 5)]).await.unwrap();
    let key = "{orch:queue:bad}:ready:default";
    redis_command(server.port(), &["DEL", key]);
    assert_eq!(redis_command(server.port(), &["SET", key, "x"]), "+OK");
    let delivered = claim(&queue, 10, 10).await.unwrap();
    assert_eq!(delivered.len(), 1);
    assert_eq!(delivered[0].item.tenant.as_str(), "good");
    assert_eq!(settle(&queue, &delivered, 10).await, 1);
    assert_eq!(claim(&queue, 10, 10).await.unwrap_err().kind(), ErrorKind::Corrupt, "and is told of");
}

#[tokio::test]
async fn thousands_in_one_call_are_no_trouble() {
    const MANY: usize = 5_000;
    let Some((_server, queue)) = start().await else { return };
    let items: Vec<_> = (0..MANY).map(|n| item("t", &format!("s{n:05}"), 5)).collect();
    queue.push(&items).await.unwrap();
    queue.push(&items).await.unwrap();
    let deliveries = claim(&queue, 10, MANY + 1).await.unwrap();
    assert!(deliveries.iter().map(|delivery| &delivery.item).eq(&items));
    let tokens: Vec<_> = deliveries.iter().map(|delivery| delivery.token.clone()).collect();
    assert!(queue.renew(&tokens, at(50), at(11)).await.unwrap().iter().all(Result::is_ok));
    // All leases end at once, and all items come back at once.
    let deliveries = claim(&queue, 50, MANY + 1).await.unwrap();
    assert!(deliveries.iter().map(|delivery| &delivery.item).eq(&items));
    let release = |delivery: &Delivery| Settle::release(delivery.token.clone(), at(60));
    let releases: Vec<_> = deliveries.iter().map(release).collect();
    assert!(queue.settle(&releases, at(51)).await.unwrap().iter().all(Result::is_ok));
    let deliveries = claim(&queue, 60, MANY + 1).await.unwrap();
    assert!(deliveries.iter().all(|delivery| delivery.count == 3));
    assert_eq!(settle(&queue, &deliveries, 60).await, MANY);
    assert!(queue.depth(&items[0].tenant, at(60)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_closed_queue_says_so_whatever_it_was_told_before() {
    let Some((server, _)) = start().await else { return };
    for _ in 0..16 {
        let backend = RedisBackend::open(RedisConfig::new("127.0.0.1", server.port())).await.unwrap();
        let queue = backend.queue();
        queue.push(&[item("t", "a", 5)]).await.unwrap();
        backend.close().await;
        let waited = queue.wait(Duration::from_secs(10)).await;
        assert_eq!(waited.unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[tokio::test]
async fn what_became_ready_together_in_one_run_is_not_divided_unless_little_is_left() {
    let Some((_server, queue)) = start().await else { return };
    let run = |run: u32, step: u32| Item {
        run: format!("{run:032x}").parse().unwrap(),
        plan_index: step,
        ..item("t", &format!("s{step}"), 5)
    };
    let items: Vec<_> = (0..4).flat_map(|r| (0..4).map(move |step| run(r, step))).collect();
    queue.push(&items).await.unwrap();
    let ask = |limit| Claim {
        worker: orch::WorkerId::new("w"),
        queues: None,
        tenants: None,
        limit,
        lease: Duration::from_secs(30),
        now: at(10),
    };
    let mut left = items.into_iter();
    for (limit, given, more) in [(6, 4, true), (3, 3, false), (2, 1, true), (8, 8, false)] {
        let claimed = queue.claim(&ask(limit)).await.unwrap();
        let got: Vec<_> = claimed.deliveries.into_iter().map(|delivery| delivery.item).collect();
        assert_eq!(got, left.by_ref().take(given).collect::<Vec<_>>(), "of {limit}");
        assert_eq!(claimed.more, more, "of {limit}");
    }
}
