//! The evaluator: walks [`Node`]s and pays fuel for each, for each element it makes or compares, and for
//! each 16 bytes of text.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::error::{EvalError, Shown, listed};
use super::node::{Fold, Goal, Node, Operator, Part};
use super::scope::{Scope, StepView};
use super::value::{Fields, List, Text, Val};

pub(super) type Outcome<'a> = Result<Val<'a>, EvalError>;

/// The deepest value that is compared or sorted.
const DEPTH_MAX: usize = 128;

/// How many bytes of text cost one unit of fuel.
const BYTES_PER_FUEL: usize = 16;

/// What a message that lists the fields of a map costs.
const MESSAGE_FUEL: usize = 16;

/// One evaluation.
pub(super) struct Machine<'a> {
    scope: &'a dyn Scope,
    pub(super) fuel: u64,
    locals: Vec<Val<'a>>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(scope: &'a dyn Scope, fuel: u64) -> Self {
        Self { scope, fuel, locals: Vec::new() }
    }

    pub(super) fn spend(&mut self, units: usize) -> Result<(), EvalError> {
        match self.fuel.checked_sub(units as u64) {
            Some(left) => {
                self.fuel = left;
                Ok(())
            }
            None => {
                self.fuel = 0;
                let message = "the expression takes more operations than allowed; work on less data";
                Err(EvalError::new(EvalError::FUEL, message))
            }
        }
    }

    pub(super) fn spend_bytes(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.spend(1 + bytes / BYTES_PER_FUEL)
    }

    pub(super) fn eval(&mut self, node: &'a Node) -> Outcome<'a> {
        self.spend(1)?;
        match node {
            Node::Literal(value) => Ok(Val::of(value)),
            Node::Inputs => Ok(Val::of(self.scope.inputs())),
            Node::Run => Ok(Val::of(self.scope.run())),
            Node::Item => self.scope.item().map(Val::of).ok_or_else(|| no_item("item")),
            Node::Position => self.position(),
            Node::Step { id, part } => self.step_part(id, *part),
            Node::HasPart { id, part } => self.has_part(id, *part),
            Node::Local(slot) => Ok(self.locals[*slot].clone()),
            Node::Select(operand, name) => {
                let operand = self.eval(operand)?;
                self.field(&operand, name)
            }
            Node::Has(operand, name) => match self.eval(operand)? {
                Val::Map(fields) => Ok(Val::Bool(fields.get(name).is_some())),
                other => Err(mismatch(format!(
                    "has() looks for `.{}` in a map, not in {}",
                    Shown(name),
                    other.kind()
                ))),
            },
            Node::Index(operand, index) => {
                let operand = self.eval(operand)?;
                let index = self.eval(index)?;
                self.element(&operand, &index)
            }
            Node::Not(operand) => self.eval_bool(operand, "!").map(|value| Val::Bool(!value)),
            Node::Negate(operand) => negate(&self.eval(operand)?),
            Node::And(left, right) => self.logic(left, right, false),
            Node::Or(left, right) => self.logic(left, right, true),
            Node::Ternary(parts) => {
                let (test, then, other) = &**parts;
                if self.eval_bool(test, "? :")? { self.eval(then) } else { self.eval(other) }
            }
            Node::Binary(operator, left, right) => {
                let left = self.eval(left)?;
                let right = self.eval(right)?;
                self.binary(*operator, &left, &right)
            }
            Node::List(nodes) => self.all(nodes).map(Val::list),
            Node::Map(entries) => self.map(entries),
            Node::Call(function, arguments) => {
                let arguments = self.all(arguments)?;
                self.call(*function, &arguments)
            }
            Node::Fold(fold) => self.fold(fold),
        }
    }

    fn all(&mut self, nodes: &'a [Node]) -> Result<Vec<Val<'a>>, EvalError> {
        nodes.iter().map(|node| self.eval(node)).collect()
    }

    fn eval_bool(&mut self, node: &'a Node, place: &str) -> Result<bool, EvalError> {
        match self.eval(node)? {
            Val::Bool(value) => Ok(value),
            other => Err(mismatch(format!("`{place}` takes a bool, not {}", other.kind()))),
        }
    }

    fn position(&self) -> Outcome<'a> {
        let index = self.scope.index().ok_or_else(|| no_item("index"))?;
        i64::try_from(index).map(Val::Int).map_err(|_| overflow("index"))
    }

    fn step(&self, id: &str) -> Result<StepView<'a>, EvalError> {
        self.scope
            .step(id)
            .ok_or_else(|| EvalError::new(EvalError::NO_STEP, format!("there is no step `{}`", Shown(id))))
    }

    fn step_part(&self, id: &str, part: Part) -> Outcome<'a> {
        let step = self.step(id)?;
        let absent = |what: &str| {
            let message = format!(
                "step `{}` is {} and has no {what}; guard it with has(steps[\"{}\"].{what})",
                Shown(id),
                step.status,
                Shown(id)
            );
            EvalError::new(EvalError::NO_STEP, message)
        };
        match part {
            Part::Status => Ok(Val::Text(Text::Lent(step.status))),
            Part::Output => step.output.map(|output| Val::of(output.get())).ok_or_else(|| absent("output")),
            Part::Error => {
                let error = step.error.ok_or_else(|| absent("error"))?;
                let fields = [("code", error.code), ("message", error.message)];
                let fields = fields.map(|(name, text)| (Text::Lent(name), Val::Text(Text::Lent(text))));
                Ok(Val::Map(Fields::Made(Rc::new(BTreeMap::from(fields)))))
            }
        }
    }

    fn has_part(&self, id: &str, part: Part) -> Outcome<'a> {
        let step = self.step(id)?;
        Ok(Val::Bool(match part {
            Part::Status => true,
            Part::Output => step.output.is_some(),
            Part::Error => step.error.is_some(),
        }))
    }

    /// `&&` and `||`: the `deciding` value on either side decides, whatever the other side is, be it an
    /// error (CEL specification, "Logical Operators"). Exceeded limits are never absorbed.
    fn logic(&mut self, left: &'a Node, right: &'a Node, deciding: bool) -> Outcome<'a> {
        let sign = if deciding { "||" } else { "&&" };
        let first = match self.eval_bool(left, sign) {
            Ok(value) if value == deciding => return Ok(Val::Bool(deciding)),
            Err(error) if error.is_limit() => return Err(error),
            other => other,
        };
        let second = self.eval_bool(right, sign);
        match (first, second) {
            (_, Ok(value)) if value == deciding => Ok(Val::Bool(deciding)),
            (_, Err(error)) if error.is_limit() => Err(error),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(_), Ok(_)) => Ok(Val::Bool(!deciding)),
        }
    }

    fn field(&mut self, operand: &Val<'a>, name: &str) -> Outcome<'a> {
        let Val::Map(fields) = operand else {
            return Err(mismatch(format!(
                "`.{}` reads a field of a map, not of {}",
                Shown(name),
                operand.kind()
            )));
        };
        self.spend(name.len() / BYTES_PER_FUEL)?;
        match fields.get(name) {
            Some(value) => Ok(value),
            None => {
                self.spend(MESSAGE_FUEL)?;
                Err(no_field(fields, name))
            }
        }
    }

    fn element(&mut self, operand: &Val<'a>, index: &Val<'a>) -> Outcome<'a> {
        let list = match (operand, index) {
            (Val::Map(_), Val::Text(name)) => return self.field(operand, name),
            (Val::List(list), Val::Int(_) | Val::Double(_)) => list,
            (Val::List(_), _) => {
                return Err(mismatch(format!("a list is indexed by an int, not by {}", index.kind())));
            }
            (Val::Map(_), _) => {
                return Err(mismatch(format!("a map is indexed by a string, not by {}", index.kind())));
            }
            _ => return Err(mismatch(format!("`[ ]` reads a list or a map, not {}", operand.kind()))),
        };
        let position = match index {
            Val::Int(index) => usize::try_from(*index).ok(),
            Val::Double(index) if index.fract() == 0.0 && *index >= 0.0 => Some(*index as usize),
            _ => None,
        };
        position.and_then(|position| list.get(position)).ok_or_else(|| {
            let shown = match index {
                Val::Int(index) => index.to_string(),
                Val::Double(index) => index.to_string(),
                _ => String::new(),
            };
            let message =
                format!("no such index {shown}, the list has {} elements counted from 0", list.len());
            EvalError::new(EvalError::NO_INDEX, message)
        })
    }

    fn map(&mut self, entries: &'a [(Node, Node)]) -> Outcome<'a> {
        let mut fields = BTreeMap::new();
        for (key, value) in entries {
            let key = match self.eval(key)? {
                Val::Text(key) => {
                    self.spend(key.len() / BYTES_PER_FUEL)?;
                    key
                }
                other => return Err(mismatch(format!("map keys are strings, not {}", other.kind()))),
            };
            let value = self.eval(value)?;
            if let Some(twice) = fields.insert(key.clone(), value).map(|_| key) {
                let message = format!("the key `{}` is twice in a map", Shown(&twice));
                return Err(EvalError::new(EvalError::ARGUMENT, message));
            }
        }
        Ok(Val::Map(Fields::Made(Rc::new(fields))))
    }

    fn fold(&mut self, fold: &'a Fold) -> Outcome<'a> {
        let elements = match self.eval(&fold.range)? {
            Val::List(list) => list,
            Val::Map(fields) => List::Made(self.keys(&fields)?.into_iter().map(Val::Text).collect()),
            other => {
                return Err(mismatch(format!("a macro goes over a list or a map, not {}", other.kind())));
            }
        };
        match &fold.goal {
            Goal::All(condition) => self.quantify(&elements, condition, false),
            Goal::Exists(condition) => self.quantify(&elements, condition, true),
            Goal::ExistsOne(condition) => {
                let mut count = 0_usize;
                self.each(&elements, |machine| {
                    count += usize::from(machine.eval_bool(condition, "exists_one")?);
                    Ok(true)
                })?;
                Ok(Val::Bool(count == 1))
            }
            Goal::Collect { condition, result } => {
                let mut collected = Vec::new();
                self.each(&elements, |machine| {
                    if match condition {
                        Some(condition) => machine.eval_bool(condition, "filter")?,
                        None => true,
                    } {
                        collected.push(machine.eval(result)?);
                    }
                    Ok(true)
                })?;
                Ok(Val::list(collected))
            }
        }
    }

    /// `all` and `exists`: a chain of `&&` or `||` over the elements, with their treatment of errors.
    fn quantify(&mut self, elements: &List<'a>, condition: &'a Node, deciding: bool) -> Outcome<'a> {
        let mut decided = false;
        let mut first_error = None;
        let place = if deciding { "exists" } else { "all" };
        self.each(elements, |machine| {
            match machine.eval_bool(condition, place) {
                Ok(value) => decided = value == deciding,
                Err(error) if error.is_limit() => return Err(error),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
            Ok(!decided)
        })?;
        match first_error {
            Some(error) if !decided => Err(error),
            _ => Ok(Val::Bool(decided == deciding)),
        }
    }

    /// Runs `body` with each element as the innermost local, while it answers true.
    fn each(
        &mut self,
        elements: &List<'a>,
        mut body: impl FnMut(&mut Self) -> Result<bool, EvalError>,
    ) -> Result<(), EvalError> {
        let depth = self.locals.len();
        for element in elements.iter() {
            self.spend(1)?;
            self.locals.push(element);
            let outcome = body(self);
            self.locals.truncate(depth);
            if !outcome? {
                break;
            }
        }
        Ok(())
    }

    fn binary(&mut self, operator: Operator, left: &Val<'a>, right: &Val<'a>) -> Outcome<'a> {
        let ordered = |machine: &mut Self, test: fn(std::cmp::Ordering) -> bool| {
            machine.order(left, right, operator.sign()).map(|order| Val::Bool(test(order)))
        };
        match operator {
            Operator::Equal => self.equal(left, right, 0).map(Val::Bool),
            Operator::NotEqual => self.equal(left, right, 0).map(|equal| Val::Bool(!equal)),
            Operator::Less => ordered(self, std::cmp::Ordering::is_lt),
            Operator::LessOrEqual => ordered(self, std::cmp::Ordering::is_le),
            Operator::Greater => ordered(self, std::cmp::Ordering::is_gt),
            Operator::GreaterOrEqual => ordered(self, std::cmp::Ordering::is_ge),
            Operator::In => self.contains(left, right),
            Operator::Add => match (left, right) {
                (Val::Text(a), Val::Text(b)) => {
                    self.spend_bytes(a.len() + b.len())?;
                    Ok(Val::text([&**a, &**b].concat()))
                }
                (Val::List(a), Val::List(b)) => {
                    self.spend(a.len() + b.len())?;
                    Ok(Val::list(a.iter().chain(b.iter()).collect()))
                }
                _ => arithmetic(operator, left, right),
            },
            Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Modulo => {
                arithmetic(operator, left, right)
            }
        }
    }

    /// The order of two values that have one.
    pub(super) fn order(
        &mut self,
        a: &Val<'a>,
        b: &Val<'a>,
        place: &str,
    ) -> Result<std::cmp::Ordering, EvalError> {
        if let (Val::Text(a), Val::Text(b)) = (a, b) {
            self.spend_bytes(a.len().min(b.len()))?;
        }
        a.order(b).ok_or_else(|| mismatch(format!("`{place}` cannot compare {} with {}", a.kind(), b.kind())))
    }

    /// Deep equality; values of different types are unequal, numbers compare by value.
    pub(super) fn equal(&mut self, a: &Val<'a>, b: &Val<'a>, depth: usize) -> Result<bool, EvalError> {
        self.spend(1)?;
        if depth > DEPTH_MAX {
            return Err(EvalError::new(EvalError::TOO_LARGE, "values are nested too deep to compare"));
        }
        match (a, b) {
            (Val::Null, Val::Null) => Ok(true),
            (Val::List(a), Val::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (a, b) in a.iter().zip(b.iter()) {
                    if !self.equal(&a, &b, depth + 1)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Val::Map(a), Val::Map(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for key in self.keys(a)? {
                    match (a.get(&key), b.get(&key)) {
                        (Some(a), Some(b)) if self.equal(&a, &b, depth + 1)? => {}
                        _ => return Ok(false),
                    }
                }
                Ok(true)
            }
            (Val::Text(a), Val::Text(b)) => {
                self.spend_bytes(a.len().min(b.len()))?;
                Ok(**a == **b)
            }
            _ => Ok(a.order(b).is_some_and(std::cmp::Ordering::is_eq)),
        }
    }

    fn contains(&mut self, needle: &Val<'a>, haystack: &Val<'a>) -> Outcome<'a> {
        match (needle, haystack) {
            (_, Val::List(list)) => {
                for item in list.iter() {
                    if self.equal(needle, &item, 0)? {
                        return Ok(Val::Bool(true));
                    }
                }
                Ok(Val::Bool(false))
            }
            (Val::Text(key), Val::Map(fields)) => {
                self.spend_bytes(key.len())?;
                Ok(Val::Bool(fields.get(key).is_some()))
            }
            (_, Val::Map(_)) => Ok(Val::Bool(false)),
            _ => Err(mismatch(format!("`in` looks into a list or a map, not into {}", haystack.kind()))),
        }
    }

    /// The keys of a map, paid for: they are sorted and looked up again, and may be long.
    fn keys(&mut self, fields: &Fields<'a>) -> Result<Vec<Text<'a>>, EvalError> {
        self.spend(fields.len())?;
        let keys = fields.keys();
        self.spend(keys.iter().map(|key| key.len() / BYTES_PER_FUEL).sum())?;
        Ok(keys)
    }

    /// Pays for a walk over the whole value and says what it cost.
    pub(super) fn weigh(&mut self, value: &Val<'a>, depth: usize) -> Result<usize, EvalError> {
        if depth > DEPTH_MAX {
            return Err(EvalError::new(EvalError::TOO_LARGE, "values are nested too deep to compare"));
        }
        let own = match value {
            Val::Text(text) => 1 + text.len() / BYTES_PER_FUEL,
            _ => 1,
        };
        self.spend(own)?;
        let mut weight = own;
        match value {
            Val::List(list) => {
                for item in list.iter() {
                    weight += self.weigh(&item, depth + 1)?;
                }
            }
            Val::Map(fields) => {
                for key in self.keys(fields)? {
                    weight += 1 + key.len() / BYTES_PER_FUEL;
                    weight += self.weigh(&fields.get(&key).unwrap_or(Val::Null), depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(weight)
    }
}

pub(super) fn mismatch(message: String) -> EvalError {
    EvalError::new(EvalError::TYPE, message)
}

fn no_item(name: &str) -> EvalError {
    EvalError::new(EvalError::NO_ITEM, format!("`{name}` exists only in a step with forEach"))
}

pub(super) fn overflow(place: &str) -> EvalError {
    EvalError::new(EvalError::OVERFLOW, format!("`{place}` leaves the range of 64-bit integers"))
}

/// Names the fields only of a map small enough that an absorbed error in a loop stays cheap.
fn no_field(fields: &Fields<'_>, name: &str) -> EvalError {
    const LISTED: usize = 64;
    let message = if fields.len() > LISTED {
        format!("no such field `{}` among {}", Shown(name), fields.len())
    } else {
        let keys = fields.keys();
        format!("no such field `{}`, available: {}", Shown(name), listed(keys.iter().map(|key| &**key)))
    };
    EvalError::new(EvalError::NO_FIELD, message)
}

fn negate<'a>(operand: &Val<'a>) -> Outcome<'a> {
    match operand {
        Val::Int(value) => value.checked_neg().map(Val::Int).ok_or_else(|| overflow("-")),
        Val::Double(value) => Ok(Val::Double(-value)),
        other => Err(mismatch(format!("`-` takes a number, not {}", other.kind()))),
    }
}

/// Integers stay integers; with a double on either side both are doubles, as JSON does not tell 2 from 2.0.
fn arithmetic<'a>(operator: Operator, left: &Val<'a>, right: &Val<'a>) -> Outcome<'a> {
    let sign = operator.sign();
    let (a, b) = match (left, right) {
        (Val::Int(a), Val::Int(b)) => return int_arithmetic(operator, *a, *b),
        (Val::Double(a), Val::Double(b)) => (*a, *b),
        (Val::Int(a), Val::Double(b)) => (*a as f64, *b),
        (Val::Double(a), Val::Int(b)) => (*a, *b as f64),
        _ => {
            let hint = match (left, right) {
                (Val::Text(_), _) | (_, Val::Text(_)) if operator == Operator::Add => {
                    "; use string() or int()"
                }
                _ => "",
            };
            return Err(mismatch(format!("`{sign}` cannot take {} and {}{hint}", left.kind(), right.kind())));
        }
    };
    let result = match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide if b == 0.0 => return Err(divided_by_zero()),
        Operator::Divide => a / b,
        _ => return Err(mismatch(format!("`{sign}` takes integers; use int()"))),
    };
    finite(result, sign)
}

fn int_arithmetic<'a>(operator: Operator, a: i64, b: i64) -> Outcome<'a> {
    let result = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Divide | Operator::Modulo if b == 0 => return Err(divided_by_zero()),
        Operator::Divide => a.checked_div(b),
        _ => a.checked_rem(b),
    };
    result.map(Val::Int).ok_or_else(|| overflow(operator.sign()))
}

fn divided_by_zero() -> EvalError {
    EvalError::new(EvalError::DIVIDE_BY_ZERO, "division by zero")
}

pub(super) fn finite<'a>(value: f64, place: &str) -> Outcome<'a> {
    if value.is_finite() {
        Ok(Val::Double(value))
    } else {
        Err(EvalError::new(EvalError::NOT_FINITE, format!("`{place}` gives a number that json cannot hold")))
    }
}
