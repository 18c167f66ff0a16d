//! The store in memory: for tests, benches, the simulator and runs that need not outlive the process.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::*;

/// A [`Store`] in memory. Clones share their content, as processes share a database.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    tenants: BTreeMap<TenantId, Tenant>,
    due: BTreeMap<Timestamp, BTreeSet<RunKey>>,
    /// Counts the calls that may have written.
    writes: u64,
}

#[derive(Default)]
struct Tenant {
    streams: HashMap<Stream, Log>,
    rows: HashMap<RunId, RunRow>,
    newest: BTreeSet<(Reverse<Timestamp>, RunId)>,
    docs: BTreeMap<&'static str, BTreeMap<String, Doc>>,
    /// Every append to a run, in order: the run and the number of its last entry.
    feed: Vec<(RunId, u64)>,
}

/// A stream as it was appended, chunk by chunk, with the number of each chunk's last line.
struct Log {
    head: Head,
    chunks: Vec<(u64, Arc<str>)>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below panics halfway through a change, so a poisoned state is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, to be changed.
    fn changed(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.writes += 1;
        state
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("tenants", &self.state().tenants.len()).finish_non_exhaustive()
    }
}

impl State {
    fn tenant(&mut self, id: &TenantId) -> &mut Tenant {
        if !self.tenants.contains_key(id) {
            self.tenants.insert(id.clone(), Tenant::default());
        }
        self.tenants.get_mut(id).expect("it was inserted just now")
    }

    fn append(&mut self, append: &Append) -> Result<()> {
        append.check(&CAPABILITY)?;
        let tenant = self.tenant(&append.tenant);
        let head = tenant.streams.get(&append.stream).map_or(Head::EMPTY, |log| log.head);
        if head != append.expected {
            return Err(stale_head(append, head));
        }
        if !append.lines.is_empty() {
            let log = tenant.streams.entry(append.stream).or_insert(Log { head, chunks: Vec::new() });
            log.chunks.push((append.head.seq, append.lines.clone()));
            log.head = append.head;
            if let Stream::Run(run) = append.stream {
                tenant.feed.push((run, append.head.seq));
            }
        }
        if let Some(row) = &append.row {
            self.replace_row(row);
        }
        Ok(())
    }

    fn replace_row(&mut self, row: &RunRow) {
        let tenant = self.tenant(&row.tenant);
        let old = tenant.rows.insert(row.run, row.clone());
        let old_wake = old.as_ref().and_then(|old| old.wake_at);
        if old.as_ref().map(|old| old.created_at) != Some(row.created_at) {
            if let Some(old) = old {
                tenant.newest.remove(&(Reverse(old.created_at), old.run));
            }
            tenant.newest.insert((Reverse(row.created_at), row.run));
        }
        if old_wake != row.wake_at {
            self.forget_wake(old_wake, &row.key());
            if let Some(at) = row.wake_at {
                self.due.entry(at).or_default().insert(row.key());
            }
        }
    }

    fn forget_wake(&mut self, at: Option<Timestamp>, key: &RunKey) {
        let Some(at) = at else { return };
        if let Some(keys) = self.due.get_mut(&at) {
            keys.remove(key);
            if keys.is_empty() {
                self.due.remove(&at);
            }
        }
    }

    fn prune(&mut self, id: &TenantId, run: RunId, head: Head) -> bool {
        let Some(tenant) = self.tenants.get_mut(id) else { return false };
        let stream = Stream::Run(run);
        let ended = tenant.rows.get(&run).is_none_or(|row| row.status.is_terminal());
        if !ended || tenant.streams.get(&stream).map(|log| log.head) != Some(head) {
            return false;
        }
        tenant.streams.remove(&stream);
        if let Some(row) = tenant.rows.remove(&run) {
            tenant.newest.remove(&(Reverse(row.created_at), run));
            self.forget_wake(row.wake_at, &row.key());
        }
        true
    }
}

impl Tenant {
    /// An append of the feed; nothing of a pruned run.
    fn fed(&self, place: usize) -> Option<FeedItem> {
        let (run, last) = *self.feed.get(place)?;
        let log = self.streams.get(&Stream::Run(run))?;
        let at = log.chunks.binary_search_by_key(&last, |(last, _)| *last).ok()?;
        let first = at.checked_sub(1).map_or(1, |before| log.chunks[before].0 + 1);
        Some(FeedItem { run, first, lines: log.chunks[at].1.to_string(), cursor: feed_cursor(place + 1) })
    }
}

/// Names a place in the feed of a tenant: so many appends have been read.
fn feed_cursor(place: usize) -> String {
    format!("m{place}")
}

impl Log {
    fn page(&self, after: u64, limit: usize) -> EntriesPage {
        let mut page = EntriesPage { lines: String::new(), last: after, head: self.head };
        let start = self.chunks.partition_point(|(last, _)| *last <= after);
        let mut first = start.checked_sub(1).map_or(1, |before| self.chunks[before].0 + 1);
        for (last, chunk) in &self.chunks[start..] {
            page.lines.push_str(lines_after(chunk, first, page.last));
            page.last = *last;
            first = last + 1;
            if page.last - after >= limit as u64 {
                break;
            }
        }
        page
    }
}

impl Tenant {
    fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        let cursor = query.cursor.as_deref().map(RunsCursor::parse).transpose()?;
        let begin = match (cursor, query.to) {
            (Some(cursor), _) => Bound::Excluded((Reverse(cursor.created_at), cursor.run)),
            (None, Some(to)) => Bound::Included((Reverse(to), RunId::MIN)),
            (None, None) => Bound::Unbounded,
        };
        let mut rows = self
            .newest
            .range((begin, Bound::Unbounded))
            .take_while(|(created_at, _)| query.from.is_none_or(|from| created_at.0 >= from))
            .filter(|(created_at, _)| query.to.is_none_or(|to| created_at.0 < to))
            .filter_map(|(_, run)| self.rows.get(run))
            .filter(|row| query.dag.as_ref().is_none_or(|dag| row.dag == *dag))
            .filter(|row| query.status.is_none_or(|status| row.status == status));
        let runs: Vec<RunRow> = rows.by_ref().take(query.limit).cloned().collect();
        let next = rows.next().and(runs.last()).map(|last| RunsCursor::of(last).to_text());
        Ok(RunsPage { runs, next })
    }
}

const CAPABILITY: Capability = Capability {
    survives_process: false,
    survives_power_loss: false,
    shared: false,
    atomic_row: true,
    append_batch: usize::MAX,
    append_bytes: 256 << 20,
};

#[async_trait]
impl Store for MemoryStore {
    fn capability(&self) -> Capability {
        CAPABILITY
    }

    fn stamp(&self) -> Option<u64> {
        Some(self.state().writes)
    }

    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>> {
        let mut state = self.changed();
        Ok(appends.iter().map(|append| state.append(append)).collect())
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        let state = self.state();
        let page = |request: &EntriesRequest| {
            let log = state.tenants.get(&request.tenant)?.streams.get(&request.stream)?;
            Some(log.page(request.after, request.limit))
        };
        let empty = |after| EntriesPage { lines: String::new(), last: after, head: Head::EMPTY };
        Ok(requests.iter().map(|request| page(request).unwrap_or_else(|| empty(request.after))).collect())
    }

    async fn feed(&self, query: &FeedQuery) -> Result<FeedPage> {
        check_page(query.limit)?;
        let state = self.state();
        let tenant = state.tenants.get(&query.tenant);
        let end = tenant.map_or(0, |tenant| tenant.feed.len());
        let after = match &query.after {
            None => end,
            Some(cursor) => cursor
                .strip_prefix('m')
                .and_then(|place| place.parse().ok())
                .ok_or_else(|| Error::invalid("not a cursor of a feed"))?,
        };
        if after > end {
            return Err(Error::not_found("the feed does not reach to this cursor: begin anew"));
        }
        let to = end.min(after + query.limit);
        let items = (after..to).filter_map(|place| tenant?.fed(place)).collect();
        Ok(FeedPage { items, next: feed_cursor(to), more: to < end })
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        Ok(self.state().tenants.get(&key.tenant).and_then(|tenant| tenant.rows.get(&key.run)).cloned())
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        check_page(query.limit)?;
        match self.state().tenants.get(&query.tenant) {
            Some(tenant) => tenant.runs(query),
            None => Tenant::default().runs(query),
        }
    }

    async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        let state = self.state();
        let begin = query.after.as_ref().map_or(Timestamp::EPOCH, |(at, _)| *at);
        let due =
            state.due.range(begin..).take_while(|(at, _)| **at <= query.until).flat_map(|(at, keys)| {
                let after = query.after.as_ref().filter(|(after, _)| after == at);
                let first = after.map_or(Bound::Unbounded, |(_, key)| Bound::Excluded(key));
                keys.range((first, Bound::Unbounded)).map(|key| (*at, key.clone()))
            });
        let beyond = state.due.range((Bound::Excluded(query.until), Bound::Unbounded)).next();
        Ok(DuePage { runs: due.take(query.limit).collect(), next_at: beyond.map(|(at, _)| *at) })
    }

    async fn put_doc(&self, put: &PutDoc) -> Result<u64> {
        let mut state = self.changed();
        let docs = state.tenant(&put.key.tenant).docs.entry(put.key.kind).or_default();
        let version = docs.get(&put.key.key).map_or(0, |doc| doc.version);
        put.check_version(version)?;
        match &put.body {
            None => {
                docs.remove(&put.key.key);
                Ok(0)
            }
            Some(body) => {
                let doc = Doc { key: put.key.key.clone(), version: version + 1, body: body.clone() };
                docs.insert(put.key.key.clone(), doc);
                Ok(version + 1)
            }
        }
    }

    async fn doc(&self, key: &DocKey) -> Result<Option<Doc>> {
        let state = self.state();
        let docs = state.tenants.get(&key.tenant).and_then(|tenant| tenant.docs.get(key.kind));
        Ok(docs.and_then(|docs| docs.get(&key.key)).cloned())
    }

    async fn docs(&self, query: &DocsQuery) -> Result<DocsPage> {
        check_page(query.limit)?;
        let state = self.state();
        let Some(docs) = state.tenants.get(&query.tenant).and_then(|tenant| tenant.docs.get(query.kind))
        else {
            return Ok(DocsPage { docs: Vec::new(), more: false });
        };
        let begin = query.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = docs.range::<str, _>((begin, Bound::Unbounded)).map(|(_, doc)| doc.clone());
        let docs = found.by_ref().take(query.limit).collect();
        Ok(DocsPage { docs, more: found.next().is_some() })
    }

    async fn prune(&self, prune: &Prune) -> Result<usize> {
        let mut state = self.changed();
        Ok(prune.runs.iter().filter(|(run, head)| state.prune(&prune.tenant, *run, *head)).count())
    }
}
