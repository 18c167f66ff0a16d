//! The cases of the queue suite.

use std::collections::BTreeSet;
use std::time::Duration;

use orch::queue::{Claim, Claimed, Delivery, DeliveryToken, Depth, Item, Queue, Settle};
use orch::{ErrorKind, QueueName, StepId, TenantId, WorkerId};

use crate::Pair;
use crate::fixture::*;

mod differential;
pub use differential::differs_nowhere_from_the_model;

const LOST: Option<ErrorKind> = Some(ErrorKind::LeaseLost);
/// The length of a lease of [`claim`], in microseconds.
const LEASE: i64 = 1_000_000;

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

async fn take(queue: &dyn Queue, limit: usize, now: i64) -> Vec<Delivery> {
    let Claimed { deliveries, .. } = queue.claim(&claim(limit, at(now))).await.unwrap();
    assert!(deliveries.len() <= limit, "no more than asked for");
    deliveries
}

async fn take_one(queue: &dyn Queue, now: i64) -> Delivery {
    let mut taken = take(queue, 1, now).await;
    assert_eq!(taken.len(), 1, "one item is ready");
    taken.remove(0)
}

async fn settle(queue: &dyn Queue, settle: Settle, now: i64) -> Option<ErrorKind> {
    let mut answers = queue.settle(&[settle], at(now)).await.unwrap();
    assert_eq!(answers.len(), 1, "one answer per delivery");
    kind(answers.remove(0))
}

async fn renew(queue: &dyn Queue, token: &DeliveryToken, until: i64, now: i64) -> Option<ErrorKind> {
    let mut answers = queue.renew(std::slice::from_ref(token), at(until), at(now)).await.unwrap();
    assert_eq!(answers.len(), 1, "one answer per delivery");
    kind(answers.remove(0))
}

fn ids(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|delivery| delivery.item.id()).collect()
}

/// Q1: the lease ends at its instant and not before; the next delivery has another token and a higher count.
pub async fn q1_unsettled_items_come_back_when_their_lease_ends(pair: Pair<dyn Queue>) {
    let item = item(&tenant("a"), 1);
    pair.first.push(std::slice::from_ref(&item)).await.unwrap();
    let mut tokens = BTreeSet::new();
    for round in 0..4 {
        let now = i64::from(round) * LEASE;
        let delivery = take_one(&**pair.of(round.try_into().unwrap()), now).await;
        assert_eq!(
            (&delivery.item, delivery.lease_until, delivery.count),
            (&item, at(now + LEASE), round + 1)
        );
        assert!(tokens.insert(delivery.token), "every delivery has a token of its own");
        assert!(take(&*pair.first, 5, now + LEASE - 1).await.is_empty(), "the lease lasts");
        assert!(take(&*pair.second, 5, now + LEASE - 1).await.is_empty(), "the lease lasts");
    }
}

/// Q1: what is done is never delivered again, unless it is pushed again.
pub async fn q1_settled_items_are_gone_and_may_be_pushed_again(pair: Pair<dyn Queue>) {
    let item = item(&tenant("a"), 1);
    for turn in 0..2 {
        pair.first.push(std::slice::from_ref(&item)).await.unwrap();
        let delivery = take_one(&**pair.of(turn), 0).await;
        assert_eq!(delivery.count, 1);
        assert_eq!(settle(&*pair.second, Settle::done(delivery.token.clone()), 1).await, None);
        assert_eq!(settle(&*pair.first, Settle::done(delivery.token), 1).await, LOST, "it ends once");
        assert!(take(&*pair.first, 5, 10 * LEASE).await.is_empty());
        assert!(pair.first.depth(&item.tenant, at(0)).await.unwrap().is_empty(), "nothing is left");
    }
}

/// Q1: what goes back is ready at its instant, in its new place in the order.
pub async fn q1_released_items_come_back_at_their_instant(pair: Pair<dyn Queue>) {
    let a = tenant("a");
    pair.first.push(&[item(&a, 1)]).await.unwrap();
    let delivery = take_one(&*pair.first, 0).await;
    assert_eq!(settle(&*pair.second, Settle::release(delivery.token.clone(), at(7)), 1).await, None);
    assert_eq!(settle(&*pair.second, Settle::done(delivery.token.clone()), 1).await, LOST);
    assert!(take(&*pair.first, 5, 6).await.is_empty());
    pair.first.push(&[Item { ready_at: at(5), ..item(&a, 2) }, item(&a, 1)]).await.unwrap();
    let taken = take(&*pair.second, 5, 7).await;
    let released = Item { ready_at: at(7), ..item(&a, 1) };
    assert_eq!(ids(&taken), [item(&a, 2).id(), released.id()]);
    assert_eq!((&taken[1].item, taken[1].count), (&released, 2));
    assert_ne!(taken[1].token, delivery.token);
}

/// Q1: pushing what is queued or leased changes neither place nor lease.
pub async fn q1_pushing_again_changes_nothing(pair: Pair<dyn Queue>) {
    let a = tenant("a");
    let first = item(&a, 1);
    let other = Item { priority: 9, ready_at: at(-5), queue: queue("other"), ..first.clone() };
    pair.first.push(&[first.clone(), first.clone()]).await.unwrap();
    pair.second.push(&[other.clone(), first.clone()]).await.unwrap();
    let delivery = take_one(&*pair.first, 0).await;
    assert_eq!(delivery.item, first);
    assert!(take(&*pair.first, 5, 0).await.is_empty(), "it is there once");
    pair.second.push(&[first, other]).await.unwrap();
    assert!(take(&*pair.second, 5, 0).await.is_empty(), "a leased item is not queued again");
    assert_eq!(settle(&*pair.first, Settle::done(delivery.token), 1).await, None);
    assert!(take(&*pair.second, 5, 10 * LEASE).await.is_empty());
}

/// Q1: many workers of two processes share many items without sharing one.
pub async fn q1_racing_claims_are_exclusive(pair: Pair<dyn Queue>) {
    let (a, b) = (tenant("a"), tenant("b"));
    let items: Vec<_> = (0..200).map(|n| item(if n % 3 == 0 { &a } else { &b }, n)).collect();
    pair.first.push(&items).await.unwrap();
    let taken = race((0..8).map(|racer| {
        let queue = pair.of(racer).clone();
        async move {
            let mut mine = Vec::new();
            loop {
                let more = take(&*queue, 7, 0).await;
                if more.is_empty() {
                    return mine;
                }
                mine.extend(more);
            }
        }
    }))
    .await
    .concat();
    let distinct: BTreeSet<_> = ids(&taken).into_iter().collect();
    assert_eq!((taken.len(), distinct.len()), (200, 200), "each item went to one worker");
    let tokens: BTreeSet<_> = taken.iter().map(|delivery| delivery.token.clone()).collect();
    assert_eq!(tokens.len(), 200, "each delivery has a token of its own");
    let done: Vec<_> = taken.into_iter().map(|delivery| Settle::done(delivery.token)).collect();
    let answers = race((0..2).map(|racer| {
        let (queue, done) = (pair.of(racer).clone(), done.clone());
        async move { queue.settle(&done, at(1)).await.unwrap().into_iter().map(kind).collect::<Vec<_>>() }
    }))
    .await;
    for (one, other) in answers[0].iter().zip(&answers[1]) {
        assert!((*one == LOST) != (*other == LOST), "each delivery ends once: {one:?} {other:?}");
    }
}

/// Q1: when the lease has ended, so has the delivery, though nobody took the item yet.
pub async fn q1_settling_after_the_lease_is_refused(pair: Pair<dyn Queue>) {
    pair.first.push(&[item(&tenant("a"), 1)]).await.unwrap();
    let delivery = take_one(&*pair.first, 0).await;
    for late in [Settle::done(delivery.token.clone()), Settle::release(delivery.token, at(0))] {
        assert_eq!(settle(&*pair.first, late, LEASE).await, LOST);
    }
    assert_eq!(take_one(&*pair.second, LEASE).await.count, 2, "nothing was changed");
}

/// Q1: the worker that had the item before cannot end the delivery of the one that has it now.
pub async fn q1_settling_by_an_old_token_is_refused(pair: Pair<dyn Queue>) {
    pair.first.push(&[item(&tenant("a"), 1)]).await.unwrap();
    let old = take_one(&*pair.first, 0).await.token;
    let new = take_one(&*pair.second, LEASE).await.token;
    // The old worker's clock may also stand still.
    for now in [1, LEASE + 1] {
        assert_eq!(settle(&*pair.first, Settle::done(old.clone()), now).await, LOST);
        assert_eq!(renew(&*pair.first, &old, 5 * LEASE, now).await, LOST);
    }
    assert_eq!(settle(&*pair.second, Settle::done(new), LEASE + 1).await, None);
    for unknown in ["", "0", "x", "-1", "99999999999999999999999", "' or 1=1 --"] {
        assert_eq!(
            settle(&*pair.first, Settle::done(DeliveryToken::new(unknown)), 0).await,
            LOST,
            "{unknown}"
        );
    }
}

/// Q1: a lease lasts as long as it was renewed for; one that has ended cannot be renewed.
pub async fn q1_renewing_prolongs_and_after_the_lease_is_refused(pair: Pair<dyn Queue>) {
    pair.first.push(&[item(&tenant("a"), 1)]).await.unwrap();
    let token = take_one(&*pair.first, 0).await.token;
    assert_eq!(renew(&*pair.second, &token, 3 * LEASE, LEASE - 1).await, None);
    assert!(take(&*pair.first, 5, 3 * LEASE - 1).await.is_empty(), "the renewed lease lasts");
    assert_eq!(renew(&*pair.first, &token, 9 * LEASE, 3 * LEASE).await, LOST);
    let again = take_one(&*pair.second, 3 * LEASE).await;
    assert_eq!(again.count, 2);
    assert_eq!(renew(&*pair.second, &again.token, 9 * LEASE, 3 * LEASE + 1).await, None);
}

/// Q1: a worker that is given the same item twice holds only the second delivery.
pub async fn q1_a_worker_id_is_no_identity(pair: Pair<dyn Queue>) {
    pair.first.push(&[item(&tenant("a"), 1)]).await.unwrap();
    let same = Claim { worker: WorkerId::new("reused"), ..claim(1, at(0)) };
    let before = pair.first.claim(&same).await.unwrap().deliveries.remove(0);
    let after =
        pair.first.claim(&Claim { now: at(LEASE), ..same.clone() }).await.unwrap().deliveries.remove(0);
    assert_ne!(before.token, after.token);
    assert_eq!(settle(&*pair.first, Settle::done(before.token.clone()), LEASE + 1).await, LOST);
    assert_eq!(renew(&*pair.first, &before.token, 5 * LEASE, LEASE + 1).await, LOST);
    assert!(pair.second.claim(&Claim { now: at(LEASE + 1), ..same }).await.unwrap().deliveries.is_empty());
}

/// Q1: in a batch, each delivery has its own answer in its own place.
pub async fn q1_batches_answer_each_delivery_in_order(pair: Pair<dyn Queue>) {
    let a = tenant("a");
    pair.first.push(&(0..4).map(|n| item(&a, n)).collect::<Vec<_>>()).await.unwrap();
    let tokens: Vec<_> = take(&*pair.first, 4, 0).await.into_iter().map(|delivery| delivery.token).collect();
    let ghost = DeliveryToken::new("ghost");
    let renewed = [tokens[0].clone(), ghost.clone(), tokens[1].clone()];
    let answers = pair.second.renew(&renewed, at(5 * LEASE), at(1)).await.unwrap();
    assert_eq!(answers.into_iter().map(kind).collect::<Vec<_>>(), [None, LOST, None]);
    // By now the leases of the third and fourth have ended.
    let settles = [
        Settle::done(tokens[2].clone()),
        Settle::done(tokens[0].clone()),
        Settle::done(ghost),
        Settle::release(tokens[1].clone(), at(2 * LEASE)),
        Settle::done(tokens[0].clone()),
        Settle::done(tokens[3].clone()),
    ];
    let answers = pair.first.settle(&settles, at(2 * LEASE)).await.unwrap();
    assert_eq!(answers.into_iter().map(kind).collect::<Vec<_>>(), [LOST, None, LOST, None, LOST, LOST]);
    assert_eq!(take(&*pair.first, 9, 2 * LEASE).await.len(), 3);
    assert!(pair.first.settle(&[], at(0)).await.unwrap().is_empty());
}

/// R3: priority, ready time, DAG, run, place in the plan, step, attempt decide; the order of pushing does not.
pub async fn r3_items_come_in_their_order_however_they_were_pushed(pair: Pair<dyn Queue>) {
    let a = tenant("a");
    let mut items = Vec::new();
    for n in 0..96 {
        let bit = |at: usize| n >> at & 1;
        let step = StepId::new(["s", "s-1"][bit(5)]).unwrap();
        items.push(Item {
            priority: [0, -1, i32::MAX, 3][bit(0) + 2 * bit(6)],
            ready_at: at(i64::try_from(bit(1)).unwrap()),
            dag: dag(["d", "d.x"][bit(2)]),
            run: run_id(bit(3)),
            plan_index: [2, 10][bit(4)],
            step: orch::StepKey { id: step, index: [None, Some(2), Some(10)][n % 3] },
            attempt: u32::try_from(n).unwrap() + 1,
            ..item(&a, 0)
        });
    }
    let mut expected = items.clone();
    expected.sort();
    // A fixed shuffle: 37 and 96 have no common divisor.
    for n in 0..items.len() {
        pair.of(n).push(&[items[n * 37 % 96].clone()]).await.unwrap();
    }
    let (mut taken, mut turn) = (Vec::new(), 0);
    while taken.len() < items.len() {
        taken.extend(take(&**pair.of(turn), 1 + turn % 9, 1).await.into_iter().map(|delivery| delivery.item));
        turn += 1;
        assert!(turn < 100, "every item is ready");
    }
    assert_eq!(taken, expected);
}

/// R3: an item is ready from its instant on, at whatever priority.
pub async fn r3_items_are_not_ready_a_microsecond_early(pair: Pair<dyn Queue>) {
    let a = tenant("a");
    let late = Item { ready_at: at(2), priority: 9, ..item(&a, 1) };
    let early = Item { ready_at: at(1), ..item(&a, 2) };
    pair.first.push(&[late.clone(), early.clone()]).await.unwrap();
    assert!(take(&*pair.second, 5, 0).await.is_empty());
    assert_eq!(ids(&take(&*pair.second, 5, 1).await), [early.id()]);
    assert_eq!(ids(&take(&*pair.second, 5, 2).await), [late.id()]);
}

/// A claim is bounded and stays within the queues and tenants it names.
pub async fn a_claim_takes_what_it_asks_for(pair: Pair<dyn Queue>) {
    let (a, b) = (tenant("a"), tenant("b"));
    let mut items = Vec::new();
    for n in 0..12 {
        let tenant = if n % 2 == 0 { &a } else { &b };
        items.push(Item { queue: queue(["x", "y", "z"][n % 3]), ..item(tenant, n) });
    }
    pair.first.push(&items).await.unwrap();
    let all = claim(100, at(0));
    assert!(take(&*pair.first, 0, 0).await.is_empty());
    let none = Claim { queues: Some(vec![]), ..all.clone() };
    assert!(pair.first.claim(&none).await.unwrap().deliveries.is_empty());
    let none = Claim { tenants: Some(vec![tenant("c")]), ..all.clone() };
    assert!(pair.first.claim(&none).await.unwrap().deliveries.is_empty());
    let mut left = items;
    for (queues, tenants) in [
        (Some(vec![queue("y"), queue("unknown")]), Some(vec![b.clone()])),
        (Some(vec![queue("x"), queue("z"), queue("x")]), Some(vec![b.clone(), b])),
        (Some(vec![queue("y")]), None),
        (None, Some(vec![a])),
    ] {
        let asked = Claim { queues: queues.clone(), tenants: tenants.clone(), ..all.clone() };
        let taken = pair.second.claim(&asked).await.unwrap().deliveries;
        let fits = |item: &Item| {
            queues.as_ref().is_none_or(|queues| queues.contains(&item.queue))
                && tenants.as_ref().is_none_or(|tenants| tenants.contains(&item.tenant))
        };
        let mut expected: Vec<_> = left.extract_if(.., |item| fits(item)).map(|item| item.id()).collect();
        let mut taken = ids(&taken);
        expected.sort();
        taken.sort();
        assert!(!taken.is_empty());
        assert_eq!(taken, expected, "{queues:?} {tenants:?}");
    }
    assert_eq!(take(&*pair.first, 100, 0).await.len(), left.len());
}

/// If a claim says when to come again, it says the truth.
pub async fn a_claim_says_when_to_come_again(pair: Pair<dyn Queue>) {
    let a = tenant("a");
    let next = async |now: i64| pair.first.claim(&claim(1, at(now))).await.unwrap().next_at;
    assert_eq!(next(0).await, None);
    pair.first.push(&[Item { ready_at: at(5 * LEASE), ..item(&a, 1) }]).await.unwrap();
    let known = next(0).await.is_some();
    for (now, expected) in [(0, 5 * LEASE), (5 * LEASE, 6 * LEASE), (5 * LEASE + 1, 6 * LEASE)] {
        assert_eq!(next(now).await, known.then(|| at(expected)), "at {now}");
    }
}

/// What waits is counted by queue and by what it waits for.
pub async fn depth_counts_what_waits(pair: Pair<dyn Queue>) {
    let (a, x) = (tenant("a"), queue("x"));
    let of = |n, ready_at| Item {
        queue: x.clone(),
        ready_at: at(ready_at),
        priority: ready_at as i32,
        ..item(&a, n)
    };
    pair.first
        .push(&[of(1, 0), of(2, -7), of(3, 1), of(4, 9), item(&a, 5), item(&tenant("b"), 6)])
        .await
        .unwrap();
    let depth = async |now| pair.second.depth(&a, at(now)).await.unwrap();
    let expect = |ready, delayed, leased, oldest: Option<i64>| Depth {
        queue: x.clone(),
        ready,
        delayed,
        leased,
        oldest_at: oldest.map(at),
    };
    let other = Depth { queue: QueueName::default_queue(), ..expect(1, 0, 0, Some(0)) };
    assert_eq!(depth(1).await, [other.clone(), expect(3, 1, 0, Some(-7))]);
    let leased = Claim { queues: Some(vec![x.clone()]), ..claim(2, at(1)) };
    assert_eq!(pair.first.claim(&leased).await.unwrap().deliveries.len(), 2);
    assert_eq!(depth(1).await, [other.clone(), expect(1, 1, 2, Some(-7))]);
    assert_eq!(depth(1 + LEASE).await, [other, expect(4, 0, 0, Some(-7))], "what was leased waits again");
    assert!(pair.first.depth(&tenant("c"), at(0)).await.unwrap().is_empty());
}

/// Waiting is bounded, and does not outlast a push by the same process.
pub async fn waiting_ends(pair: Pair<dyn Queue>) {
    let bound = Duration::from_secs(20);
    tokio::time::timeout(bound, pair.second.wait(Duration::from_millis(20))).await.unwrap().unwrap();
    let queue = pair.first.clone();
    let waiter = tokio::spawn(async move { queue.wait(Duration::from_secs(3600)).await });
    tokio::task::yield_now().await;
    pair.first.push(&[item(&tenant("a"), 1)]).await.unwrap();
    tokio::time::timeout(bound, waiter).await.expect("a push wakes who waits").unwrap().unwrap();
}

/// T1: tenants take turns, within a claim and from claim to claim.
pub async fn t1_a_backlog_does_not_hide_another_tenant(pair: Pair<dyn Queue>) {
    let tenants = ["a", "b", "c"].map(tenant);
    let mut items: Vec<_> = (0..50).map(|n| Item { priority: 9, ..item(&tenants[0], n) }).collect();
    items.extend((0..4).map(|n| item(&tenants[1], n)));
    items.extend((0..2).map(|n| Item { priority: -9, ..item(&tenants[2], n) }));
    pair.first.push(&items).await.unwrap();
    let count =
        |taken: &[Delivery], tenant: &TenantId| taken.iter().filter(|d| d.item.tenant == *tenant).count();
    let taken = take(&*pair.first, 6, 0).await;
    assert_eq!(tenants.each_ref().map(|tenant| count(&taken, tenant)), [2, 2, 2]);
    let mut one_by_one = Vec::new();
    for _ in 0..4 {
        one_by_one.extend(take(&*pair.first, 1, 0).await);
    }
    assert_eq!(tenants.each_ref().map(|tenant| count(&one_by_one, tenant)), [2, 2, 0]);
    assert_eq!(take(&*pair.first, 100, 0).await.len(), 46);
}

/// T1: the same item of two tenants is two items.
pub async fn t1_tenants_do_not_share_items(pair: Pair<dyn Queue>) {
    let (a, b) = (tenant("a"), tenant("b"));
    pair.first.push(&[item(&a, 1), item(&b, 1)]).await.unwrap();
    let only_a = Claim { tenants: Some(vec![a.clone()]), ..claim(5, at(0)) };
    let taken = pair.second.claim(&only_a).await.unwrap().deliveries;
    assert_eq!(taken.iter().map(|delivery| &delivery.item).collect::<Vec<_>>(), [&item(&a, 1)]);
    assert_eq!(settle(&*pair.first, Settle::done(taken[0].token.clone()), 1).await, None);
    assert!(pair.first.depth(&a, at(0)).await.unwrap().is_empty());
    assert_eq!(pair.first.depth(&b, at(0)).await.unwrap()[0].ready, 1);
    assert_eq!(take_one(&*pair.first, 0).await.item, item(&b, 1));
}
