//! A store that fails on purpose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use orch::store::{
    Append, Capability, Doc, DocKey, DocsPage, DocsQuery, DuePage, DueQuery, EntriesPage, EntriesRequest,
    FeedPage, FeedQuery, Prune, PutDoc, RunRow, RunsPage, RunsQuery, Store,
};
use orch::{Error, Result, RunKey};

use super::Rates;
use crate::dice::Dice;
use crate::switch::Switch;
use crate::trace::{Trace, word};

/// A fault that strikes one append: the next one whose lines hold a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// Nothing happens.
    Unavailable,
    /// It happens, and the answer is lost.
    Indeterminate,
    /// The answer is lost, and so are those of the next three reads.
    Blinding,
}

/// A store that fails on purpose. Clones are the same store.
#[derive(Clone, Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    /// What decides what goes wrong, and counts it.
    pub dice: Dice,
    /// The life of the process that uses the store.
    pub switch: Switch,
    trace: Trace,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    rates: Rates,
    strikes: Vec<(&'static str, Strike)>,
    trap: Option<&'static str>,
    blind: u32,
    untold: bool,
    late: Duration,
    slow: Duration,
    calls: BTreeMap<&'static str, u64>,
}

impl FaultyStore {
    /// `inner`, failing at these rates by the dice of a seed.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, seed: u64, rates: Rates) -> Self {
        Self::of(inner, Dice::new(seed), rates, Switch::default(), Trace::default())
    }

    /// The store of one simulated process.
    #[must_use]
    pub fn of(inner: Arc<dyn Store>, dice: Dice, rates: Rates, switch: Switch, trace: Trace) -> Self {
        let state = Arc::new(Mutex::new(State { rates, ..State::default() }));
        Self { inner, dice, switch, trace, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next append that holds `text` fail.
    pub fn strike(&self, text: &'static str, strike: Strike) {
        self.state().strikes.push((text, strike));
    }

    /// Whether it tells that somebody has written. Most stores that several processes share do not.
    pub fn tell(&self, tells: bool) {
        self.state().untold = !tells;
    }

    /// Every append takes so long.
    pub fn append_slowly(&self, span: Duration) {
        self.state().slow = span;
    }

    /// What is read arrives so much later than it was read.
    pub fn answer_late(&self, by: Duration) {
        self.state().late = by;
    }

    /// Other things go wrong from now on.
    pub fn set_rates(&self, rates: Rates) {
        self.state().rates = rates;
    }

    /// Nothing goes wrong any more.
    pub fn stop_faults(&self) {
        self.set_rates(Rates::default());
    }

    /// While frozen, every call hangs: the process is as good as dead, until it is thawed.
    pub fn freeze(&self, frozen: bool) {
        self.switch.hold(frozen);
    }

    /// Freezes as soon as an append holds `text`, before it happens.
    pub fn freeze_at(&self, text: &'static str) {
        self.state().trap = Some(text);
    }

    /// Whether it is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.switch.is_held()
    }

    /// How often a method was called.
    #[must_use]
    pub fn calls(&self, what: &str) -> u64 {
        self.state().calls.get(what).copied().unwrap_or_default()
    }

    fn rates(&self) -> Rates {
        self.state().rates
    }

    /// What goes wrong before a call happens.
    async fn pass(&self, what: &'static str) -> Result<bool> {
        *self.state().calls.entry(what).or_default() += 1;
        let last = self.switch.before().await;
        let rates = self.rates();
        if self.dice.falls("store.delay", rates.delay) {
            tokio::time::sleep(Duration::from_millis(self.dice.roll(300))).await;
            self.switch.go_on().await;
        }
        if self.dice.falls("store.unavailable", rates.unavailable) {
            self.trace.note(format_args!("{what} unavailable"));
            self.switch.after(last).await;
            return Err(Error::unavailable("the store is away").during(what));
        }
        Ok(last)
    }

    /// A call that fails before it happens, or whose process dies before or after.
    async fn call<T>(&self, what: &'static str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let last = self.pass(what).await?;
        let answer = call.await;
        self.trace.note(format_args!("{what} {}", word(&answer)));
        self.switch.after(last).await;
        answer
    }

    fn struck(&self, append: &Append) -> Option<Strike> {
        let mut state = self.state();
        let at = state.strikes.iter().position(|(text, _)| append.lines.contains(text))?;
        self.dice.note("store.strike");
        Some(state.strikes.remove(at).1)
    }

    async fn append_one(&self, append: &Append) -> Result<()> {
        let rates = self.rates();
        let strike = self.struck(append);
        if strike == Some(Strike::Unavailable) {
            return Err(Error::unavailable("struck"));
        }
        if self.dice.falls("store.conflict", rates.conflict) {
            return Err(Error::conflict("a lost race"));
        }
        let outcome = self.inner.append(std::slice::from_ref(append)).await?.remove(0);
        if strike == Some(Strike::Blinding) {
            self.state().blind = 3;
        }
        let lost = matches!(strike, Some(Strike::Indeterminate | Strike::Blinding))
            || (outcome.is_ok() && self.dice.falls("store.indeterminate", rates.indeterminate));
        if lost { Err(Error::indeterminate("the answer was lost")) } else { outcome }
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    fn stamp(&self) -> Option<u64> {
        if self.state().untold { None } else { self.inner.stamp() }
    }

    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>> {
        let trapped = self.state().trap.take_if(|text| appends.iter().any(|a| a.lines.contains(*text)));
        if trapped.is_some() {
            self.freeze(true);
        }
        let last = self.pass("append").await?;
        let slow = self.state().slow;
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
            self.switch.go_on().await;
        }
        let mut outcomes = Vec::with_capacity(appends.len());
        for append in appends {
            let outcome = self.append_one(append).await;
            let Append { tenant, stream, expected, head, .. } = append;
            let answer = word(&outcome);
            self.trace.note(format_args!(
                "append {tenant} {stream} {} to {} {} {answer}",
                expected.seq, head.seq, head.hash
            ));
            outcomes.push(outcome);
        }
        self.switch.after(last).await;
        Ok(outcomes)
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        let last = self.pass("entries").await?;
        let blind = self.state().blind.checked_sub(1);
        if let Some(left) = blind {
            self.state().blind = left;
            self.dice.note("store.blind");
            return Err(Error::unavailable("the store cannot be read"));
        }
        let answer = self.inner.entries(requests).await;
        for (request, page) in requests.iter().zip(answer.iter().flatten()) {
            self.trace
                .note(format_args!("entries {} {} of {}", request.stream, request.after, page.head.seq));
        }
        let State { mut late, rates, .. } = *self.state();
        if self.dice.falls("store.late", rates.delay) {
            late += Duration::from_millis(self.dice.roll(300));
        }
        if !late.is_zero() {
            tokio::time::sleep(late).await;
            self.switch.go_on().await;
        }
        self.switch.after(last).await;
        answer
    }

    async fn feed(&self, query: &FeedQuery) -> Result<FeedPage> {
        self.call("feed", self.inner.feed(query)).await
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        self.call("run", self.inner.run(key)).await
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        self.call("runs", self.inner.runs(query)).await
    }

    async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        self.call("due", self.inner.due(query)).await
    }

    async fn put_doc(&self, put: &PutDoc) -> Result<u64> {
        self.call("put_doc", self.inner.put_doc(put)).await
    }

    async fn doc(&self, key: &DocKey) -> Result<Option<Doc>> {
        self.call("doc", self.inner.doc(key)).await
    }

    async fn docs(&self, query: &DocsQuery) -> Result<DocsPage> {
        self.call("docs", self.inner.docs(query)).await
    }

    async fn prune(&self, prune: &Prune) -> Result<usize> {
        self.call("prune", self.inner.prune(prune)).await
    }
}
