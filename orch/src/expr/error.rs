//! What can go wrong, at compile time and at run time.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// Why an expression or a template is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CompileError {
    /// What is wrong and what to do.
    pub message: String,
    /// Bytes of the source before the place it concerns.
    pub offset: usize,
}

impl CompileError {
    pub(super) fn new(message: impl Into<String>, offset: usize) -> Self {
        Self { message: message.into(), offset }
    }
}

impl From<CompileError> for Error {
    fn from(error: CompileError) -> Self {
        Self::invalid("expression does not compile")
            .with("problem", &error.message)
            .with("offset", error.offset)
    }
}

/// Why an evaluation gave no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    /// A stable word for the cause, one of [`EvalError::CODES`].
    pub code: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl EvalError {
    /// An operand has a type the operation cannot take.
    pub const TYPE: &'static str = "type-mismatch";
    /// A map has no such field.
    pub const NO_FIELD: &'static str = "no-such-field";
    /// A list has no such position.
    pub const NO_INDEX: &'static str = "no-such-index";
    /// The run has no such step, or the step no such part.
    pub const NO_STEP: &'static str = "no-such-step-data";
    /// `item` or `index` outside a `forEach`.
    pub const NO_ITEM: &'static str = "no-item";
    /// An integer beyond 64 bits, or beyond 2^53 in a result.
    pub const OVERFLOW: &'static str = "overflow";
    /// A division by zero.
    pub const DIVIDE_BY_ZERO: &'static str = "divide-by-zero";
    /// A number that JSON cannot hold.
    pub const NOT_FINITE: &'static str = "not-finite";
    /// An argument has the right type and a wrong value.
    pub const ARGUMENT: &'static str = "invalid-argument";
    /// The evaluation took more operations than allowed.
    pub const FUEL: &'static str = "out-of-fuel";
    /// A value is larger or deeper than allowed.
    pub const TOO_LARGE: &'static str = "too-large";

    /// Every code there is.
    pub const CODES: [&'static str; 11] = [
        Self::TYPE,
        Self::NO_FIELD,
        Self::NO_INDEX,
        Self::NO_STEP,
        Self::NO_ITEM,
        Self::OVERFLOW,
        Self::DIVIDE_BY_ZERO,
        Self::NOT_FINITE,
        Self::ARGUMENT,
        Self::FUEL,
        Self::TOO_LARGE,
    ];

    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Whether a limit was exceeded. Such an error ends the evaluation: no `||` or `&&` absorbs it.
    #[must_use]
    pub fn is_limit(&self) -> bool {
        matches!(self.code, Self::FUEL | Self::TOO_LARGE)
    }
}

impl From<EvalError> for Error {
    fn from(error: EvalError) -> Self {
        let kind = if error.is_limit() { ErrorKind::LimitExceeded } else { ErrorKind::Invalid };
        Self::new(kind, "expression has no value").with("code", error.code).with("problem", error.message)
    }
}

/// Names for a message: the first few, and how many more.
pub(super) fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    const SHOWN: usize = 8;
    let mut text = String::new();
    let mut more = 0;
    for (position, name) in names.enumerate() {
        if position >= SHOWN {
            more += 1;
            continue;
        }
        if position > 0 {
            text.push_str(", ");
        }
        text.push_str(&Shown(name).to_string());
    }
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    if text.is_empty() { "none".into() } else { text }
}

/// A name from the outside, bounded and printable.
pub(super) struct Shown<'n>(pub(super) &'n str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 40;
        let mut end = false;
        for (position, character) in self.0.chars().enumerate() {
            if position == SHOWN {
                end = true;
                break;
            }
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        if end { f.write_str("…") } else { Ok(()) }
    }
}

/// The candidate that `word` was most likely meant to be, by edit distance (Levenshtein 1966), if one is near.
pub(super) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > 64 {
        return None;
    }
    let near = 1 + word.len() / 4;
    candidates
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= near)
        .map(|candidate| (distance(word.as_bytes(), candidate.as_bytes()), candidate))
        .filter(|(distance, _)| *distance <= near)
        .min()
        .map(|(_, candidate)| candidate)
}

fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(!x.eq_ignore_ascii_case(y));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
