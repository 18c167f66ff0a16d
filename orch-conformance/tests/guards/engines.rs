//! Trios that are wrong on purpose, under whole engines.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orch::lock::*;
use orch::queue::*;
use orch::store::*;
use orch::{ErrorKind, Result, RunKey, TenantId, Timestamp};
use orch_conformance::engine::{self, Backends, Seams};

/// What a [`Wrong`] trio does wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// A step's success is acknowledged and gone.
    LosesSuccesses,
    /// Who lost a race is told that it was won.
    SwallowsConflicts,
    /// There is room for everybody.
    GrantsAlways,
    /// No run is ever due.
    HidesDueRuns,
    /// Waiting ends at once.
    WakesForNothing,
    /// The other process sees what was there at the beginning.
    ShowsTheOtherNothing,
}

#[derive(Clone, Debug)]
struct Wrong {
    store: MemoryStore,
    queue: MemoryQueue,
    lock: MemoryLock,
    fault: Fault,
}

fn wrong(fault: Fault) -> Backends {
    let (store, queue, lock) = Default::default();
    let first = Wrong { store, queue, lock, fault };
    let second = match fault {
        Fault::ShowsTheOtherNothing => Wrong { store: MemoryStore::new(), ..first.clone() },
        _ => first.clone(),
    };
    let seams = |wrong: Wrong| {
        let wrong = Arc::new(wrong);
        Seams { store: wrong.clone(), queue: wrong.clone(), lock: wrong }
    };
    Backends::new(seams(first), seams(second))
}

crate::guards! { engine, wrong, "engine_suite" besides r4_what_a_killed_engine_left_is_finished_by_the_other:
    LosesSuccesses =>
        r3_a_chain_runs_in_declared_order
        r3_a_diamond_runs_in_declared_order
        r1_a_fan_out_runs_every_child_once
        r1_a_failing_step_is_tried_again
        r3_conditions_decide_what_runs
        r1_a_sub_dag_is_a_run_of_its_own;
    SwallowsConflicts => r5_one_token_is_one_run_from_both_engines;
    GrantsAlways => a1_a_key_limits_steps_over_both_engines;
    HidesDueRuns => r4_lost_hints_are_made_again;
    WakesForNothing => an_idle_engine_asks_six_times_a_minute;
    ShowsTheOtherNothing =>
        gates_and_signals_reach_a_run_through_either_engine
        r4_cancelling_ends_what_runs_in_either_engine
        r1_two_engines_share_forty_runs;
}

/// The killed engine has a runtime of its own, whose time cannot be paused.
#[test]
fn runs_of_the_dead_that_nobody_looks_after_are_found() {
    orch_conformance::run(async {
        let case = engine::r4_what_a_killed_engine_left_is_finished_by_the_other(wrong(Fault::HidesDueRuns));
        assert!(crate::fails(case).await);
    });
}

impl Wrong {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }
}

#[async_trait]
impl Store for Wrong {
    fn capability(&self) -> Capability {
        self.store.capability()
    }

    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>> {
        let mut answers = Vec::with_capacity(appends.len());
        for append in appends {
            if self.is(Fault::LosesSuccesses) && append.lines.contains("\"step.succeeded\"") {
                answers.push(Ok(()));
                continue;
            }
            let answer = self.store.append(std::slice::from_ref(append)).await?.remove(0);
            let lost = matches!(&answer, Err(error) if error.kind() == ErrorKind::Conflict);
            answers.push(if lost && self.is(Fault::SwallowsConflicts) { Ok(()) } else { answer });
        }
        Ok(answers)
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        self.store.entries(requests).await
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        self.store.run(key).await
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        self.store.runs(query).await
    }

    async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        match self.fault {
            Fault::HidesDueRuns => Ok(DuePage { runs: Vec::new(), next_at: None }),
            _ => self.store.due(query).await,
        }
    }

    async fn put_doc(&self, put: &PutDoc) -> Result<u64> {
        self.store.put_doc(put).await
    }

    async fn doc(&self, key: &DocKey) -> Result<Option<Doc>> {
        self.store.doc(key).await
    }

    async fn docs(&self, query: &DocsQuery) -> Result<DocsPage> {
        self.store.docs(query).await
    }

    async fn prune(&self, prune: &Prune) -> Result<usize> {
        self.store.prune(prune).await
    }
}

#[async_trait]
impl Queue for Wrong {
    async fn push(&self, items: &[Item]) -> Result<()> {
        self.queue.push(items).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.queue.claim(claim).await
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        self.queue.renew(tokens, until, now).await
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        self.queue.settle(settles, now).await
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        match self.fault {
            Fault::WakesForNothing => Ok(()),
            _ => self.queue.wait(timeout).await,
        }
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        self.queue.depth(tenant, now).await
    }
}

#[async_trait]
impl Lock for Wrong {
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        if self.is(Fault::GrantsAlways) {
            let grant = Grant { fence: 1, lease_until: acquire.now.plus(acquire.lease) };
            return Ok(Some(vec![grant; acquire.slots.len()]));
        }
        self.lock.acquire(acquire).await
    }

    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>> {
        self.lock.renew(holders, until, now).await
    }

    async fn release(&self, holders: &[Holder]) -> Result<()> {
        self.lock.release(holders).await
    }

    async fn take(&self, take: &Take) -> Result<Taken> {
        self.lock.take(take).await
    }
}
