//! Reading entries.

use std::collections::{BTreeMap, HashMap};

use mongodb::bson::{Document, doc};
use orch::ledger::Head;
use orch::store::{EntriesPage, EntriesRequest, lines_after};
use orch::{Error, Result};

use super::Inner;
use super::chunk::{Chunk, ROUNDS, chunk_id, first_of, last_of, name_of};
use crate::indexes::APPENDS;

/// Requests of one command that reads tails: one range each.
const TAILS: usize = 256;
/// Requests of one command that reads pages: at most three queries each, and one for all first chunks.
const REQUESTS: usize = 33;

/// What was found of a stream.
#[derive(Default)]
struct Found {
    /// Chunks with their lines, by the entry they follow.
    chunks: BTreeMap<u64, Chunk>,
    last: Option<Chunk>,
    first: Option<Chunk>,
}

impl Inner {
    /// Most readers want all that follows what they have: one range of keys. What that does not answer is read page by
    /// page.
    pub(super) async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        let mut pages: Vec<Option<EntriesPage>> = requests.iter().map(|_| None).collect();
        let (begun, whole): (Vec<_>, Vec<_>) = (0..requests.len()).partition(|at| requests[*at].after > 0);
        for part in whole.chunks(TAILS).chain(begun.chunks(TAILS)) {
            let asked: Vec<_> = part.iter().map(|at| &requests[*at]).collect();
            for (at, page) in part.iter().zip(self.tails(&asked).await?) {
                pages[*at] = page;
            }
        }
        for _ in 0..ROUNDS {
            let left: Vec<usize> = (0..requests.len()).filter(|at| pages[*at].is_none()).collect();
            for part in left.chunks(REQUESTS) {
                let asked: Vec<_> = part.iter().map(|at| &requests[*at]).collect();
                for (at, page) in part.iter().zip(self.pages(&asked).await?) {
                    pages[*at] = page;
                }
            }
        }
        let pruned = || Error::unavailable("stream is being pruned");
        pages.into_iter().map(|page| page.ok_or_else(pruned)).collect()
    }

    /// Reads what follows the entries asked for, where that begins with a chunk. Leaves the other pages out: of streams in
    /// which nothing follows, too, as they may be gone. Either all are asked for from their beginning or none.
    async fn tails(&self, requests: &[&EntriesRequest]) -> Result<Vec<Option<EntriesPage>>> {
        let names: Vec<_> = requests.iter().map(|request| name_of(&request.tenant, request.stream)).collect();
        let range = |(request, name): (&&EntriesRequest, &String)| {
            doc! {"_id": {"$gte": chunk_id(name, request.after), "$lt": chunk_id(name, end_of(request))}}
        };
        let mut wanted: Vec<_> = requests.iter().zip(&names).map(range).collect();
        let mut fields = doc! {};
        if requests.iter().any(|request| request.after > 0) {
            let firsts: Vec<_> = names.iter().map(|name| chunk_id(name, 0)).collect();
            wanted.push(doc! {"_id": {"$in": firsts}});
            // First chunks say here whether their streams live, and no more.
            let is_first = doc! {"$eq": ["$prev", Head::EMPTY.hash.to_string()]};
            fields = doc! {"lines": {"$cond": [is_first, "$$REMOVE", "$lines"]}, "row": 1, "rowAfter": 1, "life": 1};
            fields.extend(doc! {"last": 1, "hash": 1, "prev": 1, "rev": 1, "replaced": 1, "prune": 1});
        }
        let mut streams: HashMap<String, BTreeMap<u64, Chunk>> = HashMap::new();
        for chunk in self.connection.find::<Chunk>(APPENDS, doc! {"$or": wanted}, fields).await? {
            let (name, after) = chunk.name_and_after()?;
            streams.entry(name.to_owned()).or_default().insert(after, chunk);
        }
        let (mut pages, mut full) = (Vec::with_capacity(requests.len()), Vec::new());
        for (at, (request, name)) in requests.iter().zip(&names).enumerate() {
            let tail = streams.get(name).and_then(|chunks| tail(request, chunks));
            pages.push(match tail {
                Some(Tail { first, last, whole: true }) => {
                    let row = last.row(name)?;
                    self.cache.learn(name, &last.known(first, row.as_ref())?);
                    Some(page(request, &streams[name], last.head()?, last.name_and_after()?.1)?)
                }
                Some(Tail { whole: false, .. }) => {
                    full.push((at, name.clone()));
                    None
                }
                None => None,
            });
        }
        if full.is_empty() {
            return Ok(pages);
        }
        // More may follow: where the streams end is asked for apart.
        let stands = self.stands(&full.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>()).await?;
        for (at, name) in full {
            let (known, chunks) = (stands.get(&name).map(|stand| &stand.known), &streams[&name]);
            if let Some(known) = known.filter(|known| chunks.values().all(|chunk| chunk.life == known.life)) {
                pages[at] = Some(page(requests[at], chunks, known.head, known.after)?);
            }
        }
        Ok(pages)
    }

    /// The pages in the order of their requests; nothing for a stream that must be read again.
    async fn pages(&self, requests: &[&EntriesRequest]) -> Result<Vec<Option<EntriesPage>>> {
        let names: Vec<_> = requests.iter().map(|request| name_of(&request.tenant, request.stream)).collect();
        let mut queries: Vec<_> =
            requests.iter().zip(&names).flat_map(|(request, name)| queries_of(request, name)).collect();
        queries.push(first_of(&names));
        let mut streams: HashMap<String, Found> = HashMap::new();
        for chunk in self.connection.union::<Chunk>(APPENDS, queries).await? {
            let (name, after) = chunk.name_and_after()?;
            let found = streams.entry(name.to_owned()).or_default();
            if chunk.first {
                found.first = Some(chunk);
            } else if chunk.lines.is_some() {
                found.chunks.insert(after, chunk);
            } else {
                found.last = Some(chunk);
            }
        }
        let mut pages = Vec::with_capacity(requests.len());
        for (request, name) in requests.iter().zip(&names) {
            pages.push(match streams.get(name) {
                None => Some(EntriesPage { lines: String::new(), last: request.after, head: Head::EMPTY }),
                Some(found) => match self.last_chunk(name, found).await? {
                    Some(last) => Some(page(request, &found.chunks, last.head()?, last.name_and_after()?.1)?),
                    None => None,
                },
            });
        }
        Ok(pages)
    }

    /// The last chunk, if everything that was found belongs together; otherwise what was left behind is cleared away.
    async fn last_chunk<'f>(&self, name: &str, found: &'f Found) -> Result<Option<&'f Chunk>> {
        let Some(last) = &found.last else { return Ok(None) };
        let Some(first) = found.first.as_ref().filter(|first| first.life == last.life) else {
            self.clear_orphans(name, last.life).await?;
            return Ok(None);
        };
        if first.prune.as_ref().is_some_and(|mark| mark.decided) {
            self.finish_pruning(&[(name.to_owned(), first.life)]).await?;
            return Ok(None);
        }
        if found.chunks.values().any(|chunk| chunk.life != last.life) {
            return Ok(None);
        }
        let row = last.row(name)?;
        self.cache.learn(name, &last.known(first, row.as_ref())?);
        Ok(Some(last))
    }
}

/// What follows the entries asked for, in one piece.
struct Tail<'c> {
    first: &'c Chunk,
    last: &'c Chunk,
    /// Whether the page has room for all of it.
    whole: bool,
}

/// Nothing where it does not begin with a chunk, has a gap, or belongs to a stream that is gone or is about to go.
fn tail<'c>(request: &EntriesRequest, chunks: &'c BTreeMap<u64, Chunk>) -> Option<Tail<'c>> {
    let (first, (_, last)) = chunks.get(&0).zip(chunks.range(request.after..).next_back())?;
    let alive = first.life == last.life && first.prune.as_ref().is_none_or(|mark| !mark.decided);
    let whole = last.last.cast_unsigned() < end_of(request);
    (alive && is_one_piece(chunks, request.after)).then_some(Tail { first, last, whole })
}

/// Where a page ends at the latest.
fn end_of(request: &EntriesRequest) -> u64 {
    request.after.saturating_add(request.limit.max(1) as u64)
}

/// Whether chunks of one life follow each other, the first of them entry `after`.
fn is_one_piece(chunks: &BTreeMap<u64, Chunk>, mut after: u64) -> bool {
    let life = chunks.get(&after).map(|chunk| chunk.life);
    chunks.range(after..).all(|(follows, chunk)| {
        let fits = *follows == after && Some(chunk.life) == life;
        after = chunk.last.cast_unsigned();
        fits
    })
}

/// The queries for the chunk with the first entry wanted, for those that follow, and for the last one.
fn queries_of(request: &EntriesRequest, name: &str) -> Vec<Vec<Document>> {
    let (begin, after) = (chunk_id(name, 0), chunk_id(name, request.after));
    let end = chunk_id(name, end_of(request));
    let mut queries = Vec::new();
    let page = |range: Document, order: i32| {
        vec![doc! {"$match": {"_id": range}}, doc! {"$sort": {"_id": order}}, doc! {"$unset": "row"}]
    };
    if request.after > 0 {
        let mut before = page(doc! {"$gte": begin, "$lte": &after}, -1);
        before.insert(2, doc! {"$limit": 1});
        queries.push(before);
        queries.push(page(doc! {"$gt": after, "$lt": end}, 1));
    } else {
        queries.push(page(doc! {"$gte": begin, "$lt": end}, 1));
    }
    queries.push(last_of(name));
    queries
}

/// The page that these chunks make of a stream that ends at `head`, with the chunk that follows entry `last`.
fn page(
    request: &EntriesRequest,
    chunks: &BTreeMap<u64, Chunk>,
    head: Head,
    last: u64,
) -> Result<EntriesPage> {
    let mut page = EntriesPage { lines: String::new(), last: request.after, head };
    let start = chunks.range(..=request.after).next_back().map_or(0, |(after, _)| *after);
    let mut hash: Option<&str> = None;
    for (after, chunk) in chunks.range(start..) {
        let reaches = chunk.last.cast_unsigned();
        if reaches <= request.after {
            continue;
        }
        if page.last - request.after >= request.limit as u64 && page.last > request.after {
            break;
        }
        if *after > page.last || hash.is_some_and(|hash| hash != chunk.prev) {
            return Err(
                Error::corrupt("entries of a stream do not follow each other").with("stream", request.stream)
            );
        }
        page.lines.push_str(lines_after(chunk.lines.as_deref().unwrap_or_default(), after + 1, page.last));
        page.last = reaches;
        hash = Some(&chunk.hash);
    }
    if page.more() && page.last - request.after < request.limit as u64 {
        // Everything asked for was found up to here, and more was appended since; or something in between is gone.
        if last < page.last.max(request.after) {
            return Err(Error::corrupt("entries of a stream are missing").with("stream", request.stream));
        }
    }
    Ok(page)
}
