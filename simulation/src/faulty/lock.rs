//! A lock that fails on purpose.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use orch::lock::{Acquire, Grant, Holder, Lock, Take, Taken};
use orch::{Error, Result, Timestamp};

use super::Rates;
use crate::dice::Dice;
use crate::switch::Switch;
use crate::trace::{Trace, word};

/// A lock that fails on purpose. Clones are the same lock.
#[derive(Clone, Debug)]
pub struct FaultyLock {
    inner: Arc<dyn Lock>,
    dice: Dice,
    switch: Switch,
    trace: Trace,
    rates: Arc<Mutex<Rates>>,
}

impl FaultyLock {
    /// The lock of one simulated process.
    #[must_use]
    pub fn of(inner: Arc<dyn Lock>, dice: Dice, rates: Rates, switch: Switch, trace: Trace) -> Self {
        Self { inner, dice, switch, trace, rates: Arc::new(Mutex::new(rates)) }
    }

    fn state(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing goes wrong any more.
    pub fn stop_faults(&self) {
        *self.state() = Rates::default();
    }

    fn rates(&self) -> Rates {
        *self.state()
    }

    async fn call<T>(&self, what: &'static str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let last = self.switch.before().await;
        let rates = self.rates();
        if self.dice.falls("lock.delay", rates.delay) {
            tokio::time::sleep(Duration::from_millis(self.dice.roll(300))).await;
            self.switch.go_on().await;
        }
        if self.dice.falls("lock.unavailable", rates.unavailable) {
            self.trace.note(format_args!("{what} unavailable"));
            self.switch.after(last).await;
            return Err(Error::unavailable("the lock is away").during(what));
        }
        let answer = call.await;
        self.trace.note(format_args!("{what} {}", word(&answer)));
        self.switch.after(last).await;
        if answer.is_ok() && self.dice.falls("lock.indeterminate", rates.indeterminate) {
            return Err(Error::indeterminate("the answer was lost").during(what));
        }
        answer
    }
}

#[async_trait]
impl Lock for FaultyLock {
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        self.call("acquire", self.inner.acquire(acquire)).await
    }

    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>> {
        self.call("lock.renew", self.inner.renew(holders, until, now)).await
    }

    async fn release(&self, holders: &[Holder]) -> Result<()> {
        self.call("release", self.inner.release(holders)).await
    }

    async fn take(&self, take: &Take) -> Result<Taken> {
        self.call("take", self.inner.take(take)).await
    }
}
