//! Reading entries.

use std::collections::{BTreeMap, HashMap};

use mongodb::bson::{Document, doc};
use orch::ledger::Head;
use orch::store::{EntriesPage, EntriesRequest, lines_after};
use orch::{Error, Result};

use super::Inner;
use super::chunk::{Chunk, ROUNDS, chunk_id, first_of, last_of, name_of};
use crate::indexes::APPENDS;

/// Requests of one command: at most three queries each, and one for all first chunks.
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
    pub(super) async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        let mut pages: Vec<Option<EntriesPage>> = requests.iter().map(|_| None).collect();
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
                    Some(last) => Some(page(request, &found.chunks, last)?),
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

/// The queries for the chunk with the first entry wanted, for those that follow, and for the last one.
fn queries_of(request: &EntriesRequest, name: &str) -> Vec<Vec<Document>> {
    let end = request.after.saturating_add(request.limit.max(1) as u64);
    let (begin, after, end) = (chunk_id(name, 0), chunk_id(name, request.after), chunk_id(name, end));
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

fn page(request: &EntriesRequest, chunks: &BTreeMap<u64, Chunk>, last: &Chunk) -> Result<EntriesPage> {
    let mut page = EntriesPage { lines: String::new(), last: request.after, head: last.head()? };
    let start = chunks.range(..=request.after).next_back().map_or(0, |(after, _)| *after);
    let mut hash: Option<&str> = None;
    for (after, chunk) in chunks.range(start..) {
        let last = chunk.last.cast_unsigned();
        if last <= request.after {
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
        page.last = last;
        hash = Some(&chunk.hash);
    }
    if page.more() && page.last - request.after < request.limit as u64 {
        // Everything asked for was found up to here, and more was appended since; or something in between is gone.
        let gap = last.name_and_after()?.1 < page.last.max(request.after);
        if gap {
            return Err(Error::corrupt("entries of a stream are missing").with("stream", request.stream));
        }
    }
    Ok(page)
}
