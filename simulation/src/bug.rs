//! Defects put in on purpose, one at a time: each must be caught, as the invariant that it breaks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use orch::ledger::{Head, Stream};
use orch::lock::{Acquire, Grant, Holder, Lock, MemoryLock, Take, Taken};
use orch::queue::{Claim, Claimed, DeliveryToken, Depth, Item, MemoryQueue, Queue, Settle};
use orch::store::{
    Append, Capability, Doc, DocKey, DocsPage, DocsQuery, DuePage, DueQuery, EntriesPage, EntriesRequest,
    MemoryStore, Prune, PutDoc, RunRow, RunsPage, RunsQuery, Store,
};
use orch::{ErrorKind, Invariant, Result, RunKey, TenantId, Timestamp};

use crate::dice::Dice;

macro_rules! bugs {
    ($($(#[doc = $doc:literal])* $bug:ident $name:literal $invariant:ident,)*) => {
        /// A defect put in on purpose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $doc])* $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$bug),*];

            /// Its name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$bug => $name,)* }
            }

            /// The invariant that it breaks.
            #[must_use]
            pub const fn breaks(self) -> Invariant {
                match self { $(Self::$bug => Invariant::$invariant,)* }
            }
        }
    };
}

bugs! {
    /// The store acknowledges an append and drops it.
    DropAnAppend "drop-an-append" L1,
    /// The store acknowledges an append and writes it a moment later, if nobody was quicker.
    AnswerBeforeDurable "answer-before-durable" L1,
    /// The store appends although the head is stale.
    LandStale "land-stale" L2,
    /// The store appends and says `Conflict`.
    ConflictThatLands "conflict-that-lands" L2,
    /// The store leaves the counts of a run's row behind its entries.
    LeaveTheRowBehind "leave-the-row-behind" L3,
    /// Somebody records a second success of a step.
    SucceedTwice "succeed-twice" R1,
    /// Somebody records the success of an attempt that was lost.
    SkipTheFence "skip-the-fence" R2,
    /// Somebody schedules a step before its turn.
    StartBeforeNeeds "start-before-needs" R3,
    /// Hints are dropped for ever and no run is ever due.
    HideDueRuns "hide-due-runs" R4,
    /// Submissions forget the run token.
    IgnoreTheToken "ignore-the-token" R5,
    /// The store answers another tenant's row.
    LeakARow "leak-a-row" T1,
    /// The lock grants one slot more than there are.
    OneSlotTooMany "one-slot-too-many" A1,
    /// The lock grants the same fence again and again.
    ReuseAFence "reuse-a-fence" A1,
    /// The lock never gives back the slot of whoever died or ended.
    KeepDeadSlots "keep-dead-slots" A1,
    /// The executor runs a step that declares its network where nothing enforces it.
    StartWithoutSandbox "start-without-sandbox" S1,
    /// The queue forgets an item that it holds.
    ForgetAnItem "forget-an-item" Q1,
    /// The store says that it has pruned, and keeps everything.
    PruneNothing "prune-nothing" P1,
}

/// The backends of a simulated world, with or without a defect.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) store: MemoryStore,
    pub(crate) lock: MemoryLock,
    pub(crate) bug: Option<Bug>,
    dice: Dice,
    rows: Arc<Mutex<BTreeMap<RunKey, RunRow>>>,
}

impl Backend {
    pub(crate) fn new(bug: Option<Bug>, dice: Dice) -> Self {
        Self { store: MemoryStore::new(), lock: MemoryLock::new(), bug, dice, rows: Arc::default() }
    }

    /// Whether the defect shows now: not always, as real ones do not.
    fn strikes(&self, bug: Bug) -> bool {
        self.bug == Some(bug) && self.dice.falls("bug", 10)
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<RunKey, RunRow>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn append_one(&self, append: &Append) -> Result<()> {
        let run = matches!(append.stream, Stream::Run(_)) && !append.lines.is_empty();
        if run && self.strikes(Bug::DropAnAppend) {
            return Ok(());
        }
        if run && self.strikes(Bug::AnswerBeforeDurable) {
            let (store, append) = (self.store.clone(), append.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                // Too late is lost: that is the defect.
                drop(store.append(&[append]).await);
            });
            return Ok(());
        }
        if run && self.bug == Some(Bug::LeaveTheRowBehind) {
            return self.land(&self.with_old_counts(append)).await;
        }
        let answer = self.land(append).await;
        let stale = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Conflict);
        if run && stale && append.expected.seq > 0 && self.bug == Some(Bug::LandStale) {
            self.dice.note("bug");
            return self.land_stale(append).await;
        }
        if run && answer.is_ok() && self.strikes(Bug::ConflictThatLands) {
            return Err(orch::Error::conflict("a lost race"));
        }
        answer
    }

    async fn land(&self, append: &Append) -> Result<()> {
        self.store.append(std::slice::from_ref(append)).await?.remove(0)
    }

    fn with_old_counts(&self, append: &Append) -> Append {
        let mut append = append.clone();
        let Some(row) = &mut append.row else { return append };
        let right = row.clone();
        if let Some(old) = self.rows().insert(row.key(), right) {
            self.dice.note("bug");
            row.steps = old.steps;
        }
        append
    }

    async fn land_stale(&self, append: &Append) -> Result<()> {
        let request = EntriesRequest {
            tenant: append.tenant.clone(),
            stream: append.stream,
            after: 0,
            limit: usize::MAX,
        };
        let now = self.store.entries(&[request]).await?.remove(0).head;
        let seq = now.seq + (append.head.seq - append.expected.seq);
        let head = Head { hash: append.head.hash, seq };
        let row = append.row.clone().map(|row| RunRow { head, ..row });
        self.land(&Append { expected: now, head, row, ..append.clone() }).await
    }
}

#[async_trait]
impl Store for Backend {
    fn capability(&self) -> Capability {
        self.store.capability()
    }

    fn stamp(&self) -> Option<u64> {
        self.store.stamp()
    }

    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>> {
        if self.bug.is_none() {
            return self.store.append(appends).await;
        }
        let mut answers = Vec::with_capacity(appends.len());
        for append in appends {
            answers.push(self.append_one(append).await);
        }
        Ok(answers)
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        self.store.entries(requests).await
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        let row = self.store.run(key).await?;
        if row.is_some() || self.bug != Some(Bug::LeakARow) {
            return Ok(row);
        }
        for tenant in crate::world::tenants() {
            let key = RunKey { tenant, run: key.run };
            if let Some(row) = self.store.run(&key).await? {
                self.dice.note("bug");
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        self.store.runs(query).await
    }

    async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        if self.bug == Some(Bug::HideDueRuns) {
            self.dice.note("bug");
            return Ok(DuePage { runs: Vec::new(), next_at: None });
        }
        self.store.due(query).await
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
        if self.bug == Some(Bug::PruneNothing) {
            self.dice.note("bug");
            return Ok(prune.runs.len());
        }
        self.store.prune(prune).await
    }
}

#[async_trait]
impl Lock for Backend {
    async fn acquire(&self, acquire: &Acquire) -> Result<Option<Vec<Grant>>> {
        let (mut acquire, lease) = (acquire.clone(), acquire.lease);
        match self.bug {
            Some(Bug::OneSlotTooMany) => acquire.slots.iter_mut().for_each(|slot| slot.capacity += 1),
            Some(Bug::KeepDeadSlots) => acquire.lease = Duration::from_secs(1 << 30),
            _ => {}
        }
        let mut answer = self.lock.acquire(&acquire).await?;
        for grant in answer.iter_mut().flatten() {
            match self.bug {
                Some(Bug::ReuseAFence) => grant.fence = 1,
                Some(Bug::KeepDeadSlots) => grant.lease_until = acquire.now.plus(lease),
                _ => {}
            }
        }
        Ok(answer)
    }

    async fn renew(&self, holders: &[Holder], until: Timestamp, now: Timestamp) -> Result<Vec<Result<()>>> {
        self.lock.renew(holders, until, now).await
    }

    async fn release(&self, holders: &[Holder]) -> Result<()> {
        if self.bug == Some(Bug::KeepDeadSlots) {
            self.dice.note("bug");
            return Ok(());
        }
        self.lock.release(holders).await
    }

    async fn take(&self, take: &Take) -> Result<Taken> {
        self.lock.take(take).await
    }
}

/// A queue that can be flushed, and that may be defective.
#[derive(Clone, Debug)]
pub(crate) struct Hints {
    inner: Arc<Mutex<MemoryQueue>>,
    backend: Backend,
}

impl Hints {
    pub(crate) fn new(backend: &Backend) -> Self {
        Self { inner: Arc::default(), backend: backend.clone() }
    }

    fn inner(&self) -> MemoryQueue {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything in it is gone.
    pub(crate) fn flush(&self) {
        *self.inner.lock().unwrap_or_else(PoisonError::into_inner) = MemoryQueue::new();
    }
}

#[async_trait]
impl Queue for Hints {
    async fn push(&self, items: &[Item]) -> Result<()> {
        self.inner().push(items).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let mut claimed = self.inner().claim(claim).await?;
        if !claimed.deliveries.is_empty() && self.backend.strikes(Bug::ForgetAnItem) {
            let forgotten = claimed.deliveries.remove(0);
            self.inner().settle(&[Settle::done(forgotten.token)], claim.now).await?;
        }
        Ok(claimed)
    }

    async fn renew(
        &self,
        tokens: &[DeliveryToken],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        self.inner().renew(tokens, until, now).await
    }

    async fn settle(&self, settles: &[Settle], now: Timestamp) -> Result<Vec<Result<()>>> {
        self.inner().settle(settles, now).await
    }

    async fn wait(&self, timeout: Duration) -> Result<()> {
        self.inner().wait(timeout).await
    }

    async fn depth(&self, tenant: &TenantId, now: Timestamp) -> Result<Vec<Depth>> {
        self.inner().depth(tenant, now).await
    }
}
