//! The collections and their indexes. Making one that is there changes nothing.

use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Database, IndexModel};
use orch::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::error::{is_duplicate, reading, writing};
use crate::queue::{LEASED, WAITING};

/// One document per append: the ledger.
pub(crate) const APPENDS: &str = "appends";
/// One document per run: where its row lies in the listings.
pub(crate) const RUNS: &str = "runs";
/// The versioned documents.
pub(crate) const DOCS: &str = "docs";
/// One document per hint.
pub(crate) const QUEUE: &str = "queue";
/// One document per tenant: who holds what.
pub(crate) const LOCKS: &str = "locks";
/// One document per token bucket.
pub(crate) const BUCKETS: &str = "buckets";
/// Two documents: the version of all this, and the segments of the queue.
pub(crate) const META: &str = "meta";
/// The `_id` of the queue's segments in [`META`].
pub(crate) const SEGMENTS: &str = "queue";

/// The version of the layout that this crate writes.
const SCHEMA: i32 = 1;

#[derive(Serialize, Deserialize)]
struct Schema {
    #[serde(rename = "_id")]
    id: String,
    version: i32,
}

/// Every index beside those on `_id`: collection, name, keys, and what a document must be to be in it.
fn indexes() -> Vec<(&'static str, &'static str, Document, Option<Document>)> {
    let has = |field: &str| Some(doc! {field: {"$exists": true}});
    vec![
        (RUNS, "byDag", doc! {"tenant": 1, "dagId": 1, "runId": 1}, None),
        (RUNS, "byStart", doc! {"tenant": 1, "status": 1, "startedUtc": 1}, None),
        (RUNS, "newest", doc! {"tenant": 1, "created": -1, "runId": 1}, None),
        (RUNS, "newestOfStatus", doc! {"tenant": 1, "status": 1, "created": -1, "runId": 1}, None),
        (RUNS, "newestOfDag", doc! {"tenant": 1, "dagId": 1, "created": -1, "runId": 1}, None),
        (RUNS, "due", doc! {"wake": 1, "tenant": 1, "runId": 1}, has("wake")),
        (RUNS, "open", doc! {"open": 1}, has("open")),
        // Partial, so that a search which comes to its end does not step over leases that are gone.
        // The state is in the keys, too, or the server would not use them alone.
        (QUEUE, "order", doc! {"segment": 1, "state": 1, "lane": 1, "key": 1}, Some(doc! {"state": WAITING})),
        // Two that are partial, so that no query in the order of a lane mistakes one for its own. MongoDB 4.4 wants their keys
        // to differ.
        (QUEUE, "waits", doc! {"at": 1, "state": 1}, Some(doc! {"state": WAITING})),
        (QUEUE, "ends", doc! {"at": 1}, Some(doc! {"state": LEASED})),
    ]
}

/// Makes what is missing, and refuses what a newer version made.
pub(crate) async fn ensure(database: &Database) -> Result<()> {
    let meta = database.collection::<Schema>(META);
    let found = meta.find_one(doc! {"_id": "schema"}).await.map_err(reading)?;
    if let Some(found) = &found
        && found.version > SCHEMA
    {
        return Err(Error::unsupported("database was written by a newer version of orch; use that one")
            .with("version", found.version)
            .with("known", SCHEMA));
    }
    let indexes = indexes();
    for collection in [RUNS, QUEUE] {
        let models = indexes.iter().filter(|index| index.0 == collection).map(|(_, name, keys, needs)| {
            let partial = needs.clone();
            let options =
                IndexOptions::builder().name((*name).to_owned()).partial_filter_expression(partial).build();
            IndexModel::builder().keys(keys.clone()).options(options).build()
        });
        database.collection::<Document>(collection).create_indexes(models).await.map_err(writing)?;
    }
    let first = doc! {"$setOnInsert": {"current": 1_i64, "live": [1_i64]}};
    match database.collection::<Document>(META).update_one(doc! {"_id": SEGMENTS}, first).upsert(true).await {
        // Another process was a moment faster.
        Err(error) if is_duplicate(&error) => {}
        made => drop(made.map_err(writing)?),
    }
    if found.is_none() {
        let schema = Schema { id: "schema".to_owned(), version: SCHEMA };
        match meta.insert_one(schema).await {
            // Another process was a moment faster.
            Err(error) if is_duplicate(&error) => {}
            made => drop(made.map_err(writing)?),
        }
    }
    Ok(())
}
