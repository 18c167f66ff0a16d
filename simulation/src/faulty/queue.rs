//! A queue that fails on purpose.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use orch::queue::{Claim, Claimed, Delivery, DeliveryToken, Depth, Item, Queue, Settle};
use orch::{Error, Result, TenantId, Timestamp};

use super::Rates;
use crate::dice::Dice;
use crate::switch::Switch;
use crate::trace::{Trace, word};

/// How the token of a delivery begins that is the copy of another.
const COPY: &str = "copy";

/// A queue that fails on purpose. Clones are the same queue.
#[derive(Clone, Debug)]
pub struct FaultyQueue {
    inner: Arc<dyn Queue>,
    /// What decides what goes wrong, and counts it.
    pub dice: Dice,
    switch: Switch,
    trace: Trace,
    rates: Arc<Mutex<Rates>>,
}

impl FaultyQueue {
    /// `inner`, failing at these rates by the dice of a seed.
    #[must_use]
    pub fn new(inner: Arc<dyn Queue>, seed: u64, rates: Rates) -> Self {
        Self::of(inner, Dice::new(seed), rates, Switch::default(), Trace::default())
    }

    /// The queue of one simulated process.
    #[must_use]
    pub fn of(inner: Arc<dyn Queue>, dice: Dice, rates: Rates, switch: Switch, trace: Trace) -> Self {
        Self { inner, dice, switch, trace, rates: Arc::new(Mutex::new(rates)) }
    }

    fn state(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other things go wrong from now on.
    pub fn set_rates(&self, rates: Rates) {
        *self.state() = rates;
    }

    /// While frozen, every call hangs.
    pub fn freeze(&self, frozen: bool) {
        self.switch.hold(frozen);
    }

    fn rates(&self) -> Rates {
        *self.state()
    }

    async fn pass(&self, what: &'static str) -> Result<bool> {
        let last = self.switch.before().await;
        let rates = self.rates();
        if self.dice.falls("queue.delay", rates.delay) {
            tokio::time::sleep(Duration::from_millis(self.dice.roll(300))).await;
            self.switch.go_on().await;
        }
        if self.dice.falls("queue.unavailable", rates.unavailable) {
            self.trace.note(format_args!("{what} unavailable"));
            self.switch.after(last).await;
            return Err(Error::unavailable("the queue is away").during(what));
        }
        Ok(last)
    }

    /// The answer to a call that has happened, which may be lost.
    async fn answer<T>(&self, what: &'static str, last: bool, answer: Result<T>) -> Result<T> {
        self.trace.note(format_args!("{what} {}", word(&answer)));
        self.switch.after(last).await;
        if answer.is_ok() && self.dice.falls("queue.indeterminate", self.rates().indeterminate) {
            return Err(Error::indeterminate("the answer was lost").during(what));
        }
        answer
    }
}

#[async_trait]
impl Queue for FaultyQueue {
    async fn push(&self, items: &[Item]) -> Result<()> {
        let last = self.pass("push").await?;
        let dropped = self.rates().dropped;
        let kept: Vec<Item> =
            items.iter().filter(|_| !self.dice.falls("queue.dropped", dropped)).cloned().collect();
        for item in &kept {
            self.trace.note(format_args!("push {}", item.id()));
        }
        let answer = self.inner.push(&kept).await;
        self.answer("push", last, answer).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let last = self.pass("claim").await?;
        let rates = self.rates();
        // Half of the places are left for copies.
        let limit = claim.limit.div_ceil(2);
        let mut claimed = self.inner.claim(&Claim { limit, ..claim.clone() }).await?;
        for at in 0..claimed.deliveries.len() {
            if claimed.deliveries.len() < claim.limit && self.dice.falls("queue.twice", rates.twice) {
                let copy = &claimed.deliveries[at];
                let token = DeliveryToken::new(format!("{COPY}{}", copy.token.as_str()));
                claimed.deliveries.push(Delivery { token, ..copy.clone() });
            }
        }
        if claimed.deliveries.len() > 1 && self.dice.falls("queue.reordered", rates.reordered) {
            claimed.deliveries.reverse();
        }
        for delivery in &claimed.deliveries {
            self.trace.note(format_args!("claim {} {}", delivery.item.id(), delivery.token.as_str()));
        }
        if rates.answers_after > 0 {
            tokio::time::sleep(Duration::from_millis(rates.answers_after)).await;
        }
        self.answer("claim", last, Ok(claimed)).await
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        let last = self.pass("queue.renew").await?;
        let answer = self.inner.renew(tokens, until, now).await;
        self.answer("queue.renew", last, answer).await
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        let last = self.pass("settle").await?;
        let own: Vec<Settle> =
            settles.iter().filter(|settle| !settle.token.as_str().starts_with(COPY)).cloned().collect();
        let answer = self.inner.settle(&own, now).await;
        for (settle, answer) in own.iter().zip(answer.iter().flatten()) {
            let done = settle.release_until.is_none();
            self.trace.note(format_args!("settle {} done={done} {}", settle.token.as_str(), word(answer)));
        }
        self.answer("settle", last, answer).await
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        let last = self.pass("wait").await?;
        let answer = self.inner.wait(timeout).await;
        self.switch.after(last).await;
        answer
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        self.inner.depth(tenant, now).await
    }
}
