//! JSON text to tree. `serde_json` reads the values; raw values borrow from the text, which gives their places.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Data, Field, LineIndex, Node, Offset, decimal};
use crate::spec::diagnostic::Problem;

/// Reads `bare`, which is `text` without its byte order mark.
pub(super) fn read(text: &str, bare: &str, depth_max: usize) -> Result<Node, Problem> {
    let reader = Reader { text, depth_max };
    let root: &RawValue =
        serde_json::from_str(bare).map_err(|error| reader.problem(text.len() - bare.len(), &error))?;
    reader.node(root, 0)
}

struct Reader<'t> {
    text: &'t str,
    depth_max: usize,
}

impl<'t> Reader<'t> {
    /// Where a raw value stands: it borrows from the text, so the distance of the addresses is its offset.
    fn offset(&self, raw: &'t RawValue) -> Offset {
        (raw.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }

    /// Each level scans its children once more, so the cost is the length of the text times its depth.
    fn node(&self, raw: &'t RawValue, depth: usize) -> Result<Node, Problem> {
        let at = self.offset(raw);
        let data = match raw.get().as_bytes().first() {
            Some(b'[' | b'{') if depth >= self.depth_max => {
                let message = format!("the document is nested deeper than {} levels", self.depth_max);
                return Err(Problem::new("limit-exceeded", at, "", message).hint("flatten it"));
            }
            Some(b'[') => {
                let Items(items) = self.decode(raw)?;
                let nodes = items.into_iter().map(|item| self.node(item, depth + 1));
                Data::List(nodes.collect::<Result<_, _>>()?)
            }
            Some(b'{') => {
                let Entries(entries) = self.decode(raw)?;
                let fields = entries.into_iter().map(|(name, value)| {
                    Ok(Field {
                        name: self.decode(name)?,
                        at: self.offset(name),
                        node: self.node(value, depth + 1)?,
                    })
                });
                Data::Map(fields.collect::<Result<_, _>>()?)
            }
            Some(b'"') => Data::Text(self.decode(raw)?),
            Some(b't' | b'f') => Data::Bool(self.decode(raw)?),
            Some(b'n') => Data::Null,
            // `serde_json` settles what is a number and whether it is finite.
            _ => {
                let number = self.decode(raw)?;
                Data::Number(decimal(raw.get()).unwrap_or(number))
            }
        };
        Ok(Node { data, span: at..at + raw.get().len() })
    }

    fn decode<T: Deserialize<'t>>(&self, raw: &'t RawValue) -> Result<T, Problem> {
        serde_json::from_str(raw.get()).map_err(|error| self.problem(self.offset(raw), &error))
    }

    /// A problem found while reading the piece of text that begins at `from`.
    fn problem(&self, from: Offset, error: &serde_json::Error) -> Problem {
        let index = LineIndex::new(&self.text[from..]);
        let at = from + index.offset(error.line(), error.column());
        let text = error.to_string();
        let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
        Problem::new("syntax", at, "", format!("not valid JSON: {reason}"))
            .hint("a document that begins with `{` is read as JSON, any other as YAML")
    }
}

/// The items of an array, unread.
struct Items<'t>(Vec<&'t RawValue>);

/// The entries of an object, unread, in order and with names that come twice.
struct Entries<'t>(Vec<(&'t RawValue, &'t RawValue)>);

impl<'t> Deserialize<'t> for Items<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self)
    }
}

impl<'t> Deserialize<'t> for Entries<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'t> Visitor<'t> for EntriesVisitor {
            type Value = Entries<'t>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}
