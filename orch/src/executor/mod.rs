//! What runs a step.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::id::{DagId, RunKey, StepKey, TenantId};
use crate::payload::Payload;
use crate::spec::{Network, ResourceLimits, Uses};
use crate::time::Timestamp;

/// Runs attempts of steps.
#[async_trait]
pub trait Executor: fmt::Debug + Send + Sync + 'static {
    /// Runs one attempt and says how it ended; what goes wrong is an [`Outcome`], never an error or a panic.
    ///
    /// # Guarantees
    /// - Stops promptly, leaving nothing behind, when [`StepContext::cancellation`] fires.
    /// - The same [`StepContext::idempotency_key`] is passed to every attempt of a step, so that outside effects
    ///   can be made once.
    async fn execute(&self, context: StepContext, input: Payload) -> Outcome;
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It did what it should.
    Succeeded(Payload),
    /// It did not.
    Failed(Failure),
    /// It was told to stop and did.
    Cancelled,
    /// It ran longer than it may.
    TimedOut,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A stable code in snake case, such as `exit_1`; `nonRetryable` in a spec names these.
    pub code: String,
    /// In words, for people. No secrets.
    pub message: String,
    /// Whether another attempt may end better.
    pub retryable: bool,
    /// The earliest moment another attempt makes sense, counted from now.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that another attempt may cure.
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retryable: true, retry_after: None }
    }

    /// A failure that no attempt will cure.
    pub fn fatal(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retryable: false, retry_after: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<crate::error::Error> for Failure {
    fn from(error: crate::error::Error) -> Self {
        let code = error.kind().as_str().replace(' ', "_");
        Self { code, message: error.to_string(), retryable: error.is_retryable(), retry_after: None }
    }
}

/// What an attempt is told about itself, and what it may use.
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
    /// The same for all attempts of this step in this run.
    pub idempotency_key: String,
    /// W3C trace context, the same for all attempts.
    pub traceparent: Option<String>,
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
}

impl StepContext {
    /// Whose step it is.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.run.tenant
    }
}

/// A value that never prints itself.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a secret value.
    #[must_use]
    pub fn new(value: impl Into<Arc<str>>) -> Self {
        Self(value.into())
    }

    /// The value. Hand it to the step and to nothing else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}
