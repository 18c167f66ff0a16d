//! Pages of entries, exactly as they are chained.

use orch::ledger::{Head, Stream};
use orch::store::EntriesRequest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::App;
use crate::api::page::asked as asked_page;
use crate::api::page::token;
use crate::api::{ApiError, ApiResult, Caller, schema};

/// Which entries.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AskEntries {
    /// Only entries after this number.
    after: Option<u64>,
    /// Rows of the page; it may hold more by the rest of what was recorded at once.
    #[schemars(range(min = 1, max = 500))]
    page_size: Option<u32>,
    /// `next_page_token` of the page before; it goes before `after`.
    page_token: Option<String>,
}

/// Entries of a stream.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
pub(crate) struct EntriesView {
    /// The entries.
    #[schemars(with = "Vec<schema::Object>")]
    pub(crate) items: Vec<Box<RawValue>>,
    /// Where the next page begins; absent at the present end of the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
    /// How many entries the record has.
    pub(crate) head_seq: u64,
    /// The hash of the last of them.
    #[schemars(with = "schema::Hash")]
    pub(crate) head_hash: orch::Digest,
}

impl EntriesView {
    /// A page of a stream with nothing in it.
    pub(super) fn empty(head: Head) -> Self {
        Self { items: Vec::new(), next_page_token: None, head_seq: head.seq, head_hash: head.hash }
    }
}

/// A page of a stream of the caller's tenant; nothing for a stream that has no entries. `name` is that of the list.
pub(super) async fn page(
    app: &App,
    caller: &Caller,
    stream: Stream,
    name: &str,
    asked: &AskEntries,
) -> ApiResult<Option<EntriesView>> {
    let page = asked_page(name, asked.page_size, asked.page_token.as_deref())?;
    let damaged = |_| ApiError::invalid_at("?page_token", "the token is damaged");
    let after = page.after.map_or(Ok(asked.after.unwrap_or(0)), |text| text.parse()).map_err(damaged)?;
    let request = EntriesRequest { tenant: caller.who.tenant.clone(), stream, after, limit: page.size };
    let found = app.orch.store().entries(&[request]).await?.pop();
    let Some(found) = found.filter(|found| found.head != Head::EMPTY) else { return Ok(None) };
    let items = found.lines.lines().map(|line| RawValue::from_string(line.to_owned()));
    let items: Result<_, _> = items.collect();
    let next = found.more().then(|| token(name, found.last.to_string()));
    Ok(Some(EntriesView {
        items: items.map_err(|cause| orch::Error::corrupt("an entry is no json").caused_by(cause))?,
        next_page_token: next,
        ..EntriesView::empty(found.head)
    }))
}
