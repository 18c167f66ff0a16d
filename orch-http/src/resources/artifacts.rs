//! `/artifacts`: bytes kept outside the ledger, named by their content.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use orch::Digest;

use crate::App;
use crate::api::code::Code;
use crate::api::conditional::ETag;
use crate::api::{ApiResult, At, Caller, Guard, Route};
use crate::auth::Scope;

/// Bytes of an unknown kind: a browser neither guesses nor shows them.
const BYTES: &str = "application/octet-stream";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/artifacts/{hash}", "getArtifact", Guard::Scope(Scope::Read), get)
            .says("The bytes whose SHA-256 this is, if the tenant has them: a log, or an output too large for the record.")
            .gives_as(StatusCode::OK, BYTES, None)
            .may(&[Code::NotFound, Code::LimitExceeded]),
    ]
}

async fn get(
    State(app): State<App>,
    caller: Caller,
    At(hash): At<Digest>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let bytes = app.orch.artifacts().get(&caller.who.tenant, &hash).await?;
    let kind = [(header::CONTENT_TYPE, BYTES), (header::CONTENT_DISPOSITION, "attachment")];
    let mut answer = ETag::new(&[&hash.to_string()]).answer(&headers, (kind, bytes).into_response());
    // What is named by its content never changes.
    let kept = HeaderValue::from_static("private, max-age=31536000, immutable");
    answer.headers_mut().insert(header::CACHE_CONTROL, kept);
    Ok(answer)
}
