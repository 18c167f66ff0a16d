//! `/dags`: publish, list, look at, disable.

use axum::extract::{FromRequest, Request, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode, header};
use orch::engine::{DagVersion, PublishedDag};
use orch::store::{DocKey, Expect, PutDoc};
use orch::{Dag, DagId, Payload, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::App;
use crate::api::code::Code;
use crate::api::conditional::ETag;
use crate::api::error::Detail;
use crate::api::page::{self, Page};
use crate::api::path::DagVersionNumber;
use crate::api::{Answer, ApiError, ApiResult, At, Body, Caller, Guard, Query, Route, body, schema};
use crate::auth::Scope;
use crate::dsse::Signatures;

/// Races with other changes of a version before the caller is told.
const RACES: usize = 4;
/// The kind of documents that keep who vouched for a plan.
const SIGNATURES: &str = "dag-signatures";

const READ: Guard = Guard::Scope(Scope::Read);
const ADMIN: Guard = Guard::Scope(Scope::Admin);

pub(super) fn routes() -> Vec<Route> {
    let switch = |route: Route| {
        route.gives::<VersionView>(StatusCode::OK).may(&[
            Code::NotFound,
            Code::PreconditionFailed,
            Code::Conflict,
        ])
    };
    vec![
        Route::post("/dags", "publishDag", ADMIN, publish)
            .says("Publish a DAG as a new version. Publishing what is published already answers the version it has.")
            .takes_as::<PublishDag>(&["application/json", "application/yaml"])
            .like(r#"{"apiVersion":"orch/v1","kind":"Dag","id":"nap","steps":[{"id":"nap","uses":"wait/sleep","with":{"duration":"1s"}}]}"#)
            .gives::<VersionView>(StatusCode::CREATED)
            .gives::<VersionView>(StatusCode::OK)
            .may(&[Code::Refused, Code::Conflict, Code::LimitExceeded]),
        Route::get("/dags", "listDags", READ, list)
            .says("List published versions, by DAG, then the newest first.")
            .query::<ListDags>()
            .gives::<Page<VersionView>>(StatusCode::OK),
        Route::get("/dags/{dagId}", "getDag", READ, get)
            .says("Look at a published DAG with all its versions, the newest first.")
            .gives::<DagView>(StatusCode::OK)
            .may(&[Code::NotFound]),
        Route::get("/dags/{dagId}/{version}", "getDagVersion", READ, get_version)
            .says("Look at a version with its definition: the steps in the order in which they execute.")
            .gives::<VersionDetail>(StatusCode::OK)
            .may(&[Code::NotFound]),
        switch(Route::post("/dags/{dagId}/{version}:disable", "disableDag", ADMIN, disable))
            .says("Refuse new runs of a version. Runs under way go on."),
        switch(Route::post("/dags/{dagId}/{version}:enable", "enableDag", ADMIN, enable))
            .says("Accept new runs of a version again."),
    ]
}

/// A DAG to publish: the document in `dag`, or a document itself (`apiVersion: orch/v1`), or its parts under the names of the
/// platform (`dagId`, `steps`, `edges`, `metadata`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PublishDag {
    /// The document: an object, or its YAML or JSON as text.
    #[schemars(with = "schema::Json")]
    dag: Value,
    /// Signatures over the text of the document, or over its canonical JSON (RFC 8785) if it is an object.
    signature: Option<Signatures>,
    /// The number that the new version must get.
    #[schemars(range(min = 1))]
    version: Option<u32>,
}

/// What is to be published, however it was written.
struct Publication {
    /// The document, exactly as it is signed.
    text: String,
    signature: Option<Signatures>,
    version: Option<u32>,
}

impl FromRequest<App> for Publication {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> ApiResult<Self> {
        let media = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if media.is_some_and(|media| media.contains("yaml")) {
            let bytes = body::collect(request, app.settings.limits.body_bytes).await?;
            let text = String::from_utf8(bytes.into());
            let text = text.map_err(|_| ApiError::invalid_at("", "the document is not UTF-8"))?;
            return Ok(Self { text, signature: None, version: None });
        }
        let Body(mut value) = Body::<schema::Anything>::from_request(request, app).await?;
        if value.0.get("apiVersion").is_some() {
            return Ok(Self { text: value.0.to_string(), signature: None, version: None });
        }
        if value.0.get("dagId").is_some() {
            return Self::of_parts(value.0.take());
        }
        let PublishDag { dag, signature, version } = body::read(value.0.to_string().as_bytes())?;
        let text = match dag {
            Value::String(text) => text,
            dag => Payload::new(&dag)?.as_str().to_owned(),
        };
        Ok(Self { text, signature, version })
    }
}

/// The parts of a DAG under the names that the platform documents.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parts {
    #[schemars(with = "schema::Slug")]
    dag_id: DagId,
    version: Option<u32>,
    #[serde(default)]
    steps: Vec<Value>,
    #[serde(default)]
    edges: Vec<Value>,
    #[serde(default)]
    metadata: Metadata,
    signature: Option<Signatures>,
}

/// What the platform's metadata may say here.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Metadata {
    description: Option<String>,
    inputs: Option<Value>,
}

impl Publication {
    fn of_parts(value: Value) -> ApiResult<Self> {
        let Parts { dag_id, version, steps, edges, metadata, signature } =
            body::read(value.to_string().as_bytes())?;
        let mut dag = json!({ "apiVersion": "orch/v1", "kind": "Dag", "id": dag_id, "steps": steps });
        let optional = [
            (
                "edges",
                Some(Value::from(edges))
                    .filter(|edges| edges.as_array().is_some_and(|edges| !edges.is_empty())),
            ),
            ("description", metadata.description.map(Value::from)),
            ("inputs", metadata.inputs),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                dag[name] = value;
            }
        }
        Ok(Self { text: Payload::new(&dag)?.as_str().to_owned(), signature, version })
    }

    /// The document, or all that is wrong with it.
    fn dag(&self, app: &App) -> ApiResult<Dag> {
        orch::spec::parse("dag", &self.text, &app.orch.settings().limits).map_err(|problems| {
            let details = problems.problems.into_iter().map(|problem| {
                let place = format!("line {}, column {}", problem.line, problem.column);
                let hint = problem.hint.map_or(place.clone(), |hint| format!("{place}: {hint}"));
                Detail { hint: Some(hint), ..Detail::new(problem.path, problem.message) }
            });
            ApiError::invalid(details.collect())
        })
    }

    /// Lets it through if somebody trusted vouches for it, or nobody has to.
    fn check_signature(&self, app: &App) -> ApiResult<()> {
        let trusted = &app.settings.dags.signers;
        match &self.signature {
            Some(signature) if signature.signer(self.text.as_bytes(), trusted).is_none() => {
                Err(ApiError::new(Code::Refused, "no key that is trusted here has signed this document"))
            }
            None if app.settings.dags.require_signature => {
                Err(ApiError::new(Code::Refused, "only signed documents are published here"))
            }
            _ => Ok(()),
        }
    }
}

async fn publish(
    State(app): State<App>,
    caller: Caller,
    publication: Publication,
) -> ApiResult<Answer<VersionView>> {
    let dag = publication.dag(&app)?;
    publication.check_signature(&app)?;
    let id = dag.id.clone();
    let known = match app.orch.dag(&caller.who, &id).await {
        Ok(known) => known.versions,
        Err(error) if error.kind() == orch::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    if let Some(wanted) = publication.version {
        let plan = orch::planner::Plan::new(dag.clone(), &app.orch.settings().limits)?.hash();
        let next = known.last().map_or(1, |last| last.version + 1);
        let would_be =
            known.iter().find(|version| version.plan_hash == plan).map_or(next, |same| same.version);
        if would_be != wanted {
            return Err(ApiError::new(
                Code::Conflict,
                format!("it would become version {would_be}, not {wanted}"),
            ));
        }
    }
    let version = app.orch.publish(&caller.who, dag).await?;
    if let Some(signature) = &publication.signature {
        keep(&app, &caller, &version, signature).await?;
    }
    let new = !known.iter().any(|before| before.version == version.version);
    let view = VersionView::of(&id, version);
    Ok(if new { Answer::created(view) } else { Answer::ok(view) })
}

fn signature_key(caller: &Caller, plan: &orch::Digest) -> DocKey {
    DocKey { tenant: caller.who.tenant.clone(), kind: SIGNATURES, key: plan.to_string() }
}

/// Keeps who vouched for a plan. Publishing again with the same signature keeps it if it was not kept the first time.
async fn keep(app: &App, caller: &Caller, version: &DagVersion, signature: &Signatures) -> ApiResult<()> {
    let body = serde_json::to_string(signature)
        .map_err(|cause| orch::Error::internal("signatures are no json").caused_by(cause))?;
    let key = signature_key(caller, &version.plan_hash);
    app.orch.store().put_doc(&PutDoc { key, expect: Expect::Any, body: Some(body) }).await?;
    Ok(())
}

/// Which versions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListDags {
    /// Only of this DAG.
    #[serde(rename = "dagId")]
    #[schemars(with = "Option<schema::Slug>")]
    dag_id: Option<DagId>,
    /// Only those that accept runs, or only those that do not.
    active: Option<bool>,
    /// Rows of the page.
    #[schemars(range(min = 1, max = 500))]
    page_size: Option<u32>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// A version of a DAG as lists show it.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VersionView {
    /// The DAG.
    #[schemars(with = "schema::Slug")]
    pub(crate) dag_id: DagId,
    /// The number of the version, from 1.
    version: u32,
    /// Whether it accepts new runs.
    active: bool,
    /// SHA-256 of its plan.
    #[schemars(with = "schema::Hash")]
    plan_hash: orch::Digest,
    /// How many steps it has.
    steps: u32,
    /// When it was published.
    #[schemars(with = "schema::Time")]
    published_utc: Timestamp,
    /// By whom.
    actor: String,
    /// What the DAG is for, as its newest version says; in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
}

impl From<VersionView> for DagVersion {
    fn from(view: VersionView) -> Self {
        Self {
            version: view.version,
            plan_hash: view.plan_hash,
            published_at: view.published_utc,
            actor: view.actor,
            disabled: !view.active,
            steps: view.steps,
        }
    }
}

impl VersionView {
    fn of(dag: &DagId, version: DagVersion) -> Self {
        Self {
            dag_id: dag.clone(),
            version: version.version,
            active: !version.disabled,
            plan_hash: version.plan_hash,
            steps: version.steps,
            published_utc: version.published_at,
            actor: version.actor,
            description: None,
        }
    }

    fn etag(&self) -> ETag {
        ETag::new(&[&self.plan_hash.to_string()[..16], if self.active { "active" } else { "disabled" }])
    }
}

/// A published DAG.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DagView {
    /// The DAG.
    #[schemars(with = "schema::Slug")]
    dag_id: DagId,
    /// What it is for, as the newest version says.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// Its versions, the newest first.
    versions: Vec<VersionView>,
}

impl From<DagView> for PublishedDag {
    fn from(view: DagView) -> Self {
        let versions = view.versions.into_iter().rev().map(Into::into).collect();
        Self { dag: view.dag_id, description: view.description, versions }
    }
}

/// A version with its definition.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VersionDetail {
    #[serde(flatten)]
    pub(crate) version: VersionView,
    /// The document, its steps in the order in which they execute. Its canonical JSON is what `planHash` is about.
    #[schemars(with = "schema::Object")]
    pub(crate) definition: Value,
    /// Who vouched for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<Signatures>,
}

async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(asked): Query<ListDags>,
) -> ApiResult<Answer<Page<VersionView>>> {
    let name = format!("dags?{:?}&{:?}", asked.dag_id, asked.active);
    let page = page::asked(&name, asked.page_size, asked.page_token.as_deref())?;
    let damaged = || ApiError::invalid_at("?page_token", "the token is damaged");
    // The last version that was listed. Its DAG is asked for again, in case more of its versions follow.
    let last = match &page.after {
        None => None,
        Some(text) => {
            let (dag, version) = text.rsplit_once('/').ok_or_else(damaged)?;
            Some((DagId::new(dag).map_err(|_| damaged())?, version.parse::<u32>().map_err(|_| damaged())?))
        }
    };
    let fits = |view: &VersionView| asked.active.is_none_or(|active| active == view.active);
    let mut items = Vec::new();
    let mut add = |dag: PublishedDag, below: Option<u32>| {
        let versions = dag
            .versions
            .into_iter()
            .rev()
            .filter(|version| below.is_none_or(|below| version.version < below));
        let view = |version| VersionView {
            description: dag.description.clone(),
            ..VersionView::of(&dag.dag, version)
        };
        items.extend(versions.map(view).filter(fits));
        items.len() > page.size
    };
    let only = asked.dag_id.as_ref().or(last.as_ref().map(|(dag, _)| dag));
    let mut full = match only {
        None => false,
        Some(dag) => match app.orch.dag(&caller.who, dag).await {
            Ok(found) => add(found, last.as_ref().map(|(_, version)| *version)),
            Err(error) if error.kind() == orch::ErrorKind::NotFound => false,
            Err(error) => return Err(error.into()),
        },
    };
    let mut after = last.map(|(dag, _)| dag.to_string());
    while !full && asked.dag_id.is_none() {
        let (found, more) = app.orch.dags(&caller.who, after, 50).await?;
        after = found.last().map(|dag| dag.dag.to_string());
        full = found.into_iter().any(|dag| add(dag, None));
        if !more {
            break;
        }
    }
    let more = items.len() > page.size;
    items.truncate(page.size);
    let next = items.last().filter(|_| more).map(|last| format!("{}/{}", last.dag_id, last.version));
    Ok(Answer::ok(Page { items, next_page_token: next.map(|next| page::token(&name, next)) }))
}

async fn get(State(app): State<App>, caller: Caller, At(dag): At<DagId>) -> ApiResult<Answer<DagView>> {
    let found = app.orch.dag(&caller.who, &dag).await?;
    let versions = found.versions.into_iter().rev().map(|version| VersionView::of(&dag, version)).collect();
    Ok(Answer::ok(DagView { dag_id: found.dag, description: found.description, versions }))
}

async fn get_version(
    State(app): State<App>,
    caller: Caller,
    At(dag): At<DagId>,
    At(DagVersionNumber(number)): At<DagVersionNumber>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let found = app.orch.dag_version(&caller.who, &dag, Some(number)).await?;
    let signature = app.orch.store().doc(&signature_key(&caller, &found.version.plan_hash)).await?;
    let version = VersionView::of(&dag, found.version);
    let etag = version.etag();
    let detail = VersionDetail {
        version,
        definition: found.plan.to_value(),
        signature: signature.and_then(|doc| serde_json::from_str(&doc.body).ok()),
    };
    Ok(etag.answer(&headers, Answer::ok(detail)))
}

async fn disable(
    State(app): State<App>,
    caller: Caller,
    At(dag): At<DagId>,
    At(version): At<DagVersionNumber>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    switch(&app, &caller, &dag, version, &headers, true).await
}

async fn enable(
    State(app): State<App>,
    caller: Caller,
    At(dag): At<DagId>,
    At(version): At<DagVersionNumber>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    switch(&app, &caller, &dag, version, &headers, false).await
}

async fn switch(
    app: &App,
    caller: &Caller,
    dag: &DagId,
    DagVersionNumber(number): DagVersionNumber,
    headers: &HeaderMap,
    disabled: bool,
) -> ApiResult<Response> {
    // What the caller has seen is compared in the change itself, so nobody gets in between.
    for _ in 0..RACES {
        let known = app.orch.dag(&caller.who, dag).await?.versions;
        let before = known.into_iter().find(|known| known.version == number);
        let before = before.ok_or_else(|| ApiError::not_found("version"))?;
        let seen = before.disabled;
        VersionView::of(dag, before).etag().check(headers)?;
        match app.orch.set_disabled_if(&caller.who, dag, number, seen, disabled).await {
            // Whether that is still what the caller has seen is asked anew.
            Err(error) if error.kind() == orch::ErrorKind::Conflict => {}
            changed => {
                let view = VersionView::of(dag, changed?);
                let etag = view.etag();
                return Ok(etag.answer(&HeaderMap::new(), Answer::ok(view)));
            }
        }
    }
    Err(ApiError::new(Code::Conflict, "the version is being changed by too many at once"))
}
