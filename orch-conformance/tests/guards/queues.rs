//! Queues that are wrong on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use orch::queue::{Claim, Claimed, Delivery, DeliveryToken, Depth, Item, MemoryQueue, Queue, Settle};
use orch::{Result, TenantId, Timestamp};
use orch_conformance::Pair;

/// What a [`Wrong`] queue does wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Leases last for ever.
    NeverComesBack,
    /// A lease that has ended still counts for who had it.
    NeverEnds,
    /// What is done goes back.
    ForgetsThatItIsDone,
    /// What goes back is ready at once.
    ReleasesAtOnce,
    /// Every item is pushed with a twin.
    PushesTwice,
    /// A delivery is handed out to the next who asks, too.
    DeliversTwice,
    /// All deliveries of an item have one token.
    ReusesTokens,
    /// Answers come in another order than what they answer.
    ReversesAnswers,
    /// Items come the other way round.
    ReversesItems,
    /// Times count in milliseconds.
    RoundsTimes,
    /// Whoever asks gets everybody's.
    IgnoresFilters,
    /// The hint when to come again is late.
    HintsLate,
    /// What is leased counts as ready.
    CountsWrongly,
    /// Waiting ends when it wants to.
    WaitsForEver,
    /// Whoever came first is served until nothing is left.
    ServesTheFirstFirst,
    /// The same item of two tenants is one.
    MixesTenants,
}

#[derive(Debug)]
struct Wrong {
    inner: MemoryQueue,
    fault: Fault,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Tenants in the order in which they came.
    tenants: Vec<TenantId>,
    pushed: BTreeSet<String>,
    delivered: Option<Delivery>,
    /// The token of each item's last delivery.
    tokens: BTreeMap<String, DeliveryToken>,
}

fn wrong(fault: Fault) -> Pair<dyn Queue> {
    let (inner, shared) = (MemoryQueue::new(), Arc::default());
    let wrong = || Wrong { inner: inner.clone(), fault, shared: Arc::clone(&shared) };
    Pair::new(Arc::new(wrong()), Arc::new(wrong()))
}

crate::guards! { queue, wrong, "queue_suite":
    NeverComesBack => q1_unsettled_items_come_back_when_their_lease_ends;
    NeverEnds =>
        q1_settling_after_the_lease_is_refused
        q1_renewing_prolongs_and_after_the_lease_is_refused;
    ForgetsThatItIsDone => q1_settled_items_are_gone_and_may_be_pushed_again;
    ReleasesAtOnce => q1_released_items_come_back_at_their_instant;
    PushesTwice => q1_pushing_again_changes_nothing;
    DeliversTwice => q1_racing_claims_are_exclusive;
    ReusesTokens =>
        q1_unsettled_items_come_back_when_their_lease_ends
        q1_settling_by_an_old_token_is_refused
        q1_a_worker_id_is_no_identity;
    ReversesAnswers => q1_batches_answer_each_delivery_in_order;
    ReversesItems => r3_items_come_in_their_order_however_they_were_pushed differs_nowhere_from_the_model;
    RoundsTimes => r3_items_are_not_ready_a_microsecond_early;
    IgnoresFilters => a_claim_takes_what_it_asks_for;
    HintsLate => a_claim_says_when_to_come_again;
    CountsWrongly => depth_counts_what_waits;
    WaitsForEver => waiting_ends;
    ServesTheFirstFirst => t1_a_backlog_does_not_hide_another_tenant;
    MixesTenants => t1_tenants_do_not_share_items;
}

impl Wrong {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// What the tokens mean to the queue inside.
    fn inside(&self, token: &DeliveryToken) -> DeliveryToken {
        let shared = self.shared.lock().unwrap();
        shared.tokens.get(token.as_str()).unwrap_or(token).clone()
    }

    fn answers<T>(&self, mut answers: Vec<T>) -> Vec<T> {
        if self.is(Fault::ReversesAnswers) {
            answers.reverse();
        }
        answers
    }

    /// What is asked of the queue inside.
    fn asked(&self, claim: &Claim) -> Claim {
        let mut asked = claim.clone();
        match self.fault {
            Fault::NeverComesBack => asked.lease = Duration::from_secs(1_000_000),
            Fault::RoundsTimes => asked.now = asked.now.plus(Duration::from_millis(1)),
            Fault::IgnoresFilters => (asked.queues, asked.tenants) = (None, None),
            _ => {}
        }
        asked
    }

    /// What is made of the deliveries.
    fn spoilt(&self, deliveries: &mut Vec<Delivery>, claim: &Claim) {
        let mut shared = self.shared.lock().unwrap();
        match self.fault {
            Fault::ReversesItems => deliveries.reverse(),
            Fault::DeliversTwice => {
                let again = shared.delivered.take().filter(|_| deliveries.len() < claim.limit);
                shared.delivered = deliveries.first().cloned();
                deliveries.extend(again);
            }
            Fault::ReusesTokens => {
                for delivery in deliveries {
                    let token = DeliveryToken::new(delivery.item.id());
                    let inside = std::mem::replace(&mut delivery.token, token);
                    shared.tokens.insert(delivery.item.id(), inside);
                }
            }
            _ => {}
        }
    }
}

#[async_trait]
impl Queue for Wrong {
    async fn push(&self, items: &[Item]) -> Result<()> {
        let mut pushed = Vec::new();
        for item in items {
            let mut shared = self.shared.lock().unwrap();
            shared.tenants.push(item.tenant.clone());
            if !shared.pushed.insert(item.id()) && self.is(Fault::MixesTenants) {
                continue;
            }
            pushed.push(item.clone());
            if self.is(Fault::PushesTwice) {
                pushed.push(Item { attempt: item.attempt + 1_000, ..item.clone() });
            }
        }
        self.inner.push(&pushed).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let mut claimed = Claimed::default();
        if self.is(Fault::ServesTheFirstFirst) {
            let tenants = self.shared.lock().unwrap().tenants.clone();
            for tenant in tenants {
                let limit = claim.limit - claimed.deliveries.len();
                let one = Claim { tenants: Some(vec![tenant]), limit, ..claim.clone() };
                claimed.deliveries.extend(self.inner.claim(&one).await?.deliveries);
            }
            return Ok(claimed);
        }
        claimed = self.inner.claim(&self.asked(claim)).await?;
        if self.is(Fault::NeverComesBack) {
            claimed.deliveries.iter_mut().for_each(|one| one.lease_until = claim.now.plus(claim.lease));
        }
        if self.is(Fault::HintsLate) {
            claimed.next_at = claimed.next_at.map(|at| at.plus(Duration::from_micros(1)));
        }
        self.spoilt(&mut claimed.deliveries, claim);
        Ok(claimed)
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        let tokens: Vec<_> = tokens.iter().map(|token| self.inside(token)).collect();
        let now = if self.is(Fault::NeverEnds) { Timestamp::EPOCH } else { now };
        Ok(self.answers(self.inner.renew(&tokens, until, now).await?))
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        let mut settles = settles.to_vec();
        for settle in &mut settles {
            settle.token = self.inside(&settle.token);
            settle.release_until = match (self.fault, settle.release_until) {
                (Fault::ForgetsThatItIsDone, None) => Some(now),
                (Fault::ReleasesAtOnce, Some(_)) => Some(now),
                (_, release_until) => release_until,
            };
        }
        let now = if self.is(Fault::NeverEnds) { Timestamp::EPOCH } else { now };
        Ok(self.answers(self.inner.settle(&settles, now).await?))
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        if self.is(Fault::WaitsForEver) {
            std::future::pending().await
        } else {
            self.inner.wait(timeout).await
        }
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        let mut depths = self.inner.depth(tenant, now).await?;
        if self.is(Fault::CountsWrongly) {
            depths.iter_mut().for_each(|depth| depth.ready += std::mem::take(&mut depth.leased));
        }
        Ok(depths)
    }
}
