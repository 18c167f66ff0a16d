//! `fn/parse`: text in one of the common formats to JSON.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::source::text_of;
use super::{Failure, TEXT_BYTES_MAX, apart, invalid};
use crate::executor::StepContext;
use crate::ledger::ArtifactRef;
use crate::limits::Limits;
use crate::payload::INTEGER_MAX;
use crate::spec::read_value;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parse {
    format: Format,
    text: Option<String>,
    artifact: Option<ArtifactRef>,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Toml,
    Json,
    Yaml,
    Csv,
    Ndjson,
}

/// A document is its value; CSV is a list of objects named by the header, NDJSON a list.
pub(super) async fn parse(context: StepContext, input: Parse) -> Result<Value, Failure> {
    let text = text_of(&context, "`text` or `artifact`", input.text, input.artifact).await?;
    apart(move || match input.format {
        Format::Toml => toml_value(&text),
        Format::Json => json_value(&text),
        Format::Yaml => yaml_value(&text),
        Format::Csv => csv_rows(&text),
        Format::Ndjson => text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(at, line)| {
                let wrong = |failure: Failure| malformed(format!("line {}: {}", at + 1, failure.message));
                json_value(line).map_err(wrong)
            })
            .collect(),
    })
    .await
}

/// Strict JSON: no name twice in an object, no number that would not survive.
pub(super) fn json_value(text: &str) -> Result<Value, Failure> {
    serde_json::from_str::<Strict>(text)
        .map(|Strict(value)| value)
        .map_err(|error| malformed(format!("json: {error}")))
}

/// YAML 1.2 as specs are read, only larger.
fn yaml_value(text: &str) -> Result<Value, Failure> {
    let limits = Limits { spec_bytes: TEXT_BYTES_MAX, ..Limits::default() };
    read_value("yaml", text, &limits).map_err(|report| malformed(report.to_string()))
}

fn toml_value(text: &str) -> Result<Value, Failure> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let (line, column) = error.span().map_or((1, 1), |span| position(text, span.start));
        malformed(format!("toml: {} at line {line} column {column}", error.message()))
    })?;
    serde_path_to_error::deserialize::<_, Strict>(dates_as_text(toml::Value::Table(table)))
        .map(|Strict(value)| value)
        .map_err(|error| malformed(format!("toml: {}: {}", error.path(), error.inner().message())))
}

/// Line and column, from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// JSON has no dates; they become the text that TOML writes. The parser bounds the nesting.
fn dates_as_text(value: toml::Value) -> toml::Value {
    match value {
        toml::Value::Datetime(date) => toml::Value::String(date.to_string()),
        toml::Value::Array(items) => toml::Value::Array(items.into_iter().map(dates_as_text).collect()),
        toml::Value::Table(table) => table
            .into_iter()
            .map(|(name, value)| (name, dates_as_text(value)))
            .collect::<toml::Table>()
            .into(),
        other => other,
    }
}

fn csv_rows(text: &str) -> Result<Value, Failure> {
    let wrong = |error: csv::Error| {
        let text = error.to_string();
        malformed(format!("csv: {}", text.strip_prefix("CSV error: ").unwrap_or(&text)))
    };
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header: Vec<String> = reader.headers().map_err(wrong)?.iter().map(str::to_owned).collect();
    if let Some((at, name)) = header.iter().enumerate().find(|(at, name)| header[..*at].contains(name)) {
        return Err(malformed(format!(
            "csv: column {} has the same name as one before it: {name:?}",
            at + 1
        )));
    }
    let row = |record: csv::StringRecord| -> Value {
        header.iter().cloned().zip(record.iter().map(Value::from)).collect::<Map<_, _>>().into()
    };
    reader.into_records().map(|record| record.map(row).map_err(wrong)).collect()
}

fn malformed(message: String) -> Failure {
    Failure { code: "malformed_document".to_owned(), ..invalid(message) }
}

/// A JSON value read without losing anything: what serde_json would take silently is an error here.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> DeserializeSeed<'de> for StrictVisitor {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

const TOO_LARGE: &str = "a whole number beyond 2^53 would not survive; write it as a string";

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can hold")
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Value, E> {
        Ok(flag.into())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        if number.unsigned_abs() <= INTEGER_MAX { Ok(number.into()) } else { Err(E::custom(TOO_LARGE)) }
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        if number <= INTEGER_MAX { Ok(number.into()) } else { Err(E::custom(TOO_LARGE)) }
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        // A JSON reader hands over whole numbers beyond 64 bits as floats, already rounded.
        #[expect(clippy::cast_precision_loss, reason = "2^53 is exact")]
        if number.is_finite() && number.fract() == 0.0 && number.abs() > INTEGER_MAX as f64 {
            return Err(E::custom(TOO_LARGE));
        }
        serde_json::Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| E::custom("JSON has no infinity and no NaN"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(Self)? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let field = access.next_value_seed(Self)?;
            if fields.contains_key(&name) {
                return Err(de::Error::custom(format!("the name {name:?} stands twice in one object")));
            }
            fields.insert(name, field);
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Payload;
    use proptest::prelude::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            (-1e6..1e6).prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(".{0,6}", inner, 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_json_says_is_read_without_loss(value in any_json()) {
            let payload = Payload::new(&value).unwrap();
            let read = json_value(payload.as_str()).unwrap();
            prop_assert_eq!(Payload::new(&read).unwrap(), payload);
        }

        #[test]
        fn what_is_read_is_fit_for_a_payload(text in "[\\[\\]{}:,\"0-9eE.+a-]{0,24}") {
            if let Ok(value) = json_value(&text) {
                Payload::new(&value).unwrap();
            }
        }
    }

    #[test]
    fn a_position_counts_lines_and_characters() {
        assert_eq!(position("é\nüx", 5), (2, 2));
        assert_eq!(position("", 9), (1, 1));
    }
}
