//! Documents.

use mongodb::bson::{Document, doc};
use mongodb::options::ReturnDocument;
use orch::store::{Doc, DocKey, DocsPage, DocsQuery, Expect, PutDoc};
use orch::{Error, Result};
use serde::{Deserialize, Serialize};

use super::Inner;
use crate::error::{is_duplicate, reading, writing};
use crate::indexes::DOCS;

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    /// Tenant, kind and key. Kinds are names in orch's own code and hold no `/`.
    #[serde(rename = "_id")]
    id: String,
    version: i64,
    body: String,
}

fn id_of(key: &DocKey) -> String {
    format!("{}{}", prefix_of(key.tenant.as_str(), key.kind), key.key)
}

fn prefix_of(tenant: &str, kind: &str) -> String {
    format!("{tenant}/{kind}/")
}

/// How often a write begins anew because another process made or deleted the document at the same moment.
const TRIES: usize = 8;

impl Inner {
    fn stored(&self) -> mongodb::Collection<Stored> {
        self.connection.collection(DOCS)
    }

    async fn version(&self, id: &str) -> Result<u64> {
        let found = self.stored().find_one(doc! {"_id": id}).await.map_err(reading)?;
        Ok(found.map_or(0, |found| found.version.cast_unsigned()))
    }

    pub(super) async fn put_doc(&self, put: &PutDoc) -> Result<u64> {
        let id = id_of(&put.key);
        for _ in 0..TRIES {
            if let Some(version) = self.try_put(put, &id).await? {
                return Ok(version);
            }
            // What is expected does not hold, or did not a moment ago.
            put.check_version(self.version(&id).await?)?;
        }
        Err(Error::unavailable("document changes too fast")
            .with("kind", put.key.kind)
            .with("key", &put.key.key))
    }

    /// Writes if what is expected holds: one command that compares and writes. Answers nothing if it does not.
    async fn try_put(&self, put: &PutDoc, id: &str) -> Result<Option<u64>> {
        let stored = self.stored();
        let filter = match put.expect {
            Expect::Version(version) => doc! {"_id": id, "version": version.cast_signed()},
            Expect::Any | Expect::Absent => doc! {"_id": id},
        };
        match (&put.body, put.expect) {
            // No document has the version 0, whatever the filter finds.
            (_, Expect::Version(0)) => Ok(None),
            (None, Expect::Absent) => Ok((self.version(id).await? == 0).then_some(0)),
            (None, expect) => {
                let deleted = stored.delete_one(filter).await.map_err(writing)?.deleted_count;
                Ok((deleted == 1 || expect == Expect::Any).then_some(0))
            }
            (Some(body), Expect::Absent) => {
                let new = Stored { id: id.to_owned(), version: 1, body: body.clone() };
                match stored.insert_one(new).await {
                    Ok(_) => Ok(Some(1)),
                    Err(error) if is_duplicate(&error) => Ok(None),
                    Err(error) => Err(writing(error)),
                }
            }
            (Some(body), expect) => {
                let change = doc! {"$set": {"body": body}, "$inc": {"version": 1_i64}};
                let put = stored
                    .find_one_and_update(filter, change)
                    .upsert(expect == Expect::Any)
                    .return_document(ReturnDocument::After);
                match put.await {
                    Ok(after) => Ok(after.map(|after| after.version.cast_unsigned())),
                    // Two made it at once.
                    Err(error) if is_duplicate(&error) => Ok(None),
                    Err(error) => Err(writing(error)),
                }
            }
        }
    }

    pub(super) async fn doc(&self, key: &DocKey) -> Result<Option<Doc>> {
        let found = self.stored().find_one(doc! {"_id": id_of(key)}).await.map_err(reading)?;
        Ok(found.map(|found| Doc {
            key: key.key.clone(),
            version: found.version.cast_unsigned(),
            body: found.body,
        }))
    }

    pub(super) async fn docs(&self, query: &DocsQuery) -> Result<DocsPage> {
        let prefix = prefix_of(query.tenant.as_str(), query.kind);
        let end = format!("{}0", prefix.trim_end_matches('/'));
        let range: Document = match &query.after {
            Some(after) => doc! {"$gt": format!("{prefix}{after}"), "$lt": end},
            None => doc! {"$gte": &prefix, "$lt": end},
        };
        let limit = i64::try_from(query.limit + 1).unwrap_or(i64::MAX);
        let cursor = self
            .stored()
            .find(doc! {"_id": range})
            .sort(doc! {"_id": 1})
            .limit(limit)
            .await
            .map_err(reading)?;
        let mut found: Vec<Stored> = futures::TryStreamExt::try_collect(cursor).await.map_err(reading)?;
        let more = found.len() > query.limit;
        found.truncate(query.limit);
        let doc = |stored: Stored| Doc {
            key: stored.id[prefix.len()..].to_owned(),
            version: stored.version.cast_unsigned(),
            body: stored.body,
        };
        Ok(DocsPage { docs: found.into_iter().map(doc).collect(), more })
    }
}
