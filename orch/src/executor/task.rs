//! Async Rust functions as executors.

use std::fmt;
use std::marker::PhantomData;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Executor, Failure, Outcome, StepContext};
use crate::payload::Payload;

/// What a task function returns: `Result<O, E>` where `O` serialises to JSON and `E` converts into [`Failure`].
#[diagnostic::on_unimplemented(
    message = "a task returns `Result<O, E>` with `O: Serialize` and `E: Into<Failure>`, not `{Self}`",
    label = "this task does not return such a `Result`",
    note = "end the task with `Ok::<_, Failure>(output)`; turn errors into failures with `Failure::from_error(code, &error)`"
)]
pub trait TaskResult {
    /// How the attempt ended.
    fn into_outcome(self) -> Outcome;
}

impl<O: Serialize, E: Into<Failure>> TaskResult for Result<O, E> {
    fn into_outcome(self) -> Outcome {
        match self.map(|output| Payload::of(&output)) {
            Ok(Ok(output)) => Outcome::Succeeded(output),
            Ok(Err(error)) => Failure::from_error("invalid_output", &error).into_fatal().into(),
            Err(failure) => Outcome::Failed(failure.into()),
        }
    }
}

/// A typed function behind the [`Executor`] seam.
pub(super) struct Task<F, T> {
    function: F,
    input: PhantomData<fn(T)>,
}

impl<F, T> Task<F, T> {
    pub(super) const fn new(function: F) -> Self {
        Self { function, input: PhantomData }
    }
}

impl<F, T> fmt::Debug for Task<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Task({})", std::any::type_name::<F>())
    }
}

#[async_trait]
impl<F, T, Fut> Executor for Task<F, T>
where
    F: Fn(StepContext, T) -> Fut + Send + Sync + 'static,
    T: DeserializeOwned + Send + 'static,
    Fut: Future<Output: TaskResult + Send> + Send + 'static,
{
    async fn execute(&self, context: StepContext, input: Payload) -> Outcome {
        let input = match read_input(&input) {
            Ok(input) => input,
            Err(failure) => return failure.into(),
        };
        let cancellation = context.cancellation.clone();
        tokio::select! {
            biased;
            result = (self.function)(context, input) => result.into_outcome(),
            () = cancellation.cancelled() => Outcome::Cancelled,
        }
    }
}

/// The input as the function's type. A step that says nothing has the input `null`, which a function whose
/// fields are all optional reads as `{}`.
pub(super) fn read_input<T: DeserializeOwned>(input: &Payload) -> Result<T, Failure> {
    let parse = |text| serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text));
    parse(input.as_str()).or_else(|error| if input.is_null() { parse("{}") } else { Err(error) }).map_err(
        |error| {
            let path = error.path().to_string();
            let place = if path == "." { "with".to_owned() } else { format!("with.{path}") };
            Failure::fatal("invalid_input", format!("{place}: {}", without_position(&error.into_inner())))
        },
    )
}

/// serde_json ends its messages with a line and column, which mean nothing to someone who wrote YAML.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).map_or(text.clone(), str::to_owned)
}
