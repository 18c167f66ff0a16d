//! Telling whoever waits that a run has moved on.
//!
//! A notification is a hint to read the ledger again; another process's appends are noticed by polling.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::core::{Core, closed};
use crate::error::{Error, Result};
use crate::id::{RunKey, TenantId};
use crate::ledger::{Entry, Head, RunStatus, Stream, read_chain};
use crate::store::{EntriesRequest, RunRow};

/// How often a follower reads again without having been told to, for what other processes append.
pub(super) const POLL: Duration = Duration::from_secs(1);

/// Entries read at once: with hundreds of slow followers, what is read ahead is what they cost.
const PAGE: usize = 250;

/// Who waits for which run, and how many of them; and who follows all runs of a tenant.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    runs: Mutex<HashMap<RunKey, (usize, Arc<News>)>>,
    tenants: Mutex<HashMap<TenantId, Weak<Notify>>>,
}

/// What is told of a run.
#[derive(Debug, Default)]
struct News {
    /// It has moved on.
    moved: Notify,
    /// It has ended: who waits for no more than that need not look at every step.
    ended: Notify,
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, HashMap<RunKey, (usize, Arc<News>)>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<TenantId, Weak<Notify>>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is told whenever a run of the tenant moves on.
    pub(super) fn of_tenant(&self, tenant: &TenantId) -> Arc<Notify> {
        let mut tenants = self.tenants();
        if let Some(known) = tenants.get(tenant).and_then(Weak::upgrade) {
            return known;
        }
        tenants.retain(|_, told| told.strong_count() > 0);
        let told = Arc::new(Notify::new());
        tenants.insert(tenant.clone(), Arc::downgrade(&told));
        told
    }

    /// Tells that a run has moved on and, with `ended`, that nothing will follow.
    pub(super) fn notify(&self, key: &RunKey, ended: bool) {
        if let Some(told) = self.tenants().get(&key.tenant).and_then(Weak::upgrade) {
            told.notify_waiters();
        }
        if let Some((_, news)) = self.lock().get(key) {
            news.moved.notify_waiters();
            if ended {
                news.ended.notify_waiters();
            }
        }
    }

    /// How many runs are waited for.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// A place among those who wait; given up when dropped, also by a caller that goes away in the middle.
#[derive(Debug)]
struct Watch {
    core: Arc<Core>,
    key: RunKey,
    news: Arc<News>,
}

impl Watch {
    fn new(core: &Arc<Core>, key: RunKey) -> Self {
        let mut map = core.watchers.lock();
        let (count, news) = map.entry(key.clone()).or_default();
        *count += 1;
        let news = Arc::clone(news);
        drop(map);
        Self { core: Arc::clone(core), key, news }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut map = self.core.watchers.lock();
        if let Some((count, _)) = map.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                map.remove(&self.key);
            }
        }
    }
}

/// The entries of one run, from a cursor on: first what is there, then what comes, until the run has ended.
#[derive(Debug)]
pub struct RunEvents {
    watch: Watch,
    /// Up to where the record was followed.
    head: Head,
    /// What was read beyond, as text: hundreds of slow followers hold no more than the lines.
    ahead: String,
    /// How much of it has been followed.
    at: usize,
    after: u64,
    ended: bool,
    follow: bool,
}

impl RunEvents {
    pub(super) fn new(core: &Arc<Core>, key: RunKey, after: u64, follow: bool) -> Self {
        let watch = Watch::new(core, key);
        Self { watch, head: Head::EMPTY, ahead: String::new(), at: 0, after, ended: false, follow }
    }

    /// The next entry with its line, or nothing when the run has ended and everything has been read (or, without
    /// following, when everything has been read).
    ///
    /// # Errors
    /// `NotFound` for a run that does not exist, `Corrupt` for a broken chain, `Unavailable`, `Closed`.
    pub async fn next(&mut self) -> Result<Option<(Entry, String)>> {
        loop {
            while let Some((entry, line)) = self.step()? {
                if entry.seq > self.after {
                    return Ok(Some((entry, line)));
                }
            }
            let news = Arc::clone(&self.watch.news);
            let mut told = std::pin::pin!(news.moved.notified());
            // Registered before reading, so that what lands after the read is not missed.
            told.as_mut().enable();
            if self.read().await? {
                continue;
            }
            if self.ended || !self.follow {
                return Ok(None);
            }
            tokio::select! {
                biased;
                () = told => {}
                () = tokio::time::sleep(POLL) => {}
                () = self.watch.core.closed.cancelled() => return Err(closed()),
            }
        }
    }

    /// Follows the chain by one line of what was read ahead.
    fn step(&mut self) -> Result<Option<(Entry, String)>> {
        let Some(next) = read_chain(self.head, &self.ahead[self.at..]).next() else {
            (self.ahead, self.at) = (String::new(), 0);
            return Ok(None);
        };
        let (entry, line, head) = next?;
        let line = line.to_owned();
        self.at = (self.at + line.len() + "\n".len()).min(self.ahead.len());
        self.head = head;
        self.ended = match entry.event {
            crate::ledger::Event::RunRetried(_) => false,
            _ => self.ended || ends_run(&entry),
        };
        Ok(Some((entry, line)))
    }

    /// Reads one page; answers whether there was anything.
    async fn read(&mut self) -> Result<bool> {
        let request = EntriesRequest {
            tenant: self.watch.key.tenant.clone(),
            stream: Stream::Run(self.watch.key.run),
            after: self.head.seq,
            limit: PAGE,
        };
        let page = self.watch.core.store.entries(&[request]).await?.pop();
        let page = page.ok_or_else(|| Error::internal("a store answers every request"))?;
        if page.head == Head::EMPTY {
            return Err(Error::not_found("no such run").with("run", self.watch.key.run));
        }
        (self.ahead, self.at) = (page.lines, 0);
        Ok(!self.ahead.is_empty())
    }
}

fn ends_run(entry: &Entry) -> bool {
    let word = entry.event.type_name().strip_prefix("run.");
    word.and_then(|word| word.parse::<RunStatus>().ok()).is_some_and(RunStatus::is_terminal)
}

/// The row of a run once it has ended.
pub(super) async fn until_ended(core: &Arc<Core>, key: &RunKey) -> Result<RunRow> {
    let watch = Watch::new(core, key.clone());
    loop {
        let mut told = std::pin::pin!(watch.news.ended.notified());
        told.as_mut().enable();
        match core.store.run(key).await {
            Ok(Some(row)) if row.status.is_terminal() => return Ok(row),
            Ok(Some(_)) => {}
            Ok(None) => return Err(Error::not_found("no such run").with("run", key.run)),
            Err(error) => return Err(error),
        }
        tokio::select! {
            biased;
            () = told => {}
            () = tokio::time::sleep(POLL) => {}
            () = core.closed.cancelled() => return Err(closed()),
        }
    }
}
