//! The worker's side: attempts leased, kept alive, handed in.

use std::time::Duration;

use bytes::Bytes;
use orch::engine::{Lease, LeaseToken, Leased, Renewed};
use orch::executor::Outcome;
use orch::ledger::ArtifactRef;
use orch::{Payload, Result};
use serde_json::{Value, json};

use super::Client;
use super::call::said;
use crate::resources::leases::{ArtifactView, Leases, RenewedView};

impl Client {
    /// Leases attempts of steps that use `worker/TYPE`: those that wait, or the first that come in time.
    ///
    /// # Errors
    /// As [`Orchestrator::lease`](orch::Orchestrator::lease).
    pub async fn lease(&self, lease: &Lease) -> Result<Vec<Leased>> {
        let Lease { worker, version, types, queues, max, lease: span, wait } = lease;
        let body = json!({
            "worker": worker,
            "version": version,
            "jobTypes": types,
            "queues": queues,
            "max": max,
            "leaseSeconds": seconds(*span),
            "waitSeconds": wait.as_secs(),
        });
        let leased = self.post("/workers/leases").json(&body).waiting(*wait).answer::<Leases>().await?;
        leased.items.into_iter().map(TryInto::try_into).collect()
    }

    /// Says that the worker lives and how far it is.
    ///
    /// # Errors
    /// `LeaseLost` when the attempt is not its own any more: stop the work and drop its result.
    pub async fn renew_lease(
        &self,
        token: &LeaseToken,
        lease: Duration,
        progress: Option<&str>,
    ) -> Result<Renewed> {
        let mut body = json!({ "leaseSeconds": seconds(lease) });
        said(&mut body, "progress", progress);
        self.of(token, ":heartbeat").json(&body).answer::<RenewedView>().await.map(Into::into)
    }

    /// Keeps the log of an attempt: text, of which each line becomes a line of the log.
    ///
    /// # Errors
    /// `LimitExceeded`, `Unavailable`.
    pub async fn upload_log(&self, token: &LeaseToken, text: String) -> Result<ArtifactRef> {
        self.of(token, "/logs").bytes("text/plain", text).answer::<ArtifactView>().await.map(Into::into)
    }

    /// Keeps bytes that the attempt made, to be named in its output.
    ///
    /// # Errors
    /// `LimitExceeded`, `Unavailable`.
    pub async fn upload_artifact(
        &self,
        token: &LeaseToken,
        media_type: Option<&str>,
        name: Option<&str>,
        bytes: impl Into<Bytes>,
    ) -> Result<ArtifactRef> {
        let call = self.of(token, "/artifacts").query("mediaType", media_type).query("name", name);
        call.bytes("application/octet-stream", bytes).answer::<ArtifactView>().await.map(Into::into)
    }

    /// Says how an attempt ended.
    ///
    /// # Errors
    /// `LeaseLost` when the attempt is not its own any more; `LimitExceeded` for an output that is too large.
    pub async fn finish_lease(
        &self,
        token: &LeaseToken,
        outcome: &Outcome,
        logs: Option<ArtifactRef>,
    ) -> Result<()> {
        let logs = logs.map(ArtifactView::from);
        let (action, mut body) = match outcome {
            Outcome::Succeeded(output) => (":complete", json!({ "output": Payload::to_value(output) })),
            other => (":fail", failed(other)),
        };
        said(&mut body, "logs", logs);
        self.of(token, action).json(&body).whole().await.map(drop)
    }

    /// Gives a leased attempt back: another worker may have it at once.
    ///
    /// # Errors
    /// `LeaseLost` when it is not its own any more.
    pub async fn release_lease(&self, token: &LeaseToken) -> Result<()> {
        self.of(token, ":release").whole().await.map(drop)
    }

    fn of(&self, token: &LeaseToken, action: &str) -> super::call::Call<'_> {
        self.post(format!("/workers/leases/{}{action}", token.as_str()))
    }
}

/// Whole seconds, at least one.
fn seconds(span: Duration) -> u64 {
    span.as_secs().max(1)
}

/// How an attempt ended that did not end well.
fn failed(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Failed(failure) => {
            let mut body = json!({
                "code": failure.code,
                "message": failure.message,
                "retryable": failure.retryable,
            });
            said(&mut body, "retryAfterSeconds", failure.retry_after.map(|after| after.as_secs()));
            body
        }
        Outcome::TimedOut => json!({ "status": "timed_out" }),
        _ => json!({ "status": "canceled" }),
    }
}
