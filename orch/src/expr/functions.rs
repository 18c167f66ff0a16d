//! The functions of the language. Positions and sizes of strings count code points.

use super::error::{EvalError, Shown};
use super::eval::{Machine, Outcome, finite, mismatch, overflow};
use super::node::Function;
use super::value::{List, Text, Val, canonical};

impl<'a> Machine<'a> {
    pub(super) fn call(&mut self, function: Function, arguments: &[Val<'a>]) -> Outcome<'a> {
        use Function as F;
        match (function, arguments) {
            (F::Size, [Val::Text(text)]) => {
                self.spend_bytes(text.len())?;
                count(text.chars().count())
            }
            (F::Size, [Val::List(list)]) => count(list.len()),
            (F::Size, [Val::Map(fields)]) => count(fields.len()),
            (F::Contains, [Val::Text(text), Val::Text(part)]) => {
                self.test(text, part, |text, part| text.contains(part))
            }
            (F::StartsWith, [Val::Text(text), Val::Text(part)]) => {
                self.test(text, part, |text, part| text.starts_with(part))
            }
            (F::EndsWith, [Val::Text(text), Val::Text(part)]) => {
                self.test(text, part, |text, part| text.ends_with(part))
            }
            (F::LowerAscii, [Val::Text(text)]) => {
                self.spend_bytes(text.len())?;
                Ok(Val::text(text.to_ascii_lowercase()))
            }
            (F::UpperAscii, [Val::Text(text)]) => {
                self.spend_bytes(text.len())?;
                Ok(Val::text(text.to_ascii_uppercase()))
            }
            (F::Trim, [Val::Text(text)]) => self.made(text.trim()),
            (F::Split, [Val::Text(text), Val::Text(separator)]) => self.split(text, separator, -1),
            (F::Split, [Val::Text(text), Val::Text(separator), Val::Int(limit)]) => {
                self.split(text, separator, *limit)
            }
            (F::Join, [Val::List(list)]) => self.join(list, ""),
            (F::Join, [Val::List(list), Val::Text(separator)]) => self.join(list, separator),
            (F::Replace, [Val::Text(text), Val::Text(old), Val::Text(new)]) => {
                self.replace(text, old, new, -1)
            }
            (F::Replace, [Val::Text(text), Val::Text(old), Val::Text(new), Val::Int(limit)]) => {
                self.replace(text, old, new, *limit)
            }
            (F::Substring, [Val::Text(text), Val::Int(start)]) => self.substring(text, *start, None),
            (F::Substring, [Val::Text(text), Val::Int(start), Val::Int(end)]) => {
                self.substring(text, *start, Some(*end))
            }
            (F::Int | F::Double, [Val::Text(text)]) => {
                self.spend_bytes(text.len())?;
                if function == F::Int { read_int(text) } else { read_double(text) }
            }
            (F::Int, [value]) => to_int(value),
            (F::Double, [value]) => to_double(value),
            (F::String, [value]) => to_text(value),
            (F::Bool, [value]) => to_bool(value),
            (F::Sort, [Val::List(list)]) => self.sort(list),
            (F::Distinct, [Val::List(list)]) => self.distinct(list),
            (F::Flatten, [Val::List(list)]) => self.flatten(list),
            (F::Range, [Val::Int(length)]) => self.range(*length),
            (F::Min, [Val::List(list)]) => self.extreme(list.iter(), "min"),
            (F::Max, [Val::List(list)]) => self.extreme(list.iter(), "max"),
            (F::Min, values) => self.extreme(values.iter().cloned(), "min"),
            (F::Max, values) => self.extreme(values.iter().cloned(), "max"),
            _ => Err(wrong_arguments(function, arguments)),
        }
    }

    fn test(&mut self, text: &str, part: &str, test: fn(&str, &str) -> bool) -> Outcome<'a> {
        self.spend_bytes(text.len() + part.len())?;
        Ok(Val::Bool(test(text, part)))
    }

    /// A new string, paid for.
    fn made(&mut self, text: &str) -> Outcome<'a> {
        self.spend_bytes(text.len())?;
        Ok(Val::text(text))
    }

    fn split(&mut self, text: &str, separator: &str, limit: i64) -> Outcome<'a> {
        self.spend_bytes(text.len())?;
        let parts = match usize::try_from(limit).unwrap_or(usize::MAX) {
            0 => Vec::new(),
            limit if separator.is_empty() => {
                // Between any two code points, as in CEL, and not at the ends.
                let mut rest = text;
                let mut parts = Vec::new();
                while let Some(first) = rest.chars().next() {
                    self.spend(1)?;
                    let end = if parts.len() + 1 == limit { rest.len() } else { first.len_utf8() };
                    parts.push(Val::text(&rest[..end]));
                    rest = &rest[end..];
                }
                parts
            }
            limit => {
                let mut parts = Vec::new();
                for part in text.splitn(limit, separator) {
                    self.spend(1)?;
                    parts.push(Val::text(part));
                }
                parts
            }
        };
        Ok(Val::list(parts))
    }

    fn join(&mut self, list: &List<'a>, separator: &str) -> Outcome<'a> {
        let mut text = String::new();
        for (position, item) in list.iter().enumerate() {
            let Val::Text(item) = item else {
                return Err(mismatch(format!(
                    "`join` takes a list of strings; element {position} is {}",
                    item.kind()
                )));
            };
            self.spend_bytes(separator.len() + item.len())?;
            if position > 0 {
                text.push_str(separator);
            }
            text.push_str(&item);
        }
        Ok(Val::text(text))
    }

    fn replace(&mut self, text: &str, old: &str, new: &str, limit: i64) -> Outcome<'a> {
        self.spend_bytes(text.len())?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let places = text.matches(old).take(limit).count();
        // Paid before it is made: each place may put in a long text.
        self.spend_bytes(places.saturating_mul(new.len()))?;
        Ok(Val::text(text.replacen(old, new, places)))
    }

    fn substring(&mut self, text: &Text<'a>, start: i64, end: Option<i64>) -> Outcome<'a> {
        self.spend_bytes(text.len())?;
        let size = text.chars().count();
        let bounds = (usize::try_from(start), end.map_or(Ok(size), usize::try_from));
        let (Ok(start), Ok(end)) = bounds else {
            return Err(out_of_text(size));
        };
        if start > end || end > size {
            return Err(out_of_text(size));
        }
        let offset =
            |position: usize| text.char_indices().nth(position).map_or(text.len(), |(offset, _)| offset);
        let range = offset(start)..offset(end);
        Ok(match text {
            Text::Lent(text) => Val::Text(Text::Lent(&text[range])),
            Text::Made(text) => Val::text(&text[range]),
        })
    }

    fn sort(&mut self, list: &List<'a>) -> Outcome<'a> {
        self.pay_for_sorting(list)?;
        let mut items: Vec<_> = list.iter().collect();
        if let Some(first) = items.first() {
            for item in &items {
                if first.order(item).is_none() {
                    let message = format!("`sort` cannot compare {} with {}", first.kind(), item.kind());
                    return Err(mismatch(message));
                }
            }
        }
        items.sort_by(Val::total_order);
        Ok(Val::list(items))
    }

    /// The first of all equal elements stays, in the order of the list.
    fn distinct(&mut self, list: &List<'a>) -> Outcome<'a> {
        self.pay_for_sorting(list)?;
        let mut items: Vec<_> = list.iter().enumerate().collect();
        items.sort_by(|(_, a), (_, b)| a.total_order(b));
        items.dedup_by(|(_, later), (_, earlier)| later.total_order(earlier).is_eq());
        items.sort_by_key(|(position, _)| *position);
        Ok(Val::list(items.into_iter().map(|(_, item)| item).collect()))
    }

    /// Comparisons while sorting cannot stop half-way, so all are paid beforehand: n log n.
    fn pay_for_sorting(&mut self, list: &List<'a>) -> Result<(), EvalError> {
        let mut weight = 0;
        for item in list.iter() {
            weight += self.weigh(&item, 0)?;
        }
        self.spend(weight.saturating_mul(list.len().max(1).ilog2() as usize))
    }

    fn flatten(&mut self, list: &List<'a>) -> Outcome<'a> {
        let mut items = Vec::new();
        for item in list.iter() {
            self.spend(1)?;
            if let Val::List(inner) = &item {
                self.spend(inner.len())?;
                items.extend(inner.iter());
            } else {
                items.push(item);
            }
        }
        Ok(Val::list(items))
    }

    fn range(&mut self, length: i64) -> Outcome<'a> {
        let Ok(elements) = usize::try_from(length) else {
            return Err(EvalError::new(EvalError::ARGUMENT, "`range` takes a count of zero or more"));
        };
        self.spend(elements)?;
        Ok(Val::list((0..length).map(Val::Int).collect()))
    }

    fn extreme(&mut self, values: impl Iterator<Item = Val<'a>>, name: &'static str) -> Outcome<'a> {
        let mut best: Option<Val<'a>> = None;
        for value in values {
            self.spend(1)?;
            // Comparing with itself refuses what has no order also when it is alone.
            let order = self.order(&value, best.as_ref().unwrap_or(&value), name)?;
            let better = if name == "min" { order.is_lt() } else { order.is_gt() };
            if better || best.is_none() {
                best = Some(value);
            }
        }
        best.ok_or_else(|| EvalError::new(EvalError::ARGUMENT, format!("`{name}` of an empty list")))
    }
}

fn count<'a>(size: usize) -> Outcome<'a> {
    i64::try_from(size).map(Val::Int).map_err(|_| overflow("size"))
}

fn out_of_text(size: usize) -> EvalError {
    EvalError::new(
        EvalError::ARGUMENT,
        format!("`substring` is out of the string, which has {size} characters"),
    )
}

fn wrong_arguments(function: Function, arguments: &[Val<'_>]) -> EvalError {
    let kinds: Vec<_> = arguments.iter().map(Val::kind).collect();
    let signature = super::node::SIGNATURES.iter().find(|signature| signature.function == function);
    let (name, usage) = signature.map_or(("", ""), |signature| (signature.name, signature.usage));
    mismatch(format!("`{name}` cannot take ({}); it is used as {usage}", kinds.join(", ")))
}

fn to_int<'a>(value: &Val<'a>) -> Outcome<'a> {
    const EDGE: f64 = 9_223_372_036_854_775_808.0; // 2^63
    match value {
        Val::Int(value) => Ok(Val::Int(*value)),
        Val::Double(value) if *value > -EDGE && *value < EDGE => Ok(Val::Int(value.trunc() as i64)),
        Val::Double(_) => Err(overflow("int")),
        other => Err(wrong_arguments(Function::Int, std::slice::from_ref(other))),
    }
}

fn to_double<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Int(value) => Ok(Val::Double(*value as f64)),
        Val::Double(value) => Ok(Val::Double(*value)),
        other => Err(wrong_arguments(Function::Double, std::slice::from_ref(other))),
    }
}

fn read_int<'a>(text: &str) -> Outcome<'a> {
    text.parse().map(Val::Int).map_err(|_| unreadable("int", text))
}

fn read_double<'a>(text: &str) -> Outcome<'a> {
    match text.parse() {
        Ok(value) => finite(value, "double"),
        Err(_) => Err(unreadable("double", text)),
    }
}

fn to_text<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Text(text) => Ok(Val::Text(text.clone())),
        Val::Bool(value) => Ok(Val::text(if *value { "true" } else { "false" })),
        Val::Int(value) => Ok(Val::text(value.to_string())),
        Val::Double(value) => {
            let number = serde_json::Value::from(*value);
            canonical(&number).map(Val::text)
        }
        other => Err(wrong_arguments(Function::String, std::slice::from_ref(other))),
    }
}

fn to_bool<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value {
        Val::Bool(value) => Ok(Val::Bool(*value)),
        Val::Text(text) => match &**text {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Val::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Val::Bool(false)),
            _ => Err(unreadable("bool", text)),
        },
        other => Err(wrong_arguments(Function::Bool, std::slice::from_ref(other))),
    }
}

fn unreadable(name: &str, text: &str) -> EvalError {
    EvalError::new(EvalError::ARGUMENT, format!("`{name}` cannot read '{}'", Shown(text)))
}
