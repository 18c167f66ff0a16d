//! Backends that fail on purpose: before the deed, after it, late, twice, or not at all until told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use orch::queue::{Claim, Claimed, Delivery, DeliveryToken, Depth, Item, Queue, Settle};
use orch::store::*;
use orch::{Error, Result, RunKey, TenantId, Timestamp};
use tokio::sync::watch;

/// What goes wrong, in percent of the calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    /// Nothing happens, and the call says so.
    pub(crate) unavailable: u64,
    /// It happens, and the answer is lost.
    pub(crate) indeterminate: u64,
    /// A race is lost that nobody won.
    pub(crate) conflict: u64,
    /// It takes up to 300 ms.
    pub(crate) delay: u64,
    /// Hints vanish.
    pub(crate) dropped: u64,
    /// Deliveries come twice.
    pub(crate) twice: u64,
    /// Deliveries come in another order.
    pub(crate) reordered: u64,
    /// Answers to claims are on their way for so many milliseconds.
    pub(crate) answers_after: u64,
}

/// The dice, the same for the same seed, and what they have done.
#[derive(Clone, Debug)]
pub(crate) struct Dice(Arc<Mutex<(u64, BTreeMap<&'static str, u32>)>>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new((seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, BTreeMap::new()))))
    }

    /// A number below `sides` (Marsaglia, "Xorshift RNGs", 2003).
    fn roll(&self, sides: u64) -> u64 {
        let mut dice = self.0.lock().unwrap();
        dice.0 ^= dice.0 << 13;
        dice.0 ^= dice.0 >> 7;
        dice.0 ^= dice.0 << 17;
        dice.0 % sides
    }

    fn falls(&self, what: &'static str, percent: u64) -> bool {
        let falls = self.roll(100) < percent;
        if falls {
            self.note(what);
        }
        falls
    }

    fn note(&self, what: &'static str) {
        *self.0.lock().unwrap().1.entry(what).or_default() += 1;
    }

    /// How often a fault has struck.
    pub(crate) fn fired(&self, what: &str) -> u32 {
        self.0.lock().unwrap().1.get(what).copied().unwrap_or_default()
    }
}

/// A fault that strikes one append: the next one whose lines hold a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    Unavailable,
    Indeterminate,
    /// The answer is lost, and so are those of the next three reads.
    Blinding,
}

/// A store that fails on purpose.
#[derive(Clone, Debug)]
pub(crate) struct FaultyStore {
    inner: MemoryStore,
    pub(crate) dice: Dice,
    rates: Arc<Mutex<Rates>>,
    strikes: Arc<Mutex<Vec<(&'static str, Strike)>>>,
    frozen: watch::Sender<bool>,
    trap: Arc<Mutex<Option<&'static str>>>,
    blind: Arc<Mutex<u32>>,
    pub(crate) calls: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl FaultyStore {
    pub(crate) fn new(inner: MemoryStore, seed: u64, rates: Rates) -> Self {
        Self {
            inner,
            dice: Dice::new(seed),
            rates: Arc::new(Mutex::new(rates)),
            strikes: Arc::default(),
            frozen: watch::Sender::new(false),
            trap: Arc::default(),
            blind: Arc::default(),
            calls: Arc::default(),
        }
    }

    /// Lets the next append that holds `text` fail.
    pub(crate) fn strike(&self, text: &'static str, strike: Strike) {
        self.strikes.lock().unwrap().push((text, strike));
    }

    pub(crate) fn stop_faults(&self) {
        *self.rates.lock().unwrap() = Rates::default();
    }

    /// While frozen, every call hangs: the process is as good as dead, until it is thawed.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// Freezes as soon as an append holds `text`, before it happens.
    pub(crate) fn freeze_at(&self, text: &'static str) {
        *self.trap.lock().unwrap() = Some(text);
    }

    pub(crate) fn is_frozen(&self) -> bool {
        *self.frozen.borrow()
    }

    pub(crate) fn calls(&self, what: &str) -> u64 {
        self.calls.lock().unwrap().get(what).copied().unwrap_or_default()
    }

    async fn pass(&self, what: &'static str) -> Result<()> {
        *self.calls.lock().unwrap().entry(what).or_default() += 1;
        let _ = self.frozen.subscribe().wait_for(|frozen| !frozen).await;
        let rates = *self.rates.lock().unwrap();
        if self.dice.falls("delay", rates.delay) {
            tokio::time::sleep(Duration::from_millis(self.dice.roll(300))).await;
            let _ = self.frozen.subscribe().wait_for(|frozen| !frozen).await;
        }
        if self.dice.falls("unavailable", rates.unavailable) {
            return Err(Error::unavailable("the store is away").during(what));
        }
        Ok(())
    }

    fn struck(&self, append: &Append) -> Option<Strike> {
        let mut strikes = self.strikes.lock().unwrap();
        let at = strikes.iter().position(|(text, _)| append.lines.contains(text))?;
        self.dice.note("strike");
        Some(strikes.remove(at).1)
    }

    async fn append_one(&self, append: &Append) -> Result<()> {
        let rates = *self.rates.lock().unwrap();
        let strike = self.struck(append);
        if strike == Some(Strike::Unavailable) {
            return Err(Error::unavailable("struck"));
        }
        if self.dice.falls("conflict", rates.conflict) {
            return Err(Error::conflict("a lost race"));
        }
        let outcome = self.inner.append(std::slice::from_ref(append)).await?.remove(0);
        if strike == Some(Strike::Blinding) {
            *self.blind.lock().unwrap() = 3;
        }
        let lost = matches!(strike, Some(Strike::Indeterminate | Strike::Blinding))
            || (outcome.is_ok() && self.dice.falls("indeterminate", rates.indeterminate));
        if lost { Err(Error::indeterminate("the answer was lost")) } else { outcome }
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>> {
        let trapped =
            self.trap.lock().unwrap().take_if(|text| appends.iter().any(|a| a.lines.contains(*text)));
        if trapped.is_some() {
            self.freeze(true);
        }
        self.pass("append").await?;
        let mut outcomes = Vec::with_capacity(appends.len());
        for append in appends {
            outcomes.push(self.append_one(append).await);
        }
        Ok(outcomes)
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        self.pass("entries").await?;
        let blind = self.blind.lock().unwrap().checked_sub(1);
        if let Some(left) = blind {
            *self.blind.lock().unwrap() = left;
            self.dice.note("blind");
            return Err(Error::unavailable("the store cannot be read"));
        }
        self.inner.entries(requests).await
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        self.pass("run").await?;
        self.inner.run(key).await
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        self.pass("runs").await?;
        self.inner.runs(query).await
    }

    async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        self.pass("due").await?;
        self.inner.due(query).await
    }

    async fn put_doc(&self, put: &PutDoc) -> Result<u64> {
        self.pass("put_doc").await?;
        self.inner.put_doc(put).await
    }

    async fn doc(&self, key: &DocKey) -> Result<Option<Doc>> {
        self.pass("doc").await?;
        self.inner.doc(key).await
    }

    async fn docs(&self, query: &DocsQuery) -> Result<DocsPage> {
        self.pass("docs").await?;
        self.inner.docs(query).await
    }

    async fn prune(&self, prune: &Prune) -> Result<usize> {
        self.pass("prune").await?;
        self.inner.prune(prune).await
    }
}

/// A queue that fails on purpose.
#[derive(Clone, Debug)]
pub(crate) struct FaultyQueue<Q> {
    inner: Q,
    pub(crate) dice: Dice,
    rates: Rates,
    frozen: watch::Sender<bool>,
}

const COPY: &str = "copy";

impl<Q: Queue> FaultyQueue<Q> {
    pub(crate) fn new(inner: Q, seed: u64, rates: Rates) -> Self {
        Self { inner, dice: Dice::new(seed), rates, frozen: watch::Sender::new(false) }
    }

    /// While frozen, every call hangs.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    async fn pass(&self) -> Result<()> {
        let _ = self.frozen.subscribe().wait_for(|frozen| !frozen).await;
        if self.dice.falls("unavailable", self.rates.unavailable) {
            return Err(Error::unavailable("the queue is away"));
        }
        Ok(())
    }
}

#[async_trait]
impl<Q: Queue> Queue for FaultyQueue<Q> {
    async fn push(&self, items: &[Item]) -> Result<()> {
        self.pass().await?;
        let kept: Vec<Item> =
            items.iter().filter(|_| !self.dice.falls("dropped", self.rates.dropped)).cloned().collect();
        self.inner.push(&kept).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.pass().await?;
        let limit = claim.limit.div_ceil(2);
        let mut claimed = self.inner.claim(&Claim { limit, ..claim.clone() }).await?;
        for at in 0..claimed.deliveries.len() {
            if claimed.deliveries.len() < claim.limit && self.dice.falls("twice", self.rates.twice) {
                let copy = &claimed.deliveries[at];
                let token = DeliveryToken::new(format!("{COPY}{}", copy.token.as_str()));
                claimed.deliveries.push(Delivery { token, ..copy.clone() });
            }
        }
        if self.dice.falls("reordered", self.rates.reordered) {
            claimed.deliveries.reverse();
        }
        tokio::time::sleep(Duration::from_millis(self.rates.answers_after)).await;
        Ok(claimed)
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        self.inner.renew(tokens, until, now).await
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        self.pass().await?;
        let own: Vec<Settle> =
            settles.iter().filter(|settle| !settle.token.as_str().starts_with(COPY)).cloned().collect();
        self.inner.settle(&own, now).await
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        self.pass().await?;
        self.inner.wait(timeout).await
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        self.inner.depth(tenant, now).await
    }
}
