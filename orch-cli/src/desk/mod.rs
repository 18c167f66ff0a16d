//! What is done rather than looked at, and who does it: the orchestrator of this process, or a service.

mod here;
#[cfg(feature = "remote")]
mod there;

use std::fmt;
use std::io::Write;

use async_trait::async_trait;
use bytes::Bytes;
use orch::engine::{DagVersion, PublishedDag, Submit, Submitted, VersionPlan};
use orch::planner::Operation;
use orch::proof::{Checkpoint, Manifest, Scope, SigningKey};
use orch::store::RunRow;
use orch::{Dag, DagId, Digest, Result, RunId, StepId, Timestamp};

pub(crate) use here::Here;
#[cfg(feature = "remote")]
pub(crate) use there::There;

/// A build that knows no services.
#[cfg(not(feature = "remote"))]
pub(crate) fn missing() -> crate::fault::Fault {
    let error = orch::Error::unsupported("this build of orch cannot talk to a service");
    let build = "cargo build --release --package orch-cli --features remote";
    crate::fault::Fault::from(error).hint(format!("build it with the feature: `{build}`"))
}

/// Does what commands ask for. Errors are those of the orchestrator's methods of the same names.
#[async_trait]
pub(crate) trait Desk: fmt::Debug + Send + Sync {
    async fn publish(&self, dag: Dag) -> Result<DagVersion>;

    async fn dags(&self) -> Result<Vec<PublishedDag>>;

    async fn dag(&self, dag: &DagId) -> Result<PublishedDag>;

    async fn dag_version(&self, dag: &DagId, version: Option<u32>) -> Result<VersionPlan>;

    async fn set_disabled(&self, dag: &DagId, version: u32, disabled: bool) -> Result<DagVersion>;

    async fn submit(&self, submit: Submit) -> Result<Submitted>;

    async fn operate(&self, run: RunId, operation: Operation) -> Result<RunRow>;

    async fn replay(&self, run: RunId) -> Result<Submitted>;

    async fn rerun(&self, run: RunId, from: &StepId) -> Result<Submitted>;

    async fn artifact(&self, hash: &Digest) -> Result<Bytes>;

    /// Takes a checkpoint, signed with `key` if there is one.
    async fn checkpoint(&self, scope: Scope, key: Option<SigningKey>) -> Result<Option<Checkpoint>>;

    /// Writes the record of the tenant, or of one run. That it was exported is recorded if anything can be.
    async fn export(&self, run: Option<RunId>, writer: &mut (dyn Write + Send)) -> Result<Manifest>;

    /// Deletes what ended before; answers how many runs went.
    async fn prune(&self, ended_before: Timestamp) -> Result<u64>;
}
