//! Exports: every entry of a tenant or of one run as NDJSON, each line exactly the hashed bytes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{read_page, read_runs};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::id::{DagId, RunId, RunKey, TenantId};
use crate::ledger::{Head, Stream, StreamHead};
use crate::store::{PAGE_MAX, Store};
use crate::time::Timestamp;

/// Entries that a stream being merged keeps in memory.
const BUFFER: usize = 64;

/// What was exported: kept beside the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Always `orch/export/v1`.
    pub format: String,
    /// Whose entries.
    pub tenant: TenantId,
    /// The only run, if it is not the whole tenant.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run: Option<RunId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The version of orch that made it.
    pub version: String,
    /// How much.
    pub counts: Counts,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// The head of each stream, in order of their ends in the file.
    pub heads: Vec<StreamHead>,
}

impl Manifest {
    pub(super) const FORMAT: &'static str = "orch/export/v1";
}

/// How much an export holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Counts {
    /// Streams.
    pub streams: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Where a line stands in an export: by instant, then by DAG (none for streams of no run), then by stream. Within a
/// stream the instant never goes back, whatever the clock did: entries keep their order.
pub(super) type Place = (Timestamp, Option<DagId>, Stream);

/// Just enough of a line to place it.
#[derive(Deserialize)]
struct When {
    at: Timestamp,
}

struct Source {
    stream: Stream,
    dag: Option<DagId>,
    lines: VecDeque<(Timestamp, String)>,
    read: u64,
    /// The last entry that belongs to the export.
    until: u64,
    more: bool,
    at: Timestamp,
    head: Head,
}

/// Writes the entries of a tenant, or of one run, and answers the manifest. What is appended meanwhile may or may not
/// be part of it.
///
/// The streams are merged by run: a run takes part from its first entry's instant on, with 64 entries in memory, until
/// its last is written. Beyond that an index of all runs is kept, about 100 bytes each.
///
/// # Errors
/// `NotFound` for a run without entries, `Unavailable` when the writer fails, and what the store answers.
pub async fn export(
    store: &dyn Store,
    tenant: &TenantId,
    run: Option<RunId>,
    now: Timestamp,
    writer: &mut (dyn Write + Send),
) -> Result<Manifest> {
    merge(store, tenant, places(store, tenant, run).await?, |_| u64::MAX, writer)
        .await?
        .finish(tenant, run, now)
}

/// Writes what an export held once more, byte for byte, however much has been appended since.
///
/// # Errors
/// `NotFound` when part of it has been pruned since, `Corrupt` when it has been altered: both are known only once everything was written.
/// `Unavailable` when the writer fails, and what the store answers.
pub async fn export_again(
    store: &dyn Store,
    manifest: &Manifest,
    writer: &mut (dyn Write + Send),
) -> Result<()> {
    let heads: HashMap<Stream, u64> =
        manifest.heads.iter().map(|named| (named.stream, named.head.seq)).collect();
    let mut waiting = places(store, &manifest.tenant, manifest.run).await?;
    waiting.retain(|(_, _, stream)| heads.contains_key(stream));
    let until = |stream| heads.get(&stream).copied().unwrap_or_default();
    let out = merge(store, &manifest.tenant, waiting, until, writer).await?;
    let again = out.finish(&manifest.tenant, manifest.run, manifest.created_at)?;
    match again.sha256 == manifest.sha256 {
        true => Ok(()),
        false if again.counts.entries < manifest.counts.entries => {
            Err(Error::not_found("part of what was exported has been pruned since"))
        }
        false => Err(Error::corrupt("what was exported has been altered since")),
    }
}

/// The streams that an export holds, and where each begins.
async fn places(store: &dyn Store, tenant: &TenantId, run: Option<RunId>) -> Result<Vec<Place>> {
    match run {
        Some(run) => one(store, tenant, run).await,
        None => all(store, tenant).await,
    }
}

/// Writes streams in the order of an export, each as far as `until` says.
async fn merge<'a>(
    store: &dyn Store,
    tenant: &TenantId,
    mut waiting: Vec<Place>,
    until: impl Fn(Stream) -> u64,
    writer: &'a mut (dyn Write + Send),
) -> Result<Out<'a>> {
    waiting.sort_unstable_by(|a, b| b.cmp(a));
    let mut out = Out { writer, hasher: Sha256::new(), counts: Counts::default(), heads: Vec::new() };
    let mut sources: Vec<Option<Source>> = Vec::new();
    let mut heap: BinaryHeap<Reverse<(Place, usize)>> = BinaryHeap::new();
    loop {
        // A stream joins once the merge has come to its first entry.
        while let Some(next) =
            waiting.pop_if(|next| heap.peek().is_none_or(|Reverse((top, _))| next.0 <= top.0))
        {
            let (_, dag, stream) = next;
            let (at, until) = (Timestamp::EPOCH, until(stream));
            let lines = VecDeque::new();
            let mut source = Source { stream, dag, lines, read: 0, until, more: true, at, head: Head::EMPTY };
            source.fill(store, tenant).await?;
            if let Some(place) = source.place() {
                heap.push(Reverse((place, sources.len())));
                sources.push(Some(source));
            }
        }
        let Some(Reverse((_, index))) = heap.pop() else { break };
        let Some(source) = sources[index].as_mut() else { continue };
        if let Some((_, line)) = source.lines.pop_front() {
            source.head = Head { hash: Digest::of(&line), seq: source.head.seq + 1 };
            out.line(&line)?;
        }
        source.fill(store, tenant).await?;
        match source.place() {
            Some(place) => heap.push(Reverse((place, index))),
            None => {
                out.heads.push(StreamHead { head: source.head, stream: source.stream });
                sources[index] = None;
            }
        }
    }
    Ok(out)
}

async fn one(store: &dyn Store, tenant: &TenantId, run: RunId) -> Result<Vec<Place>> {
    let row = store.run(&RunKey { tenant: tenant.clone(), run }).await?;
    let row = row.ok_or_else(|| Error::not_found("there is no such run").with("run", run))?;
    Ok(vec![(row.created_at, Some(row.dag), Stream::Run(run))])
}

async fn all(store: &dyn Store, tenant: &TenantId) -> Result<Vec<Place>> {
    let mut places =
        vec![(Timestamp::EPOCH, None, Stream::Audit), (Timestamp::EPOCH, None, Stream::Checkpoint)];
    let mut cursor = None;
    loop {
        let (rows, next) = read_runs(store, tenant, cursor, PAGE_MAX).await?;
        places.extend(rows.into_iter().map(|row| (row.created_at, Some(row.dag), Stream::Run(row.run))));
        if next.is_none() {
            return Ok(places);
        }
        cursor = next;
    }
}

impl Source {
    /// Reads on when nothing is left in memory.
    async fn fill(&mut self, store: &dyn Store, tenant: &TenantId) -> Result<()> {
        if !self.lines.is_empty() || !self.more {
            return Ok(());
        }
        let page = read_page(store, tenant, self.stream, self.read, BUFFER).await?;
        let wanted = self.until.saturating_sub(self.read);
        (self.read, self.more) = (page.last, page.more() && !page.lines.is_empty() && page.last < self.until);
        for line in page.lines.lines().take(usize::try_from(wanted).unwrap_or(usize::MAX)) {
            let when: When = serde_json::from_str(line).map_err(|cause| {
                Error::corrupt("not a ledger entry").with("stream", self.stream).caused_by(cause)
            })?;
            self.at = self.at.max(when.at);
            self.lines.push_back((self.at, line.to_owned()));
        }
        Ok(())
    }

    fn place(&self) -> Option<Place> {
        self.lines.front().map(|(at, _)| (*at, self.dag.clone(), self.stream))
    }
}

struct Out<'a> {
    writer: &'a mut (dyn Write + Send),
    hasher: Sha256,
    counts: Counts,
    heads: Vec<StreamHead>,
}

impl Out<'_> {
    fn line(&mut self, line: &str) -> Result<()> {
        for part in [line.as_bytes(), b"\n"] {
            self.writer.write_all(part).map_err(unwritten)?;
            self.hasher.update(part);
        }
        self.counts.entries += 1;
        self.counts.bytes += line.len() as u64 + 1;
        Ok(())
    }

    fn finish(mut self, tenant: &TenantId, run: Option<RunId>, now: Timestamp) -> Result<Manifest> {
        self.writer.flush().map_err(unwritten)?;
        self.counts.streams = self.heads.len() as u64;
        Ok(Manifest {
            format: Manifest::FORMAT.to_owned(),
            tenant: tenant.clone(),
            run,
            created_at: now,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            counts: self.counts,
            sha256: Digest::from_bytes(self.hasher.finalize().into()),
            heads: self.heads,
        })
    }
}

fn unwritten(cause: std::io::Error) -> Error {
    Error::unavailable("the export cannot be written").caused_by(cause)
}
