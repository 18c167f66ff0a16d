//! `/exports`: the record of a tenant or of a run, to be taken elsewhere and verified there.
//!
//! An export flows as it is read: neither its size nor the memory of the service bounds it. What it came to is known at its
//! end only, so the manifest is a resource of its own: it is there once the last line was handed over, and not before.

use std::io::{self, Write};
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures::stream::{Stream, unfold};
use http::{HeaderName, HeaderValue, StatusCode, header};
use orch::proof::{self, Counts, Manifest};
use orch::store::{Doc, DocKey, DocsQuery, Expect, PutDoc};
use orch::{Digest, RunId, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use crate::App;
use crate::api::code::Code;
use crate::api::count::Entered;
use crate::api::forget::forget;
use crate::api::idempotency::{Named, REPLAYED};
use crate::api::page::{self, Page};
use crate::api::path::parameter;
use crate::api::route::NDJSON;
use crate::api::trace::{draw, hex};
use crate::api::{Answer, ApiError, ApiResult, Caller, Checked, Guard, Query, Route, schema};
use crate::auth::Scope;

const KIND: &str = "export";
/// Exports under way in one process.
const AT_ONCE: usize = 4;
/// Bytes handed over at once, and how many such pieces wait for the client.
const PIECE: usize = 64 << 10;
const AHEAD: usize = 8;
/// How long a client may refuse to take a piece before its export is ended.
const PATIENCE: Duration = Duration::from_secs(60);
/// Manifests older than this go when another one comes.
const KEPT: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Names the export, so that its manifest can be found.
const EXPORT_ID: HeaderName = HeaderName::from_static("x-export-id");

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/exports", "export", Guard::Scope(Scope::Admin), export)
            .says("Every entry of the tenant, or of one run, as NDJSON, each line exactly the hashed bytes. `X-Export-Id` and `Location` name its manifest, which is there once the last line was handed over. Asked again with its `Idempotency-Key`, it is the same export: broken off, it is made anew; handed over whole, it is the same bytes.")
            .takes::<AskExport>()
            .like(r#"{}"#)
            .gives_as(StatusCode::OK, NDJSON, None)
            .may(&[Code::NotFound])
            .endless(),
        Route::get("/exports", "listExports", Guard::Scope(Scope::Admin), list)
            .says("The manifests of exports that were handed over whole, oldest first.")
            .query::<AskExports>()
            .gives::<Page<ManifestView>>(StatusCode::OK),
        Route::get("/exports/{exportId}", "getExport", Guard::Scope(Scope::Admin), get)
            .says("The manifest of an export: keep it beside the file as `FILE.manifest.json`, and `orch ledger verify --export FILE` checks both.")
            .gives::<ManifestFile>(StatusCode::OK)
            .may(&[Code::NotFound]),
    ]
}

/// What to export.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AskExport {
    /// The only run; the whole tenant without it.
    #[schemars(with = "Option<schema::RunId>")]
    run_id: Option<RunId>,
}

/// Which exports.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AskExports {
    /// Rows of a page, 50 without it.
    #[schemars(range(min = 1, max = 500))]
    page_size: Option<u32>,
    /// Where the page begins: `next_page_token` of the page before.
    page_token: Option<String>,
}

/// What an export came to.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ManifestView {
    /// Names the export.
    export_id: String,
    /// When it was made.
    #[schemars(with = "schema::Time")]
    created_utc: Timestamp,
    /// The only run, if it was not the whole tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::RunId>")]
    run_id: Option<RunId>,
    /// SHA-256 of the file.
    #[schemars(with = "schema::Hash")]
    sha256: Digest,
    /// Streams in it.
    streams: u64,
    /// Entries in it.
    entries: u64,
    /// Bytes of it.
    bytes: u64,
}

/// A manifest, as it is kept beside an export.
#[derive(Debug, JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "names the fields of a document that is copied")]
struct ManifestFile {
    /// Always `orch/export/v1`.
    format: String,
    /// Whose entries.
    #[schemars(with = "schema::Slug")]
    tenant: String,
    /// When it was made.
    #[schemars(with = "schema::Time")]
    created_at: String,
    /// The version of orch that made it.
    version: String,
    /// How much.
    #[schemars(with = "schema::Object")]
    counts: (),
    /// SHA-256 of the file.
    #[schemars(with = "schema::Hash")]
    sha256: String,
    /// The head of each stream, in order of their ends in the file.
    #[schemars(with = "Vec<schema::Object>")]
    heads: (),
}

async fn export(
    State(app): State<App>,
    caller: Caller,
    Checked(asked): Checked<AskExport>,
) -> ApiResult<Response> {
    let place = app.exports.enter(AT_ONCE).ok_or_else(|| {
        ApiError::new(Code::Unavailable, "too many exports are under way").retry_after(Duration::from_secs(5))
    })?;
    if let Some(run) = asked.run_id {
        app.orch.run(&caller.who, run).await?;
    }
    let target = asked.run_id.map_or_else(|| "tenant".to_owned(), |run| format!("run/{run}"));
    app.orch.audit(&caller.who, "ledger.export", target, &json!({})).await?;
    let now = app.orch.now();
    let id = id(caller.request.as_ref(), now);
    let key = DocKey { tenant: caller.who.tenant, kind: KIND, key: id.clone() };
    let handed_over = match caller.request {
        Some(_) => app.orch.store().doc(&key).await?.as_ref().and_then(read),
        None => None,
    };
    let replayed = handed_over.is_some();
    let (sender, receiver) = mpsc::channel(AHEAD);
    let (whole, ended) = oneshot::channel();
    let job = Job { app, run: asked.run_id, key, handed_over, now, _place: place };
    tokio::task::spawn_blocking(move || {
        if tokio::runtime::Handle::current().block_on(job.run(sender)) {
            // Nobody listens where the client has gone.
            let _ = whole.send(());
        }
    });
    let pieces = pieces(receiver, ended);
    let location = format!("{}/exports/{id}", crate::BASE);
    let headers = [(header::CONTENT_TYPE, NDJSON.to_owned()), (header::LOCATION, location), (EXPORT_ID, id)];
    let mut response = (headers, HttpBody::from_stream(pieces)).into_response();
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Names an export, in the order of time: always the same for one that was asked for with a key.
fn id(asked: Option<&Named>, now: Timestamp) -> String {
    let (at, name) = match asked {
        Some(Named { name, at }) => (*at, Digest::of(name).to_string().split_off(48)),
        None => (now, hex(draw::<8>())),
    };
    format!("{:016x}-{name}", at.as_micros())
}

/// What is handed over, piece by piece. Unless it is said that this was the whole, the end is an error: the connection
/// breaks off, however the export came to its end, and nobody takes a part for the whole.
fn pieces(
    receiver: mpsc::Receiver<Bytes>,
    whole: oneshot::Receiver<()>,
) -> impl Stream<Item = io::Result<Bytes>> {
    unfold(Some((receiver, whole)), |state| async move {
        let (mut receiver, whole) = state?;
        match receiver.recv().await {
            Some(piece) => Some((Ok(piece), Some((receiver, whole)))),
            None => whole.await.err().map(|_| (Err(io::Error::other("the export has failed")), None)),
        }
    })
}

/// An export under way.
struct Job {
    app: App,
    run: Option<RunId>,
    /// Where its manifest goes.
    key: DocKey,
    /// What it came to when it was asked for before.
    handed_over: Option<Manifest>,
    now: Timestamp,
    _place: Entered,
}

impl Job {
    /// Hands the record over piece by piece, and leaves the manifest behind. A client that has heard the end finds it there.
    /// Answers whether that was the whole.
    async fn run(&self, sender: mpsc::Sender<Bytes>) -> bool {
        let ended = self.hand_over(sender).await;
        ended
            .inspect_err(
                |error| tracing::warn!(tenant = %self.key.tenant, %error, "an export did not come to its end"),
            )
            .is_ok()
    }

    async fn hand_over(&self, sender: mpsc::Sender<Bytes>) -> orch::Result<()> {
        let store = self.app.orch.store().as_ref();
        let mut writer = Pieces { sender, piece: BytesMut::with_capacity(PIECE) };
        let made = match &self.handed_over {
            Some(manifest) => {
                proof::export_again(store, manifest, &mut writer).await?;
                None
            }
            None => Some(proof::export(store, &self.key.tenant, self.run, self.now, &mut writer).await?),
        };
        writer
            .flush()
            .map_err(|cause| orch::Error::unavailable("the last piece was not taken").caused_by(cause))?;
        match made {
            Some(manifest) => keep(&self.app, &self.key, &manifest).await,
            None => Ok(()),
        }
    }
}

/// Collects what is written into pieces, and waits for the client to take them.
struct Pieces {
    sender: mpsc::Sender<Bytes>,
    piece: BytesMut,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, BytesMut::with_capacity(PIECE)).freeze();
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone, or takes nothing");
        // Whoever waits here never comes back to a runtime that could grant another share of its time.
        let sent = tokio::task::unconstrained(self.sender.send_timeout(piece, PATIENCE));
        futures::executor::block_on(sent).map_err(|_| gone())
    }
}

/// Of two that were asked for with one key at once, the first that is whole counts; the other breaks off.
async fn keep(app: &App, key: &DocKey, manifest: &Manifest) -> orch::Result<()> {
    let body = serde_json::to_string(manifest)
        .map_err(|cause| orch::Error::internal("a manifest is no json").caused_by(cause))?;
    app.orch.store().put_doc(&PutDoc { key: key.clone(), expect: Expect::Absent, body: Some(body) }).await?;
    let now = app.orch.now();
    let old = |doc: &Doc| read(doc).is_none_or(|manifest| now.since(manifest.created_at) > KEPT);
    // The manifest is there, whatever becomes of old ones.
    if let Err(error) = forget(app.orch.store().as_ref(), &key.tenant, KIND, None, old).await {
        tracing::debug!(%error, "old manifests were not cleared away");
    }
    Ok(())
}

fn read(doc: &Doc) -> Option<Manifest> {
    serde_json::from_str(&doc.body).ok()
}

async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(asked): Query<AskExports>,
) -> ApiResult<Answer<Page<ManifestView>>> {
    let asked = page::asked(KIND, asked.page_size, asked.page_token.as_deref())?;
    let query = DocsQuery { tenant: caller.who.tenant, kind: KIND, after: asked.after, limit: asked.size };
    let found = app.orch.store().docs(&query).await?;
    let next = found.docs.last().filter(|_| found.more).map(|last| page::token(KIND, last.key.clone()));
    let view = |doc: &Doc| {
        let Manifest { run, created_at, counts, sha256, .. } = read(doc)?;
        let Counts { streams, entries, bytes } = counts;
        let export_id = doc.key.clone();
        Some(ManifestView {
            export_id,
            created_utc: created_at,
            run_id: run,
            sha256,
            streams,
            entries,
            bytes,
        })
    };
    let items = found.docs.iter().filter_map(view).collect();
    Ok(Answer::ok(Page { items, next_page_token: next }))
}

async fn get(
    State(app): State<App>,
    caller: Caller,
    parts: http::request::Parts,
) -> ApiResult<Answer<Box<RawValue>>> {
    let missing = || ApiError::not_found("export");
    let key = parameter(&parts, "exportId")?;
    let fits = key.len() <= 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let place = DocKey { tenant: caller.who.tenant, kind: KIND, key };
    let found = if fits { app.orch.store().doc(&place).await? } else { None };
    let body = RawValue::from_string(found.ok_or_else(missing)?.body);
    Ok(Answer::ok(body.map_err(|cause| orch::Error::corrupt("a manifest is no json").caused_by(cause))?))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn only_an_export_that_came_to_its_end_ends_without_an_error() {
        for whole in [true, false] {
            let ((sender, receiver), (said, ended)) = (mpsc::channel(AHEAD), oneshot::channel());
            sender.send(Bytes::from_static(b"a part")).await.unwrap();
            drop(sender);
            if whole {
                said.send(()).unwrap();
            } else {
                drop(said);
            }
            let got: Vec<_> = pieces(receiver, ended).map(|piece| piece.is_ok()).collect().await;
            assert_eq!(got, if whole { vec![true] } else { vec![true, false] });
        }
    }
}
