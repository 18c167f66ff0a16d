//! The orchestrator of this process does it.

use std::io::Write;

use async_trait::async_trait;
use bytes::Bytes;
use orch::engine::{
    DagVersion, Identity, Orchestrator, PublishedDag, Resubmit, Submit, Submitted, VersionPlan,
};
use orch::planner::Operation;
use orch::proof::{self, Checkpoint, Manifest, PruneRuns, Scope, SigningKey, TakeCheckpoint};
use orch::store::RunRow;
use orch::{Dag, DagId, Digest, Result, RunId, StepId, Timestamp};
use serde_json::json;

use super::Desk;

/// An orchestrator on behalf of somebody.
#[derive(Debug)]
pub(crate) struct Here {
    pub(crate) orch: Orchestrator,
    pub(crate) who: Identity,
    /// Nothing can be recorded.
    pub(crate) only_reads: bool,
}

#[async_trait]
impl Desk for Here {
    async fn publish(&self, dag: Dag) -> Result<DagVersion> {
        self.orch.publish(&self.who, dag).await
    }

    async fn dags(&self) -> Result<Vec<PublishedDag>> {
        let mut dags: Vec<PublishedDag> = Vec::new();
        loop {
            let after = dags.last().map(|dag| dag.dag.to_string());
            let (page, more) = self.orch.dags(&self.who, after, 500).await?;
            dags.extend(page);
            if !more {
                return Ok(dags);
            }
        }
    }

    async fn dag(&self, dag: &DagId) -> Result<PublishedDag> {
        self.orch.dag(&self.who, dag).await
    }

    async fn dag_version(&self, dag: &DagId, version: Option<u32>) -> Result<VersionPlan> {
        self.orch.dag_version(&self.who, dag, version).await
    }

    async fn set_disabled(&self, dag: &DagId, version: u32, disabled: bool) -> Result<DagVersion> {
        self.orch.set_disabled(&self.who, dag, version, disabled).await
    }

    async fn submit(&self, submit: Submit) -> Result<Submitted> {
        self.orch.submit(&self.who, submit).await
    }

    async fn operate(&self, run: RunId, operation: Operation) -> Result<RunRow> {
        match operation {
            Operation::Cancel => self.orch.cancel(&self.who, run).await,
            Operation::Pause => self.orch.pause(&self.who, run).await,
            Operation::Resume => self.orch.resume(&self.who, run).await,
            Operation::Retry(steps) => self.orch.retry(&self.who, run, steps).await,
            Operation::Decide { step, approved } => self.orch.decide(&self.who, run, step, approved).await,
            Operation::Signal { name, payload } => self.orch.signal(&self.who, run, &name, payload).await,
        }
    }

    async fn replay(&self, run: RunId) -> Result<Submitted> {
        self.orch.replay(&self.who, run, Resubmit::default()).await
    }

    async fn rerun(&self, run: RunId, from: &StepId) -> Result<Submitted> {
        self.orch.rerun(&self.who, run, from, Resubmit::default()).await
    }

    async fn artifact(&self, hash: &Digest) -> Result<Bytes> {
        self.orch.artifacts().get(&self.who.tenant, hash).await
    }

    async fn checkpoint(&self, scope: Scope, key: Option<SigningKey>) -> Result<Option<Checkpoint>> {
        self.orch.audit(&self.who, "ledger.checkpoint", "checkpoint", &json!({})).await?;
        let (tenant, actor) = (self.who.tenant.clone(), self.who.actor.clone());
        let request = TakeCheckpoint { tenant, actor, now: self.orch.now(), scope, key };
        proof::take_checkpoint(self.orch.store().as_ref(), &request).await
    }

    async fn export(&self, run: Option<RunId>, writer: &mut (dyn Write + Send)) -> Result<Manifest> {
        let tenant = &self.who.tenant;
        if !self.only_reads {
            let target = run.map_or_else(|| tenant.to_string(), |run| format!("run/{run}"));
            self.orch.audit(&self.who, "ledger.export", target, &json!({})).await?;
        }
        proof::export(self.orch.store().as_ref(), tenant, run, self.orch.now(), writer).await
    }

    async fn prune(&self, ended_before: Timestamp) -> Result<u64> {
        let (store, tenant) = (self.orch.store().as_ref(), self.who.tenant.clone());
        let (runs, _) = proof::ended_before(store, &tenant, ended_before, usize::MAX).await?;
        self.orch.audit(&self.who, "runs.prune", "runs", &json!({ "runs": runs.len() })).await?;
        let request = PruneRuns { tenant, runs, actor: self.who.actor.clone(), now: self.orch.now() };
        Ok(proof::prune_runs(store, &request).await? as u64)
    }
}
