//! `fn/noop`, `fn/echo`, `fn/sleep`, `fn/fail`: functions that only shape the run.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Failure, invalid};
use crate::executor::StepContext;
use crate::payload::Payload;
use crate::time::Span;

/// Does nothing, whatever it is given.
pub(super) async fn noop(_: StepContext, _: Value) -> Result<(), Failure> {
    Ok(())
}

/// Returns its input.
pub(super) async fn echo(_: StepContext, input: Payload) -> Result<Payload, Failure> {
    Ok(input)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sleep {
    duration: Span,
}

/// Waits while holding its slot; `wait/sleep` waits without one.
pub(super) async fn sleep(_: StepContext, input: Sleep) -> Result<(), Failure> {
    tokio::time::sleep(input.duration.duration()).await;
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Fail {
    /// How many attempts fail; all of them if it is not said.
    times: Option<u32>,
    code: String,
    message: String,
    retryable: bool,
}

impl Default for Fail {
    fn default() -> Self {
        Self {
            times: None,
            code: "failed".to_owned(),
            message: "failed as asked".to_owned(),
            retryable: true,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Survived {
    attempts: u32,
}

/// Fails the first attempts of a step, then succeeds.
pub(super) async fn fail(context: StepContext, input: Fail) -> Result<Survived, Failure> {
    let is_code = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    if input.code.is_empty() || input.code.len() > 64 || !input.code.bytes().all(is_code) {
        return Err(invalid("code: an error code is 1 to 64 of a-z 0-9 _"));
    }
    if input.times.is_some_and(|times| context.attempt > times) {
        return Ok(Survived { attempts: context.attempt });
    }
    let failure = Failure::retryable(input.code, input.message);
    Err(Failure { retryable: input.retryable, ..failure })
}
