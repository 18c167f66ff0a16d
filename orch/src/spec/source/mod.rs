//! The text of a document as a tree in which every node knows its place.

mod json;
mod yaml;

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Number, Value};

use super::diagnostic::{Problem, Problems};
use super::fields::shown;
use crate::limits::Limits;
use crate::payload::{RESERVED, is_exact, is_reserved};

/// A place in the text, in bytes from its beginning.
pub(super) type Offset = usize;

/// The deepest nesting whatever [`Limits::spec_depth`] says: reading a level takes a bounded piece of stack.
const DEPTH_CEILING: usize = 128;

/// A value with the piece of text it was written as.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The value.
    pub(super) data: Data,
    /// Its piece of the text; for a YAML alias that of the alias.
    pub(super) span: Range<Offset>,
}

/// A value as JSON knows it.
#[derive(Clone, Debug)]
pub(super) enum Data {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Field>),
}

/// An entry of a map. Names are unique within their map.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) at: Offset,
    pub(super) node: Node,
}

impl Node {
    /// Where it begins.
    pub(super) fn at(&self) -> Offset {
        self.span.start
    }

    /// The text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The entries, if it is a map.
    pub(super) fn fields(&self) -> &[Field] {
        match &self.data {
            Data::Map(fields) => fields,
            _ => &[],
        }
    }

    /// The items, if it is a list.
    pub(super) fn items(&self) -> &[Self] {
        match &self.data {
            Data::List(items) => items,
            _ => &[],
        }
    }

    /// The entry called `name`, if it is a map with one.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        self.fields().iter().find(|field| field.name == name).map(|field| &field.node)
    }

    /// The node a JSON pointer leads to, or the closest one above it.
    pub(super) fn closest(&self, pointer: &str) -> &Self {
        let mut node = self;
        for part in pointer.split('/').skip(1) {
            let name = part.replace("~1", "/").replace("~0", "~");
            let next = match &node.data {
                Data::List(items) => name.parse().ok().and_then(|index: usize| items.get(index)),
                _ => node.field(&name),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    /// The kind of value, with its article.
    pub(super) fn kind(&self) -> &'static str {
        match self.data {
            Data::Null => "nothing",
            Data::Bool(_) => "a boolean",
            Data::Number(_) => "a number",
            Data::Text(_) => "a string",
            Data::List(_) => "a list",
            Data::Map(_) => "a map",
        }
    }

    /// The value without its places.
    pub(super) fn to_value(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(flag) => Value::Bool(*flag),
            Data::Number(number) => Value::Number(number.clone()),
            Data::Text(text) => Value::String(text.clone()),
            Data::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Data::Map(fields) => Value::Object(
                fields.iter().map(|field| (field.name.clone(), field.node.to_value())).collect::<Map<_, _>>(),
            ),
        }
    }
}

/// Scalars that stand for no number of JSON, by their place. The tree goes on with [`stand_in`] for each.
type Odd = BTreeMap<Offset, Problem>;

/// What a reader of one syntax makes of a text.
struct Tree {
    root: Node,
    odd: Odd,
}

/// The number that takes the place of one that cannot be: within the range of every field.
fn stand_in() -> Data {
    Data::Number(1.into())
}

fn not_finite(text: &str, at: Offset) -> Problem {
    Problem::new("not-finite", at, "", format!("`{}` is no JSON number", shown(text)))
        .hint("write it in quotes if it is meant as a string")
}

/// Reads the tree of a document. A text whose first character is `{` or `[` is JSON, any other YAML.
///
/// `None` when the text cannot be read at all; `problems` says why. Problems that leave a tree to go on
/// with (duplicate names, odd numbers) are reported beside it.
pub(super) fn read(text: &str, limits: &Limits, problems: &mut Problems) -> Option<Node> {
    if text.len() > limits.spec_bytes {
        let message = format!("the document has more than {} bytes", limits.spec_bytes);
        problems.push(Problem::new("limit-exceeded", 0, "", message).hint("split it into sub-DAGs"));
        return None;
    }
    let depth_max = limits.spec_depth.min(DEPTH_CEILING);
    // A byte order mark says nothing in UTF-8; positions count as if it were absent.
    let bare = text.trim_start_matches('\u{feff}');
    let tree = if bare.trim_start().starts_with(['{', '[']) {
        json::read(text, bare, depth_max)
    } else {
        yaml::read(text, depth_max)
    };
    match tree {
        Ok(Tree { mut root, mut odd }) => {
            settle(&mut root, &mut String::new(), &mut odd, problems);
            // What a name used twice took with it.
            odd.into_values().for_each(|problem| problems.push(problem));
            Some(root)
        }
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

/// Refuses integers that another reader might round, and names used twice in a map (the first one stays), and says
/// where in the data the odd numbers are.
fn settle(node: &mut Node, path: &mut String, odd: &mut Odd, problems: &mut Problems) {
    let length = path.len();
    match &mut node.data {
        Data::Number(_) if odd.contains_key(&node.span.start) => {
            odd.remove(&node.span.start).into_iter().for_each(|problem| problems.push(problem.within(path)));
        }
        Data::Number(number) if !is_exact(number) => {
            let message = "the integer is beyond 2^53 and would not survive every reader";
            problems.push(
                Problem::new("inexact-integer", node.span.start, &*path, message)
                    .hint("write it as a string"),
            );
        }
        Data::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                path.push_str(&format!("/{index}"));
                settle(item, path, odd, problems);
                path.truncate(length);
            }
        }
        Data::Map(fields) => {
            let mut firsts = BTreeMap::new();
            let mut twice = Vec::new();
            for (index, field) in fields.iter_mut().enumerate() {
                path.push('/');
                path.push_str(&escape(&field.name));
                if is_reserved(&field.name) {
                    problems.push(Problem::new("reserved-name", field.at, &*path, RESERVED));
                }
                if let Some(first) = firsts.get(&field.name) {
                    let message = format!("`{}` is there twice", shown(&field.name));
                    problems
                        .push(Problem::new("duplicate-field", field.at, &*path, message).first_at(*first));
                    twice.push(index);
                } else {
                    firsts.insert(field.name.clone(), field.at);
                    settle(&mut field.node, path, odd, problems);
                }
                path.truncate(length);
            }
            let mut index = 0;
            fields.retain(|_| {
                index += 1;
                twice.binary_search(&(index - 1)).is_err()
            });
        }
        Data::Null | Data::Bool(_) | Data::Number(_) | Data::Text(_) => {}
    }
}

/// The number written in decimal; `None` when it is not finite. An integer beyond 64 bits saturates, so that
/// it is seen to be inexact instead of turning into a float.
fn decimal(written: &str) -> Option<Number> {
    let digits = written.trim_start_matches(['-', '+']);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(match (written.starts_with('-'), digits.parse::<u64>()) {
            (false, magnitude) => magnitude.unwrap_or(u64::MAX).into(),
            (true, Ok(0)) => Number::from_f64(-0.0)?,
            (true, magnitude) => {
                magnitude.ok().and_then(|n| 0_i64.checked_sub_unsigned(n)).unwrap_or(i64::MIN).into()
            }
        });
    }
    written.parse().ok().and_then(Number::from_f64)
}

/// A name as a part of a JSON pointer.
pub(super) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Turns offsets into lines and columns.
#[derive(Debug)]
pub(super) struct LineIndex<'t> {
    text: &'t str,
    starts: Vec<Offset>,
}

impl<'t> LineIndex<'t> {
    /// Finds the lines of `text`.
    pub(super) fn new(text: &'t str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let bom = text.len() - text.trim_start_matches('\u{feff}').len();
        Self { text, starts: std::iter::once(bom).chain(breaks.map(|(at, _)| at + 1)).collect() }
    }

    /// The line and the column, in characters, of an offset; both from 1.
    pub(super) fn position(&self, at: Offset) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= at).max(1);
        let start = self.starts[line - 1];
        let column = self.text.get(start..at.max(start)).map_or(0, |before| before.chars().count());
        (line, column + 1)
    }

    /// The offset of a line and a byte in it, both from 1, clamped to the text.
    pub(super) fn offset(&self, line: usize, byte: usize) -> Offset {
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let mut at = (start + byte.saturating_sub(1)).min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

#[cfg(test)]
mod tests;
