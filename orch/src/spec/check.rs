//! What the types cannot say: the graph, what goes with what, and the expressions.

use serde_json::Value;

use super::diagnostic::{Problem, Problems, bounded};
use super::graph::{Graph, Order};
use super::inputs::InputSchema;
use super::model::{Step, Uses};
use super::read::{Draft, StepDraft};
use super::source::{Data, Node, Offset, escape};
use super::template;
use crate::id::StepId;
use crate::limits::Limits;
use crate::time::Span;

/// Checks the syntax of an expression; a test may bring its own language.
pub(super) trait ExpressionCheck {
    /// The ids of the steps that `source` refers to.
    ///
    /// # Errors
    /// What is wrong, and the offset in bytes where.
    fn check(&self, source: &str) -> Result<Vec<String>, (String, usize)>;
}

/// What the checks look at.
pub(super) struct Context<'a> {
    pub(super) text: &'a str,
    pub(super) limits: &'a Limits,
    pub(super) expressions: &'a dyn ExpressionCheck,
}

/// Checks a draft and returns its graph.
pub(super) fn check<'d>(
    context: &Context<'_>,
    root: &Node,
    draft: &'d Draft<'_>,
    problems: &mut Problems,
) -> Graph<'d> {
    if root.field("steps").is_some_and(|steps| matches!(&steps.data, Data::List(items) if items.is_empty())) {
        let problem = Problem::new("no-steps", draft.steps_at, "/steps", "there are no steps");
        problems.push(problem.hint("declare at least one"));
    }
    check_inputs(root, problems);
    let graph = Graph::new(draft, problems);
    let order = graph.order(problems);
    let mut references = Vec::new();
    for step in &draft.steps {
        if let Some(whole) = &step.step {
            check_combinations(step, whole, problems);
        }
        references.extend(check_expressions(context, step, problems));
    }
    check_references(&graph, order.as_ref(), &references, problems);
    graph
}

fn check_inputs(root: &Node, problems: &mut Problems) {
    let Some(node) = root.field("inputs").filter(|node| !matches!(node.data, Data::Null)) else { return };
    for problem in InputSchema::build(&node.to_value()).err().unwrap_or_default() {
        let at = node.closest(&problem.pointer).at();
        problems.push(Problem::new("bad-schema", at, format!("/inputs{}", problem.pointer), problem.message));
    }
}

/// Fields that exclude or require each other.
fn check_combinations(draft: &StepDraft<'_>, step: &Step, problems: &mut Problems) {
    let mut report = |name: &str, message: String, hint: &str| {
        let path = format!("/steps/{}/{name}", draft.index);
        let at = draft.node.field(name).unwrap_or(draft.node).at();
        problems.push(Problem::new("not-applicable", at, path, message).hint(hint));
    };
    let uses = &step.uses;
    if step.for_each.is_some() && !uses.is_task() && !matches!(uses, Uses::Dag { .. }) {
        report("forEach", format!("`{uses}` cannot run for each item"), "only tasks and sub-DAGs can");
    }
    if step.cache && !uses.is_task() {
        report("cache", format!("the result of `{uses}` cannot be reused"), "only that of a task can");
    }
    // Nothing is executed by a worker there, so nothing would heed these.
    let unheeded: &[&str] = match uses {
        uses if uses.is_task() => &[],
        Uses::Dag { .. } => &["queue", "concurrency", "limits", "network", "secrets"],
        _ => &["queue", "priority", "concurrency", "limits", "network", "secrets", "retry", "totalTimeout"],
    };
    for name in unheeded {
        if draft.node.field(name).is_some() {
            report(name, format!("`{uses}` does not heed `{name}`"), "leave it out; only tasks heed it");
        }
    }
    let with = |name: &str| step.with.get(name).and_then(Value::as_str);
    let is_expression = |text: &str| template::expressions(text).is_ok_and(|found| !found.is_empty());
    let missing = match uses {
        Uses::Sleep => with("duration")
            .is_none_or(|text| text.parse::<Span>().is_err() && !is_expression(text))
            .then_some(("duration", "a length of time such as `30s`, or an expression")),
        Uses::Signal => with("name")
            .is_none_or(|text| StepId::new(text).is_err() && !is_expression(text))
            .then_some(("name", "the name of the signal, in lowercase as ids are, or an expression")),
        _ => None,
    };
    if let Some((name, expected)) = missing {
        let with = draft.node.field("with").unwrap_or(draft.node);
        let at = with.field(name).unwrap_or(with).at();
        let path = format!("/steps/{}/with/{name}", draft.index);
        let message = format!("`{uses}` requires `with.{name}`: {expected}");
        problems.push(Problem::new("bad-with", at, path, message));
    }
}

/// An expression of a step that mentions another one.
struct Reference<'d> {
    step: &'d StepDraft<'d>,
    name: String,
    at: Offset,
    path: String,
}

/// Checks every expression of a step and returns the steps it mentions.
fn check_expressions<'d>(
    context: &Context<'_>,
    step: &'d StepDraft<'d>,
    problems: &mut Problems,
) -> Vec<Reference<'d>> {
    let mut checker = Checker { context, step, problems, references: Vec::new() };
    let path = format!("/steps/{}", step.index);
    if let Some(node) = step.node.field("with") {
        checker.templates(node, &mut format!("{path}/with"));
    }
    if let Some(node) = step.node.field("when") {
        checker.whole(node, format!("{path}/when"));
    }
    if let Some(node) = step.node.field("forEach").and_then(|node| node.field("items")) {
        checker.whole(node, format!("{path}/forEach/items"));
    }
    for (index, slot) in step.node.field("concurrency").map_or(&[][..], Node::items).iter().enumerate() {
        if let Some(node) = slot.field("key") {
            checker.templates(node, &mut format!("{path}/concurrency/{index}/key"));
        }
    }
    checker.references
}

struct Checker<'c, 'd> {
    context: &'c Context<'c>,
    step: &'d StepDraft<'d>,
    problems: &'c mut Problems,
    references: Vec<Reference<'d>>,
}

impl Checker<'_, '_> {
    /// The expressions within all strings of a value. The document's depth is bounded.
    fn templates(&mut self, node: &Node, path: &mut String) {
        let length = path.len();
        match &node.data {
            Data::Text(text) => match template::expressions(text) {
                Ok(ranges) => {
                    // Once one is spelled otherwise than it reads, the rest is not looked for: searching for
                    // each of them would take quadratic time.
                    let mut from = Some(node.span.start);
                    for range in ranges {
                        from = self.expression(node, &text[range], from, path);
                    }
                }
                Err(open) => {
                    let at = self.locate(node, &text[open..], Some(node.span.start)).unwrap_or(node.at());
                    let problem = Problem::new("bad-expression", at, &*path, "`${{` is never closed by `}}`");
                    self.problems.push(problem);
                }
            },
            Data::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push_str(&format!("/{index}"));
                    self.templates(item, path);
                    path.truncate(length);
                }
            }
            Data::Map(fields) => {
                for field in fields {
                    path.push('/');
                    path.push_str(&escape(&field.name));
                    self.templates(&field.node, path);
                    path.truncate(length);
                }
            }
            Data::Null | Data::Bool(_) | Data::Number(_) => {}
        }
    }

    /// A string that is one expression as a whole.
    fn whole(&mut self, node: &Node, path: String) {
        if let Some(text) = node.text() {
            self.expression(node, &text[template::whole(text)], Some(node.span.start), &path);
        }
    }

    /// Where `piece` of a string stands in the text, if it is spelled there as it reads.
    fn locate(&self, node: &Node, piece: &str, from: Option<Offset>) -> Option<Offset> {
        let from = from?;
        self.context.text.get(from..node.span.end)?.find(piece).map(|at| from + at)
    }

    /// Checks one expression; returns where it stands, if that is known exactly.
    fn expression(&mut self, node: &Node, source: &str, from: Option<Offset>, path: &str) -> Option<Offset> {
        let source = source.trim();
        let place = self.locate(node, source, from);
        let at = place.unwrap_or(node.at());
        let most = self.context.limits.expression_bytes;
        if source.len() > most {
            let message = format!("the expression has {} bytes, the limit is {most}", source.len());
            self.problems.push(Problem::new("limit-exceeded", at, path, message));
            return place;
        }
        match self.context.expressions.check(source) {
            Ok(names) => {
                let step = self.step;
                let reference = |name| Reference { step, name, at, path: bounded(path) };
                self.references.extend(names.into_iter().map(reference));
            }
            Err((message, offset)) => {
                // Where escapes stand between source and text, the offset counts within the expression.
                let message = match place {
                    Some(_) => message,
                    None => format!("{message} (byte {} of the expression)", offset + 1),
                };
                let at = place.map_or(at, |place| place + source.floor_char_boundary(offset));
                self.problems.push(Problem::new("bad-expression", at, path, message));
            }
        }
        place
    }
}

/// A step can only look at what is settled before it: the needs of its needs.
fn check_references(
    graph: &Graph<'_>,
    order: Option<&Order>,
    references: &[Reference<'_>],
    problems: &mut Problems,
) {
    let mut indirect = Vec::new();
    for reference in references {
        let step = reference.step.id.as_ref().and_then(|id| graph.rank(id.value.as_str()));
        match (step, graph.rank(&reference.name)) {
            (_, None) => {
                let message = format!("there is no step `{}`", super::fields::shown(&reference.name));
                let (at, path) = (reference.at, reference.path.clone());
                problems.push(graph.unknown(
                    "unknown-reference",
                    at,
                    path,
                    message,
                    &reference.name,
                    problems,
                ));
            }
            (Some(step), Some(target)) if !graph.is_need(step, target) => {
                indirect.push((reference, (step, target)));
            }
            _ => {}
        }
    }
    // In a graph with a cycle nothing is settled before anything.
    let Some(order) = order else { return };
    let pairs: Vec<(usize, usize)> = indirect.iter().map(|(_, pair)| *pair).collect();
    for ((reference, (step, target)), reached) in indirect.iter().zip(graph.reaches(order, &pairs)) {
        if reached {
            continue;
        }
        let name = &reference.name;
        let problem = if step == target {
            Problem::new("unneeded-reference", reference.at, &*reference.path, "the step refers to itself")
        } else {
            let message = format!("`steps.{name}` may not be settled yet");
            Problem::new("unneeded-reference", reference.at, &*reference.path, message)
                .hint(format!("add `{name}` to `needs`"))
        };
        problems.push(problem);
    }
}
