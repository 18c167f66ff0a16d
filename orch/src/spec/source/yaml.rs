//! YAML text to tree. `granit-parser` yields events; they are folded with a stack of our own, so that depth
//! costs heap and is bounded. Scalars mean what the core schema of YAML 1.2.2 (section 10.3.2) says.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Tag};
use serde_json::Number;

use super::{Data, Field, Node, Odd, Offset, Tree, decimal, not_finite, stand_in};
use crate::spec::diagnostic::Problem;
use crate::spec::fields::shown;

/// Values that anchors and aliases may copy in a document.
const COPIED_MAX: usize = 100_000;

/// Bytes of text that count as one more value.
const BYTES_PER_VALUE: usize = 64;

/// Reads `text`, nested `depth_max` levels at most.
pub(super) fn read(text: &str, depth_max: usize) -> Result<Tree, Problem> {
    let options = granit_parser::options! {
        emit_comments: false,
        // One more than ours, so that ours is the one that speaks.
        flow_nesting_limit: depth_max + 1,
        block_nesting_limit: depth_max + 1,
    };
    let mut builder = Builder::new(depth_max);
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| unreadable(&error))?;
        builder.take(event, span.byte_range().unwrap_or_default())?;
    }
    let root = builder.root.unwrap_or(Node { data: Data::Null, span: 0..0 });
    Ok(Tree { root, odd: builder.odd })
}

fn unreadable(error: &ScanError) -> Problem {
    let at = error.marker().byte_offset().unwrap_or(0);
    if *error.kind() == ErrorKind::RecursionLimitExceeded {
        return Problem::new("limit-exceeded", at, "", "the document is nested too deep").hint("flatten it");
    }
    Problem::new("syntax", at, "", format!("not valid YAML: {}", error.info()))
}

fn refused(at: Offset, message: impl Into<String>) -> Problem {
    Problem::new("syntax", at, "", message)
}

/// Folds events into a tree.
struct Builder {
    depth_max: usize,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Anchor>,
    copied: usize,
    odd: Odd,
    root: Option<Node>,
}

/// A list or map whose end has not come yet.
struct Open {
    start: Offset,
    anchor: usize,
    content: Content,
    size: Size,
}

enum Content {
    List(Vec<Node>),
    Map { fields: Vec<Field>, name: Option<(String, Offset)> },
}

struct Anchor {
    node: Node,
    size: Size,
}

/// How large a tree is.
#[derive(Clone, Copy)]
struct Size {
    /// Values, long texts counting as several.
    weight: usize,
    height: usize,
}

impl Size {
    fn leaf(text: &str) -> Self {
        Self { weight: weight(text), height: 0 }
    }

    fn add_child(&mut self, child: Self) {
        self.weight += child.weight;
        self.height = self.height.max(child.height + 1);
    }
}

fn weight(text: &str) -> usize {
    1 + text.len() / BYTES_PER_VALUE
}

impl Builder {
    fn new(depth_max: usize) -> Self {
        Self { depth_max, open: Vec::new(), anchors: BTreeMap::new(), copied: 0, odd: Odd::new(), root: None }
    }

    fn take(&mut self, event: Event<'_>, span: Range<Offset>) -> Result<(), Problem> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(refused(span.start, "a second document begins here")
                    .hint("keep one document in a text; `---` starts another one"))
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.awaits_name() {
                    return self.name(&text, style, span.start);
                }
                let size = Size::leaf(&text);
                let data = scalar(text, style, tag.as_deref(), span.start, &mut self.odd)?;
                self.put(Node { data, span }, anchor, size)
            }
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::SequenceStart(_, anchor, tag) => {
                self.begin(Content::List(Vec::new()), anchor, tag.as_deref(), "seq", span.start)
            }
            Event::MappingStart(_, anchor, tag) => {
                let content = Content::Map { fields: Vec::new(), name: None };
                self.begin(content, anchor, tag.as_deref(), "map", span.start)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.end(open, span.end),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Whether the next node is the name of a field.
    fn awaits_name(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Map { name: None, .. }, .. }))
    }

    fn name(&mut self, text: &str, style: ScalarStyle, at: Offset) -> Result<(), Problem> {
        if style == ScalarStyle::Plain && text == "<<" {
            return Err(Problem::new("merge-key", at, "", "merge keys (`<<`) are not part of YAML 1.2")
                .hint("write the fields out, or use an alias for a whole value"));
        }
        // The parser spells an absent name `~`.
        if style == ScalarStyle::Plain && matches!(text, "" | "~") {
            return Err(refused(at, "the name of the field is missing"));
        }
        if let Some(Open { content: Content::Map { name, .. }, size, .. }) = self.open.last_mut() {
            size.weight += weight(text) - 1;
            *name = Some((text.to_owned(), at));
        }
        Ok(())
    }

    fn begin(
        &mut self,
        content: Content,
        anchor: usize,
        tag: Option<&Tag>,
        kind: &str,
        start: Offset,
    ) -> Result<(), Problem> {
        if self.awaits_name() {
            return Err(refused(start, "the name of a field is a string"));
        }
        if tag.is_some_and(|tag| tag.core_suffix() != Some(kind)) {
            return Err(refused(start, "tags of our own have no meaning here").hint("remove the tag"));
        }
        self.check_depth(1, start)?;
        self.open.push(Open { start, anchor, content, size: Size { weight: 1, height: 1 } });
        Ok(())
    }

    fn end(&mut self, open: Open, end: Offset) -> Result<(), Problem> {
        let data = match open.content {
            Content::List(items) => Data::List(items),
            Content::Map { fields, .. } => Data::Map(fields),
        };
        self.put(Node { data, span: open.start..end.max(open.start) }, open.anchor, open.size)
    }

    /// Puts a finished node where it belongs.
    fn put(&mut self, node: Node, anchor: usize, size: Size) -> Result<(), Problem> {
        if anchor != 0 {
            self.charge(size.weight, node.at())?;
            self.anchors.insert(anchor, Anchor { node: node.clone(), size });
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        parent.size.add_child(size);
        match &mut parent.content {
            Content::List(items) => items.push(node),
            Content::Map { fields, name } => {
                if let Some((name, at)) = name.take() {
                    fields.push(Field { name, at, node });
                }
            }
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, span: Range<Offset>) -> Result<(), Problem> {
        if self.awaits_name() {
            return Err(refused(span.start, "the name of a field is a string, not an alias"));
        }
        let Some(Anchor { node, size }) = self.anchors.get(&anchor) else {
            return Err(refused(span.start, "an alias stands within what it names"));
        };
        let (data, size) = (node.data.clone(), *size);
        self.charge(size.weight, span.start)?;
        self.check_depth(size.height, span.start)?;
        self.put(Node { data, span }, 0, size)
    }

    /// Bounds what anchors and aliases copy: ten lines can otherwise stand for a billion nodes.
    fn charge(&mut self, weight: usize, at: Offset) -> Result<(), Problem> {
        self.copied = self.copied.saturating_add(weight);
        if self.copied <= COPIED_MAX {
            return Ok(());
        }
        let message = format!(
            "anchors and aliases stand for more than {COPIED_MAX} values, {BYTES_PER_VALUE} bytes of text counting as one"
        );
        Err(Problem::new("limit-exceeded", at, "", message).hint("use fewer aliases"))
    }

    fn check_depth(&self, more: usize, at: Offset) -> Result<(), Problem> {
        if self.open.len() + more <= self.depth_max {
            return Ok(());
        }
        let message = format!("the document is nested deeper than {} levels", self.depth_max);
        Err(Problem::new("limit-exceeded", at, "", message).hint("flatten it"))
    }
}

/// What a scalar means.
fn scalar(
    text: Cow<'_, str>,
    style: ScalarStyle,
    tag: Option<&Tag>,
    at: Offset,
    odd: &mut Odd,
) -> Result<Data, Problem> {
    let Some(tag) = tag else {
        return Ok(if style == ScalarStyle::Plain {
            plain(text, at, odd)
        } else {
            Data::Text(text.into_owned())
        });
    };
    let wanted = tag.core_suffix();
    if wanted == Some("str") || tag.to_string() == "!" {
        return Ok(Data::Text(text.into_owned()));
    }
    let data = plain(text, at, odd);
    match (wanted, &data) {
        (Some("null"), Data::Null)
        | (Some("bool"), Data::Bool(_))
        | (Some("int" | "float"), Data::Number(_)) => Ok(data),
        (Some(_), _) => Err(refused(at, "the value is not what its tag says").hint("remove the tag")),
        (None, _) => Err(refused(at, "tags of our own have no meaning here").hint("remove the tag")),
    }
}

/// A scalar without quotes, by the core schema.
fn plain(text: Cow<'_, str>, at: Offset, odd: &mut Odd) -> Data {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(&text);
    let mut refuse = |problem| {
        odd.insert(at, problem);
        stand_in()
    };
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => Data::Null,
        "true" | "True" | "TRUE" => Data::Bool(true),
        "false" | "False" | "FALSE" => Data::Bool(false),
        ".nan" | ".NaN" | ".NAN" => refuse(not_finite(&text, at)),
        _ if matches!(unsigned, ".inf" | ".Inf" | ".INF") => refuse(not_finite(&text, at)),
        _ if is_number(unsigned) => {
            let mut digits = unsigned.bytes();
            if digits.next() == Some(b'0') && digits.next().is_some_and(|digit| digit.is_ascii_digit()) {
                let message = format!("`{}` begins with 0, which some readers take for octal", shown(&text));
                return refuse(Problem::new("ambiguous-number", at, "", message).hint(
                    "write it in quotes if it is a string, as `0o…` if it is octal, else without the 0",
                ));
            }
            decimal(&text).map_or_else(|| refuse(not_finite(&text, at)), Data::Number)
        }
        _ => match radix(&text) {
            Some(number) => Data::Number(number),
            None => Data::Text(text.into_owned()),
        },
    }
}

/// `(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_number(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    !(whole.is_empty() && fraction.is_empty())
        && digits(whole)
        && digits(fraction)
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent))
}

/// `0o[0-7]+` and `0x[0-9a-fA-F]+`; beyond 64 bits it saturates, as [`decimal`] does.
fn radix(text: &str) -> Option<Number> {
    let (digits, radix) =
        text.strip_prefix("0o").map(|d| (d, 8)).or_else(|| text.strip_prefix("0x").map(|d| (d, 16)))?;
    let all = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    all.then(|| u64::from_str_radix(digits, radix).unwrap_or(u64::MAX).into())
}
