//! Typed reading of nodes that goes on after a problem, so that one pass finds them all.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde_json::Number;

use super::diagnostic::{Problem, Problems};
use super::source::{Data, Node, Offset, escape};
use super::suggest::did_you_mean;
use crate::error::Error;

/// Reads nodes into values. `None` always comes with a problem, except for optional fields that are absent.
#[derive(Debug)]
pub(super) struct Reader<'p> {
    problems: &'p mut Problems,
    path: String,
}

impl<'p> Reader<'p> {
    /// A reader at the root of a document.
    pub(super) fn new(problems: &'p mut Problems) -> Self {
        Self { problems, path: String::new() }
    }

    /// Reads one level further down.
    pub(super) fn within<T>(&mut self, part: impl Display, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.push('/');
        self.path.push_str(&escape(&part.to_string()));
        let value = read(self);
        self.path.truncate(length);
        value
    }

    /// A problem at the place being read.
    pub(super) fn problem(&self, code: &'static str, at: Offset, message: impl Into<String>) -> Problem {
        Problem::new(code, at, &*self.path, message)
    }

    /// Reports a problem.
    pub(super) fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn wrong_type(&mut self, node: &Node, expected: &str) {
        let problem =
            self.problem("wrong-type", node.at(), format!("expected {expected}, found {}", node.kind()));
        let problem = match (&node.data, expected) {
            (Data::Bool(_) | Data::Number(_), "a string") => problem.hint("write it in quotes"),
            (Data::Text(_), "a list") => problem.hint("write one item as `[item]`"),
            (Data::Null, _) => problem.hint("give it a value, or leave the field out"),
            _ => problem,
        };
        self.report(problem);
    }

    /// A string.
    pub(super) fn string<'n>(&mut self, node: &'n Node) -> Option<&'n str> {
        let text = node.text();
        if text.is_none() {
            self.wrong_type(node, "a string");
        }
        text
    }

    /// A string with a grammar of its own.
    pub(super) fn parsed<T: FromStr<Err = Error>>(&mut self, node: &Node, code: &'static str) -> Option<T> {
        match self.string(node)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let problem = self.problem(code, node.at(), error.sentence());
                self.report(problem);
                None
            }
        }
    }

    /// A string out of a fixed set.
    pub(super) fn choice<T: Copy>(&mut self, node: &Node, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string(node)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let hint = did_you_mean(text, names.iter().copied())
            .unwrap_or_else(|| format!("write `{}`", names.join("` or `")));
        let problem = self.problem("bad-value", node.at(), format!("`{}` is not allowed here", shown(text)));
        self.report(problem.hint(hint));
        None
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, node: &Node) -> Option<bool> {
        let Data::Bool(flag) = node.data else {
            self.wrong_type(node, "a boolean");
            return None;
        };
        Some(flag)
    }

    fn number<'n>(&mut self, node: &'n Node, expected: &str) -> Option<&'n Number> {
        let Data::Number(number) = &node.data else {
            self.wrong_type(node, expected);
            return None;
        };
        Some(number)
    }

    /// An integer within `range`.
    pub(super) fn integer<T: TryFrom<i64>>(&mut self, node: &Node, range: RangeInclusive<i64>) -> Option<T> {
        let number = self.number(node, "an integer")?;
        let value = number.as_i64().filter(|value| range.contains(value));
        let value = value.and_then(|value| T::try_from(value).ok());
        if value.is_none() {
            let message = match (*range.start(), *range.end()) {
                (start, i64::MAX) => format!("expected an integer from {start}, found {number}"),
                (start, end) => format!("expected an integer from {start} to {end}, found {number}"),
            };
            let problem = self.problem("out-of-range", node.at(), message);
            self.report(problem);
        }
        value
    }

    /// A number of at least `least`.
    pub(super) fn float(&mut self, node: &Node, least: f64) -> Option<f64> {
        let number = self.number(node, "a number")?;
        let value = number.as_f64().filter(|value| *value >= least);
        if value.is_none() {
            let message = format!("expected a number from {least}, found {number}");
            let problem = self.problem("out-of-range", node.at(), message);
            self.report(problem);
        }
        value
    }

    /// A list; items that cannot be read are left out.
    pub(super) fn list<'n, T>(
        &mut self,
        node: &'n Node,
        mut read: impl FnMut(&mut Self, usize, &'n Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Data::List(items) = &node.data else {
            self.wrong_type(node, "a list");
            return None;
        };
        let items = items.iter().enumerate();
        Some(items.filter_map(|(index, item)| self.within(index, |r| read(r, index, item))).collect())
    }

    /// A list of strings.
    pub(super) fn strings(&mut self, node: &Node) -> Option<Vec<String>> {
        self.list(node, |reader, _, item| reader.string(item).map(str::to_owned))
    }

    /// A map with the fields `known` and no others.
    pub(super) fn map<'n>(&mut self, node: &'n Node, known: &[&str]) -> Option<Fields<'n>> {
        let Data::Map(fields) = &node.data else {
            self.wrong_type(node, "a map");
            return None;
        };
        for field in fields.iter().filter(|field| !known.contains(&field.name.as_str())) {
            let problem = self.within(&field.name, |reader| {
                reader.problem("unknown-field", field.at, format!("unknown field `{}`", shown(&field.name)))
            });
            if self.problems.is_full() {
                self.report(problem);
                continue;
            }
            let hint = did_you_mean(&field.name, known.iter().copied())
                .unwrap_or_else(|| format!("the fields here are {}", known.join(", ")));
            self.report(problem.hint(hint));
        }
        Some(Fields(node))
    }
}

/// The fields of a map whose names are known to be good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'n>(&'n Node);

impl<'n> Fields<'n> {
    /// A field that may be absent, but not `null`.
    pub(super) fn defaulted<T>(
        self,
        reader: &mut Reader<'_>,
        name: &'static str,
        read: impl FnOnce(&mut Reader<'_>, &'n Node) -> Option<T>,
    ) -> Option<T> {
        let node = self.0.field(name)?;
        reader.within(name, |reader| read(reader, node))
    }

    /// A field that may be absent or `null`.
    pub(super) fn optional<T>(
        self,
        reader: &mut Reader<'_>,
        name: &'static str,
        read: impl FnOnce(&mut Reader<'_>, &'n Node) -> Option<T>,
    ) -> Option<T> {
        let node = self.0.field(name).filter(|node| !matches!(node.data, Data::Null))?;
        reader.within(name, |reader| read(reader, node))
    }

    /// A field that must be there.
    pub(super) fn required<T>(
        self,
        reader: &mut Reader<'_>,
        name: &'static str,
        read: impl FnOnce(&mut Reader<'_>, &'n Node) -> Option<T>,
    ) -> Option<T> {
        if self.0.field(name).is_none() {
            let problem = reader.problem("missing-field", self.0.at(), format!("`{name}` is missing"));
            reader.report(problem);
        }
        self.defaulted(reader, name, read)
    }
}

/// Text of unknown length and content, made fit for a message.
pub(super) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}
