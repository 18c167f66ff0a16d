//! What an attempt is told about itself, and what it may use.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::log::LogSink;
use super::progress::ProgressSink;
use super::secret::{Redactor, Secret};
use crate::artifact::{Artifacts, TenantArtifacts};
use crate::digest::Digest;
use crate::id::{DagId, RunId, RunKey, StepId, StepKey, TenantId};
use crate::spec::{Network, ResourceLimits, Uses};
use crate::time::{SystemClock, Timestamp};
use crate::trace;

/// What an attempt is told about itself, and what it may use. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StepContext {
    /// The run, with its tenant.
    pub run: RunKey,
    /// The DAG of the run.
    pub dag: DagId,
    /// The step.
    pub step: StepKey,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// What the step asked for, such as `fn/echo`.
    pub uses: Uses,
    /// The trace that the run was submitted in; [`StepContext::traceparent`] is what to hand on.
    pub submitted_in: Option<String>,
    /// What goes along to whatever works for the run (W3C Baggage).
    pub baggage: Option<String>,
    /// When the attempt will be stopped.
    pub deadline: Option<Timestamp>,
    /// Fires when the attempt must stop: cancelled, out of time, lost, or shut down.
    pub cancellation: CancellationToken,
    /// What the attempt may consume.
    pub limits: Option<ResourceLimits>,
    /// The network it may reach.
    pub network: Option<Network>,
    /// The secrets it asked for, by name.
    pub secrets: Arc<BTreeMap<String, Secret>>,
    /// Bytes too large for an output, read and written for this tenant only.
    pub artifacts: TenantArtifacts,
    /// What the step has to say; becomes an artifact when the attempt ends.
    pub log: LogSink,
    /// How far the step is.
    pub progress: ProgressSink,
}

impl StepContext {
    /// The first attempt of a step outside any run, to try out a function or an executor with: artifacts in memory,
    /// no limits, no secrets, no network.
    #[must_use]
    pub fn standalone(uses: Uses) -> Self {
        let word = "standalone";
        let tenant = TenantId::new(word).expect("the word fits the grammar of ids");
        let dag = DagId::new(word).expect("the word fits the grammar of ids");
        let step = StepId::new(word).expect("the word fits the grammar of ids");
        let run = RunId::derive(&tenant, &dag, word, &Digest::ZERO);
        Self {
            artifacts: Artifacts::memory().of(&tenant),
            run: RunKey { tenant, run },
            dag,
            step: step.into(),
            attempt: 1,
            uses,
            submitted_in: None,
            baggage: None,
            deadline: None,
            cancellation: CancellationToken::new(),
            limits: None,
            network: None,
            secrets: Arc::default(),
            log: LogSink::new(Arc::new(SystemClock), Redactor::default(), LogSink::BYTES_MAX),
            progress: ProgressSink::new(Redactor::default()),
        }
    }

    /// Hands these secrets to the step, with a fresh log and progress sink that know to hide them.
    #[must_use]
    pub fn with_secrets(self, secrets: BTreeMap<String, Secret>) -> Self {
        let redactor = Redactor::new(&secrets);
        Self {
            log: LogSink::new(Arc::new(SystemClock), redactor.clone(), LogSink::BYTES_MAX),
            progress: ProgressSink::new(redactor),
            secrets: Arc::new(secrets),
            ..self
        }
    }

    /// The same for all attempts of this step in this run and for no other: 64 hex digits, a SHA-256 over both.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        idempotency_key(&self.run, &self.step)
    }

    /// What this attempt hands on to whatever it calls (W3C Trace Context): the trace of the run, below the span of the attempt.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        trace::of_attempt(self.submitted_in.as_deref()?, self.run.run, &self.step, self.attempt)
    }

    /// Whose step it is.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.run.tenant
    }
}

/// The same for all attempts of a step in a run and for no other.
pub(crate) fn idempotency_key(run: &RunKey, step: &StepKey) -> String {
    Digest::of_parts(&[b"orch/step/v1", run.run.as_bytes(), step.to_string().as_bytes()]).to_string()
}
