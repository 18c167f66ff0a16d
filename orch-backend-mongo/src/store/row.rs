//! Replacing the row of a run whose entries stay.

use std::collections::{HashMap, HashSet};

use mongodb::bson::{Bson, doc};
use orch::store::{Append, stale_head};

use super::Inner;
use super::append::{Answers, Plan, answer, echo, text_of};
use super::chunk::{Chunk, chunk_id};
use super::known::Known;
use super::place::Place;
use crate::indexes::APPENDS;

impl Inner {
    /// Puts the rows into the last chunks. Whoever appends meanwhile wins: the row of a chunk that has a successor is no
    /// longer seen. What was replaced by somebody else at the same time has no answer yet, and is tried again.
    pub(super) async fn replace_rows<'a>(
        &self,
        appends: &[Append],
        plans: Vec<Plan<'a>>,
        answers: &mut Answers,
    ) -> Vec<(Plan<'a>, Known)> {
        let mut statements = Vec::new();
        let mut rows = HashMap::new();
        for plan in &plans {
            let (Some(before), Some(Ok(text))) = (&plan.before, plan.row.map(text_of)) else { continue };
            let revision = if before.revision == 0 { Bson::Null } else { before.revision.into() };
            let id = chunk_id(&plan.name, before.after);
            // Counted first: whoever appends next sees that the listings may say something else than it believes.
            statements.push(doc! {
                "q": {"_id": chunk_id(&plan.name, 0), "life": plan.life}, "u": {"$inc": {"replaced": 1_i64}},
            });
            statements.push(doc! {
                "q": {"_id": &id, "hash": before.head.hash.to_string(), "rev": revision},
                "u": {"$set": {"row": &text, "rev": before.revision + 1}},
            });
            rows.insert(id, text);
        }
        if statements.is_empty() {
            return Vec::new();
        }
        let seen = match self.connection.update(APPENDS, statements).await {
            Ok(_) => self.look_at(&plans).await,
            Err(error) => Err(error),
        };
        let mut landed = Vec::new();
        for plan in plans {
            let Some(before) = &plan.before else { continue };
            let id = chunk_id(&plan.name, before.after);
            self.cache.forget(&plan.name);
            match &seen {
                Err(error) => answer(&plan, answers, || Err(doubtful(error))),
                Ok(seen) if seen.successors.contains(&chunk_id(&plan.name, before.head.seq)) => {
                    answer(&plan, answers, || Err(stale_head(&appends[plan.items[0]], before.head)));
                }
                Ok(seen) => {
                    let mine = seen.chunks.get(&id);
                    let is_mine = |chunk: &&Chunk| {
                        chunk.row.as_ref() == rows.get(&id) && chunk.rev == before.revision + 1
                    };
                    if let Some(chunk) = mine.filter(is_mine) {
                        let known = Known {
                            replaced: before.replaced + 1,
                            revision: chunk.rev,
                            row_after: Some(before.after),
                            place: plan.row.map(Place::of),
                            ..before.clone()
                        };
                        landed.push((plan, known));
                    }
                }
            }
        }
        landed
    }

    /// The last chunks as they are now, and what follows them.
    async fn look_at(&self, plans: &[Plan<'_>]) -> orch::Result<Seen> {
        let befores = || plans.iter().filter_map(|plan| Some((plan, plan.before.as_ref()?)));
        let lasts: HashSet<_> = befores().map(|(plan, before)| chunk_id(&plan.name, before.after)).collect();
        let next = befores().map(|(plan, before)| chunk_id(&plan.name, before.head.seq));
        let ids: Vec<_> = lasts.iter().cloned().chain(next).collect();
        let found: Vec<Chunk> =
            self.connection.find(APPENDS, doc! {"_id": {"$in": ids}}, doc! {"lines": 0}).await?;
        let (chunks, successors): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|chunk| lasts.contains(&chunk.id));
        Ok(Seen {
            chunks: chunks.into_iter().map(|chunk| (chunk.id.clone(), chunk)).collect(),
            successors: successors.into_iter().map(|chunk| chunk.id).collect(),
        })
    }
}

struct Seen {
    chunks: HashMap<String, Chunk>,
    successors: HashSet<String>,
}

/// The row may have been replaced.
fn doubtful(error: &orch::Error) -> orch::Error {
    match error.kind() {
        orch::ErrorKind::Unavailable => {
            orch::Error::indeterminate("row may have been replaced or not").caused_by(error.to_string())
        }
        _ => echo(error),
    }
}
