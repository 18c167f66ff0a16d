//! YAML text to tree, by `serde-saphyr`: YAML 1.2 scalars only, and a budget on everything that can grow.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Number;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Location, Options, Spanned};

use super::{Data, Field, LineIndex, Node, Offset};
use crate::spec::diagnostic::Problem;

/// Nodes that aliases may add to a document; what stands in the text is bounded by its length.
const ALIASED_NODES_MAX: usize = 100_000;

/// Reads `text`, nested `depth_max` levels at most.
pub(super) fn read(text: &str, depth_max: usize) -> Result<Node, Problem> {
    let tree: Spanned<Tree> = serde_saphyr::from_str_with_options(text, options(text.len(), depth_max))
        .map_err(|error| problem(text, &error))?;
    Ok(tree.into())
}

fn options(bytes: usize, depth_max: usize) -> Options {
    // Every event takes a byte of the text or comes from an alias.
    let nodes = bytes.saturating_mul(2).saturating_add(ALIASED_NODES_MAX);
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: depth_max,
            max_events: nodes,
            max_nodes: nodes,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIASED_NODES_MAX,
        },
        // Our own check names both places and finds all of them.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: NonFiniteFloatPolicy::Reject,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

fn problem(text: &str, error: &serde_saphyr::Error) -> Problem {
    use serde_saphyr::Error;

    let at = error.location().map_or(0, |location| offset(text, location));
    let plain = error.without_snippet();
    let full = plain.to_string();
    let reason = full.split(" at line ").next().unwrap_or(&full).trim_end_matches('.');
    let problem = |code, message: String| Problem::new(code, at, "", message);
    match plain {
        Error::Budget { .. } | Error::AliasReplayLimitExceeded { .. } => {
            problem("limit-exceeded", format!("the document is too large or nested too deep: {reason}"))
                .hint("split it into sub-DAGs, or use fewer aliases")
        }
        Error::NonFiniteFloat { value, .. } => problem("not-finite", format!("`{value}` is no JSON number"))
            .hint("write it in quotes if it is meant as a string"),
        Error::MergeKeyNotAllowed { .. } => {
            problem("merge-key", "merge keys (`<<`) are not part of YAML 1.2".to_owned())
                .hint("write the fields out, or use an alias for a whole value")
        }
        _ => problem("syntax", format!("not valid YAML: {reason}")),
    }
}

fn offset(text: &str, location: Location) -> Offset {
    location.span().byte_offset().and_then(|at| usize::try_from(at).ok()).unwrap_or_else(|| {
        let line = usize::try_from(location.line()).unwrap_or(usize::MAX);
        LineIndex::new(text).offset(line, usize::try_from(location.column()).unwrap_or(usize::MAX))
    })
}

/// [`Data`] as the deserialiser hands it over.
enum Tree {
    Leaf(Data),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl From<Spanned<Tree>> for Node {
    fn from(tree: Spanned<Tree>) -> Self {
        let span = span(tree.referenced);
        let data = match tree.value {
            Tree::Leaf(data) => data,
            Tree::List(items) => Data::List(items.into_iter().map(Self::from).collect()),
            Tree::Map(entries) => Data::Map(
                entries
                    .into_iter()
                    .map(|(name, value)| Field {
                        at: span_start(name.referenced),
                        name: name.value,
                        node: value.into(),
                    })
                    .collect(),
            ),
        };
        Self { data, span }
    }
}

fn span(location: Location) -> std::ops::Range<Offset> {
    let start = span_start(location);
    let length = location.span().byte_len().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    start..start + length
}

fn span_start(location: Location) -> Offset {
    location.span().byte_offset().and_then(|at| usize::try_from(at).ok()).unwrap_or(0)
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Data::Null))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(Data::Bool(flag)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(Data::Number(number.into())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(Data::Number(number.into())))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Tree, E> {
        let number = Number::from_f64(number).ok_or_else(|| E::custom("the number is not finite"))?;
        Ok(Tree::Leaf(Data::Number(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(Data::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Map(entries))
    }
}
