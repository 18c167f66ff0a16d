//! From the parser's tree to [`Node`]s: names are resolved, macros recognised, everything unknown refused.

use std::collections::BTreeSet;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators,
};
use cel::parser::{ParseErrors, PrattParser};
use serde_json::Value;

use super::CompileError;
use super::error::{Shown, listed, nearest};
use super::node::{Fold, Goal, Node, Operator, Part, SIGNATURES, Signature};
use super::scan::{self, Kind, Token};
use crate::limits::Limits;

/// The names an expression can begin with.
const ROOTS: [&str; 5] = ["index", "inputs", "item", "run", "steps"];

/// What an expression reads besides inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct References {
    pub(super) steps: BTreeSet<String>,
    pub(super) item: bool,
    pub(super) index: bool,
}

/// Compiles one expression.
pub(super) fn compile(source: &str, limits: &Limits) -> Result<(Node, References), CompileError> {
    if source.len() > limits.expression_bytes {
        let message =
            format!("expression is {} bytes long, {} are allowed", source.len(), limits.expression_bytes);
        return Err(CompileError::new(message, limits.expression_bytes));
    }
    let tokens = scan::tokens(source)?;
    if tokens.is_empty() {
        return Err(CompileError::new("expression is empty", 0));
    }
    let tree = PrattParser::new().parse(source).map_err(|errors| syntax_error(source, &errors))?;
    let mut compiler = Compiler { tokens: &tokens, locals: Vec::new(), references: References::default() };
    let node = compiler.node(&tree)?;
    Ok((node, compiler.references))
}

/// The parser's first error, with a byte offset for its line and column.
fn syntax_error(source: &str, errors: &ParseErrors) -> CompileError {
    let Some(error) = errors.errors.iter().find(|error| error.pos.0 > 0).or(errors.errors.first()) else {
        return CompileError::new("syntax error", 0);
    };
    let line = usize::try_from(error.pos.0).unwrap_or_default().saturating_sub(1);
    let column = usize::try_from(error.pos.1).unwrap_or_default().saturating_sub(1);
    let before: usize = source.split_inclusive('\n').take(line).map(str::len).sum();
    let message = error.msg.trim_start_matches("Syntax error: ").replace("<EOF>", "the end");
    CompileError::new(format!("syntax error: {message}"), (before + column).min(source.len()))
}

struct Compiler<'s> {
    tokens: &'s [Token<'s>],
    locals: Vec<String>,
    references: References,
}

impl Compiler<'_> {
    /// Where `word` is first written. The parser keeps no positions of what it accepts.
    fn locate(&self, word: &str) -> usize {
        let found = self.tokens.iter().find(|token| token.kind == Kind::Word && token.text == word);
        found.map_or(0, |token| token.offset)
    }

    fn refuse<T>(&self, word: &str, message: impl Into<String>) -> Result<T, CompileError> {
        Err(CompileError::new(message, self.locate(word)))
    }

    fn boxed(&mut self, expr: &IdedExpr) -> Result<Box<Node>, CompileError> {
        self.node(expr).map(Box::new)
    }

    fn nodes(&mut self, exprs: &[IdedExpr]) -> Result<Vec<Node>, CompileError> {
        exprs.iter().map(|expr| self.node(expr)).collect()
    }

    fn node(&mut self, expr: &IdedExpr) -> Result<Node, CompileError> {
        match &expr.expr {
            Expr::Literal(literal) => self.literal(literal),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => self.nodes(&list.elements).map(Node::List),
            Expr::Map(map) => {
                let entries = map.entries.iter().map(|entry| match &entry.expr {
                    EntryExpr::MapEntry(entry) => Ok((self.key(&entry.key)?, self.node(&entry.value)?)),
                    EntryExpr::StructField(field) => self.refuse(&field.field, "a map key is quoted"),
                });
                entries.collect::<Result<_, _>>().map(Node::Map)
            }
            Expr::Comprehension(fold) => self.fold(fold),
            Expr::Struct(message) => {
                let message_type = Shown(&message.type_name);
                let text = format!(
                    "there are no message types such as `{message_type}`; write a map {{'key': value}}"
                );
                self.refuse(&message.type_name, text)
            }
            Expr::Unspecified => Err(CompileError::new("syntax error: something is missing", 0)),
        }
    }

    fn key(&mut self, key: &IdedExpr) -> Result<Node, CompileError> {
        let node = self.node(key)?;
        match &node {
            Node::Literal(value) if !value.is_string() => {
                Err(CompileError::new(format!("map keys are strings, as in json; `{value}` is not"), 0))
            }
            _ => Ok(node),
        }
    }

    fn literal(&self, literal: &LiteralValue) -> Result<Node, CompileError> {
        let value = match literal {
            LiteralValue::Null => Value::Null,
            LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
            LiteralValue::Int(value) => Value::from(*value.inner()),
            LiteralValue::Double(value) => match serde_json::Number::from_f64(*value.inner()) {
                Some(number) => Value::Number(number),
                None => return Err(CompileError::new("number is too large", 0)),
            },
            LiteralValue::String(value) => Value::from(value.inner()),
            LiteralValue::UInt(value) => {
                let value = *value.inner();
                let message = format!("there are no unsigned integers; write {value} for {value}u");
                return self.refuse(&format!("{value}u"), message);
            }
            LiteralValue::Bytes(_) => {
                return Err(CompileError::new("there are no byte strings; write a string without `b`", 0));
            }
        };
        Ok(Node::Literal(value))
    }

    fn name(&mut self, name: &str) -> Result<Node, CompileError> {
        if let Some(slot) = self.local(name) {
            return Ok(Node::Local(slot));
        }
        match name {
            "inputs" => Ok(Node::Inputs),
            "run" => Ok(Node::Run),
            "item" => {
                self.references.item = true;
                Ok(Node::Item)
            }
            "index" => {
                self.references.index = true;
                Ok(Node::Position)
            }
            "steps" => self.refuse(
                name,
                "`steps` is read one step at a time: steps.ID.output, or steps[\"ID\"].output with the id spelled out",
            ),
            _ => self.unknown_name(name),
        }
    }

    fn local(&self, name: &str) -> Option<usize> {
        self.locals.iter().rposition(|local| local == name)
    }

    fn unknown_name(&self, name: &str) -> Result<Node, CompileError> {
        let mut message = format!("unknown name `{}`", Shown(name));
        let known = || ROOTS.into_iter().chain(self.locals.iter().map(String::as_str));
        if let Some(meant) = nearest(name, known()) {
            message.push_str(&format!("; did you mean `{meant}`?"));
        } else {
            message.push_str(&format!(
                "; known are {}, and text is quoted: '{}'",
                listed(known()),
                Shown(name)
            ));
        }
        self.refuse(name, message)
    }

    /// The id if `expr` is `steps.ID` or `steps["ID"]`.
    fn step_id<'e>(&self, expr: &'e IdedExpr) -> Option<&'e str> {
        let is_steps = |expr: &IdedExpr| matches!(&expr.expr, Expr::Ident(name) if name == "steps");
        if self.local("steps").is_some() {
            return None;
        }
        match &expr.expr {
            Expr::Select(select) if !select.test && is_steps(&select.operand) => Some(&select.field),
            Expr::Call(call) if call.func_name == operators::INDEX => match call.args.as_slice() {
                [operand, index] if is_steps(operand) => text_literal(index),
                _ => None,
            },
            _ => None,
        }
    }

    /// `steps.ID.name`, or the presence of it.
    fn step_part(&mut self, id: &str, name: &str, test: bool) -> Result<Node, CompileError> {
        let Some(part) = Part::parse(name) else {
            let message = format!(
                "a step has status, output and error, not `{}`; an id with dots or dashes is written steps[\"the.id\"]",
                Shown(name)
            );
            return self.refuse(name, message);
        };
        self.references.steps.insert(id.to_owned());
        let id = id.to_owned();
        Ok(if test { Node::HasPart { id, part } } else { Node::Step { id, part } })
    }

    /// Why `steps.ID` alone is refused. The id may be the beginning of one with a dash.
    fn whole_step(&self, id: &str) -> String {
        let mut pairs = self.tokens.iter().zip(self.tokens.iter().skip(1));
        if pairs.any(|(first, second)| first.text == id && second.text == "-") {
            return "a step id with a dash is written steps[\"the-id\"]".into();
        }
        let id = Shown(id);
        format!("say what of the step: steps.{id}.status, steps.{id}.output or steps.{id}.error")
    }

    fn select(&mut self, select: &SelectExpr) -> Result<Node, CompileError> {
        if let Some(id) = self.step_id(&select.operand) {
            return self.step_part(id, &select.field, select.test);
        }
        if !select.test
            && matches!(&select.operand.expr, Expr::Ident(name) if name == "steps" && self.local(name).is_none())
        {
            return self.refuse("steps", self.whole_step(&select.field));
        }
        let operand = self.boxed(&select.operand)?;
        let field = select.field.clone();
        Ok(if select.test { Node::Has(operand, field) } else { Node::Select(operand, field) })
    }

    fn call(&mut self, call: &CallExpr) -> Result<Node, CompileError> {
        if let (None, [operand]) = (&call.target, call.args.as_slice()) {
            match call.func_name.as_str() {
                operators::LOGICAL_NOT => return self.boxed(operand).map(Node::Not),
                operators::NEGATE => return self.boxed(operand).map(Node::Negate),
                _ => {}
            }
        }
        if let (None, [left, right]) = (&call.target, call.args.as_slice()) {
            match call.func_name.as_str() {
                operators::LOGICAL_AND => return Ok(Node::And(self.boxed(left)?, self.boxed(right)?)),
                operators::LOGICAL_OR => return Ok(Node::Or(self.boxed(left)?, self.boxed(right)?)),
                operators::INDEX => return self.index(left, right),
                name => {
                    if let Some(operator) = operator(name) {
                        return Ok(Node::Binary(operator, self.boxed(left)?, self.boxed(right)?));
                    }
                }
            }
        }
        if let (None, operators::CONDITIONAL, [test, then, other]) =
            (&call.target, call.func_name.as_str(), call.args.as_slice())
        {
            return Ok(Node::Ternary(Box::new((self.node(test)?, self.node(then)?, self.node(other)?))));
        }
        self.function(call)
    }

    fn index(&mut self, operand: &IdedExpr, index: &IdedExpr) -> Result<Node, CompileError> {
        if let Some(id) = self.step_id(operand) {
            return match text_literal(index) {
                Some(name) => self.step_part(id, name, false),
                None => self.refuse("steps", "what is read of a step is spelled out: steps.ID.output"),
            };
        }
        Ok(Node::Index(self.boxed(operand)?, self.boxed(index)?))
    }

    fn function(&mut self, call: &CallExpr) -> Result<Node, CompileError> {
        let name = call.func_name.as_str();
        let Some(signature) = SIGNATURES.iter().find(|signature| signature.name == name) else {
            return self.refuse(name, unknown_function(name));
        };
        let Signature { function, usage, .. } = signature;
        let right_form = if call.target.is_some() { signature.on_value } else { signature.alone };
        let count = call.args.len() + usize::from(call.target.is_some());
        if !right_form || !signature.arity.contains(&count) {
            return self.refuse(name, format!("`{name}` is called as {usage}"));
        }
        let mut arguments = Vec::with_capacity(count);
        if let Some(target) = &call.target {
            arguments.push(self.node(target)?);
        }
        arguments.extend(self.nodes(&call.args)?);
        Ok(Node::Call(*function, arguments))
    }

    /// The parser writes each macro as a loop with an accumulator; the initial accumulator tells which macro.
    fn fold(&mut self, fold: &ComprehensionExpr) -> Result<Node, CompileError> {
        let range = self.node(&fold.iter_range)?;
        self.locals.push(fold.iter_var.clone());
        let goal = self.goal(fold);
        self.locals.pop();
        Ok(Node::Fold(Box::new(Fold { range, goal: goal? })))
    }

    fn goal(&mut self, fold: &ComprehensionExpr) -> Result<Goal, CompileError> {
        let Expr::Call(step) = &fold.loop_step.expr else { return Err(unknown_macro()) };
        match (&fold.accu_init.expr, step.args.as_slice()) {
            // accumulator && condition
            (Expr::Literal(LiteralValue::Boolean(initial)), [_, condition]) => {
                let condition = self.node(condition)?;
                Ok(if *initial.inner() { Goal::All(condition) } else { Goal::Exists(condition) })
            }
            // condition ? accumulator + 1 : accumulator
            (Expr::Literal(LiteralValue::Int(_)), [condition, _, _]) => {
                self.node(condition).map(Goal::ExistsOne)
            }
            // condition ? accumulator + [result] : accumulator
            (Expr::List(_), [condition, addition, _]) => {
                let Expr::Call(addition) = &addition.expr else { return Err(unknown_macro()) };
                let condition = Some(self.node(condition)?);
                self.collect(condition, &addition.args)
            }
            // accumulator + [result]
            (Expr::List(_), addition) => self.collect(None, addition),
            _ => Err(unknown_macro()),
        }
    }

    fn collect(&mut self, condition: Option<Node>, addition: &[IdedExpr]) -> Result<Goal, CompileError> {
        match addition {
            [_, IdedExpr { expr: Expr::List(list), .. }] if list.elements.len() == 1 => {
                Ok(Goal::Collect { condition, result: self.node(&list.elements[0])? })
            }
            _ => Err(unknown_macro()),
        }
    }
}

fn unknown_macro() -> CompileError {
    CompileError::new("this macro is not part of the language", 0)
}

fn text_literal(expr: &IdedExpr) -> Option<&str> {
    match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

fn operator(name: &str) -> Option<Operator> {
    Some(match name {
        operators::ADD => Operator::Add,
        operators::SUBSTRACT => Operator::Subtract,
        operators::MULTIPLY => Operator::Multiply,
        operators::DIVIDE => Operator::Divide,
        operators::MODULO => Operator::Modulo,
        operators::EQUALS => Operator::Equal,
        operators::NOT_EQUALS => Operator::NotEqual,
        operators::LESS => Operator::Less,
        operators::LESS_EQUALS => Operator::LessOrEqual,
        operators::GREATER => Operator::Greater,
        operators::GREATER_EQUALS => Operator::GreaterOrEqual,
        operators::IN => Operator::In,
        _ => return None,
    })
}

fn unknown_function(name: &str) -> String {
    let shown = Shown(name);
    match name {
        "matches" => "regular expressions are left out on purpose, as their cost cannot be bounded; \
                      use contains, startsWith, endsWith or split"
            .into(),
        "timestamp" | "duration" => {
            format!("`{shown}` is left out; compare rfc 3339 texts in UTC, or numbers")
        }
        "type" | "dyn" | "uint" | "bytes" => format!("`{shown}` is left out; values have the types of json"),
        "now" => "there is no clock in an expression; pass the time as an input".into(),
        "has" => "`has` takes one selection, as in has(inputs.name)".into(),
        "all" | "exists" | "exists_one" | "existsOne" | "filter" => {
            format!("`{shown}` is called as list.{shown}(x, condition)")
        }
        "map" => "`map` is called as list.map(x, result) or list.map(x, condition, result)".into(),
        _ => match nearest(name, SIGNATURES.iter().map(|signature| signature.name)) {
            Some(meant) => format!("unknown function `{shown}`; did you mean `{meant}`?"),
            None => format!("unknown function `{shown}`"),
        },
    }
}
