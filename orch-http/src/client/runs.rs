//! Runs: started, steered, told, repeated.

use orch::engine::{DagRef, Resubmit, Submit, Submitted};
use orch::planner::Operation;
use orch::{Digest, Error, Result, RunId, RunRow, StepId};
use serde_json::{Value, json};

use super::Client;
use super::call::said;
use crate::resources::runs::{RunView, Started};

impl Client {
    /// Submits a run of a published DAG. Durable once answered. The run belongs to the trace that the submission names; its
    /// parent is the request.
    ///
    /// # Errors
    /// As [`Orchestrator::submit`](orch::Orchestrator::submit); `Unsupported` for a DAG that is not published.
    pub async fn submit(&self, submit: &Submit) -> Result<Submitted> {
        let (dag, version) = match &submit.dag {
            DagRef::Latest(dag) => (dag, None),
            DagRef::Version(dag, version) => (dag, Some(version)),
            DagRef::Unpublished(_) => {
                return Err(Error::unsupported("a service runs published dags only: publish it first"));
            }
        };
        let mut body = json!({ "dagId": dag, "inputs": submit.inputs, "priority": submit.priority });
        said(&mut body, "version", version);
        said(&mut body, "runToken", submit.run_token.as_ref());
        said(&mut body, "rationale", submit.rationale.as_ref());
        let (traceparent, baggage) = (submit.traceparent.as_deref(), submit.baggage.as_deref());
        let call = self.post("/runs").json(&body).traced(traceparent, baggage)?;
        call.answer::<Started>().await.map(Into::into)
    }

    /// Has something done to a run.
    ///
    /// # Errors
    /// As the method of [`Orchestrator`](orch::Orchestrator) of the same name.
    pub async fn operate(&self, run: RunId, operation: &Operation) -> Result<RunRow> {
        let at = |action: &str| format!("/runs/{run}:{action}");
        let call = match operation {
            Operation::Cancel => self.post(at("cancel")),
            Operation::Pause => self.post(at("pause")),
            Operation::Resume => self.post(at("resume")),
            Operation::Retry(steps) => self.post(at("retry")).json(&json!({ "steps": steps })),
            Operation::Decide { step, approved } => {
                let decision = if *approved { "approved" } else { "rejected" };
                self.post(format!("/gates/{run}/{step}:decide")).json(&json!({ "decision": decision }))
            }
            Operation::Signal { name, payload } => {
                let body = json!({ "name": name, "payload": payload });
                self.post(format!("/runs/{run}/signals")).json(&body)
            }
        };
        call.answer::<RunView>().await.map(Into::into)
    }

    /// Submits a new run of the same plan with the same inputs.
    ///
    /// # Errors
    /// As [`Orchestrator::replay`](orch::Orchestrator::replay).
    pub async fn replay(&self, run: RunId, along: &Resubmit) -> Result<Submitted> {
        self.again(format!("/runs/{run}:replay"), json!({}), along).await
    }

    /// Submits a new run of the same plan with the same inputs that begins at `from`.
    ///
    /// # Errors
    /// As [`Orchestrator::rerun`](orch::Orchestrator::rerun).
    pub async fn rerun(&self, run: RunId, from: &StepId, along: &Resubmit) -> Result<Submitted> {
        self.again(format!("/runs/{run}:rerun"), json!({ "from": from }), along).await
    }

    async fn again(&self, path: String, mut body: Value, along: &Resubmit) -> Result<Submitted> {
        said(&mut body, "runToken", along.run_token.as_ref());
        let (traceparent, baggage) = (along.traceparent.as_deref(), along.baggage.as_deref());
        self.post(path).json(&body).traced(traceparent, baggage)?.answer::<Started>().await.map(Into::into)
    }

    /// The bytes whose digest is `hash`, verified here.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`; `Corrupt` when what arrived has another digest.
    pub async fn artifact(&self, hash: &Digest) -> Result<bytes::Bytes> {
        let (_, bytes) = self.get(format!("/artifacts/{hash}")).whole().await?;
        match Digest::of(&bytes) {
            actual if actual == *hash => Ok(bytes),
            actual => Err(Error::corrupt("artifact does not have the digest it is named by")
                .with("hash", hash)
                .with("actual", actual)),
        }
    }

    /// Whether the service can do its work.
    ///
    /// # Errors
    /// `Unavailable` while it cannot.
    pub async fn ready(&self) -> Result<()> {
        self.get("/admin/ready").whole().await.map(drop)
    }
}
