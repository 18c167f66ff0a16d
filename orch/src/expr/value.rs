//! Values inside an evaluation: borrowed from the scope or the expression where possible, shared otherwise.

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;

use serde_json::{Map, Number, Value};

use super::EvalError;
use crate::payload::{INTEGER_MAX, PAYLOAD_DEPTH_MAX};

/// A value; cheap to clone whatever its size.
#[derive(Clone, Debug)]
pub(super) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// Always finite.
    Double(f64),
    Text(Text<'a>),
    List(List<'a>),
    Map(Fields<'a>),
}

/// A string.
#[derive(Clone, Debug)]
pub(super) enum Text<'a> {
    Lent(&'a str),
    Made(Rc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Lent(text) => text,
            Self::Made(text) => text,
        }
    }
}

impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        self
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text<'_> {}

impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

/// A list.
#[derive(Clone, Debug)]
pub(super) enum List<'a> {
    Lent(&'a [Value]),
    Made(Rc<[Val<'a>]>),
}

impl<'a> List<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Lent(items) => items.len(),
            Self::Made(items) => items.len(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<Val<'a>> {
        match self {
            Self::Lent(items) => items.get(index).map(Val::of),
            Self::Made(items) => items.get(index).cloned(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Val<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

/// A map.
#[derive(Clone, Debug)]
pub(super) enum Fields<'a> {
    Lent(&'a Map<String, Value>),
    Made(Rc<BTreeMap<Text<'a>, Val<'a>>>),
}

impl<'a> Fields<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Lent(fields) => fields.len(),
            Self::Made(fields) => fields.len(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Self::Lent(fields) => fields.get(name).map(Val::of),
            Self::Made(fields) => fields.get(name).cloned(),
        }
    }

    /// The keys in byte order. A `serde_json` map keeps insertion order if any crate of the build asks for
    /// that, so the order is not left to it.
    pub(super) fn keys(&self) -> Vec<Text<'a>> {
        match self {
            Self::Lent(fields) => {
                let mut keys: Vec<_> = fields.keys().map(|key| Text::Lent(key)).collect();
                keys.sort_unstable();
                keys
            }
            Self::Made(fields) => fields.keys().cloned().collect(),
        }
    }
}

impl<'a> Val<'a> {
    /// Borrows a JSON value.
    pub(super) fn of(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(int), _) => Self::Int(int),
                (None, Some(double)) => Self::Double(double),
                (None, None) => Self::Null,
            },
            Value::String(text) => Self::Text(Text::Lent(text)),
            Value::Array(items) => Self::List(List::Lent(items)),
            Value::Object(fields) => Self::Map(Fields::Lent(fields)),
        }
    }

    pub(super) fn text(text: impl Into<Rc<str>>) -> Self {
        Self::Text(Text::Made(text.into()))
    }

    pub(super) fn list(items: Vec<Self>) -> Self {
        Self::List(List::Made(items.into()))
    }

    /// Its type, for messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::List(_) => "list",
            Self::Map(_) => "map",
        }
    }

    /// The order of two numbers, strings or booleans; `None` for anything else.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Double(b)) => Some(order_mixed(*a, *b)),
            (Self::Double(a), Self::Int(b)) => Some(order_mixed(*b, *a).reverse()),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// An order over all values, in which equal values are exactly those that `==` calls equal. The caller
    /// has weighed both, which bounds the work and the recursion.
    pub(super) fn total_order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::List(a), Self::List(b)) => {
                let pairs = a.iter().zip(b.iter()).map(|(a, b)| a.total_order(&b));
                pairs.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
            }
            (Self::Map(a), Self::Map(b)) => {
                let (left, right) = (a.keys(), b.keys());
                left.cmp(&right).then_with(|| {
                    let values = left.iter().filter_map(|key| Some((a.get(key)?, b.get(key)?)));
                    values
                        .map(|(a, b)| a.total_order(&b))
                        .find(|order| order.is_ne())
                        .unwrap_or(Ordering::Equal)
                })
            }
            _ => self.order(other).unwrap_or_else(|| self.rank().cmp(&other.rank())),
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Int(_) | Self::Double(_) => 2,
            Self::Text(_) => 3,
            Self::List(_) => 4,
            Self::Map(_) => 5,
        }
    }
}

/// The order of an integer and a finite double, exact also where a double cannot hold the integer.
fn order_mixed(int: i64, double: f64) -> Ordering {
    const EDGE: f64 = 9_223_372_036_854_775_808.0; // 2^63
    if double >= EDGE {
        return Ordering::Less;
    }
    if double < -EDGE {
        return Ordering::Greater;
    }
    let whole = double.trunc();
    // Exact: a whole double within ±2^63.
    int.cmp(&(whole as i64)).then(0.0.partial_cmp(&(double - whole)).unwrap_or(Ordering::Equal))
}

/// Turns values into JSON within a number of bytes.
#[derive(Debug)]
pub(super) struct Writer {
    /// Bytes left, counted about as the JSON text is long.
    pub(super) bytes: usize,
}

impl Writer {
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), EvalError> {
        match self.bytes.checked_sub(bytes) {
            Some(left) => {
                self.bytes = left;
                Ok(())
            }
            None => Err(EvalError::new(
                EvalError::TOO_LARGE,
                "the result is larger than allowed; keep less of it",
            )),
        }
    }

    pub(super) fn value(&mut self, value: &Val<'_>) -> Result<Value, EvalError> {
        self.value_at(value, 0)
    }

    fn value_at(&mut self, value: &Val<'_>, depth: usize) -> Result<Value, EvalError> {
        if depth > PAYLOAD_DEPTH_MAX {
            let message = format!("the result is nested deeper than {PAYLOAD_DEPTH_MAX} levels");
            return Err(EvalError::new(EvalError::TOO_LARGE, message));
        }
        Ok(match value {
            Val::Null => {
                self.take(4)?;
                Value::Null
            }
            Val::Bool(value) => {
                self.take(4)?;
                Value::Bool(*value)
            }
            Val::Int(value) => {
                self.take(1)?;
                Value::Number(int_number(*value)?)
            }
            Val::Double(value) => {
                self.take(1)?;
                Value::Number(double_number(*value)?)
            }
            Val::Text(text) => {
                self.take(text.len() + 2)?;
                Value::String((**text).to_owned())
            }
            Val::List(list) => {
                self.take(2 + list.len())?;
                Value::Array(
                    list.iter().map(|item| self.value_at(&item, depth + 1)).collect::<Result<_, _>>()?,
                )
            }
            Val::Map(fields) => {
                self.take(2)?;
                let mut map = Map::new();
                for key in fields.keys() {
                    self.take(key.len() + 4)?;
                    let field = fields.get(&key).unwrap_or(Val::Null);
                    map.insert((*key).to_owned(), self.value_at(&field, depth + 1)?);
                }
                Value::Object(map)
            }
        })
    }

    /// As text for the middle of a string: strings as they are, anything else as canonical JSON.
    pub(super) fn text<'v>(&mut self, value: &'v Val<'_>) -> Result<Cow<'v, str>, EvalError> {
        if let Val::Text(text) = value {
            self.take(text.len())?;
            return Ok(Cow::Borrowed(text));
        }
        canonical(&self.value(value)?).map(Cow::Owned)
    }
}

/// RFC 8785 text.
pub(super) fn canonical(value: &Value) -> Result<String, EvalError> {
    serde_json_canonicalizer::to_string(value).map_err(|cause| {
        EvalError::new(EvalError::NOT_FINITE, format!("the result has no json text: {cause}"))
    })
}

fn int_number(value: i64) -> Result<Number, EvalError> {
    if value.unsigned_abs() > INTEGER_MAX {
        let message = format!("the integer {value} is beyond 2^53 and would not survive json; use string()");
        return Err(EvalError::new(EvalError::OVERFLOW, message));
    }
    Ok(Number::from(value))
}

/// A whole double becomes an integer, as canonical JSON spells it: the result then has the same type before
/// and after a trip through the ledger.
fn double_number(value: f64) -> Result<Number, EvalError> {
    const SPELLED_WITH_EXPONENT: f64 = 1e21;
    if value.fract() == 0.0 && value.abs() < SPELLED_WITH_EXPONENT {
        // Saturates beyond i64, where the integer check refuses it too.
        return int_number(value as i64);
    }
    Number::from_f64(value)
        .ok_or_else(|| EvalError::new(EvalError::NOT_FINITE, "the result is not a finite number"))
}
