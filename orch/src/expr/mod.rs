//! Expressions: conditions (`when`), `forEach.items` and `${{ … }}` templates. Pure, deterministic, bounded.
//!
//! # Language
//!
//! A subset of the Common Expression Language (CEL, <https://cel.dev>) over JSON values. An expression reads
//! `inputs`, `steps.ID.status`, `steps.ID.output`, `steps.ID.error.code` and `.message`, `run`, and in a step
//! with `forEach` also `item` and `index`. Ids with dots or dashes are written `steps["the-id"]`.
//!
//! - operators `+ - * / %`, `== != < <= > >=`, `in`, `&& || !`, `? :`, `.field`, `[index]`, list and map literals;
//! - macros `has`, `all`, `exists`, `exists_one`, `map`, `filter`; over a map they see its keys in byte order;
//! - on strings `size contains startsWith endsWith lowerAscii upperAscii trim split join replace substring`;
//! - on lists `size sort distinct flatten`, and `range(n)`, `min(…)`, `max(…)`;
//! - conversions `int double string bool`.
//!
//! Where it differs from CEL: arithmetic on an integer and a double is done in doubles, as JSON does not tell
//! `2` from `2.0`; map keys are strings; results that are not finite are errors. Left out are `matches` (the
//! cost of a regular expression has no bound), timestamps, durations, unsigned integers, byte strings,
//! messages, types as values and comments.
//!
//! # Guarantees
//!
//! - The same expression over the same data gives the same result or the same error, in every process.
//! - Every evaluation ends: each operation, element and piece of text costs fuel ([`Bounds::fuel`]), and the
//!   result is bounded in bytes ([`Bounds::bytes`]) and depth. Memory is bounded by the fuel.
//! - Nothing overflows silently: integers have 64 bits inside and 53 in a result, beyond is an error.
//! - Hostile source is refused before it is parsed: length, nesting (32) and chains (128 operators).
//! - `&&` and `||` absorb errors of one side when the other decides, as in CEL; exceeded limits are never absorbed.

mod compile;
mod error;
mod eval;
mod functions;
mod node;
mod scan;
mod scope;
mod template;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeSet;

use serde_json::Value;

pub use self::error::{CompileError, EvalError};
pub use self::scope::{ErrorView, LazyValue, Scope, StepView};
pub use self::template::Template;
use crate::limits::Limits;

/// What one evaluation may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Operations.
    pub fuel: u64,
    /// Bytes of the result, counted about as its JSON text is long.
    pub bytes: usize,
}

impl Bounds {
    /// For conditions: a result would fit in an inline payload.
    #[must_use]
    pub const fn payload(limits: &Limits) -> Self {
        Self { fuel: limits.expression_fuel, bytes: limits.payload_bytes }
    }

    /// For `forEach.items` and templates: the result may hold all items of a `forEach`.
    #[must_use]
    pub const fn items(limits: &Limits) -> Self {
        Self { fuel: limits.expression_fuel, bytes: limits.map_bytes }
    }
}

/// A compiled expression. Evaluation neither parses nor copies what it reads.
#[derive(Clone, Debug)]
pub struct Expression {
    node: node::Node,
    references: compile::References,
}

impl Expression {
    /// Compiles `source`.
    ///
    /// # Errors
    /// When it is not in the language (see the [module](self)) or over `limits.expression_bytes`.
    pub fn compile(source: &str, limits: &Limits) -> Result<Self, CompileError> {
        let (node, references) = compile::compile(source, limits)?;
        Ok(Self { node, references })
    }

    /// The ids of the steps it reads.
    #[must_use]
    pub const fn references(&self) -> &BTreeSet<String> {
        &self.references.steps
    }

    /// Whether it reads `item`.
    #[must_use]
    pub const fn uses_item(&self) -> bool {
        self.references.item
    }

    /// Whether it reads `index`.
    #[must_use]
    pub const fn uses_index(&self) -> bool {
        self.references.index
    }

    /// Its value.
    ///
    /// # Errors
    /// See [`EvalError::CODES`].
    pub fn evaluate(&self, scope: &dyn Scope, bounds: Bounds) -> Result<Value, EvalError> {
        let mut machine = eval::Machine::new(scope, bounds.fuel);
        let value = machine.eval(&self.node)?;
        value::Writer { bytes: bounds.bytes }.value(&value)
    }

    /// Its value as a condition.
    ///
    /// # Errors
    /// As [`Expression::evaluate`], and when the value is not a bool.
    pub fn condition(&self, scope: &dyn Scope, bounds: Bounds) -> Result<bool, EvalError> {
        match eval::Machine::new(scope, bounds.fuel).eval(&self.node)? {
            value::Val::Bool(value) => Ok(value),
            other => {
                let message =
                    format!("a condition is true or false, this one is {}; compare it", other.kind());
                Err(EvalError::new(EvalError::TYPE, message))
            }
        }
    }
}
