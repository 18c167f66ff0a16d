//! The order of the queue over its segments.

use super::*;

async fn segments(backend: &MongoBackend) -> (i64, Vec<i64>) {
    let found = documents(backend, "meta").find_one(doc! {"_id": "queue"}).await.unwrap().unwrap();
    let live = found.get_array("live").unwrap().iter().map(|segment| segment.as_i64().unwrap());
    (found.get_i64("current").unwrap(), live.collect())
}

async fn claimed(queue: &MongoQueue, limit: usize) -> Vec<orch::queue::Delivery> {
    queue.claim(&claim(limit)).await.unwrap().deliveries
}

async fn done(queue: &MongoQueue, deliveries: Vec<orch::queue::Delivery>) {
    let settles: Vec<_> = deliveries.into_iter().map(|delivery| Settle::done(delivery.token)).collect();
    assert!(queue.settle(&settles, at(0)).await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn r3_the_order_holds_over_segments() {
    let Some(backend) = open().await else { return };
    let other = MongoBackend::open(backend.connection.config.clone()).await.unwrap();
    let queues = [backend.queue(), other.queue()];
    let (mut waiting, mut taken) = (std::collections::BTreeSet::new(), 0);
    for round in 0..20_usize {
        // Later rounds push what comes before as well as after what still waits.
        let of = |n: usize| Item {
            priority: (n % 3) as i32,
            ready_at: at(-((n * 7 % 100) as i64)),
            ..item(round * 1_000 + n)
        };
        let items: Vec<_> = (0..350).map(of).collect();
        waiting.extend(items.iter().cloned());
        queues[round % 2].push(&items).await.unwrap();
        let deliveries = claimed(&queues[(round + 1) % 2], 300).await;
        let expected: Vec<_> = waiting.iter().take(300).cloned().collect();
        assert!(deliveries.iter().map(|delivery| &delivery.item).eq(&expected), "round {round}");
        waiting.retain(|item| *item > expected[299]);
        taken += deliveries.len();
        done(&queues[round % 2], deliveries).await;
    }
    let (current, live) = segments(&backend).await;
    assert!(current > 2, "segments were closed after {taken} items");
    while !waiting.is_empty() {
        let deliveries = claimed(&queues[0], 400).await;
        assert!(deliveries.iter().all(|delivery| waiting.remove(&delivery.item)));
        assert!(!deliveries.is_empty(), "everything that was pushed is found: {live:?}");
        done(&queues[1], deliveries).await;
    }
    assert!(claimed(&queues[0], 1).await.is_empty());
    let (current, live) = segments(&backend).await;
    assert_eq!(live, [current], "empty ones are looked at no more");
    assert_eq!(documents(&backend, QUEUE).count_documents(doc! {}).await.unwrap(), 0);
}

/// Takes so many items that segments are closed and forgotten.
async fn move_on(backend: &MongoBackend) {
    let queue = backend.queue();
    let (before, _) = segments(backend).await;
    for round in 0..3 {
        queue.push(&(0..600).map(|n| item(100_000 + round * 600 + n)).collect::<Vec<_>>()).await.unwrap();
        let deliveries = claimed(&queue, 600).await;
        assert_eq!(deliveries.len(), 600);
        done(&queue, deliveries).await;
    }
    claimed(&queue, 1).await;
    let (current, live) = segments(backend).await;
    assert!(current > before && !live.contains(&before), "{current} {live:?}");
}

#[tokio::test]
async fn q1_what_a_slow_process_puts_into_a_closed_segment_is_found() {
    let Some(backend) = open().await else { return };
    let slow = MongoBackend::open(backend.connection.config.clone()).await.unwrap();
    slow.queue().push(&[item(1), item(2)]).await.unwrap();
    let leased = claimed(&slow.queue(), 2).await;
    assert_eq!(leased.len(), 2);
    move_on(&backend).await;
    // It pushes and releases where it believes the current segment to be.
    slow.queue().push(&[item(3)]).await.unwrap();
    assert_eq!(claimed(&backend.queue(), 5).await.len(), 1);
    let released =
        leased.into_iter().map(|delivery| Settle::release(delivery.token, at(0))).collect::<Vec<_>>();
    assert!(slow.queue().settle(&released, at(0)).await.unwrap().iter().all(Result::is_ok));
    assert_eq!(claimed(&backend.queue(), 5).await.len(), 2);
}

#[tokio::test]
async fn q1_a_lease_that_ended_comes_back_in_a_segment_that_is_looked_at() {
    let Some(backend) = open().await else { return };
    backend.queue().push(&[item(1)]).await.unwrap();
    assert_eq!(claimed(&backend.queue(), 1).await.len(), 1);
    move_on(&backend).await;
    let later = Claim { now: at(60_000_000), ..claim(9) };
    let again = backend.queue().claim(&later).await.unwrap().deliveries;
    assert_eq!((again.len(), again[0].count), (1, 2));
}

#[tokio::test]
async fn q1_an_item_whose_process_died_before_it_saw_where_it_lies_is_brought_back_by_the_next_push() {
    let Some(backend) = open().await else { return };
    backend.queue().push(&[item(1)]).await.unwrap();
    let nowhere = doc! {"$set": {"segment": 77_i64}};
    documents(&backend, QUEUE).update_one(doc! {}, nowhere).await.unwrap();
    assert!(claimed(&backend.queue(), 5).await.is_empty());
    backend.queue().push(&[item(1)]).await.unwrap();
    assert_eq!(claimed(&backend.queue(), 5).await.len(), 1);
}

#[tokio::test]
async fn segments_that_hold_little_are_emptied_when_there_are_many() {
    let Some(backend) = open().await else { return };
    let queue = backend.queue();
    for round in 0..20_usize {
        let mut items: Vec<_> = (0..1_000).map(|n| item(round * 2_000 + n)).collect();
        // One of each waits long, in a segment that has nothing else after a while.
        items.push(Item { ready_at: at(1_000_000), ..item(round * 2_000 + 1_999) });
        queue.push(&items).await.unwrap();
        let deliveries = claimed(&queue, 1_000).await;
        assert_eq!(deliveries.len(), 1_000, "round {round}");
        done(&queue, deliveries).await;
    }
    let (current, live) = segments(&backend).await;
    assert!(current >= 20 && live.len() <= 14, "{current} {live:?}");
    let later = Claim { now: at(1_000_000), ..claim(50) };
    assert_eq!(queue.claim(&later).await.unwrap().deliveries.len(), 20);
}
