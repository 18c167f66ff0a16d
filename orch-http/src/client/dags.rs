//! DAGs: published, looked at, disabled.

use std::collections::BTreeMap;

use orch::engine::{DagVersion, PublishedDag, VersionPlan};
use orch::{Dag, DagId, Error, Payload, Result};
use serde_json::json;

use super::Client;
use crate::api::page::{PAGE_SIZE_MAX, Page};
use crate::resources::dags::{DagView, VersionDetail, VersionView};

impl Client {
    /// Publishes a DAG as a new version. Publishing what is published already answers the version it has.
    ///
    /// # Errors
    /// As [`Orchestrator::publish`](orch::Orchestrator::publish).
    pub async fn publish(&self, dag: &Dag) -> Result<DagVersion> {
        let document = serde_json::to_value(dag)
            .map_err(|cause| Error::internal("a dag does not serialise").caused_by(cause))?;
        let call = self.post("/dags").json(&json!({ "dag": document }));
        call.answer::<VersionView>().await.map(Into::into)
    }

    /// All published DAGs, by id.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn dags(&self) -> Result<Vec<PublishedDag>> {
        let mut dags: BTreeMap<DagId, PublishedDag> = BTreeMap::new();
        let mut token: Option<String> = None;
        loop {
            let call = self.get("/dags").query("page_size", Some(PAGE_SIZE_MAX)).query("page_token", token);
            let Page { items, next_page_token } = call.answer::<Page<VersionView>>().await?;
            for mut view in items {
                let (dag, description) = (view.dag_id.clone(), view.description.take());
                let known = dags.entry(dag.clone()).or_insert_with(|| PublishedDag {
                    dag,
                    description,
                    versions: Vec::new(),
                });
                known.versions.push(view.into());
            }
            token = next_page_token;
            if token.is_none() {
                break;
            }
        }
        let mut dags: Vec<_> = dags.into_values().collect();
        // The newest came first.
        dags.iter_mut().for_each(|dag| dag.versions.reverse());
        Ok(dags)
    }

    /// A published DAG with its versions.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn dag(&self, dag: &DagId) -> Result<PublishedDag> {
        self.get(format!("/dags/{dag}")).answer::<DagView>().await.map(Into::into)
    }

    /// One version of a DAG with its plan, whose hash is verified here; the newest one without a number.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`; `Corrupt` when the plan has another hash.
    pub async fn dag_version(&self, dag: &DagId, version: Option<u32>) -> Result<VersionPlan> {
        let newest = || Error::not_found("no such dag").with("dag", dag);
        let version = match version {
            Some(version) => version,
            None => self.dag(dag).await?.versions.last().ok_or_else(newest)?.version,
        };
        let detail = self.get(format!("/dags/{dag}/{version}")).answer::<VersionDetail>().await?;
        let (version, plan) = (DagVersion::from(detail.version), Payload::new(&detail.definition)?);
        if plan.digest() != version.plan_hash {
            let error = Error::corrupt("the plan of a published version was altered");
            return Err(error.with("planHash", version.plan_hash));
        }
        Ok(VersionPlan { version, plan })
    }

    /// Refuses new runs of a version, or accepts them again. Runs under way go on.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn set_disabled(&self, dag: &DagId, version: u32, disabled: bool) -> Result<DagVersion> {
        let action = if disabled { "disable" } else { "enable" };
        self.post(format!("/dags/{dag}/{version}:{action}")).answer::<VersionView>().await.map(Into::into)
    }
}
