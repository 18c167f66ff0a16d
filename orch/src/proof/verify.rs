//! Verifying everything a tenant has, in a store or in an export.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Read};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::checkpoint::{Checkpoint, PublicKey};
use super::export::{Counts, Manifest, Place};
use super::stream::{Anchors, Problem, StreamVerifier};
use super::{END, PAGE, read_page, read_runs};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{DagId, RunId, RunKey, TenantId};
use crate::ledger::{Entry, Event, Head, Stream, StreamHead};
use crate::limits::Limits;
use crate::store::{EntriesRequest, PAGE_MAX, Store};
use crate::time::Timestamp;

/// The longest line of an export that is read.
const LINE_MAX: u64 = 256 << 20;

/// What verification compares with.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// The limits that expressions are evaluated within when an input is made again.
    pub limits: Limits,
    /// Checkpoints that were exported earlier: they show cut tails and deleted streams.
    pub checkpoints: Vec<Checkpoint>,
    /// The key that every checkpoint must be signed with.
    pub key: Option<PublicKey>,
}

/// What verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Streams looked at.
    pub streams: u64,
    /// Entries that are as they should be.
    pub entries: u64,
    /// The first problem of each bad stream.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    fn add(&mut self, verifier: &StreamVerifier, problem: Option<Problem>) {
        self.streams += 1;
        self.entries += verifier.head().seq;
        self.problems.extend(problem);
    }
}

/// What checkpoints say of other streams.
#[derive(Debug, Default)]
struct Known {
    heads: BTreeMap<Stream, Vec<(u64, Head)>>,
    pruned: BTreeMap<Stream, Pruned>,
}

/// The last time a stream was pruned.
#[derive(Debug)]
struct Pruned {
    /// The entry of the checkpoint stream that says so.
    entry: u64,
    head: Head,
}

impl Known {
    fn note(&mut self, taken: u64, named: &StreamHead) {
        self.heads.entry(named.stream).or_default().push((taken, named.head));
    }

    fn note_entry(&mut self, entry: &Entry) {
        match &entry.event {
            Event::CheckpointTaken(e) => e.heads.iter().for_each(|named| self.note(entry.seq, named)),
            Event::CheckpointPruned(e) => {
                let pruned = |named: &StreamHead| Pruned { entry: entry.seq, head: named.head };
                self.pruned.extend(e.heads.iter().map(|named| (named.stream, pruned(named))));
            }
            _ => {}
        }
    }

    /// The heads that a stream must have passed through, and forgets them: those named since it was pruned, as the
    /// same run may have been submitted again.
    fn take(&mut self, stream: Stream) -> Anchors {
        let pruned = self.pruned.get(&stream).map_or(0, |pruned| pruned.entry);
        let heads = self.heads.remove(&stream).unwrap_or_default();
        heads
            .into_iter()
            .filter(|(taken, _)| *taken > pruned)
            .map(|(_, head)| (head.seq, head.hash))
            .collect()
    }

    fn of(options: &VerifyOptions, tenant: &TenantId, report: &mut Report) -> Self {
        let mut known = Self::default();
        for checkpoint in &options.checkpoints {
            let seq = checkpoint.heads().next().map_or(1, |(seq, _)| seq);
            let problem = |message: String| Problem::new(Stream::Checkpoint, seq, "bad_signature", message);
            if checkpoint.tenant() != Some(tenant) {
                report.problems.push(problem("the exported checkpoint is of another tenant".to_owned()));
            } else if let Err(error) = checkpoint.verify(options.key.as_ref()) {
                report.problems.push(problem(format!("the exported checkpoint: {error}")));
            } else {
                checkpoint.heads().for_each(|(taken, named)| known.note(taken, &named));
            }
        }
        known
    }
}

/// Verifies every stream of a tenant in a store, and the rows beside them. Reads pages of 500 entries; holds one run,
/// and the heads that checkpoints name, in memory. Runs may go on meanwhile, and be pruned.
///
/// Every run that a row or a checkpoint names must be there with its entries and its row, unless it was pruned. What
/// the store cannot read is a problem of its stream. Not looked at: entries that neither a row nor a checkpoint leads
/// to, and documents beside the ledger (published plans, artifacts), which are held to their hashes when they are used.
///
/// # Errors
/// As the store, but for `Corrupt`. What is wrong with the ledger is in the report.
pub async fn verify_store(store: &dyn Store, tenant: &TenantId, options: &VerifyOptions) -> Result<Report> {
    verify_seen(store, tenant, options, &[], &|_, _| ()).await
}

/// As [`verify_store`], with heads that streams are known to have had since they were pruned last, if ever, and with
/// somebody who is shown every good entry of every run.
pub(super) async fn verify_seen(
    store: &dyn Store,
    tenant: &TenantId,
    options: &VerifyOptions,
    heads: &[StreamHead],
    show: &(dyn Fn(RunId, &Entry) + Sync),
) -> Result<Report> {
    let mut report = Report::default();
    let mut known = Known::of(options, tenant, &mut report);
    heads.iter().for_each(|named| known.note(u64::MAX, named));
    let mut reader = Reader { store, tenant, options, known, report, recorded: 0, show };
    reader.record(Stream::Checkpoint).await?;
    reader.record(Stream::Audit).await?;
    reader.listed_runs().await?;
    reader.pruned_runs().await?;
    for stream in reader.known.heads.keys().copied().collect::<Vec<_>>() {
        if let Stream::Run(run) = stream {
            reader.run(run, None).await?;
        }
    }
    reader.report.problems.sort_by_key(|problem| problem.stream);
    Ok(reader.report)
}

struct Reader<'a> {
    store: &'a dyn Store,
    tenant: &'a TenantId,
    options: &'a VerifyOptions,
    known: Known,
    report: Report,
    /// How much of the checkpoint stream has been verified.
    recorded: u64,
    show: &'a (dyn Fn(RunId, &Entry) + Sync),
}

/// What came of looking at a run.
enum Looked {
    Found(Option<Problem>),
    /// It went lawfully between two looks.
    Pruned,
}

impl Reader<'_> {
    fn verifier(&self, stream: Stream, anchors: Anchors) -> StreamVerifier {
        StreamVerifier::new(self.tenant.clone(), stream, self.options.limits.clone())
            .anchored(anchors)
            .signed_by(self.options.key.clone())
    }

    /// Reads on to the end of the stream; answers the head that the store names.
    async fn read(
        &self,
        verifier: &mut StreamVerifier,
        stream: Stream,
        mut each: impl FnMut(Entry) + Send,
    ) -> Result<Head> {
        let mut after = verifier.head().seq;
        loop {
            let page = read_page(self.store, self.tenant, stream, after, PAGE).await?;
            for line in page.lines.split_terminator('\n') {
                if let Some(entry) = verifier.push(line) {
                    each(entry);
                }
            }
            if verifier.is_broken() || !page.more() || page.lines.is_empty() {
                return Ok(page.head);
            }
            after = page.last;
        }
    }

    /// Verifies a stream of the tenant's own: no row leads to it.
    async fn record(&mut self, stream: Stream) -> Result<()> {
        let anchors = self.known.take(stream);
        let mut verifier = self.verifier(stream, anchors);
        let mut entries = Vec::new();
        let keep = |entry: Entry| {
            if stream == Stream::Checkpoint {
                entries.push(entry);
            }
        };
        let problem = match self.read(&mut verifier, stream, keep).await {
            Ok(head) => verifier.finish(Some(head)),
            Err(error) => Some(unreadable(&verifier, stream, error)?),
        };
        entries.iter().for_each(|entry| self.known.note_entry(entry));
        if stream == Stream::Checkpoint {
            self.recorded = verifier.head().seq;
        }
        if verifier.head().seq > 0 || problem.is_some() {
            self.report.add(&verifier, problem);
        }
        Ok(())
    }

    /// Verifies the runs that the store lists, up to a row that it cannot read.
    async fn listed_runs(&mut self) -> Result<()> {
        let (mut cursor, mut limit) = (None, PAGE_MAX);
        loop {
            let (rows, next) = match read_runs(self.store, self.tenant, cursor.clone(), limit).await {
                Ok(page) => page,
                // One by one, to come as far as possible.
                Err(error) if error.kind() == ErrorKind::Corrupt && limit > 1 => {
                    limit = 1;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    let named = error.context().iter().find(|(key, _)| *key == "run");
                    let run = named.and_then(|(_, run)| run.parse().ok());
                    let stream = run.map_or(Stream::Audit, Stream::Run);
                    let message = format!("rows of runs cannot be read from here on: {error}");
                    self.report.problems.push(Problem::new(stream, 0, "unreadable", message));
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            for row in rows {
                self.run(row.run, Some(row.head)).await?;
            }
            if next.is_none() {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Looks for entries of pruned runs that no row leads to. A run that was submitted again has a row again, and so has
    /// one whose pruning was cut off before it began to delete.
    async fn pruned_runs(&mut self) -> Result<()> {
        let streams: Vec<Stream> = self.known.pruned.keys().copied().collect();
        for streams in streams.chunks(PAGE) {
            let end = |stream: &Stream| EntriesRequest {
                tenant: self.tenant.clone(),
                stream: *stream,
                after: END,
                limit: 1,
            };
            let requests: Vec<EntriesRequest> = streams.iter().map(end).collect();
            for (stream, page) in streams.iter().zip(self.store.entries(&requests).await?) {
                let Stream::Run(run) = *stream else { continue };
                let key = RunKey { tenant: self.tenant.clone(), run };
                if page.head.seq > 0 && self.store.run(&key).await?.is_none() {
                    let message = format!("it was pruned, and {} entries are still there", page.head.seq);
                    self.report.problems.push(Problem::new(*stream, 1, "left_behind", message));
                    self.known.heads.remove(stream);
                }
            }
        }
        Ok(())
    }

    /// Verifies a run. `listed` is the head in the row that led to it; without one, checkpoints did.
    async fn run(&mut self, run: RunId, listed: Option<Head>) -> Result<()> {
        let stream = Stream::Run(run);
        let anchors = self.known.take(stream);
        let promised = anchors.keys().next_back().copied().max(listed.map(|head| head.seq));
        let Some(promised) = promised else { return Ok(()) };
        let mut verifier = self.verifier(stream, anchors);
        let problem = match self.look(&mut verifier, run, listed, promised).await {
            Ok(Looked::Pruned) => return Ok(()),
            Ok(Looked::Found(problem)) => problem,
            Err(error) => Some(unreadable(&verifier, stream, error)?),
        };
        self.report.add(&verifier, problem);
        Ok(())
    }

    async fn look(
        &self,
        verifier: &mut StreamVerifier,
        run: RunId,
        listed: Option<Head>,
        promised: u64,
    ) -> Result<Looked> {
        let stream = Stream::Run(run);
        let key = RunKey { tenant: self.tenant.clone(), run };
        let problem = |code, message: String| Problem::new(stream, 1, code, message);
        // The run may go on while it is read: then its row is newer than what has been read.
        loop {
            let head = self.read(verifier, stream, |entry| (self.show)(run, &entry)).await?;
            let row = self.store.run(&key).await?;
            let empty = head.seq == 0 && verifier.head().seq == 0;
            let Some(row) = row else {
                if self.was_pruned(stream, listed).await? {
                    return Ok(Looked::Pruned);
                }
                let missing = if empty {
                    let who = if listed.is_some() { "its row" } else { "a checkpoint" };
                    let message =
                        format!("{who} names {promised} entries, nothing is there and nothing was pruned");
                    problem("deleted", message)
                } else {
                    let missing =
                        problem("row_missing", "there are entries, and no row that leads to them".to_owned());
                    verifier.finish(Some(head)).unwrap_or(missing)
                };
                return Ok(Looked::Found(Some(missing)));
            };
            if empty {
                let pruned = self.known.pruned.get(&stream).is_some_and(|pruned| pruned.head == row.head);
                let code = if pruned { "left_behind" } else { "deleted" };
                let message = format!("its row names {} entries, and nothing is there", row.head.seq);
                return Ok(Looked::Found(Some(problem(code, message))));
            }
            if row.head.seq > head.seq && head.seq > 0 && !verifier.is_broken() {
                let again = read_page(self.store, self.tenant, stream, head.seq, 1).await?;
                if again.head.seq > head.seq {
                    continue;
                }
            }
            let found = verifier.finish(Some(if row.head.seq > head.seq { row.head } else { head }));
            return Ok(Looked::Found(found.or_else(|| verifier.compare_row(&row))));
        }
    }

    /// Whether a run that is gone was pruned: as it stood when it was listed, or since verification began.
    async fn was_pruned(&self, stream: Stream, listed: Option<Head>) -> Result<bool> {
        let before = self.known.pruned.get(&stream).is_some_and(|pruned| Some(pruned.head) == listed);
        if before {
            return Ok(true);
        }
        let mut after = self.recorded;
        loop {
            let page = read_page(self.store, self.tenant, Stream::Checkpoint, after, PAGE).await?;
            let entries = page.lines.split_terminator('\n').filter_map(|line| Entry::read(line).ok());
            let mut named = entries.filter_map(|entry| match entry.event {
                Event::CheckpointPruned(pruned) => Some(pruned.heads),
                _ => None,
            });
            if named.any(|heads| heads.iter().any(|head| head.stream == stream)) {
                return Ok(true);
            }
            if !page.more() || page.lines.is_empty() {
                return Ok(false);
            }
            after = page.last;
        }
    }
}

/// The problem of a stream that the store cannot read; any other error stays one.
fn unreadable(verifier: &StreamVerifier, stream: Stream, error: Error) -> Result<Problem> {
    if error.kind() != ErrorKind::Corrupt {
        return Err(error);
    }
    let (seq, message) = (verifier.head().seq + 1, format!("the store cannot read it: {error}"));
    Ok(Problem::new(stream, seq, "unreadable", message))
}

/// Verifies an export, and that it is what its manifest says, if one is given. Holds the state of every run in it
/// that can still go on.
///
/// # Errors
/// `Unavailable` when the reader fails, `LimitExceeded` for a line over 256 MiB. What is wrong with the ledger is in
/// the report.
pub fn verify_export(
    mut reader: impl BufRead,
    tenant: &TenantId,
    manifest: Option<&Manifest>,
    options: &VerifyOptions,
) -> Result<Report> {
    let mut report = Report::default();
    let known = Known::of(options, tenant, &mut report);
    let mut file = File { tenant, options, known, streams: BTreeMap::new(), place: None, unsorted: None };
    let mut counts = Counts::default();
    let mut hasher = Sha256::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE_MAX + 1).read_until(b'\n', &mut line);
        let bytes = read.map_err(|cause| Error::unavailable("the export cannot be read").caused_by(cause))?;
        if bytes == 0 {
            break;
        }
        if bytes as u64 > LINE_MAX {
            return Err(Error::limit_exceeded("a line of the export is too long").with("limit", LINE_MAX));
        }
        hasher.update(&line);
        counts.entries += 1;
        counts.bytes += bytes as u64;
        file.line(counts.entries, &String::from_utf8_lossy(&line), &mut report);
    }
    counts.streams = file.streams.len() as u64;
    let sha256 = Digest::from_bytes(hasher.finalize().into());
    file.finish(manifest, counts, sha256, &mut report);
    Ok(report)
}

struct File<'a> {
    tenant: &'a TenantId,
    options: &'a VerifyOptions,
    known: Known,
    streams: BTreeMap<Stream, InFile>,
    place: Option<Place>,
    unsorted: Option<Problem>,
}

/// One stream of an export.
struct InFile {
    verifier: StreamVerifier,
    dag: Option<DagId>,
    at: Timestamp,
    /// How many of its lines were looked at, and where the last three of them stand, the last one first.
    count: u64,
    lines: [u64; 3],
}

impl InFile {
    /// The line of an entry near the last one looked at.
    fn line_of(&self, seq: u64) -> Option<u64> {
        let back = usize::try_from(self.count.checked_sub(seq)?).ok()?;
        self.lines.get(back).copied().filter(|line| *line > 0)
    }
}

/// Just enough of a line to know where it belongs.
#[derive(serde::Deserialize)]
struct Label {
    at: Timestamp,
    stream: Stream,
}

impl File<'_> {
    fn line(&mut self, number: u64, line: &str, report: &mut Report) {
        let text = line.strip_suffix('\n').unwrap_or(line);
        let Ok(label) = serde_json::from_str::<Label>(text) else {
            let problem = Problem::new(Stream::Audit, 0, "unreadable", "the line is no entry of any stream");
            report.problems.push(Problem { line: Some(number), ..problem });
            return;
        };
        let (tenant, options, known) = (self.tenant, self.options, &mut self.known);
        let stream = self.streams.entry(label.stream).or_insert_with(|| InFile {
            verifier: StreamVerifier::new(tenant.clone(), label.stream, options.limits.clone())
                .anchored(known.take(label.stream))
                .signed_by(options.key.clone()),
            dag: None,
            at: label.at,
            count: 0,
            lines: [0; 3],
        });
        if !stream.verifier.is_broken() {
            stream.count += 1;
            stream.lines = [number, stream.lines[0], stream.lines[1]];
        }
        if let Some(entry) = stream.verifier.push(text) {
            if let Event::RunCreated(created) = &entry.event {
                stream.dag = Some(created.dag_id.clone());
            }
            known.note_entry(&entry);
        }
        stream.at = stream.at.max(label.at);
        let place = Some((stream.at, stream.dag.clone(), label.stream));
        if place < self.place && self.unsorted.is_none() {
            let seq = stream.verifier.head().seq;
            let problem = Problem::new(label.stream, seq, "not_sorted", "the line stands out of order");
            self.unsorted = Some(Problem { line: Some(number), ..problem });
        }
        self.place = place;
    }

    fn finish(mut self, manifest: Option<&Manifest>, counts: Counts, sha256: Digest, report: &mut Report) {
        let heads: BTreeMap<Stream, Head> = manifest
            .into_iter()
            .flat_map(|manifest| manifest.heads.iter().map(|named| (named.stream, named.head)))
            .collect();
        for (stream, in_file) in &mut self.streams {
            let mut problem = in_file.verifier.finish(heads.get(stream).copied());
            if let Some(problem) = &mut problem {
                problem.line = in_file.line_of(problem.seq);
            }
            report.add(&in_file.verifier, problem);
        }
        report.problems.extend(self.unsorted.take());
        for stream in heads.keys().filter(|stream| !self.streams.contains_key(stream)) {
            let message = "the manifest names it, and it is not in the export";
            report.problems.push(Problem::new(*stream, 1, "tail_cut", message));
        }
        let whole = manifest.is_some_and(|manifest| manifest.run.is_none());
        for stream in self.known.heads.keys().copied().collect::<Vec<_>>() {
            let anchors = self.known.take(stream);
            let head = self.streams.get(&stream).map_or(Head::EMPTY, |in_file| in_file.verifier.head());
            let Some((seq, hash)) = anchors.last_key_value() else { continue };
            let (code, message) = match () {
                () if head.seq == 0 && !whole => continue,
                () if head.seq == 0 => ("deleted", "a checkpoint names it, and it is not in the export"),
                () if head.seq < *seq => {
                    ("tail_cut", "a checkpoint names entries that are not in the export")
                }
                () if head.seq == *seq && head.hash != *hash => {
                    ("rewritten", "a checkpoint names another hash")
                }
                () => continue,
            };
            if !report.problems.iter().any(|problem| problem.stream == stream) {
                report.problems.push(Problem::new(stream, head.seq + 1, code, message));
            }
        }
        if manifest.is_some_and(|manifest| !self.is_described(manifest, counts, sha256)) {
            let message = "the file is not the one that the manifest describes";
            report.problems.push(Problem::new(Stream::Audit, 0, "manifest_differs", message));
        }
    }

    /// Whether the manifest says of the file what there is to say.
    fn is_described(&self, manifest: &Manifest, counts: Counts, sha256: Digest) -> bool {
        let named: BTreeSet<Stream> = manifest.heads.iter().map(|named| named.stream).collect();
        manifest.format == Manifest::FORMAT
            && manifest.counts == counts
            && manifest.sha256 == sha256
            && manifest.tenant == *self.tenant
            && named.len() == manifest.heads.len()
            && named.iter().eq(self.streams.keys())
            && manifest.run.is_none_or(|run| named.iter().eq([&Stream::Run(run)]))
    }
}
