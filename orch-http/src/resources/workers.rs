//! `/workers`: who has asked for work lately.

use std::time::Duration;

use axum::extract::State;
use http::StatusCode;
use orch::store::{Doc, DocKey, DocsQuery, Expect, PutDoc};
use orch::{Digest, QueueName, StepId, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::App;
use crate::api::forget::forget;
use crate::api::page::{self, Page};
use crate::api::{Answer, ApiResult, Caller, Guard, Query, Route, schema};
use crate::auth::Scope;

const KIND: &str = "worker";
/// How old what is told of a worker may be before it is written anew.
const FRESH: Duration = Duration::from_secs(15);
/// A worker that was not seen for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/workers", "listWorkers", Guard::Scope(Scope::Read), list)
            .says("The workers that asked for work in the last day, and when, in an order of its own that stays.")
            .query::<AskWorkers>()
            .gives::<Page<WorkerView>>(StatusCode::OK),
    ]
}

/// Which workers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AskWorkers {
    /// Rows of a page, 50 without it.
    #[schemars(range(min = 1, max = 500))]
    page_size: Option<u32>,
    /// Where the page begins: `next_page_token` of the page before.
    page_token: Option<String>,
}

/// A worker outside.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WorkerView {
    /// What it calls itself.
    worker: String,
    /// Its version.
    version: String,
    /// Whose token it bears.
    actor: String,
    /// The job types it can do.
    #[schemars(with = "Vec<schema::Slug>")]
    job_types: Vec<StepId>,
    /// The queues it takes from.
    #[schemars(with = "Vec<schema::Slug>")]
    queues: Vec<QueueName>,
    /// When it asked for work last, give or take 15 s.
    #[schemars(with = "schema::Time")]
    last_seen_utc: Timestamp,
}

impl WorkerView {
    fn is_forgotten(&self, now: Timestamp) -> bool {
        now.since(self.last_seen_utc) > FORGOTTEN
    }
}

async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(asked): Query<AskWorkers>,
) -> ApiResult<Answer<Page<WorkerView>>> {
    let asked = page::asked(KIND, asked.page_size, asked.page_token.as_deref())?;
    let tenant = caller.who.tenant.clone();
    let query = DocsQuery { tenant, kind: KIND, after: asked.after, limit: asked.size };
    let found = app.orch.store().docs(&query).await?;
    let next = found.docs.last().filter(|_| found.more).map(|last| page::token(KIND, last.key.clone()));
    let now = app.orch.now();
    let items = found.docs.iter().filter_map(read).filter(|worker| !worker.is_forgotten(now)).collect();
    Ok(Answer::ok(Page { items, next_page_token: next }))
}

fn read(doc: &Doc) -> Option<WorkerView> {
    serde_json::from_str(&doc.body).ok()
}

/// Takes down that a worker asks for work. For people only: when it cannot be written, the worker is served all the same.
pub(super) async fn seen(
    app: &App,
    caller: &Caller,
    worker: &str,
    version: &str,
    job_types: &[StepId],
    queues: &[QueueName],
) {
    let seen = WorkerView {
        worker: worker.to_owned(),
        version: version.to_owned(),
        actor: caller.who.actor.clone(),
        job_types: job_types.to_vec(),
        queues: queues.to_vec(),
        last_seen_utc: app.orch.now(),
    };
    if let Err(error) = write(app, caller, &seen).await
        && error.kind() != orch::ErrorKind::Conflict
    {
        tracing::debug!(%error, "a worker is not listed");
    }
}

async fn write(app: &App, caller: &Caller, seen: &WorkerView) -> orch::Result<()> {
    let key = Digest::of_parts(&[seen.worker.as_bytes(), caller.who.actor.as_bytes()]).to_string();
    let place = DocKey { tenant: caller.who.tenant.clone(), kind: KIND, key };
    let known = app.orch.store().doc(&place).await?;
    let expect = match &known {
        Some(doc) => {
            let fresh = |known: &WorkerView| {
                seen.last_seen_utc.since(known.last_seen_utc) < FRESH
                    && (&known.version, &known.job_types, &known.queues)
                        == (&seen.version, &seen.job_types, &seen.queues)
            };
            if read(doc).as_ref().is_some_and(fresh) {
                return Ok(());
            }
            Expect::Version(doc.version)
        }
        None => Expect::Absent,
    };
    let body = serde_json::to_string(seen)
        .map_err(|cause| orch::Error::internal("a worker is no json").caused_by(cause))?;
    let store = app.orch.store().as_ref();
    store.put_doc(&PutDoc { key: place.clone(), expect, body: Some(body) }).await?;
    if known.is_some() {
        return Ok(());
    }
    // Those after it: keys are digests, so that every place has its turn.
    let old = |doc: &Doc| read(doc).is_none_or(|worker| worker.is_forgotten(seen.last_seen_utc));
    forget(store, &caller.who.tenant, KIND, Some(place.key), old).await
}
