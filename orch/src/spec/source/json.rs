//! JSON text to tree. `serde_json` judges the text as a whole and reads every scalar; in between, a walk over the
//! text that is known to be good finds the places.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Data, Field, LineIndex, Node, Odd, Offset, Tree, decimal, not_finite, stand_in};
use crate::spec::diagnostic::Problem;

/// Reads `bare`, which is `text` without its byte order mark.
pub(super) fn read(text: &str, bare: &str, depth_max: usize) -> Result<Tree, Problem> {
    let mut walk = Walk { text, at: text.len() - bare.len(), depth_max, odd: Odd::new() };
    if let Err(error) = serde_json::from_str::<IgnoredAny>(&without_odd_numbers(bare)) {
        return Err(walk.problem(walk.at, &error));
    }
    let root = walk.node(0)?;
    Ok(Tree { root, odd: walk.odd })
}

/// The text with a number of the same length for each word that other writers of JSON put where a number is not
/// finite, so that it is one problem and not the end of reading.
fn without_odd_numbers(text: &str) -> Cow<'_, str> {
    if !NOT_FINITE.iter().any(|word| text.contains(word)) {
        return Cow::Borrowed(text);
    }
    let mut good = String::with_capacity(text.len());
    let (mut within_string, mut from) = (false, 0);
    for (at, found) in text.match_indices(['"', '\\', 'N', 'I']) {
        if at < from {
            continue;
        }
        let mut end = at + 1;
        match found {
            "\\" if within_string => {
                let escaped = text[end..].chars().next().map_or(0, char::len_utf8);
                end += escaped;
            }
            "\"" => within_string = !within_string,
            _ if !within_string => {
                let word = NOT_FINITE.iter().find(|word| text[at..].starts_with(**word));
                if let Some(word) = word.filter(|word| stands_alone(text, at, word.len())) {
                    good.push_str(&text[from..at]);
                    good.push_str(&"1".repeat(word.len()));
                    from = at + word.len();
                    continue;
                }
            }
            _ => {}
        }
        good.push_str(&text[from..end]);
        from = end;
    }
    good.push_str(&text[from..]);
    Cow::Owned(good)
}

/// What a number that is not finite is written as in JavaScript, and by writers of JSON that do not look; the second
/// may have a sign.
const NOT_FINITE: [&str; 2] = ["NaN", "Infinity"];

/// Whether the word at `at` is a value of its own.
fn stands_alone(text: &str, at: Offset, length: usize) -> bool {
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+._".contains(byte);
    let bytes = text.as_bytes();
    !bytes[..at].last().is_some_and(part) && !bytes.get(at + length).is_some_and(part)
}

/// Goes once over a text whose syntax is right, so that commas and colons say nothing new.
struct Walk<'t> {
    text: &'t str,
    at: Offset,
    depth_max: usize,
    odd: Odd,
}

impl<'t> Walk<'t> {
    /// The first byte of the next value, name or closing bracket.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| b" \t\r\n,:".contains(byte)).count();
        self.text.as_bytes().get(self.at).copied()
    }

    /// Recurses once for each level, of which there are few.
    fn node(&mut self, depth: usize) -> Result<Node, Problem> {
        let first = self.peek();
        let start = self.at;
        let data = match first {
            Some(b'[' | b'{') if depth >= self.depth_max => {
                let message = format!("the document is nested deeper than {} levels", self.depth_max);
                return Err(Problem::new("limit-exceeded", start, "", message).hint("flatten it"));
            }
            Some(b'[') => {
                self.at += 1;
                let mut items = Vec::new();
                while self.peek() != Some(b']') {
                    items.push(self.node(depth + 1)?);
                }
                self.at += 1;
                Data::List(items)
            }
            Some(b'{') => {
                self.at += 1;
                let mut fields = Vec::new();
                while self.peek() != Some(b'}') {
                    let at = self.at;
                    let name = self.string()?;
                    fields.push(Field { name, at, node: self.node(depth + 1)? });
                }
                self.at += 1;
                Data::Map(fields)
            }
            Some(b'"') => Data::Text(self.string()?),
            _ => self.word()?,
        };
        Ok(Node { data, span: start..self.at })
    }

    fn string(&mut self) -> Result<String, Problem> {
        let rest = &self.text.as_bytes()[self.at..];
        let mut length = 1;
        while rest.get(length).is_some_and(|byte| *byte != b'"') {
            length += if rest[length] == b'\\' { 2 } else { 1 };
        }
        self.decode(length + 1)
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self) -> Result<Data, Problem> {
        let rest = &self.text.as_bytes()[self.at..];
        let length =
            rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)).count();
        Ok(match rest.first() {
            Some(b't' | b'f') => Data::Bool(self.decode(length)?),
            Some(b'n') => self.decode::<()>(length).map(|_| Data::Null)?,
            // `serde_json` has settled that it is a number, but for the words put right before.
            _ => {
                let (start, written) =
                    (self.at, self.text.get(self.at..self.at + length).unwrap_or_default());
                self.at += length;
                decimal(written).map_or_else(
                    || {
                        self.odd.insert(start, not_finite(written, start));
                        stand_in()
                    },
                    Data::Number,
                )
            }
        })
    }

    /// Reads the next `length` bytes as one scalar.
    fn decode<T: Deserialize<'t>>(&mut self, length: usize) -> Result<T, Problem> {
        let start = self.at;
        let piece = self.text.get(start..start + length).unwrap_or_default();
        let value = serde_json::from_str(piece).map_err(|error| self.problem(start, &error))?;
        self.at += length;
        Ok(value)
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
