//! What an expression can read while it is evaluated.

use std::sync::OnceLock;

use serde_json::Value;

use crate::payload::Payload;

/// The data an expression is evaluated against. Everything is lent, nothing is copied; an output is asked
/// for only when the expression reads it.
///
/// Values are expected to come from a [`Payload`], hence without integers beyond 2^53.
pub trait Scope {
    /// The run's inputs.
    fn inputs(&self) -> &Value;
    /// A step of the same run, or `None` when there is no such step.
    fn step(&self, id: &str) -> Option<StepView<'_>>;
    /// The element of an expanded `forEach`, or `None` outside one.
    fn item(&self) -> Option<&Value>;
    /// The position of [`Scope::item`], from zero.
    fn index(&self) -> Option<u64>;
    /// What is known of the run itself, such as its id and token.
    fn run(&self) -> &Value;
}

/// A step as an expression sees it.
#[derive(Clone, Copy, Debug)]
pub struct StepView<'a> {
    /// The status word, such as `succeeded`.
    pub status: &'a str,
    /// The output, if the step has one.
    pub output: Option<&'a LazyValue>,
    /// Why it failed, if it failed.
    pub error: Option<ErrorView<'a>>,
}

/// Why a step failed, as an expression sees it.
#[derive(Clone, Copy, Debug)]
pub struct ErrorView<'a> {
    /// The executor's error code.
    pub code: &'a str,
    /// The executor's message.
    pub message: &'a str,
}

/// A payload that is parsed at the first read, once.
#[derive(Clone, Debug, Default)]
pub struct LazyValue {
    payload: Payload,
    value: OnceLock<Value>,
}

impl LazyValue {
    /// Keeps `payload` unparsed.
    #[must_use]
    pub const fn new(payload: Payload) -> Self {
        Self { payload, value: OnceLock::new() }
    }

    /// The payload as it was given.
    #[must_use]
    pub const fn payload(&self) -> &Payload {
        &self.payload
    }

    /// The value.
    pub fn get(&self) -> &Value {
        self.value.get_or_init(|| self.payload.to_value())
    }

    /// Whether somebody has read it.
    #[must_use]
    pub fn is_parsed(&self) -> bool {
        self.value.get().is_some()
    }
}

impl From<Payload> for LazyValue {
    fn from(payload: Payload) -> Self {
        Self::new(payload)
    }
}
