//! The suite can fail: backends that are wrong on purpose, each held against the case that must find it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orch::ledger::Head;
use orch::lock::{Acquire, Grant, Holder, Lock, MemoryLock, Take, Taken};
use orch::queue::{Claim, Claimed, DeliveryToken, Depth, Item, MemoryQueue, Queue, Settle};
use orch::store::*;
use orch::{Result, RunKey, TenantId, Timestamp};
use orch_conformance::{Pair, lock, queue, store};

/// Runs a case and says whether it failed.
async fn fails(case: impl Future<Output = ()> + Send + 'static) -> bool {
    tokio::spawn(case).await.is_err()
}

/// Appends whatever is expected, to the head that it finds.
#[derive(Debug)]
struct IgnoresExpected(MemoryStore);

#[async_trait]
impl Store for IgnoresExpected {
    fn capability(&self) -> Capability {
        self.0.capability()
    }

    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>> {
        let mut answers = self.0.append(appends).await?;
        answers.iter_mut().for_each(|answer| *answer = Ok(()));
        Ok(answers)
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        self.0.entries(requests).await
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        self.0.run(key).await
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        self.0.runs(query).await
    }

    async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        self.0.due(query).await
    }

    async fn put_doc(&self, put: &PutDoc) -> Result<u64> {
        self.0.put_doc(&PutDoc { expect: Expect::Any, ..put.clone() }).await
    }

    async fn doc(&self, key: &DocKey) -> Result<Option<Doc>> {
        self.0.doc(key).await
    }

    async fn docs(&self, query: &DocsQuery) -> Result<DocsPage> {
        self.0.docs(query).await
    }

    /// Forgets to compare, and to delete.
    async fn prune(&self, prune: &Prune) -> Result<usize> {
        Ok(prune.runs.iter().filter(|(_, head)| *head != Head::EMPTY).count())
    }
}

/// Settles and renews with the clock standing still, so that an ended lease still counts.
#[derive(Debug)]
struct NeverEnds(MemoryQueue);

#[async_trait]
impl Queue for NeverEnds {
    async fn push(&self, items: &[Item]) -> Result<()> {
        self.0.push(items).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        // Drops the order too: the last come first.
        let mut claimed = self.0.claim(claim).await?;
        claimed.deliveries.reverse();
        Ok(claimed)
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        _: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        self.0.renew(tokens, until, Timestamp::EPOCH).await
    }

    async fn settle(&self, settles: &[Settle], _: Timestamp) -> Result<Vec<Result<()>>> {
        self.0.settle(settles, Timestamp::EPOCH).await
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        self.0.wait(timeout).await
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        self.0.depth(tenant, now).await
    }
}

/// Has room for one more than it should.
#[derive(Debug)]
struct CountsWrongly(MemoryLock);

#[async_trait]
impl Lock for CountsWrongly {
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        let mut acquire = acquire.clone();
        acquire.slots.iter_mut().for_each(|slot| slot.capacity += 1);
        let grants = self.0.acquire(&acquire).await?;
        // And every fence is the same.
        Ok(grants.map(|grants| grants.into_iter().map(|grant| Grant { fence: 1, ..grant }).collect()))
    }

    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>> {
        self.0.renew(holders, until, now).await
    }

    async fn release(&self, holders: &[Holder]) -> Result<()> {
        self.0.release(holders).await
    }

    async fn take(&self, take: &Take) -> Result<Taken> {
        self.0.take(&Take { burst: take.burst + 1, ..take.clone() }).await
    }
}

fn wrong_store() -> Pair<dyn Store> {
    let store = MemoryStore::new();
    Pair::new(Arc::new(IgnoresExpected(store.clone())), Arc::new(IgnoresExpected(store)))
}

fn wrong_queue() -> Pair<dyn Queue> {
    let queue = MemoryQueue::new();
    Pair::new(Arc::new(NeverEnds(queue.clone())), Arc::new(NeverEnds(queue)))
}

fn wrong_lock() -> Pair<dyn Lock> {
    let lock = MemoryLock::new();
    Pair::new(Arc::new(CountsWrongly(lock.clone())), Arc::new(CountsWrongly(lock)))
}

#[tokio::test]
async fn a_store_that_does_not_compare_is_found() {
    assert!(fails(store::l2_append_with_stale_head_changes_nothing(wrong_store())).await);
    assert!(fails(store::l2_racing_appends_on_one_head_let_one_win(wrong_store())).await);
    assert!(fails(store::documents_are_compared_and_swapped(wrong_store())).await);
    assert!(fails(store::documents_put_in_a_race_let_one_win(wrong_store())).await);
}

#[tokio::test]
async fn a_store_that_does_not_delete_is_found() {
    assert!(fails(store::p1_a_pruned_run_leaves_nothing(wrong_store())).await);
    assert!(fails(store::p1_moved_unfinished_and_foreign_runs_are_left_alone(wrong_store())).await);
}

#[tokio::test]
async fn two_stores_that_share_nothing_are_found() {
    let apart: Pair<dyn Store> = Pair::new(Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    assert!(fails(store::l1_entries_come_back_byte_for_byte(apart)).await);
}

#[tokio::test]
async fn a_queue_whose_leases_never_end_is_found() {
    assert!(fails(queue::q1_settling_after_the_lease_is_refused(wrong_queue())).await);
    assert!(fails(queue::q1_renewing_prolongs_and_after_the_lease_is_refused(wrong_queue())).await);
}

#[tokio::test]
async fn a_queue_without_order_is_found() {
    assert!(fails(queue::r3_items_come_in_their_order_however_they_were_pushed(wrong_queue())).await);
}

#[tokio::test]
async fn two_queues_that_share_nothing_are_found() {
    let apart: Pair<dyn Queue> = Pair::new(Arc::new(MemoryQueue::new()), Arc::new(MemoryQueue::new()));
    assert!(fails(queue::q1_unsettled_items_come_back_when_their_lease_ends(apart)).await);
}

#[tokio::test]
async fn a_lock_that_counts_wrongly_is_found() {
    assert!(fails(lock::a1_no_more_slots_than_capacity(wrong_lock())).await);
    assert!(fails(lock::a1_racing_acquires_share_the_capacity(wrong_lock())).await);
    assert!(fails(lock::fences_increase_over_release_and_expiry(wrong_lock())).await);
    assert!(fails(lock::buckets_hold_in_a_race(wrong_lock())).await);
}

#[tokio::test]
async fn the_differential_cases_find_what_is_wrong() {
    assert!(fails(store::differs_nowhere_from_the_model(wrong_store())).await);
    assert!(fails(queue::differs_nowhere_from_the_model(wrong_queue())).await);
    assert!(fails(lock::differs_nowhere_from_the_model(wrong_lock())).await);
}

#[test]
fn every_case_is_in_its_suite() {
    let suites = include_str!("../src/lib.rs");
    for source in [
        include_str!("../src/store/entries.rs"),
        include_str!("../src/store/rows.rs"),
        include_str!("../src/store/docs.rs"),
        include_str!("../src/queue.rs"),
        include_str!("../src/lock.rs"),
    ] {
        for line in source.lines().filter_map(|line| line.strip_prefix("pub async fn ")) {
            let name = line.split('(').next().unwrap();
            assert!(suites.lines().any(|line| line.trim() == name), "{name} is in no suite");
        }
    }
}
