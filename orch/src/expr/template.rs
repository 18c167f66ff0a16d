//! JSON whose strings may hold `${{ expression }}`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::eval::Machine;
use super::scan::{Kind, Scanner};
use super::scope::Scope;
use super::value::Writer;
use super::{Bounds, CompileError, EvalError, Expression};
use crate::limits::Limits;
use crate::payload::PAYLOAD_DEPTH_MAX;

const OPENING: &str = "${{";
const CLOSING: &str = "}}";

/// A compiled template.
///
/// A string that is exactly one `${{ … }}` takes the value of the expression with its type. In any other
/// string each expression is put in as text: strings as they are, everything else as canonical JSON.
/// `$${{` stands for a literal `${{`. Keys are never templates.
#[derive(Clone, Debug)]
pub struct Template {
    part: Part,
    steps: BTreeSet<String>,
    item: bool,
    index: bool,
}

#[derive(Clone, Debug)]
enum Part {
    /// Holds no expression anywhere below; strings are unescaped.
    Constant {
        value: Value,
        bytes: usize,
    },
    Whole(Expression),
    Text(Vec<Piece>),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

#[derive(Clone, Debug)]
enum Piece {
    Literal(String),
    Expression(Expression),
}

impl Template {
    /// Compiles every string of `value`.
    ///
    /// # Errors
    /// All strings that do not compile, each with its JSON pointer (RFC 6901); offsets count within the string.
    pub fn compile(value: &Value, limits: &Limits) -> Result<Self, Vec<(String, CompileError)>> {
        let mut compiler = Compiler { limits, pointer: Vec::new(), errors: Vec::new() };
        let part = compiler.part(value);
        if !compiler.errors.is_empty() {
            return Err(compiler.errors);
        }
        let mut template =
            Self { part: Part::List(Vec::new()), steps: BTreeSet::new(), item: false, index: false };
        template.collect(&part);
        template.part = part;
        Ok(template)
    }

    fn collect(&mut self, part: &Part) {
        match part {
            Part::Constant { .. } => {}
            Part::Whole(expression) => self.add(expression),
            Part::Text(pieces) => {
                for piece in pieces {
                    if let Piece::Expression(expression) = piece {
                        self.add(expression);
                    }
                }
            }
            Part::List(parts) => parts.iter().for_each(|part| self.collect(part)),
            Part::Map(parts) => parts.iter().for_each(|(_, part)| self.collect(part)),
        }
    }

    fn add(&mut self, expression: &Expression) {
        self.steps.extend(expression.references().iter().cloned());
        self.item |= expression.uses_item();
        self.index |= expression.uses_index();
    }

    /// Whether it holds no expression, so that it renders the same everywhere.
    #[must_use]
    pub const fn is_constant(&self) -> bool {
        matches!(self.part, Part::Constant { .. })
    }

    /// The ids of the steps it reads.
    #[must_use]
    pub const fn references(&self) -> &BTreeSet<String> {
        &self.steps
    }

    /// Whether it reads `item`.
    #[must_use]
    pub const fn uses_item(&self) -> bool {
        self.item
    }

    /// Whether it reads `index`.
    #[must_use]
    pub const fn uses_index(&self) -> bool {
        self.index
    }

    /// The value with every expression filled in. The bounds hold for all expressions together.
    ///
    /// # Errors
    /// The first expression that has no value, in the order of the document.
    pub fn render(&self, scope: &dyn Scope, bounds: Bounds) -> Result<Value, EvalError> {
        let mut renderer = Renderer { scope, fuel: bounds.fuel, writer: Writer { bytes: bounds.bytes } };
        renderer.part(&self.part)
    }
}

struct Compiler<'l> {
    limits: &'l Limits,
    pointer: Vec<String>,
    errors: Vec<(String, CompileError)>,
}

impl Compiler<'_> {
    fn fail(&mut self, error: CompileError) -> Part {
        let pointer = self.pointer.iter().fold(String::new(), |path, part| path + "/" + part);
        self.errors.push((pointer, error));
        Part::List(Vec::new())
    }

    fn part(&mut self, value: &Value) -> Part {
        if self.pointer.len() > PAYLOAD_DEPTH_MAX {
            let message = format!("json is nested deeper than {PAYLOAD_DEPTH_MAX} levels");
            return self.fail(CompileError::new(message, 0));
        }
        match value {
            Value::String(text) => self.string(text),
            Value::Array(items) => {
                let parts = items.iter().enumerate().map(|(index, item)| self.below(index.to_string(), item));
                list(parts.collect())
            }
            Value::Object(fields) => {
                let parts = fields.iter().map(|(name, field)| {
                    let part = self.below(name.replace('~', "~0").replace('/', "~1"), field);
                    (name.clone(), part)
                });
                map(parts.collect())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                Part::Constant { value: value.clone(), bytes: 4 }
            }
        }
    }

    fn below(&mut self, name: String, value: &Value) -> Part {
        self.pointer.push(name);
        let part = self.part(value);
        self.pointer.pop();
        part
    }

    fn string(&mut self, text: &str) -> Part {
        let mut pieces = match pieces(text, self.limits) {
            Ok(pieces) => pieces,
            Err(error) => return self.fail(error),
        };
        match pieces.as_slice() {
            [] => constant_text(String::new()),
            [_] => match pieces.swap_remove(0) {
                Piece::Literal(text) => constant_text(text),
                Piece::Expression(expression) => Part::Whole(expression),
            },
            _ => Part::Text(pieces),
        }
    }
}

fn constant_text(text: String) -> Part {
    let bytes = text.len() + 2;
    Part::Constant { value: Value::String(text), bytes }
}

/// A list of constants is a constant.
fn list(parts: Vec<Part>) -> Part {
    if !parts.iter().all(|part| matches!(part, Part::Constant { .. })) {
        return Part::List(parts);
    }
    let mut total = 2;
    let values = parts.into_iter().filter_map(|part| match part {
        Part::Constant { value, bytes } => {
            total += bytes + 1;
            Some(value)
        }
        _ => None,
    });
    let value = Value::Array(values.collect());
    Part::Constant { value, bytes: total }
}

/// A map of constants is a constant.
fn map(parts: Vec<(String, Part)>) -> Part {
    if !parts.iter().all(|(_, part)| matches!(part, Part::Constant { .. })) {
        return Part::Map(parts);
    }
    let mut total = 2;
    let fields = parts.into_iter().filter_map(|(name, part)| match part {
        Part::Constant { value, bytes } => {
            total += name.len() + 4 + bytes;
            Some((name, value))
        }
        _ => None,
    });
    let value = Value::Object(fields.collect());
    Part::Constant { value, bytes: total }
}

/// Cuts a string into literal text and expressions; neighbouring literals are one.
fn pieces(text: &str, limits: &Limits) -> Result<Vec<Piece>, CompileError> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut at = 0;
    while let Some(found) = text[at..].find(OPENING).map(|found| found + at) {
        let start = found + OPENING.len();
        if text[at..found].ends_with('$') {
            // `$${{`: the first dollar only escapes.
            literal.push_str(&text[at..found - 1]);
            literal.push_str(OPENING);
            at = start;
            continue;
        }
        literal.push_str(&text[at..found]);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        let end = end_of_expression(text, found, start)?;
        let expression = Expression::compile(&text[start..end], limits)
            .map_err(|error| CompileError { offset: error.offset + start, ..error })?;
        pieces.push(Piece::Expression(expression));
        at = end + CLOSING.len();
    }
    literal.push_str(&text[at..]);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

/// Where the `}}` is that ends the expression: not in a string literal and not closing a map literal.
fn end_of_expression(text: &str, opening: usize, start: usize) -> Result<usize, CompileError> {
    let open = || CompileError::new("`${{` is not closed by `}}`; a literal one is written `$${{`", opening);
    if !text[start..].contains(CLOSING) {
        return Err(open());
    }
    let mut scanner = Scanner::new(text, start);
    let mut braces = 0_usize;
    while let Some(token) = scanner.next()? {
        match (token.kind, token.text) {
            (Kind::Open, "{") => braces += 1,
            (Kind::Close, "}") if braces > 0 => braces -= 1,
            (Kind::Close, "}") if text[token.offset..].starts_with(CLOSING) => return Ok(token.offset),
            _ => {}
        }
    }
    Err(open())
}

struct Renderer<'s> {
    scope: &'s dyn Scope,
    fuel: u64,
    writer: Writer,
}

impl Renderer<'_> {
    fn part(&mut self, part: &Part) -> Result<Value, EvalError> {
        match part {
            Part::Constant { value, bytes } => {
                self.writer.take(*bytes)?;
                Ok(value.clone())
            }
            Part::Whole(expression) => self.filled(expression, |writer, value| writer.value(value)),
            Part::Text(pieces) => self.text(pieces).map(Value::String),
            Part::List(parts) => {
                self.writer.take(2 + parts.len())?;
                parts.iter().map(|part| self.part(part)).collect::<Result<_, _>>().map(Value::Array)
            }
            Part::Map(parts) => {
                self.writer.take(2)?;
                let mut fields = Map::new();
                for (name, part) in parts {
                    self.writer.take(name.len() + 4)?;
                    fields.insert(name.clone(), self.part(part)?);
                }
                Ok(Value::Object(fields))
            }
        }
    }

    fn filled<T>(
        &mut self,
        expression: &Expression,
        write: impl FnOnce(&mut Writer, &super::value::Val<'_>) -> Result<T, EvalError>,
    ) -> Result<T, EvalError> {
        let mut machine = Machine::new(self.scope, self.fuel);
        let value = machine.eval(&expression.node)?;
        self.fuel = machine.fuel;
        write(&mut self.writer, &value)
    }

    fn text(&mut self, pieces: &[Piece]) -> Result<String, EvalError> {
        let mut text = String::new();
        self.writer.take(2)?;
        for piece in pieces {
            match piece {
                Piece::Literal(literal) => {
                    self.writer.take(literal.len())?;
                    text.push_str(literal);
                }
                Piece::Expression(expression) => self.filled(expression, |writer, value| {
                    text.push_str(&writer.text(value)?);
                    Ok(())
                })?,
            }
        }
        Ok(text)
    }
}
