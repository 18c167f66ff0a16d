//! The way in: text to a checked document.

use serde_json::Value;

use super::check::{Context, ExpressionCheck, check};
use super::diagnostic::{Diagnostics, Problems};
use super::model::{Dag, Step};
use super::read::read;
use super::source;
use crate::expr::Expression;
use crate::id::StepId;
use crate::limits::Limits;

/// Reads a document. A text whose first character is `{` or `[` is JSON, any other YAML 1.2; `name` is what
/// the report calls it, usually the name of its file.
///
/// The document comes back in one normal form: edges are merged into `needs`, and these are sorted and
/// without repetition. Steps keep their order.
///
/// # Errors
/// All problems at once, with their places; see [`Diagnostics`]. Only text that is neither JSON nor YAML, or
/// too large, is reported alone.
pub fn parse(name: &str, text: &str, limits: &Limits) -> Result<Dag, Diagnostics> {
    parse_with(name, text, limits, &Cel(limits))
}

/// Reads text that is JSON or YAML 1.2 into the value it stands for: no name twice in a map, no number that would not
/// survive, within the limits of a spec.
///
/// # Errors
/// All problems at once, with their places.
pub fn read_value(name: &str, text: &str, limits: &Limits) -> Result<Value, Diagnostics> {
    let mut problems = Problems::default();
    match source::read(text, limits, &mut problems) {
        Some(node) if problems.is_empty() => Ok(node.to_value()),
        _ => Err(problems.into_diagnostics(name, text)),
    }
}

/// Expressions are CEL.
struct Cel<'a>(&'a Limits);

impl ExpressionCheck for Cel<'_> {
    fn check(&self, source: &str) -> Result<Vec<String>, (String, usize)> {
        match Expression::compile(source, self.0) {
            Ok(expression) => Ok(expression.references().iter().cloned().collect()),
            Err(error) => Err((error.message, error.offset)),
        }
    }
}

pub(super) fn parse_with(
    name: &str,
    text: &str,
    limits: &Limits,
    expressions: &dyn ExpressionCheck,
) -> Result<Dag, Diagnostics> {
    let mut problems = Problems::default();
    let dag = assemble(text, limits, expressions, &mut problems);
    match dag {
        Some(dag) if problems.is_empty() => Ok(dag),
        _ => Err(problems.into_diagnostics(name, text)),
    }
}

/// `None` when there is not enough for a document; then there are problems.
fn assemble(
    text: &str,
    limits: &Limits,
    expressions: &dyn ExpressionCheck,
    problems: &mut Problems,
) -> Option<Dag> {
    let root = source::read(text, limits, problems)?;
    let draft = read(&root, limits, problems);
    let context = Context { text, limits, expressions };
    let graph = check(&context, &root, &draft, problems);
    if !problems.is_empty() {
        return None;
    }
    let steps = draft.steps.iter().map(|draft| {
        let step = draft.step.clone()?;
        let needs = graph.needs(graph.rank(step.id.as_str())?);
        let needs = needs.into_iter().map(|need| StepId::new(need).ok());
        Some(Step { needs: needs.collect::<Option<_>>()?, ..step })
    });
    let steps = steps.collect::<Option<_>>()?;
    Some(Dag { steps, ..draft.head.clone()? })
}
