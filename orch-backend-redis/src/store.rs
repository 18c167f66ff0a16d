//! The store: entries, rows, documents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::{join_all, try_join_all};
use orch::ledger::{Head, RunStatus, Stream};
use orch::store::*;
use orch::{Digest, Error, Result, RunId, RunKey, TenantId};
use redis::FromRedisValue;

mod feed;

use crate::connect::Server;
use crate::error::unexpected;
use crate::order::{due, instant, listed, listed_run, newest, read_due};
use crate::script::{APPEND, Call, DOCS, DUE, ENTRIES, PRUNE, PUT_DOC, ROWS, RUNS, Script};

/// Parts into which the ledger is divided, each in a hash slot of its own, so that a cluster shares them. Stored data
/// depends on it.
const SHARDS: usize = 16;
/// Bytes of lines in one script: others wait while it runs.
const SCRIPT_BYTES: usize = 1 << 20;
/// Items in one script.
const SCRIPT_ITEMS: usize = 128;

/// A [`Store`] on a Redis server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RedisStore {
    server: Arc<Server>,
    /// What the keys of each part begin with.
    shards: Arc<[String]>,
}

/// Shards that one script may touch: all of them on one node, one in a cluster.
struct Group<'a> {
    shards: &'a [String],
    /// The number of the first.
    first: usize,
}

impl Group<'_> {
    fn call(&self, script: &'static Script) -> Call {
        let keys: Vec<&str> = self.shards.iter().map(String::as_str).collect();
        script.on(&keys)
    }

    /// The number of a shard among the keys of a call, as Lua counts.
    fn key(&self, shard: usize) -> usize {
        shard - self.first + 1
    }
}

impl RedisStore {
    pub(crate) fn new(server: Arc<Server>) -> Self {
        let shard = |number| format!("{{{}:{number:x}}}", server.config.namespace);
        let shards = (0..SHARDS).map(shard).collect();
        Self { server, shards }
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        let size = if self.server.is_cluster() { 1 } else { SHARDS };
        self.shards.chunks(size).enumerate().map(move |(at, shards)| Group { shards, first: at * size })
    }

    fn group_of(&self, shard: usize) -> Group<'_> {
        match self.server.is_cluster() {
            true => Group { shards: &self.shards[shard..=shard], first: shard },
            false => Group { shards: &self.shards, first: 0 },
        }
    }

    /// Calls a script for each group that has any of the `items`, and puts the answers in the order of the items. `fill`
    /// adds one item. All calls are sent at once, but those of a group one after the other if they are to be `in_turn`.
    async fn spread<T: Sync, A: FromRedisValue + Send>(
        &self,
        script: &'static Script,
        items: &[T],
        shard: impl Fn(&T) -> usize + Send,
        weight: impl Fn(&T) -> usize + Send,
        fill: impl Fn(&mut Call, &T, usize) + Send,
        in_turn: bool,
    ) -> Vec<Result<A>> {
        let mut of_group: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            of_group.entry(self.group_of(shard(item)).first).or_default().push(at);
        }
        let mut rows = Vec::new();
        for (first, places) in of_group {
            let group = self.group_of(first);
            let (mut calls, mut call, mut own, mut bytes) = (Vec::new(), group.call(script), Vec::new(), 0);
            for at in places {
                if own.len() >= SCRIPT_ITEMS || bytes >= SCRIPT_BYTES {
                    calls.push((std::mem::replace(&mut call, group.call(script)), std::mem::take(&mut own)));
                    bytes = 0;
                }
                fill(&mut call, &items[at], group.key(shard(&items[at])));
                bytes += weight(&items[at]);
                own.push(at);
            }
            calls.push((call, own));
            match in_turn {
                true => rows.push(calls),
                false => rows.extend(calls.into_iter().map(|call| vec![call])),
            }
        }
        let send = async |calls: Vec<(Call, Vec<usize>)>| {
            let mut answers = Vec::new();
            for (call, own) in calls {
                answers.push((call.send::<Vec<A>>(&self.server).await, own));
            }
            answers
        };
        let mut answers: Vec<Option<Result<A>>> = items.iter().map(|_| None).collect();
        for (answer, own) in join_all(rows.into_iter().map(send)).await.into_iter().flatten() {
            match answer {
                Ok(given) => own.into_iter().zip(given).for_each(|(at, given)| answers[at] = Some(Ok(given))),
                Err(error) => own.into_iter().for_each(|at| answers[at] = Some(Err(echo(&error)))),
            }
        }
        let missing = || Err(unexpected("fewer answers than questions"));
        answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect()
    }

    /// Calls a script for all shards.
    async fn everywhere<A: FromRedisValue>(
        &self,
        script: &'static Script,
        fill: impl Fn(&mut Call),
    ) -> Result<Vec<A>> {
        let call = |group: Group<'_>| {
            let mut call = group.call(script);
            fill(&mut call);
            call
        };
        let calls: Vec<Call> = self.groups().map(call).collect();
        try_join_all(calls.iter().map(|call| call.send(&self.server))).await
    }

    /// The rows of runs, in order; nothing where there is none.
    async fn rows(&self, keys: &[RunKey]) -> Result<Vec<Option<RunRow>>> {
        let rows = self
            .spread::<_, String>(
                &ROWS,
                keys,
                |key| shard_of(&key.tenant, Stream::Run(key.run)),
                |_| 0,
                |call, key, shard| {
                    call.arg(shard).arg(name(&key.tenant, Stream::Run(key.run)));
                },
                false,
            )
            .await;
        rows.into_iter().zip(keys).map(|(row, key)| read_row(&row?, key)).collect()
    }
}

/// The same error for everybody whose item was in the same call.
fn echo(error: &Error) -> Error {
    let text = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    Error::new(error.kind(), error.message().to_owned()).caused_by(text)
}

/// The shard of a stream: runs are spread, everything else of a tenant stays together.
fn shard_of(tenant: &TenantId, stream: Stream) -> usize {
    match stream {
        // Run ids are hashes: any byte of them is as good as another.
        Stream::Run(run) => usize::from(run.as_bytes()[0]) % SHARDS,
        _ => shard_of_tenant(tenant),
    }
}

fn shard_of_tenant(tenant: &TenantId) -> usize {
    usize::from(Digest::of(tenant.as_str()).to_hex()[0]) % SHARDS
}

fn name(tenant: &TenantId, stream: Stream) -> String {
    format!("{tenant}/{stream}")
}

/// A head as scripts compare it; nothing for the empty one.
fn head_text(head: Head) -> String {
    if head == Head::EMPTY { String::new() } else { format!("{} {}", head.seq, head.hash) }
}

fn read_row(text: &str, key: &RunKey) -> Result<Option<RunRow>> {
    if text.is_empty() {
        return Ok(None);
    }
    let row: RunRow = serde_json::from_str(text).map_err(|cause| {
        Error::corrupt("row of a run does not read").with("run", key.run).caused_by(cause.to_string())
    })?;
    if row.key() != *key {
        return Err(Error::corrupt("row of a run belongs to another stream").with("run", key.run));
    }
    Ok(Some(row))
}

fn fill_append(call: &mut Call, append: &Append, shard: usize) {
    call.arg(shard)
        .arg(name(&append.tenant, append.stream))
        .arg(head_text(append.expected))
        .arg(append.head.seq)
        .arg(&append.head.hash.to_hex()[..])
        .arg(&*append.lines);
    match &append.row {
        None => {
            call.arg(&["", "", "", "", ""]);
        }
        Some(row) => {
            // A row is plain data: it always has a text.
            let body = serde_json::to_string(row).unwrap_or_default();
            call.arg(body).arg(listed(row)).arg(row.dag.as_str()).arg(row.status.as_str());
            call.arg(row.wake_at.map_or(String::new(), |at| due(at, &row.key())));
        }
    }
}

/// A page from the script's answer: number and hash of the head, then the number of the last line and the lines of each
/// append.
fn read_page(answer: &[String], after: u64) -> Result<EntriesPage> {
    let mut page = EntriesPage { lines: String::new(), last: after, head: Head::EMPTY };
    let [seq, hash, appends @ ..] = answer else { return Err(unexpected("a page without a head")) };
    if seq.is_empty() {
        return Ok(page);
    }
    let number = |text: &str| text.parse::<u64>().map_err(|_| unexpected("a number that does not read"));
    page.head = Head { seq: number(seq)?, hash: hash.parse()? };
    for append in appends.chunks(2) {
        let [last, lines] = append else { return Err(unexpected("an append without lines")) };
        let last = number(last)?;
        let count = lines.bytes().filter(|byte| *byte == b'\n').count() as u64;
        page.lines.push_str(lines_after(lines, (last + 1).saturating_sub(count), page.last));
        page.last = last;
    }
    Ok(page)
}

/// A document of the script: version, space, body.
fn read_doc(key: &str, text: &str) -> Result<Doc> {
    let parts = text.split_once(' ');
    let doc = parts.and_then(|(version, body)| Some((version.parse().ok()?, body)));
    let (version, body) = doc.ok_or_else(|| unexpected("a document without a version"))?;
    Ok(Doc { key: key.to_owned(), version, body: body.to_owned() })
}

#[async_trait]
impl Store for RedisStore {
    fn capability(&self) -> Capability {
        Capability {
            survives_process: true,
            survives_power_loss: self.server.survives_power_loss,
            shared: true,
            atomic_row: true,
            append_batch: 1_000,
            append_bytes: 64 << 20,
        }
    }

    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>> {
        let capability = self.capability();
        let mut answers: Vec<_> = appends.iter().map(|append| append.check(&capability)).collect();
        let sound: Vec<&Append> =
            appends.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()).map(|(a, _)| a).collect();
        let shard = |append: &&Append| shard_of(&append.tenant, append.stream);
        let streams: BTreeSet<_> = sound.iter().map(|append| (&append.tenant, append.stream)).collect();
        let landed = self.spread::<_, String>(
            &APPEND,
            &sound,
            shard,
            |a| a.lines.len(),
            |c, a, s| fill_append(c, a, s),
            // Two items on one stream apply in order, also when they are in two calls.
            sound.len() != streams.len(),
        );
        let mut landed = landed.await.into_iter();
        for (append, answer) in appends.iter().zip(&mut answers).filter(|(_, answer)| answer.is_ok()) {
            *answer = match landed.next() {
                Some(Ok(stands)) if stands.is_empty() => Ok(()),
                Some(Ok(stands)) => {
                    let seq = stands.parse().map_err(|_| unexpected("a head that does not read"))?;
                    Err(stale_head(append, Head { seq, hash: Digest::ZERO }))
                }
                Some(Err(error)) => Err(error),
                None => Err(Error::internal("an append has no answer")),
            };
        }
        Ok(answers)
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        let shard = |request: &EntriesRequest| shard_of(&request.tenant, request.stream);
        let fill = |call: &mut Call, request: &EntriesRequest, shard: usize| {
            let wanted = request.after.saturating_add(request.limit as u64).min(i64::MAX.unsigned_abs());
            call.arg(shard).arg(name(&request.tenant, request.stream)).arg(request.after).arg(wanted);
        };
        let pages = self.spread::<_, Vec<String>>(&ENTRIES, requests, shard, |_| 0, fill, false).await;
        pages.into_iter().zip(requests).map(|(page, request)| read_page(&page?, request.after)).collect()
    }

    async fn feed(&self, query: &FeedQuery) -> Result<FeedPage> {
        check_page(query.limit)?;
        feed::feed(self, query).await
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        Ok(self.rows(std::slice::from_ref(key)).await?.into_iter().next().flatten())
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        check_page(query.limit)?;
        let cursor = query.cursor.as_deref().map(RunsCursor::parse).transpose()?;
        // Exclusive on both sides; `~` sorts after every place that begins with the instant.
        let after_cursor = cursor.map(|cursor| format!("({}{}", newest(cursor.created_at), cursor.run));
        let before_to = query.to.map(|to| format!("({}~", newest(to)));
        let from = after_cursor.max(before_to).unwrap_or_else(|| "-".to_owned());
        let to = query.from.map_or("+".to_owned(), |from| format!("({}~", newest(from)));
        let mut listing = format!(":runs:{}", query.tenant);
        if let Some(dag) = &query.dag {
            listing.push_str(&format!(":d:{dag}"));
        }
        if let Some(status) = query.status {
            listing.push_str(&format!(":s:{status}"));
        }
        let places = self
            .everywhere::<Vec<String>>(&RUNS, |call| {
                call.arg(&listing).arg(&from).arg(&to).arg(query.limit + 1);
            })
            .await?;
        let mut places = places.concat();
        places.sort_unstable();
        let more = places.len() > query.limit;
        places.truncate(query.limit);
        let key = |place: &String| Ok(RunKey { tenant: query.tenant.clone(), run: listed_run(place)? });
        let keys = places.iter().map(key).collect::<Result<Vec<_>>>()?;
        let rows = self.rows(&keys).await?;
        let next = places.last().filter(|_| more).map(|place| cursor_at(place)).transpose()?;
        // What was changed or pruned between the two looks is not what was listed.
        let fits = |row: &RunRow| {
            query.dag.as_ref().is_none_or(|dag| row.dag == *dag)
                && query.status.is_none_or(|status| row.status == status)
        };
        Ok(RunsPage { runs: rows.into_iter().flatten().filter(fits).collect(), next })
    }

    async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        let after = query.after.as_ref().map_or("-".to_owned(), |(at, key)| format!("({}", due(*at, key)));
        let until = format!("{}~", instant(query.until));
        let found = self
            .everywhere::<(Vec<String>, Vec<String>)>(&DUE, |call| {
                call.arg(&after).arg(&until).arg(query.limit);
            })
            .await?;
        let (mut places, mut beyond) = (Vec::new(), Vec::new());
        for (due, next) in found {
            places.extend(due);
            beyond.extend(next);
        }
        places.sort_unstable();
        places.truncate(query.limit);
        let runs = places.iter().map(|place| read_due(place)).collect::<Result<_>>()?;
        let next_at = beyond.iter().min().map(|place| read_due(place)).transpose()?.map(|(at, _)| at);
        Ok(DuePage { runs, next_at })
    }

    async fn put_doc(&self, put: &PutDoc) -> Result<u64> {
        let DocKey { tenant, kind, key } = &put.key;
        let expected = match put.expect {
            Expect::Any => String::new(),
            Expect::Absent => "0".to_owned(),
            // No document has this version.
            Expect::Version(0) => "none".to_owned(),
            Expect::Version(version) => version.to_string(),
        };
        let mut call = PUT_DOC.on(&[&self.shards[shard_of_tenant(tenant)]]);
        call.arg(format!("{tenant}/{kind}"))
            .arg(key)
            .arg(expected)
            .arg(put.body.as_deref().unwrap_or_default());
        let (written, version): (String, u64) = call.send(&self.server).await?;
        if written.is_empty() {
            put.check_version(version)?;
            return Err(Error::conflict("document has another version than expected").with("key", key));
        }
        Ok(version)
    }

    async fn doc(&self, key: &DocKey) -> Result<Option<Doc>> {
        let mut get = redis::cmd("HGET");
        let shard = &self.shards[shard_of_tenant(&key.tenant)];
        get.arg(format!("{shard}:doc:{}/{}", key.tenant, key.kind)).arg(&key.key);
        let found: Option<String> = self.server.read(&get).await?;
        found.map(|text| read_doc(&key.key, &text)).transpose()
    }

    async fn docs(&self, query: &DocsQuery) -> Result<DocsPage> {
        check_page(query.limit)?;
        let mut call = DOCS.on(&[&self.shards[shard_of_tenant(&query.tenant)]]);
        let after = query.after.as_ref().map_or("-".to_owned(), |after| format!("({after}"));
        call.arg(format!("{}/{}", query.tenant, query.kind)).arg(after).arg(query.limit + 1);
        let found: Vec<String> = call.send(&self.server).await?;
        let read = |pair: &[String]| match pair {
            [key, text] => read_doc(key, text),
            _ => Err(unexpected("a key without a document")),
        };
        let mut docs = found.chunks(2).map(read).collect::<Result<Vec<_>>>()?;
        let more = docs.len() > query.limit;
        docs.truncate(query.limit);
        Ok(DocsPage { docs, more })
    }

    async fn prune(&self, prune: &Prune) -> Result<usize> {
        let ends: Vec<_> =
            RunStatus::ALL.iter().filter(|status| status.is_terminal()).map(|s| s.as_str()).collect();
        let ends = format!(" {} ", ends.join(" "));
        let mut gone = 0;
        for runs in prune.runs.chunks(SCRIPT_ITEMS) {
            let mut groups: BTreeMap<usize, Call> = BTreeMap::new();
            for (run, head) in runs {
                let shard = shard_of(&prune.tenant, Stream::Run(*run));
                let group = self.group_of(shard);
                let call = groups.entry(group.first).or_insert_with(|| {
                    let mut call = group.call(&PRUNE);
                    call.arg(&ends);
                    call
                });
                // No run is without entries, so none has the empty head.
                call.arg(group.key(shard)).arg(name(&prune.tenant, Stream::Run(*run))).arg(head_text(*head));
            }
            let pruned = try_join_all(groups.values().map(|call| call.send::<usize>(&self.server))).await?;
            gone += pruned.into_iter().sum::<usize>();
        }
        Ok(gone)
    }
}

/// The cursor that goes on after a place.
fn cursor_at(place: &str) -> Result<String> {
    let wrong = || unexpected("a place in a listing of runs");
    let newest = place.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or_else(wrong)?;
    let created_at = orch::Timestamp::from_micros((!newest).cast_signed());
    let run: RunId = listed_run(place)?;
    Ok(RunsCursor { created_at, run }.to_text())
}
