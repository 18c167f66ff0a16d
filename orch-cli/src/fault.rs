//! What goes wrong, told to people and to machines, and the exit code it means.

use std::process::ExitCode;

use orch::ErrorKind;
use orch::spec::Diagnostics;
use serde_json::{Value, json};

use crate::output::{Out, source};

/// Something failed, or the input is bad.
pub(crate) const FAILED: u8 = 1;
/// Not allowed for this tenant or actor.
pub(crate) const NOT_ALLOWED: u8 = 2;
/// Allowed in principle, refused in this state.
pub(crate) const REFUSED: u8 = 3;

/// Why a command does not exit with 0.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The result has been printed; only the code is left.
    Code(u8),
    /// A document with problems, and its text.
    Document {
        /// What is wrong with it.
        diagnostics: Diagnostics,
        /// What it says.
        text: String,
    },
    /// Anything else.
    Error {
        /// The exit code.
        code: u8,
        /// What went wrong.
        error: Box<orch::Error>,
        /// What to do about it.
        hint: Option<String>,
    },
}

pub(crate) type Result<T, E = Fault> = std::result::Result<T, E>;

impl Fault {
    /// Bad input, in words.
    pub(crate) fn said(message: impl Into<String>) -> Self {
        orch::Error::invalid(message.into()).into()
    }

    /// The same with what to do about it.
    pub(crate) fn hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::Error { code, error, hint: None } => Self::Error { code, error, hint: Some(text.into()) },
            other => other,
        }
    }

    /// The same with another exit code.
    pub(crate) fn code(self, code: u8) -> Self {
        match self {
            Self::Error { error, hint, .. } => Self::Error { code, error, hint },
            other => other,
        }
    }

    /// Tells it, and answers the exit code.
    pub(crate) fn report(self, out: &Out) -> ExitCode {
        ExitCode::from(match self {
            Self::Code(code) => code,
            Self::Document { diagnostics, text } => {
                if out.json {
                    let problems = &diagnostics.problems;
                    let file = &diagnostics.file;
                    out.error_document(
                        &json!({ "error": { "kind": "invalid", "message": "the document has problems",
                        "file": file, "problems": problems } }),
                    );
                } else {
                    out.error(source::report(&diagnostics, &text));
                }
                FAILED
            }
            Self::Error { code, error, hint } => {
                if out.json {
                    out.error_document(&document(&error, hint.as_deref()));
                } else {
                    out.error(words(&error, hint.as_deref()));
                }
                code
            }
        })
    }
}

impl From<orch::Error> for Fault {
    fn from(error: orch::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Refused if is_denied(&error) => NOT_ALLOWED,
            ErrorKind::Refused => REFUSED,
            _ => FAILED,
        };
        Self::Error { code, error: Box::new(error), hint: None }
    }
}

/// Whether a service has refused the token, as opposed to what was asked for.
#[cfg(feature = "remote")]
fn is_denied(error: &orch::Error) -> bool {
    orch_http::client::Refusal::of(error).is_some_and(orch_http::client::Refusal::is_denial)
}

#[cfg(not(feature = "remote"))]
const fn is_denied(_: &orch::Error) -> bool {
    false
}

impl From<orch_connect::Advised> for Fault {
    fn from(advised: orch_connect::Advised) -> Self {
        let fault = Self::from(advised.error);
        match advised.hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }
}

/// Adds advice to an error on its way up.
pub(crate) trait Advise<T> {
    /// What to do about it.
    fn advise(self, hint: impl FnOnce(&orch::Error) -> Option<String>) -> Result<T>;
}

impl<T> Advise<T> for orch::Result<T> {
    fn advise(self, hint: impl FnOnce(&orch::Error) -> Option<String>) -> Result<T> {
        self.map_err(|error| {
            let hint = hint(&error);
            let fault = Fault::from(error);
            match hint {
                Some(hint) => fault.hint(hint),
                None => fault,
            }
        })
    }
}

fn document(error: &orch::Error, hint: Option<&str>) -> Value {
    let context: serde_json::Map<String, Value> =
        error.context().iter().map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str()))).collect();
    json!({ "error": {
        "kind": error.kind().as_str(),
        "message": error.message(),
        "context": context,
        "hint": hint,
    } })
}

fn words(error: &orch::Error, hint: Option<&str>) -> String {
    let (head, help) = (source::ERROR, source::HELP);
    let mut text = format!("{head}error{head:#}: {}", error.message());
    for (at, (key, value)) in error.context().iter().enumerate() {
        if error.context()[..at].contains(&(*key, value.clone())) {
            continue;
        }
        // A list reads better one below the other.
        match *key {
            "problems" => value.split("; ").for_each(|problem| text.push_str(&format!("\n  - {problem}"))),
            _ => text.push_str(&format!("\n  {key}: {value}")),
        }
    }
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let said = error.to_string();
        // What is wrong with inputs has been told line by line.
        if !text.contains(&said) && !error.is::<orch::spec::InputProblems>() {
            text.push_str(&format!("\n  cause: {said}"));
        }
        cause = error.source();
    }
    if let Some(hint) = hint {
        text.push_str(&format!("\n{help}hint{help:#}: {hint}"));
    }
    text
}
