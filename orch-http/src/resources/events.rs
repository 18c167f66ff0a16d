//! `/runs/{runId}/events`: the record of a run, exactly as it is chained.

use axum::extract::State;
use http::StatusCode;
use orch::RunId;
use orch::ledger::Stream;

use super::entries::{AskEntries, EntriesView, page};
use crate::App;
use crate::api::code::Code;
use crate::api::{Answer, ApiError, ApiResult, At, Caller, Guard, Query, Route};
use crate::auth::Scope;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/runs/{runId}/events", "listEvents", Guard::Scope(Scope::Read), list)
            .says("The entries of a run, in order. Each is the JSON that was hashed, byte for byte, so that whoever reads them can verify the chain.")
            .query::<AskEntries>()
            .gives::<EntriesView>(StatusCode::OK)
            .may(&[Code::NotFound]),
    ]
}

async fn list(
    State(app): State<App>,
    caller: Caller,
    At(run): At<RunId>,
    Query(asked): Query<AskEntries>,
) -> ApiResult<Answer<EntriesView>> {
    let found = page(&app, &caller, Stream::Run(run), &format!("events/{run}"), &asked).await?;
    found.map(Answer::ok).ok_or_else(|| ApiError::not_found("run"))
}
