//! Pruning, against whoever appends at the same time.
//!
//! The first chunk of a stream is marked; then the head is looked at; then the mark is decided, if it is still there, and
//! nobody can append any more; then everything goes, the first chunk after the others. Who appends looks at the first chunk
//! afterwards and takes away a mark that is not decided. So either the pruning sees the append, or the append sees the
//! decision and takes itself back. A pruning that was decided is finished by whoever meets it.

use std::collections::HashMap;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use orch::Result;
use orch::ledger::{Head, Stream};
use orch::store::Prune;

use super::Inner;
use super::chunk::{Chunk, Stand, chunk_id, chunks_of, name_of};
use crate::indexes::{APPENDS, RUNS};

impl Inner {
    pub(super) async fn prune(&self, prune: &Prune) -> Result<usize> {
        let mut heads: HashMap<String, Vec<Head>> = HashMap::new();
        for (run, head) in &prune.runs {
            heads.entry(name_of(&prune.tenant, Stream::Run(*run))).or_default().push(*head);
        }
        let may_go = |name: &str, stand: &Stand| {
            let ended = stand.row.as_ref().is_none_or(|row| row.status.is_terminal());
            ended && heads.get(name).is_some_and(|heads| heads.contains(&stand.known.head))
        };
        let names: Vec<_> = heads.keys().cloned().collect();
        let by = ObjectId::new();
        let lives = self.prunable(&names, &may_go).await?;
        if lives.is_empty() {
            return Ok(0);
        }
        let of_first = |name: &str, life: ObjectId| doc! {"_id": chunk_id(name, 0), "life": life};
        let mark = |(name, life): &(String, ObjectId)| {
            let undecided = doc! {"prune.decided": {"$ne": true}};
            let mut filter = of_first(name, *life);
            filter.extend(undecided);
            doc! {"q": filter, "u": {"$set": {"prune": {"by": by}}}}
        };
        self.connection.update(APPENDS, lives.iter().map(mark).collect()).await?;
        let names: Vec<_> = lives.iter().map(|(name, _)| name.clone()).collect();
        let still: HashMap<_, _> = self.prunable(&names, &may_go).await?.into_iter().collect();
        let decide = |(name, life): &(String, ObjectId)| {
            let mut filter = of_first(name, *life);
            filter.insert("prune.by", by);
            let change = match still.get(name) == Some(life) {
                true => doc! {"$set": {"prune.decided": true}},
                false => doc! {"$unset": {"prune": 1}},
            };
            doc! {"q": filter, "u": change}
        };
        self.connection.update(APPENDS, lives.iter().map(decide).collect()).await?;
        let firsts: Vec<_> = still.keys().map(|name| chunk_id(name, 0)).collect();
        let decided = doc! {"_id": {"$in": firsts}, "prune.by": by, "prune.decided": true};
        let decided: Vec<Chunk> = self.connection.find(APPENDS, decided, doc! {"life": 1}).await?;
        let mut gone = Vec::new();
        for first in decided {
            gone.push((first.name_and_after()?.0.to_owned(), first.life));
        }
        self.finish_pruning(&gone).await?;
        Ok(gone.len())
    }

    /// Which of the streams may go now.
    async fn prunable(
        &self,
        names: &[String],
        may_go: &(impl Fn(&str, &Stand) -> bool + Sync),
    ) -> Result<Vec<(String, ObjectId)>> {
        let stands = self.stands(names).await?;
        Ok(stands
            .into_iter()
            .filter(|(name, stand)| may_go(name, stand))
            .map(|(name, stand)| (name, stand.known.life))
            .collect())
    }

    /// Deletes what was decided to go: chunks, the first ones, the documents of the listings. Where a process dies in
    /// between, the mark is still there, or a document without a stream, which listings clear away.
    pub(super) async fn finish_pruning(&self, streams: &[(String, ObjectId)]) -> Result<()> {
        if streams.is_empty() {
            return Ok(());
        }
        let others = |(name, life): &(String, ObjectId)| {
            let mut range = chunks_of(name);
            range.insert("$gt", chunk_id(name, 0));
            doc! {"q": {"_id": range, "life": life}, "limit": 0}
        };
        let first = |(name, life): &(String, ObjectId)| doc! {"q": {"_id": chunk_id(name, 0), "life": life}, "limit": 1};
        self.connection.delete(APPENDS, streams.iter().map(others).collect()).await?;
        self.connection.delete(APPENDS, streams.iter().map(first).collect()).await?;
        let listed = |(name, life): &(String, ObjectId)| -> Option<Document> {
            let (tenant, stream) = name.split_once('/')?;
            let run = stream.strip_prefix("run/")?;
            Some(doc! {"q": {"_id": format!("{tenant}/{run}"), "life": life}, "limit": 1})
        };
        let listed: Vec<_> = streams.iter().filter_map(listed).collect();
        if !listed.is_empty() {
            self.connection.delete(RUNS, listed).await?;
        }
        streams.iter().for_each(|(name, _)| self.cache.forget(name));
        Ok(())
    }
}
