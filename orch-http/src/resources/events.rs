//! `/runs/{runId}/events`: the record of a run, exactly as it is chained.

use axum::extract::State;
use http::StatusCode;
use orch::RunId;
use orch::ledger::{Head, Stream};
use orch::store::EntriesRequest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::App;
use crate::api::code::Code;
use crate::api::page::{self, PAGE_SIZE, PAGE_SIZE_MAX};
use crate::api::{Answer, ApiError, ApiResult, At, Caller, Guard, Query, Route, schema};
use crate::auth::Scope;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/runs/{runId}/events", "listEvents", Guard::Scope(Scope::Read), list)
            .says("The entries of a run, in order. Each is the JSON that was hashed, byte for byte, so that whoever reads them can verify the chain.")
            .query::<ListEvents>()
            .gives::<Events>(StatusCode::OK)
            .may(&[Code::NotFound]),
    ]
}

/// Which entries.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListEvents {
    /// Only entries after this number.
    after: Option<u64>,
    /// Rows of the page; it may hold more by the rest of what was recorded at once.
    #[schemars(range(min = 1, max = 500))]
    page_size: Option<u32>,
    /// `next_page_token` of the page before; it goes before `after`.
    page_token: Option<String>,
}

/// Entries of a run.
#[derive(Debug, Serialize, JsonSchema)]
struct Events {
    /// The entries.
    #[schemars(with = "Vec<schema::Object>")]
    items: Vec<Box<RawValue>>,
    /// Where the next page begins; absent at the present end of the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
    /// How many entries the record has.
    head_seq: u64,
    /// The hash of the last of them.
    #[schemars(with = "schema::Hash")]
    head_hash: orch::Digest,
}

async fn list(
    State(app): State<App>,
    caller: Caller,
    At(run): At<RunId>,
    Query(asked): Query<ListEvents>,
) -> ApiResult<Answer<Events>> {
    let name = format!("events/{run}");
    let size = Some(asked.page_size.unwrap_or(PAGE_SIZE).min(PAGE_SIZE_MAX + 1));
    let page = page::asked(&name, size, asked.page_token.as_deref())?;
    let damaged = |_| ApiError::invalid_at("?page_token", "the token is damaged");
    let after = page.after.map_or(Ok(asked.after.unwrap_or(0)), |text| text.parse()).map_err(damaged)?;
    let tenant = caller.who.tenant.clone();
    let request = EntriesRequest { tenant, stream: Stream::Run(run), after, limit: page.size };
    let found = app.orch.store().entries(&[request]).await?.pop();
    let found = found.filter(|found| found.head != Head::EMPTY).ok_or_else(|| ApiError::not_found("run"))?;
    let items = found.lines.lines().map(|line| RawValue::from_string(line.to_owned()));
    let items = items.collect::<Result<_, _>>();
    let items = items.map_err(|cause| orch::Error::corrupt("an entry is no json").caused_by(cause))?;
    Ok(Answer::ok(Events {
        items,
        next_page_token: found.more().then(|| page::token(&name, found.last.to_string())),
        head_seq: found.head.seq,
        head_hash: found.head.hash,
    }))
}
