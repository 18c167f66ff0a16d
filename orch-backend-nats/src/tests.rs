//! What each call costs, counted by the messages that the client sends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use orch::lock::{Acquire, Holder, Lock as _, Slot, Take, Taken};
use orch::queue::{Claim, Item, Queue as _, Settle};
use orch::{ErrorKind, TenantId, Timestamp, WorkerId};
use orch_servers::{Shared, address, namespace};

use super::*;
use crate::queue::message_tests::item;

async fn open() -> Option<NatsBackend> {
    let url = format!("{}?namespace={}&maxBytes=4194304", address(Shared::Nats)?, namespace());
    Some(NatsBackend::open(url.parse().unwrap()).await.unwrap())
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000 + micros)
}

fn claim(limit: usize) -> Claim {
    let (worker, lease) = (WorkerId::new("w"), Duration::from_secs(60));
    Claim { worker, queues: None, tenants: None, limit, lease, now: at(0) }
}

impl NatsBackend {
    fn sent(&self) -> u64 {
        self.link.client.statistics().out_messages.load(Ordering::Relaxed)
    }

    /// How many messages `call` sends.
    async fn cost<T>(&self, call: impl Future<Output = Result<T>>) -> (u64, T) {
        let before = self.sent();
        let answer = call.await.unwrap();
        (self.sent() - before, answer)
    }
}

#[tokio::test]
async fn a_call_of_the_queue_costs_a_message_per_item_and_one_to_be_sure() {
    let Some(backend) = open().await else { return };
    let queue = backend.queue();
    let tenant = item(0).tenant;
    let (begin, _) = backend.cost(queue.claim(&claim(1))).await;
    assert_eq!(begin, 5, "two streams looked at, how far, a consumer, and the claim's own");
    let items: Vec<Item> = (0..100).map(item).collect();
    assert_eq!(backend.cost(queue.push(&items)).await.0, 100);
    assert_eq!(backend.cost(queue.push(&items)).await.0, 1, "what is known to be there is not sent again");
    let (claimed, claimed_now) = backend.cost(queue.claim(&claim(60))).await;
    assert_eq!((claimed, claimed_now.deliveries.len()), (61, 60));
    let settled = claimed_now.deliveries[0].item.clone();
    let tokens: Vec<_> = claimed_now.deliveries.into_iter().map(|delivery| delivery.token).collect();
    assert_eq!(backend.cost(queue.renew(&tokens, at(90_000_000), at(1))).await.0, 60);
    let settles: Vec<_> = tokens.into_iter().map(Settle::done).collect();
    assert_eq!(backend.cost(queue.settle(&settles, at(2))).await.0, 60);
    // After this the ends have been seen, and are no longer known from having been written.
    assert_eq!(backend.cost(queue.depth(&tenant, at(2))).await.0, 1);
    assert_eq!(backend.cost(queue.settle(&settles, at(2))).await.0, 1, "asked once whether all have ended");
    assert_eq!(backend.cost(queue.claim(&claim(0))).await.0, 1);
    assert_eq!(backend.cost(queue.push(&[settled])).await.0, 4, "sent, not known, looked at, sent again");
    let (rest, claimed_now) = backend.cost(queue.claim(&claim(100))).await;
    assert_eq!((rest, claimed_now.deliveries.len()), (42, 41));
    // Nobody takes what comes back: that it came back is told to the others.
    assert_eq!(backend.cost(queue.claim(&Claim { now: at(60_000_000), ..claim(1) })).await.0, 42);
    assert_eq!(backend.cost(queue.claim(&Claim { now: at(60_000_000), ..claim(1) })).await.0, 2);
}

#[tokio::test]
async fn what_items_take_is_known() {
    let Some(backend) = open().await else { return };
    let queue = backend.queue();
    let items: Vec<Item> = (0..1_000).map(item).collect();
    queue.push(&items).await.unwrap();
    queue.claim(&claim(500)).await.unwrap();
    let stream = backend.link.context.get_stream(&backend.link.names.queue).await.unwrap();
    let (taken, counted) = (stream.cached_info().state.bytes, queue.bytes());
    assert!(taken.abs_diff(counted) < taken / 20, "the stream says {taken}, the image {counted}");
}

#[tokio::test]
async fn a_lease_that_one_process_found_ended_has_ended_for_all() {
    let Some(backend) = open().await else { return };
    let (queue, other) =
        (backend.queue(), NatsBackend::open(backend.link.config.clone()).await.unwrap().queue());
    queue.push(&[item(1)]).await.unwrap();
    let token = queue.claim(&claim(1)).await.unwrap().deliveries.remove(0).token;
    let late = Claim { now: at(60_000_000), ..claim(0) };
    assert!(other.claim(&late).await.unwrap().deliveries.is_empty());
    // The clock of the first may be slow.
    let lost = queue.renew(std::slice::from_ref(&token), at(99_000_000), at(1)).await.unwrap().remove(0);
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(queue.claim(&claim(1)).await.unwrap().deliveries[0].count, 2);
}

#[tokio::test]
async fn the_longest_names_fit() {
    let Some(backend) = open().await else { return };
    let (queue, long) = (backend.queue(), format!("a{}", ".".repeat(127)));
    let tenant = TenantId::new(&long).unwrap();
    let step = orch::StepKey::from(orch::StepId::new(&long).unwrap()).child(u32::MAX);
    let item = Item { tenant: tenant.clone(), step, attempt: u32::MAX, ..item(1) };
    queue.push(std::slice::from_ref(&item)).await.unwrap();
    let delivery = queue.claim(&claim(1)).await.unwrap().deliveries.remove(0);
    assert_eq!(delivery.item, item);
    queue.settle(&[Settle::done(delivery.token)], at(1)).await.unwrap().remove(0).unwrap();
    let holder = Holder { tenant, name: long.clone() };
    let slots = vec![Slot { key: long, capacity: 1 }];
    let asked = Acquire { holder, slots, lease: Duration::from_secs(60), now: at(0) };
    assert!(backend.lock().acquire(&asked).await.unwrap().is_some());
}

#[tokio::test]
async fn an_idle_worker_costs_what_it_claims() {
    let Some(backend) = open().await else { return };
    let queue = backend.queue();
    assert!(queue.claim(&claim(1)).await.unwrap().deliveries.is_empty());
    let (cost, ()) = backend.cost(queue.wait(Duration::from_millis(1_500))).await;
    assert_eq!(cost, 0, "waiting asks nothing");
    assert_eq!(backend.cost(queue.claim(&claim(1))).await.0, 1);
}

#[tokio::test]
async fn a_push_elsewhere_wakes_who_waits() {
    let Some(backend) = open().await else { return };
    let other = NatsBackend::open(backend.link.config.clone()).await.unwrap();
    let queue = backend.queue();
    assert!(queue.claim(&claim(1)).await.unwrap().deliveries.is_empty());
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.wait(Duration::from_secs(3_600)).await }
    });
    tokio::task::yield_now().await;
    other.queue().push(&[item(1)]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it is told").unwrap().unwrap();
}

#[tokio::test]
async fn a_call_of_the_lock_costs_a_message_where_nobody_else_is() {
    let Some(backend) = open().await else { return };
    let lock = backend.lock();
    let tenant = TenantId::new("t").unwrap();
    let holder = |name: &str| Holder { tenant: tenant.clone(), name: name.to_owned() };
    let asks = |name: &str| Acquire {
        holder: holder(name),
        slots: vec![Slot { key: "x".into(), capacity: 2 }, Slot { key: "y".into(), capacity: 2 }],
        lease: Duration::from_secs(60),
        now: at(0),
    };
    assert_eq!(backend.cost(lock.acquire(&asks("a"))).await.0, 2, "the first reads");
    assert_eq!(backend.cost(lock.acquire(&asks("b"))).await.0, 1);
    let (refused, grants) = backend.cost(lock.acquire(&asks("c"))).await;
    assert_eq!((refused, grants), (1, None), "a refusal is of a fresh read");
    let both = [holder("a"), holder("b")];
    assert_eq!(backend.cost(lock.renew(&both, at(9), at(1))).await.0, 1, "one tenant, one message");
    assert_eq!(backend.cost(lock.release(&both)).await.0, 1);
    let take = Take { tenant, key: "any *.> key".into(), tokens: 1, rate: 1.0, burst: 2, now: at(0) };
    assert_eq!(backend.cost(lock.take(&take)).await, (2, Taken::Granted));
    assert_eq!(backend.cost(lock.take(&take)).await, (1, Taken::Granted));
    assert_eq!(backend.cost(lock.take(&take)).await.0, 1);
}

#[tokio::test]
async fn a_bucket_goes_by_itself_and_a_tenant_leaves_its_last_fence() {
    let Some(backend) = open().await else { return };
    let (lock, names) = (backend.lock(), &backend.link.names);
    let holder = Holder { tenant: TenantId::new("t").unwrap(), name: "h".into() };
    let slots = vec![Slot { key: "x".into(), capacity: 1 }];
    let asked = Acquire { holder: holder.clone(), slots, lease: Duration::from_secs(60), now: at(0) };
    lock.acquire(&asked).await.unwrap();
    lock.release(std::slice::from_ref(&holder)).await.unwrap();
    for (key, rate) in [("ends", 1.0), ("stays", 0.0)] {
        let take =
            Take { tenant: holder.tenant.clone(), key: key.into(), tokens: 1, rate, burst: 5, now: at(0) };
        assert_eq!(lock.take(&take).await.unwrap(), Taken::Granted);
    }
    let stream = backend.link.context.get_stream(&names.lock).await.unwrap();
    let last = async |subject: String| {
        let message = stream.get_last_raw_message_by_subject(&subject).await.unwrap();
        let seconds = message.headers.get("Nats-TTL").map(|value| value.as_str().to_owned());
        (String::from_utf8(message.payload.to_vec()).unwrap(), seconds)
    };
    assert_eq!(last(names.slots(&holder.tenant)).await, (r#"{"last":1}"#.to_owned(), None));
    let (text, seconds) = last(names.bucket(&holder.tenant, "ends")).await;
    assert_eq!(
        (text.as_str(), seconds.as_deref()),
        (r#"{"parts":4000000,"at":1800000000000000}"#, Some("3605"))
    );
    assert_eq!(last(names.bucket(&holder.tenant, "stays")).await.1, None, "it never fills again");
}

#[tokio::test]
async fn a_closed_backend_says_so() {
    let Some(backend) = open().await else { return };
    let (queue, lock) = (backend.queue(), backend.lock());
    queue.push(&[item(1)]).await.unwrap();
    let waiting = tokio::spawn({
        let queue = queue.clone();
        // It may return early, and does so after the push.
        async move { while queue.wait(Duration::from_secs(3_600)).await.is_ok() {} }
    });
    tokio::task::yield_now().await;
    backend.close().await;
    let closed = Some(ErrorKind::Closed);
    let kind = |answer: Result<()>| answer.err().map(|error| error.kind());
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it is told").unwrap();
    assert_eq!(kind(queue.push(&[item(2)]).await), closed);
    assert_eq!(kind(queue.claim(&claim(1)).await.map(drop)), closed);
    assert_eq!(kind(queue.wait(Duration::ZERO).await), closed);
    assert_eq!(kind(lock.release(&[Holder { tenant: item(1).tenant, name: "h".into() }]).await), closed);
    backend.close().await;
}
