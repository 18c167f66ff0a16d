//! The documents of `appends`, and where a stream stands.

use std::collections::HashMap;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use orch::ledger::{Head, Stream};
use orch::store::RunRow;
use orch::{Digest, Error, Result, TenantId};
use serde::{Deserialize, Serialize};

use super::Inner;
use super::known::Known;
use super::place::Place;
use crate::error::corrupt;
use crate::indexes::APPENDS;

/// A chunk to be written.
#[derive(Debug, Serialize)]
pub(super) struct NewChunk<'a> {
    #[serde(rename = "_id")]
    pub(super) id: String,
    pub(super) life: ObjectId,
    pub(super) last: i64,
    pub(super) hash: String,
    pub(super) prev: String,
    pub(super) lines: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) row: Option<String>,
    /// The chunk that has the last row, if this one has none.
    #[serde(rename = "rowAfter", skip_serializing_if = "Option::is_none")]
    pub(super) row_after: Option<i64>,
}

/// A chunk as it is read; what a query leaves out is not there.
#[derive(Debug, Deserialize)]
pub(super) struct Chunk {
    #[serde(rename = "_id")]
    pub(super) id: String,
    pub(super) life: ObjectId,
    #[serde(default)]
    pub(super) last: i64,
    #[serde(default)]
    pub(super) hash: String,
    #[serde(default)]
    pub(super) prev: String,
    pub(super) lines: Option<String>,
    pub(super) row: Option<String>,
    #[serde(rename = "rowAfter")]
    pub(super) row_after: Option<i64>,
    /// How often the row was replaced without entries.
    #[serde(default)]
    pub(super) rev: i64,
    /// The same for the whole stream; only in the first chunk.
    #[serde(default)]
    pub(super) replaced: i64,
    /// Only in the first chunk.
    pub(super) prune: Option<Mark>,
    /// Whether the query for first chunks found it.
    #[serde(default)]
    pub(super) first: bool,
}

/// The mark of a pruning that is under way, in the first chunk of a stream.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Mark {
    /// Whose pruning it is.
    pub(super) by: ObjectId,
    /// Nobody can append any more, and everything goes.
    #[serde(default)]
    pub(super) decided: bool,
}

/// Where a stream stands, and its last row.
#[derive(Debug)]
pub(super) struct Stand {
    pub(super) known: Known,
    pub(super) row: Option<RunRow>,
}

/// The name of a stream: what the `_id` of its chunks begins with.
pub(super) fn name_of(tenant: &TenantId, stream: Stream) -> String {
    format!("{tenant}/{stream}")
}

/// The `_id` of the chunk that follows entry `after`: hexadecimal, so that chunks are in order.
pub(super) fn chunk_id(name: &str, after: u64) -> String {
    format!("{name}/{after:016x}")
}

/// All chunks of a stream: `0` is the character after `/`.
pub(super) fn chunks_of(name: &str) -> Document {
    doc! {"$gte": format!("{name}/"), "$lt": format!("{name}0")}
}

impl Chunk {
    /// The stream's name and the entry that this follows.
    pub(super) fn name_and_after(&self) -> Result<(&str, u64)> {
        let parts = self.id.rsplit_once('/');
        parts
            .and_then(|(name, after)| Some((name, u64::from_str_radix(after, 16).ok()?)))
            .ok_or_else(|| Error::corrupt("key of an append does not read").with("key", &self.id))
    }

    pub(super) fn head(&self) -> Result<Head> {
        let hash = self.hash.parse::<Digest>();
        let hash =
            hash.map_err(|cause| corrupt("hash of an append does not read", cause).with("key", &self.id))?;
        Ok(Head { hash, seq: self.last.cast_unsigned() })
    }

    pub(super) fn row(&self, name: &str) -> Result<Option<RunRow>> {
        let Some(text) = &self.row else { return Ok(None) };
        let row: RunRow = serde_json::from_str(text)
            .map_err(|cause| corrupt("row of a run does not read", cause).with("key", &self.id))?;
        if name_of(&row.tenant, Stream::Run(row.run)) != name {
            return Err(Error::corrupt("row of a run belongs to another stream").with("key", &self.id));
        }
        Ok(Some(row))
    }

    /// What is known after this, the last chunk, has been read together with the first.
    pub(super) fn known(&self, first: &Self, row: Option<&RunRow>) -> Result<Known> {
        let (_, after) = self.name_and_after()?;
        let row_after = if self.row.is_some() { Some(after) } else { self.row_after.map(i64::cast_unsigned) };
        Ok(Known {
            head: self.head()?,
            after,
            life: self.life,
            replaced: first.replaced,
            revision: self.rev,
            row_after,
            place: row.map(Place::of),
        })
    }
}

/// How often reading clears away what crashed processes left before it gives up.
pub(super) const ROUNDS: usize = 4;

/// Streams of one command: one query each, and one for all their first chunks.
const STREAMS: usize = 99;

/// The query for the last chunk of a stream.
pub(super) fn last_of(name: &str) -> Vec<Document> {
    vec![
        doc! {"$match": {"_id": chunks_of(name)}},
        doc! {"$sort": {"_id": -1}},
        doc! {"$limit": 1},
        doc! {"$unset": "lines"},
    ]
}

/// The query for the first chunks of streams. It comes last, so that what it does not find is gone.
pub(super) fn first_of<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<Document> {
    let ids: Vec<_> = names.into_iter().map(|name| chunk_id(name, 0)).collect();
    vec![
        doc! {"$match": {"_id": {"$in": ids}}},
        doc! {"$project": {"life": 1, "replaced": 1, "prune": 1, "first": {"$literal": true}}},
    ]
}

impl Inner {
    /// Where streams stand; those without entries are left out. What crashed processes left is cleared away first.
    pub(super) async fn stands(&self, names: &[String]) -> Result<HashMap<String, Stand>> {
        let mut stands = HashMap::with_capacity(names.len());
        let mut left: Vec<String> = names.to_vec();
        for _ in 0..ROUNDS {
            left = self.round_of_stands(&left, &mut stands).await?;
            if left.is_empty() {
                return Ok(stands);
            }
        }
        Err(Error::unavailable("stream is being pruned").with("stream", &left[0]))
    }

    /// Answers the streams that must be read again.
    async fn round_of_stands(
        &self,
        names: &[String],
        stands: &mut HashMap<String, Stand>,
    ) -> Result<Vec<String>> {
        let mut queries = Vec::new();
        for names in names.chunks(STREAMS) {
            queries.extend(names.iter().map(|name| last_of(name)));
            queries.push(first_of(names));
        }
        let chunks: Vec<Chunk> = self.connection.union(APPENDS, queries).await?;
        let (firsts, lasts): (Vec<_>, Vec<_>) = chunks.into_iter().partition(|chunk| chunk.first);
        let firsts = by_name(firsts)?;
        let (mut again, mut rowless) = (Vec::new(), Vec::new());
        for last in lasts {
            let name = last.name_and_after()?.0.to_owned();
            match firsts.get(&name) {
                Some(first)
                    if first.life == last.life && !first.prune.as_ref().is_some_and(|mark| mark.decided) =>
                {
                    let row = last.row(&name)?;
                    let known = last.known(first, row.as_ref())?;
                    if row.is_none() && known.row_after.is_some() {
                        rowless.push(name.clone());
                    }
                    stands.insert(name, Stand { known, row });
                }
                Some(first) if first.life == last.life => {
                    self.finish_pruning(&[(name.clone(), first.life)]).await?;
                    again.push(name);
                }
                _ => {
                    self.clear_orphans(&name, last.life).await?;
                    again.push(name);
                }
            }
        }
        self.earlier_rows(&rowless, stands).await?;
        Ok(again)
    }

    /// Reads the rows of streams whose last chunk has none.
    async fn earlier_rows(&self, names: &[String], stands: &mut HashMap<String, Stand>) -> Result<()> {
        let after = |name: &String| stands.get(name).and_then(|stand| stand.known.row_after).unwrap_or(0);
        let ids: Vec<_> = names.iter().map(|name| chunk_id(name, after(name))).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let chunks: Vec<Chunk> =
            self.connection.find(APPENDS, doc! {"_id": {"$in": ids}}, doc! {"lines": 0}).await?;
        for chunk in chunks {
            let (name, _) = chunk.name_and_after()?;
            if let Some(stand) = stands.get_mut(name) {
                stand.row = chunk.row(name)?;
                stand.known.place = stand.row.as_ref().map(Place::of);
            }
        }
        Ok(())
    }

    /// Deletes chunks of a stream that is gone: a process died after it had appended to a stream that was just pruned.
    pub(super) async fn clear_orphans(&self, name: &str, life: ObjectId) -> Result<()> {
        // Only a write proves that the first chunk is gone: a server that was the primary may answer a read.
        let first = doc! {"q": {"_id": chunk_id(name, 0), "life": life}, "u": {"$set": {"life": life}}};
        if self.connection.update(APPENDS, vec![first]).await?.matched == 0 {
            let orphans = doc! {"q": {"_id": chunks_of(name), "life": life}, "limit": 0};
            self.connection.delete(APPENDS, vec![orphans]).await?;
            tracing::debug!(stream = name, "appends to a pruned stream were cleared away");
        }
        Ok(())
    }
}

/// Chunks by the names of their streams.
pub(super) fn by_name(chunks: Vec<Chunk>) -> Result<HashMap<String, Chunk>> {
    chunks.into_iter().map(|chunk| Ok((chunk.name_and_after()?.0.to_owned(), chunk))).collect()
}
