//! Telling whoever waits that a run has moved on.
//!
//! A notification is a hint to read the ledger again; another process's appends are noticed by polling.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::core::{Core, closed};
use crate::error::{Error, Result};
use crate::id::RunKey;
use crate::ledger::{Entry, Head, RunStatus, Stream, read_chain};
use crate::store::{EntriesRequest, RunRow};

/// How often a follower reads again without having been told to, for what other processes append.
const POLL: Duration = Duration::from_secs(1);

/// Entries read at once.
const PAGE: usize = 1_000;

/// Who waits for which run, and how many of them.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<HashMap<RunKey, (usize, Arc<News>)>>);

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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells that a run has moved on and, with `ended`, that nothing will follow.
    pub(super) fn notify(&self, key: &RunKey, ended: bool) {
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
    head: Head,
    ready: VecDeque<(Entry, String)>,
    after: u64,
    ended: bool,
    follow: bool,
}

impl RunEvents {
    pub(super) fn new(core: &Arc<Core>, key: RunKey, after: u64, follow: bool) -> Self {
        Self {
            watch: Watch::new(core, key),
            head: Head::EMPTY,
            ready: VecDeque::new(),
            after,
            ended: false,
            follow,
        }
    }

    /// The next entry with its line, or nothing when the run has ended and everything has been read (or, without
    /// following, when everything has been read).
    ///
    /// # Errors
    /// `NotFound` for a run that does not exist, `Corrupt` for a broken chain, `Unavailable`, `Closed`.
    pub async fn next(&mut self) -> Result<Option<(Entry, String)>> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Ok(Some(next));
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
        let before = self.head;
        for entry in read_chain(self.head, &page.lines) {
            let (entry, line, head) = entry?;
            self.head = head;
            self.ended = match entry.event {
                crate::ledger::Event::RunRetried(_) => false,
                _ => self.ended || ends_run(&entry),
            };
            if entry.seq > self.after {
                self.ready.push_back((entry, line.to_owned()));
            }
        }
        Ok(self.head != before)
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
