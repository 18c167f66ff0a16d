//! The cases of the lock suite.

use std::time::Duration;

use orch::lock::{Acquire, Grant, Holder, Lock, Slot, Take, Taken};
use orch::{ErrorKind, TenantId};

use crate::Pair;
use crate::fixture::*;

mod differential;
pub use differential::differs_nowhere_from_the_model;

const LOST: Option<ErrorKind> = Some(ErrorKind::LeaseLost);
/// The length of a lease of [`asks`], in microseconds.
const LEASE: i64 = 1_000_000;

fn holder(tenant: &TenantId, name: &str) -> Holder {
    Holder { tenant: tenant.clone(), name: name.into() }
}

fn asks(holder: &Holder, slots: &[(&str, u32)], now: i64) -> Acquire {
    let slots =
        slots.iter().map(|(key, capacity)| Slot { key: (*key).into(), capacity: *capacity }).collect();
    Acquire { holder: holder.clone(), slots, lease: Duration::from_secs(1), now: at(now) }
}

async fn acquire(lock: &dyn Lock, holder: &Holder, slots: &[(&str, u32)], now: i64) -> Option<Vec<Grant>> {
    let grants = lock.acquire(&asks(holder, slots, now)).await.unwrap();
    if let Some(grants) = &grants {
        assert_eq!(grants.len(), slots.len(), "one grant per key");
        assert!(grants.iter().all(|grant| grant.lease_until == at(now + LEASE)));
    }
    grants
}

async fn renew(lock: &dyn Lock, holder: &Holder, until: i64, now: i64) -> Option<ErrorKind> {
    let mut answers = lock.renew(std::slice::from_ref(holder), at(until), at(now)).await.unwrap();
    assert_eq!(answers.len(), 1, "one answer per holder");
    kind(answers.remove(0))
}

fn asks_tokens(tenant: &TenantId, tokens: u32, rate: f64, burst: u32, now: i64) -> Take {
    Take { tenant: tenant.clone(), key: "k".into(), tokens, rate, burst, now: at(now) }
}

/// A1: the slot beyond the last is refused, and comes with the first release.
pub async fn a1_no_more_slots_than_capacity(pair: Pair<dyn Lock>) {
    let a = tenant("a");
    let holders: Vec<_> = (0..5).map(|n| holder(&a, &format!("h{n}"))).collect();
    for (n, holder) in holders.iter().enumerate() {
        let granted = acquire(&**pair.of(n), holder, &[("k", 3)], 0).await;
        assert_eq!(granted.is_some(), n < 3, "holder {n}");
    }
    pair.second.release(&holders[1..2]).await.unwrap();
    assert!(acquire(&*pair.first, &holders[3], &[("k", 3)], 1).await.is_some());
    assert!(acquire(&*pair.first, &holders[4], &[("k", 3)], 1).await.is_none());
    assert!(
        acquire(&*pair.first, &holders[4], &[("empty", 0)], 1).await.is_none(),
        "there is no room at all"
    );
}

/// A1: a request that is refused holds nothing.
pub async fn a1_all_keys_or_none(pair: Pair<dyn Lock>) {
    let a = tenant("a");
    let (one, two) = (holder(&a, "one"), holder(&a, "two"));
    assert!(acquire(&*pair.first, &one, &[("y", 1)], 0).await.is_some());
    assert!(acquire(&*pair.second, &two, &[("x", 1), ("y", 1), ("z", 1)], 0).await.is_none());
    assert_eq!(renew(&*pair.second, &two, 2 * LEASE, 1).await, LOST, "it holds nothing");
    let three = holder(&a, "three");
    assert!(
        acquire(&*pair.first, &three, &[("z", 1), ("x", 1)], 0).await.is_some(),
        "the others stayed free"
    );
    let none = pair.first.acquire(&asks(&two, &[], 0)).await.unwrap();
    assert_eq!(none.map(|grants| grants.len()), Some(0), "no keys, no wait");
}

/// A1: a lease ends at its instant and not before, whoever held it.
pub async fn a1_a_dead_holders_slot_comes_back(pair: Pair<dyn Lock>) {
    let a = tenant("a");
    let (dead, heir) = (holder(&a, "dead"), holder(&a, "heir"));
    let old = acquire(&*pair.first, &dead, &[("k", 1)], 0).await.unwrap()[0];
    assert!(acquire(&*pair.second, &heir, &[("k", 1)], LEASE - 1).await.is_none());
    let new = acquire(&*pair.second, &heir, &[("k", 1)], LEASE).await.unwrap()[0];
    assert!(new.fence > old.fence);
    assert_eq!(renew(&*pair.first, &dead, 5 * LEASE, LEASE).await, LOST);
    assert_eq!(renew(&*pair.first, &dead, 5 * LEASE, 1).await, LOST, "its clock may stand still");
    pair.first.release(&[dead]).await.unwrap();
    assert!(acquire(&*pair.first, &holder(&a, "third"), &[("k", 1)], LEASE + 1).await.is_none());
}

/// A1: a repeated request, after a lost answer say, takes no second slot.
pub async fn a1_asking_again_keeps_slot_and_fence(pair: Pair<dyn Lock>) {
    let a = tenant("a");
    let (one, two) = (holder(&a, "one"), holder(&a, "two"));
    let before = acquire(&*pair.first, &one, &[("k", 2)], 0).await.unwrap()[0];
    let after = acquire(&*pair.second, &one, &[("k", 2), ("l", 1)], 5).await.unwrap();
    assert_eq!(after[0].fence, before.fence);
    let twice = acquire(&*pair.second, &one, &[("k", 2), ("k", 2)], 6).await.unwrap();
    assert_eq!([twice[0].fence, twice[1].fence], [before.fence; 2]);
    assert!(acquire(&*pair.second, &two, &[("k", 2)], 7).await.is_some());
    assert!(acquire(&*pair.first, &one, &[("k", 2)], 8).await.is_some(), "full, but it is inside");
    assert!(acquire(&*pair.first, &holder(&a, "three"), &[("k", 2)], LEASE + 6).await.is_none(), "prolonged");
}

/// A1: many holders of two processes at once get as many slots as there are.
pub async fn a1_racing_acquires_share_the_capacity(pair: Pair<dyn Lock>) {
    let a = tenant("a");
    for round in 0..5 {
        let now = round * 2 * LEASE;
        let granted = race((0..12).map(|racer| {
            let (lock, holder) = (pair.of(racer).clone(), holder(&a, &format!("{round}-{racer}")));
            async move { acquire(&*lock, &holder, &[("j", 9), ("k", 4)], now).await.is_some() }
        }))
        .await;
        assert_eq!(granted.into_iter().filter(|granted| *granted).count(), 4, "round {round}");
    }
}

/// A1: held slots are counted, not remembered: a new capacity applies to what is held at that moment.
pub async fn a1_a_smaller_capacity_counts_what_is_held(pair: Pair<dyn Lock>) {
    let a = tenant("a");
    for n in 0..3 {
        assert!(acquire(&*pair.first, &holder(&a, &format!("h{n}")), &[("k", 3)], n * 10).await.is_some());
    }
    let late = holder(&a, "late");
    assert!(acquire(&*pair.second, &late, &[("k", 2)], 21).await.is_none());
    assert!(acquire(&*pair.second, &late, &[("k", 2)], LEASE).await.is_none(), "two leases last");
    assert!(acquire(&*pair.second, &late, &[("k", 2)], LEASE + 10).await.is_some(), "one lease lasts");
    assert!(acquire(&*pair.second, &holder(&a, "more"), &[("k", 2)], LEASE + 11).await.is_none());
}

/// A1: renewal prolongs everything its holder holds.
pub async fn a1_renewing_prolongs(pair: Pair<dyn Lock>) {
    let a = tenant("a");
    let (one, two) = (holder(&a, "one"), holder(&a, "two"));
    acquire(&*pair.first, &one, &[("k", 1), ("l", 1)], 0).await.unwrap();
    let answers = pair.second.renew(&[two.clone(), one.clone()], at(3 * LEASE), at(1)).await.unwrap();
    assert_eq!(answers.into_iter().map(kind).collect::<Vec<_>>(), [LOST, None]);
    for key in ["k", "l"] {
        assert!(acquire(&*pair.first, &two, &[(key, 1)], 3 * LEASE - 1).await.is_none());
    }
    assert_eq!(renew(&*pair.first, &one, 9 * LEASE, 3 * LEASE).await, LOST, "the lease has ended");
    assert!(acquire(&*pair.first, &two, &[("l", 1)], 3 * LEASE).await.is_some());
}

/// A1: a holder that lost one slot is told, also when its others last, and nothing is prolonged.
pub async fn a1_renewing_after_any_loss_is_refused(pair: Pair<dyn Lock>) {
    let a = tenant("a");
    let (one, two) = (holder(&a, "one"), holder(&a, "two"));
    let old = acquire(&*pair.first, &one, &[("k", 1)], 0).await.unwrap()[0];
    acquire(&*pair.first, &one, &[("l", 1)], LEASE / 2).await.unwrap();
    assert!(acquire(&*pair.second, &two, &[("k", 1)], LEASE).await.is_some());
    assert_eq!(renew(&*pair.first, &one, 9 * LEASE, LEASE + 1).await, LOST);
    assert_eq!(renew(&*pair.first, &one, 9 * LEASE, 1).await, LOST, "its clock may stand still");
    assert!(acquire(&*pair.second, &two, &[("l", 1)], LEASE + 2).await.is_none(), "that lease lasts");
    pair.second.release(std::slice::from_ref(&two)).await.unwrap();
    let new = acquire(&*pair.first, &one, &[("k", 1)], LEASE + 3).await.unwrap()[0];
    assert!(new.fence > old.fence);
    assert_eq!(renew(&*pair.first, &one, 9 * LEASE, LEASE + 4).await, None, "it has both again");
    assert!(acquire(&*pair.second, &two, &[("l", 1)], 2 * LEASE).await.is_none(), "both were prolonged");
}

/// A1: release gives back all keys of the holders named and of no other.
pub async fn a1_releasing_frees_everything(pair: Pair<dyn Lock>) {
    let a = tenant("a");
    let [one, two, three] = ["one", "two", "three"].map(|name| holder(&a, name));
    acquire(&*pair.first, &one, &[("k", 1), ("l", 1)], 0).await.unwrap();
    acquire(&*pair.first, &two, &[("m", 1)], 0).await.unwrap();
    pair.second.release(&[one.clone(), holder(&a, "nobody"), one.clone()]).await.unwrap();
    assert!(acquire(&*pair.second, &three, &[("k", 1), ("l", 1)], 1).await.is_some());
    assert!(acquire(&*pair.second, &three, &[("m", 1)], 1).await.is_none());
    assert_eq!(renew(&*pair.first, &one, 5 * LEASE, 2).await, LOST);
    pair.first.release(&[]).await.unwrap();
}

/// Fences grow from grant to grant of a key, however the grant before ended.
pub async fn fences_increase_over_release_and_expiry(pair: Pair<dyn Lock>) {
    let a = tenant("a");
    let (mut last, mut now) = (0, 0);
    for turn in 0..12_usize {
        let holder = holder(&a, ["one", "two"][turn / 2 % 2]);
        let fence = acquire(&**pair.of(turn / 3), &holder, &[("k", 1)], now).await.unwrap()[0].fence;
        assert!(fence > last, "turn {turn}: {fence} after {last}");
        last = fence;
        if turn % 3 == 0 {
            now += LEASE;
        } else {
            pair.of(turn).release(&[holder]).await.unwrap();
        }
    }
}

/// T1: the same key, holder and bucket of two tenants are two.
pub async fn t1_tenants_do_not_share_keys(pair: Pair<dyn Lock>) {
    let (a, b) = (tenant("a"), tenant("b"));
    acquire(&*pair.first, &holder(&a, "h"), &[("k", 1)], 0).await.unwrap();
    assert_eq!(renew(&*pair.second, &holder(&b, "h"), 5 * LEASE, 1).await, LOST);
    acquire(&*pair.second, &holder(&b, "h"), &[("k", 1)], 0).await.unwrap();
    pair.second.release(&[holder(&b, "h")]).await.unwrap();
    assert!(acquire(&*pair.second, &holder(&a, "other"), &[("k", 1)], 1).await.is_none());
    assert_eq!(renew(&*pair.first, &holder(&a, "h"), 5 * LEASE, 1).await, None);
    for tenant in [&a, &b] {
        let take = asks_tokens(tenant, 1, 0.0, 1, 0);
        assert_eq!(pair.first.take(&take).await.unwrap(), Taken::Granted);
        assert_ne!(pair.second.take(&take).await.unwrap(), Taken::Granted);
    }
}

/// Over any span, no more than the burst and what flowed in.
pub async fn buckets_grant_burst_and_inflow_only(pair: Pair<dyn Lock>) {
    let a = tenant("a");
    for (rate, burst) in [(2.5, 4), (1_000.0, 1), (0.5, 3)] {
        let key = format!("{rate}");
        let mut grants = Vec::new();
        for step in 0..200_usize {
            // Irregular, and now and then backwards.
            let now = i64::try_from(step * step % 83 * 20_000 + step * 9_000).unwrap();
            let take = Take { key: key.clone(), ..asks_tokens(&a, 1, rate, burst, now) };
            if pair.of(step).take(&take).await.unwrap() == Taken::Granted {
                grants.push(now);
            }
        }
        grants.sort_unstable();
        assert!(grants.len() > burst as usize, "some flowed in");
        let span = (grants[grants.len() - 1] - grants[0]) as f64 / 1e6;
        assert!(grants.len() as f64 <= f64::from(burst) + rate * span + 1e-6, "{} at {rate}", grants.len());
    }
}

/// Many takers of two processes at once get what the bucket holds.
pub async fn buckets_hold_in_a_race(pair: Pair<dyn Lock>) {
    let a = tenant("a");
    let taken = race((0..30).map(|racer| {
        let (lock, take) = (pair.of(racer).clone(), asks_tokens(&a, 1, 0.0, 10, 0));
        async move { lock.take(&take).await.unwrap() }
    }))
    .await;
    assert_eq!(taken.into_iter().filter(|taken| *taken == Taken::Granted).count(), 10);
}

/// Who is refused and comes again when told is served.
pub async fn buckets_say_when_to_come_again(pair: Pair<dyn Lock>) {
    let (a, mut now) = (tenant("a"), at(0));
    for turn in 0..20 {
        let mut take = asks_tokens(&a, 3, 7.0, 3, 0);
        take.now = now;
        match pair.of(turn).take(&take).await.unwrap() {
            Taken::Granted => assert!(turn % 2 == 0, "turn {turn}"),
            Taken::RetryAt(at) => {
                assert!(turn % 2 == 1 && at > now, "turn {turn}");
                now = at;
            }
        }
    }
    // Nine times three tokens at seven a second, with a microsecond's rounding each.
    let passed = now.since(at(0)).as_secs_f64();
    assert!((passed - 30.0 / 7.0).abs() < 0.001, "{passed}");
}

/// A request that could never be granted is an error, not a wait.
pub async fn buckets_refuse_what_cannot_be(pair: Pair<dyn Lock>) {
    let a = tenant("a");
    for (tokens, rate) in [(4, 1.0), (1, f64::NAN), (1, -1.0), (1, f64::INFINITY)] {
        let take = asks_tokens(&a, tokens, rate, 3, 0);
        assert_eq!(kind(pair.first.take(&take).await), Some(ErrorKind::Invalid), "{tokens} {rate}");
    }
    assert_eq!(pair.first.take(&asks_tokens(&a, 3, 1.0, 3, 0)).await.unwrap(), Taken::Granted);
}
