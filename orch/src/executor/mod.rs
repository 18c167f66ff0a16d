//! What runs a step: the contract, what a step is handed, and where executors are looked up.

#[cfg(feature = "builtins")]
pub mod builtin;
mod context;
mod guard;
mod log;
#[cfg(all(feature = "process", unix))]
pub mod process;
mod progress;
mod registry;
mod secret;
mod task;

#[cfg(feature = "builtins")]
pub use builtin::Builtins;
pub use context::StepContext;
pub(crate) use context::idempotency_key;
pub use log::{LogLine, LogSink, LogStream};
#[cfg(all(feature = "process", unix))]
pub use process::{ProcessExecutor, ProcessSettings};
pub use progress::ProgressSink;
pub use registry::Executors;
pub use secret::{Redactor, Secret};
pub use task::TaskResult;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::payload::Payload;

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

    /// Any error as a failure that another attempt may cure; the message names its causes too.
    ///
    /// ```
    /// # use orch::executor::Failure;
    /// fn port(text: &str) -> Result<u16, Failure> {
    ///     text.parse().map_err(|error| Failure::from_error("bad_port", &error))
    /// }
    /// assert_eq!(port("x").unwrap_err().to_string(), "bad_port: invalid digit found in string");
    /// ```
    pub fn from_error(code: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Self::retryable(code, message)
    }

    /// The same failure, final: no attempt will cure it.
    #[must_use]
    pub fn into_fatal(self) -> Self {
        Self { retryable: false, ..self }
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
        Self { retryable: error.is_retryable(), ..Self::from_error(code, &error) }
    }
}
