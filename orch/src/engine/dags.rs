//! Published DAGs: an immutable document per version, and a head per DAG that numbers them.
//!
//! A version's document is written first, under the hash of its plan; the head that makes it a version follows,
//! compare-and-swapped. Dying in between leaves a document that nobody refers to and that publishing again finds.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::audit;
use super::core::Core;
use super::handle::Identity;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{DagId, TenantId};
use crate::payload::Payload;
use crate::planner::{Plan, SharedPlan};
use crate::spec::Dag;
use crate::store::{Doc, DocKey, DocsQuery, Expect, PutDoc};
use crate::time::Timestamp;

/// The most versions of one DAG.
pub const VERSIONS_MAX: usize = 1_000;
/// Races lost before the caller is told.
const TRIES: usize = 16;
const HEAD: &str = "dag";
const VERSION: &str = "dag-plan";

/// A published version of a DAG.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DagVersion {
    /// Its number, from 1.
    pub version: u32,
    /// SHA-256 of its plan.
    pub plan_hash: Digest,
    /// When it was published.
    pub published_at: Timestamp,
    /// Who published it.
    pub actor: String,
    /// Whether new runs of it are refused.
    pub disabled: bool,
    /// How many steps it has.
    pub steps: u32,
}

/// A published DAG with all its versions, the newest last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedDag {
    /// The DAG.
    pub dag: DagId,
    /// What it is for, as the newest version says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub description: Option<String>,
    /// Its versions, oldest first.
    pub versions: Vec<DagVersion>,
}

/// One version together with its plan.
#[derive(Clone, Debug)]
pub struct VersionPlan {
    /// The version.
    pub version: DagVersion,
    /// The plan's document.
    pub plan: Payload,
}

fn head_key(tenant: &TenantId, dag: &DagId) -> DocKey {
    DocKey { tenant: tenant.clone(), kind: HEAD, key: dag.to_string() }
}

fn read_head(doc: &Doc) -> Result<PublishedDag> {
    serde_json::from_str(&doc.body).map_err(|cause| {
        Error::corrupt("a published dag has another shape").with("dag", &doc.key).caused_by(cause)
    })
}

pub(super) async fn publish(core: &Arc<Core>, who: &Identity, dag: Dag) -> Result<DagVersion> {
    let plan: SharedPlan = Arc::new(Plan::new(dag, core.limits())?);
    core.plans.put(&plan);
    let id = plan.dag().id.clone();
    let body = Some(plan.document().as_str().to_owned());
    let key = DocKey { tenant: who.tenant.clone(), kind: VERSION, key: plan.hash().to_string() };
    let detail = json!({ "planHash": plan.hash(), "steps": plan.steps().len() });
    let mut recorded = false;
    for _ in 0..TRIES {
        let doc = core.store.doc(&head_key(&who.tenant, &id)).await?;
        let mut head = match &doc {
            Some(doc) => read_head(doc)?,
            None => PublishedDag { dag: id.clone(), description: None, versions: Vec::new() },
        };
        if let Some(same) = head.versions.iter().find(|version| version.plan_hash == plan.hash()) {
            return Ok(same.clone());
        }
        if head.versions.len() >= VERSIONS_MAX {
            return Err(Error::limit_exceeded("too many versions of one dag").with("limit", VERSIONS_MAX));
        }
        if !std::mem::replace(&mut recorded, true) {
            audit::record(core, who, "dag.publish", id.to_string(), &detail).await?;
            match core
                .store
                .put_doc(&PutDoc { key: key.clone(), expect: Expect::Absent, body: body.clone() })
                .await
            {
                Err(error) if error.kind() != ErrorKind::Conflict => return Err(error),
                _ => {}
            }
        }
        let version = DagVersion {
            version: head.versions.last().map_or(1, |last| last.version + 1),
            plan_hash: plan.hash(),
            published_at: core.now(),
            actor: who.actor.clone(),
            disabled: false,
            steps: u32::try_from(plan.steps().len()).unwrap_or(u32::MAX),
        };
        head.description.clone_from(&plan.dag().description);
        head.versions.push(version.clone());
        if put_head(core, who, &head, doc.as_ref()).await? {
            return Ok(version);
        }
    }
    Err(Error::conflict("the dag is being published by too many at once").with("dag", &id))
}

/// Writes a head; answers whether nobody else was faster.
async fn put_head(core: &Core, who: &Identity, head: &PublishedDag, before: Option<&Doc>) -> Result<bool> {
    let body = serde_json::to_string(head)
        .map_err(|cause| Error::internal("a published dag does not serialise").caused_by(cause))?;
    let expect = before.map_or(Expect::Absent, |doc| Expect::Version(doc.version));
    let put = PutDoc { key: head_key(&who.tenant, &head.dag), expect, body: Some(body) };
    match core.store.put_doc(&put).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) async fn set_disabled(
    core: &Arc<Core>,
    who: &Identity,
    dag: &DagId,
    version: u32,
    seen: Option<bool>,
    disabled: bool,
) -> Result<DagVersion> {
    let action = if disabled { "dag.disable" } else { "dag.enable" };
    let mut recorded = false;
    for _ in 0..TRIES {
        let doc = core.store.doc(&head_key(&who.tenant, dag)).await?.ok_or_else(|| unknown(dag))?;
        let mut head = read_head(&doc)?;
        let found = head.versions.iter_mut().find(|known| known.version == version);
        let found = found.ok_or_else(|| unknown(dag).with("version", version))?;
        if seen.is_some_and(|seen| seen != found.disabled) {
            let error = Error::conflict("the version was changed meanwhile");
            return Err(error.with("dag", dag).with("version", version));
        }
        if found.disabled == disabled {
            return Ok(found.clone());
        }
        found.disabled = disabled;
        let changed = found.clone();
        if !std::mem::replace(&mut recorded, true) {
            audit::record(core, who, action, format!("{dag}@{version}"), &json!({})).await?;
        }
        if put_head(core, who, &head, Some(&doc)).await? {
            return Ok(changed);
        }
    }
    Err(Error::conflict("the dag is being changed by too many at once").with("dag", dag))
}

fn unknown(dag: &DagId) -> Error {
    Error::not_found("no such dag").with("dag", dag)
}

pub(super) async fn get(core: &Core, tenant: &TenantId, dag: &DagId) -> Result<PublishedDag> {
    let doc = core.store.doc(&head_key(tenant, dag)).await?.ok_or_else(|| unknown(dag))?;
    read_head(&doc)
}

pub(super) async fn list(
    core: &Core,
    tenant: &TenantId,
    after: Option<String>,
    limit: usize,
) -> Result<(Vec<PublishedDag>, bool)> {
    let page = core.store.docs(&DocsQuery { tenant: tenant.clone(), kind: HEAD, after, limit }).await?;
    Ok((page.docs.iter().map(read_head).collect::<Result<_>>()?, page.more))
}

/// One version and its plan; the newest enabled one for version 0. A plan that is kept here is not read again.
pub(super) async fn version(
    core: &Core,
    tenant: &TenantId,
    dag: &DagId,
    version: u32,
) -> Result<(u32, SharedPlan)> {
    let published = get(core, tenant, dag).await?;
    let wanted = |known: &&DagVersion| if version == 0 { !known.disabled } else { known.version == version };
    let found = published.versions.iter().rev().find(wanted);
    let found = found.ok_or_else(|| match version {
        0 => Error::refused("every version of the dag is disabled").with("dag", dag),
        _ => unknown(dag).with("version", version),
    })?;
    if found.disabled {
        return Err(Error::refused("this version of the dag is disabled")
            .with("dag", dag)
            .with("version", version));
    }
    let plan = match core.plans.find(&found.plan_hash) {
        Some(plan) => plan,
        None => core.plan_of(&read_plan(core, tenant, found.clone()).await?.plan)?,
    };
    Ok((found.version, plan))
}

/// One version with its plan, disabled or not.
pub(super) async fn show(core: &Core, tenant: &TenantId, dag: &DagId, version: u32) -> Result<VersionPlan> {
    let published = get(core, tenant, dag).await?;
    let found = published.versions.into_iter().rev().find(|known| version == 0 || known.version == version);
    read_plan(core, tenant, found.ok_or_else(|| unknown(dag).with("version", version))?).await
}

async fn read_plan(core: &Core, tenant: &TenantId, version: DagVersion) -> Result<VersionPlan> {
    let key = DocKey { tenant: tenant.clone(), kind: VERSION, key: version.plan_hash.to_string() };
    let missing =
        || Error::corrupt("the plan of a published version is missing").with("planHash", version.plan_hash);
    let doc = core.store.doc(&key).await?.ok_or_else(missing)?;
    let plan = Payload::parse(&doc.body)?;
    if plan.digest() != version.plan_hash {
        return Err(
            Error::corrupt("the plan of a published version was altered").with("planHash", version.plan_hash)
        );
    }
    Ok(VersionPlan { version, plan })
}
