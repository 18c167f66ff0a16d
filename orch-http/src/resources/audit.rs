//! `/audit`: what was done to a tenant's orchestration, by whom, and why.

use axum::extract::State;
use http::StatusCode;
use orch::ledger::{Head, Stream};

use super::entries::{AskEntries, EntriesView, page};
use crate::App;
use crate::api::{Answer, ApiResult, Caller, Guard, Query, Route};
use crate::auth::Scope;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/audit", "listAudit", Guard::Scope(Scope::Admin), list)
            .says("The entries of the tenant's audit stream, oldest first, as they are chained: what was done, by whom, why, and for which ticket.")
            .query::<AskEntries>()
            .gives::<EntriesView>(StatusCode::OK),
    ]
}

async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(asked): Query<AskEntries>,
) -> ApiResult<Answer<EntriesView>> {
    let found = page(&app, &caller, Stream::Audit, "audit", &asked).await?;
    Ok(Answer::ok(found.unwrap_or_else(|| EntriesView::empty(Head::EMPTY))))
}
