//! What holds for every executor, whoever wrote it.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;

use super::{Executor, Failure, Outcome, StepContext};
use crate::payload::Payload;

/// Makes of a panic a failure, and keeps the step's secrets out of its outcome.
#[derive(Debug)]
pub(super) struct Guard(pub(super) Arc<dyn Executor>);

#[async_trait]
impl Executor for Guard {
    async fn execute(&self, context: StepContext, input: Payload) -> Outcome {
        let redactor = context.log.redactor().clone();
        let attempt = async { self.0.execute(context, input).await };
        let outcome = AssertUnwindSafe(attempt)
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Failure::retryable("panic", words(panic.as_ref())).into());
        redactor.outcome(outcome)
    }
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.map_or_else(|| "the executor panicked".to_owned(), |text| format!("the executor panicked: {text}"))
}
