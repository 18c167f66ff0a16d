//! JSON that travels: step inputs and outputs, run inputs, signals.

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use self::faithful::Faithful;
use crate::digest::Digest;
use crate::error::{Error, Result};

/// The largest integer that every JSON reader represents exactly (RFC 8785, section 3.2.2.3): 2^53.
pub const INTEGER_MAX: u64 = 1 << 53;

/// The deepest nesting of a payload.
pub const PAYLOAD_DEPTH_MAX: usize = 64;

/// A JSON value in its one canonical spelling (RFC 8785). Cheap to clone.
///
/// The text is made once, where the value enters; from there the same bytes are stored, hashed and sent.
#[derive(Clone)]
pub struct Payload(Arc<RawValue>);

impl Payload {
    /// The JSON `null`.
    #[must_use]
    pub fn null() -> Self {
        static NULL: OnceLock<Payload> = OnceLock::new();
        NULL.get_or_init(|| Self(RawValue::NULL.to_owned().into())).clone()
    }

    /// Whether it is the JSON `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.as_str() == "null"
    }

    /// Canonicalises a value.
    ///
    /// # Errors
    /// `Invalid`, with the JSON pointer, for an integer beyond 2^53 (two readers would disagree on its
    /// value), nesting deeper than 64, or a name reserved by the JSON library.
    pub fn new(value: &Value) -> Result<Self> {
        if value.is_null() {
            return Ok(Self::null());
        }
        check(value, &mut Vec::new())?;
        Self::canonical(value)
    }

    /// Canonicalises anything serialisable.
    ///
    /// # Errors
    /// As [`Payload::new`], and `Invalid` when the value does not serialise to JSON.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let value = serde_json::to_value(value)
            .map_err(|cause| Error::invalid("value does not serialise to json").caused_by(cause))?;
        Self::new(&value)
    }

    /// Parses JSON text and canonicalises it.
    ///
    /// # Errors
    /// As [`Payload::new`], and `Invalid` with line and column for malformed JSON.
    pub fn parse(text: &str) -> Result<Self> {
        let Faithful(value) = serde_json::from_str(text).map_err(|cause| {
            Error::invalid("malformed json")
                .with("line", cause.line())
                .with("column", cause.column())
                .caused_by(cause)
        })?;
        Self::new(&value)
    }

    /// Canonicalises what this crate has checked or made itself.
    pub(crate) fn of_trusted<T: Serialize>(value: &T) -> Result<Self> {
        Self::canonical(value)
    }

    /// The list of these payloads; canonical because they are.
    #[must_use]
    pub fn list<'a>(items: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut text = String::from("[");
        for item in items {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(item.as_str());
        }
        text.push(']');
        Self(RawValue::from_string(text).expect("a list of json values is json").into())
    }

    /// This payload with `items` in its last empty list, which must be there; canonical because all are. A long list is
    /// written once, and not buffered level by level.
    pub(crate) fn with_last_list(&self, items: impl ExactSizeIterator<Item = Result<Self>>) -> Result<Self> {
        let whole = self.as_str();
        let at = whole.rfind("[]").ok_or_else(|| Error::internal("there is no empty list"))? + 1;
        let mut text = String::with_capacity(whole.len() + items.len() * 64);
        text.push_str(&whole[..at]);
        for (number, item) in items.enumerate() {
            if number > 0 {
                text.push(',');
            }
            text.push_str(item?.as_str());
        }
        text.push_str(&whole[at..]);
        let wrong = |cause| Error::internal("a list in a json value is no json").caused_by(cause);
        RawValue::from_string(text).map(|raw| Self(raw.into())).map_err(wrong)
    }

    fn canonical<T: Serialize>(value: &T) -> Result<Self> {
        let wrong = |cause| Error::invalid("value has no canonical json").caused_by(cause);
        let text = serde_json_canonicalizer::to_string(value).map_err(wrong)?;
        RawValue::from_string(text).map(|raw| Self(raw.into())).map_err(wrong)
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_str().len()
    }

    /// Never true: the shortest JSON text is one digit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_str().is_empty()
    }

    /// SHA-256 of the canonical text.
    #[must_use]
    pub fn digest(&self) -> Digest {
        // Most steps that have nothing to say say it in the same way.
        static NULL: OnceLock<Digest> = OnceLock::new();
        if self.is_null() { *NULL.get_or_init(|| Digest::of("null")) } else { Digest::of(self.as_str()) }
    }

    /// The value.
    #[must_use]
    pub fn to_value(&self) -> Value {
        // Canonical text parses by construction; a stored payload was checked when its entry was read.
        serde_json::from_str(self.as_str()).unwrap_or(Value::Null)
    }

    /// The value as a Rust type.
    ///
    /// # Errors
    /// `Invalid` when the payload has another shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.as_str())
            .map_err(|cause| Error::invalid("payload has another shape than expected").caused_by(cause))
    }
}

/// Whether every reader of its canonical text sees the same number.
pub(crate) fn is_exact(number: &Number) -> bool {
    match (number.as_u64(), number.as_i64()) {
        (Some(n), _) => n <= INTEGER_MAX,
        (None, Some(n)) => n.unsigned_abs() <= INTEGER_MAX,
        // Canonical text spells whole floats below 10^21 without an exponent: as integers.
        (None, None) => number
            .as_f64()
            .is_none_or(|n| n.fract() != 0.0 || n.abs() <= INTEGER_MAX as f64 || n.abs() >= 1e21),
    }
}

/// Why a name that [`is_reserved`] is refused.
pub(crate) const RESERVED: &str = "names that begin with `$serde_json::private::` are reserved";

/// Whether `serde_json` gives a map with this name a meaning of its own: it takes
/// `{"$serde_json::private::RawValue": "1"}` for `1`, which no other reader does.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.starts_with("$serde_json::private::")
}

fn check(value: &Value, pointer: &mut Vec<String>) -> Result<()> {
    let at = |pointer: &[String]| pointer.iter().fold(String::new(), |path, part| path + "/" + part);
    if pointer.len() > PAYLOAD_DEPTH_MAX {
        return Err(Error::invalid("json is nested deeper than 64 levels").with("at", at(pointer)));
    }
    match value {
        Value::Number(number) => {
            if !is_exact(number) {
                return Err(Error::invalid(
                    "integer is beyond 2^53 and would not survive; write it as a string",
                )
                .with("value", number)
                .with("at", at(pointer)));
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointer.push(index.to_string());
                check(item, pointer)?;
                pointer.pop();
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                if is_reserved(name) {
                    return Err(Error::invalid(RESERVED).with("name", name).with("at", at(pointer)));
                }
                pointer.push(name.replace('~', "~0").replace('/', "~1"));
                check(field, pointer)?;
                pointer.pop();
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
    Ok(())
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Payload {}

impl Default for Payload {
    fn default() -> Self {
        Self::null()
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        // JSON writers copy the text verbatim, so a document around canonical payloads stays canonical.
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    /// Canonicalises what it reads.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let Faithful(value) = Faithful::deserialize(deserializer)?;
        Self::new(&value).map_err(serde::de::Error::custom)
    }
}

/// Reads a payload out of a ledger entry, where it is canonical already: the text is kept as it stands.
/// The verifier compares the re-encoded entry byte for byte, so a spelling that is not canonical is found.
pub(crate) mod verbatim {
    use super::{Arc, Deserialize, Deserializer, Payload, RawValue};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Payload, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| Payload(Arc::from(raw)))
    }

    pub(crate) mod option {
        use super::{Arc, Deserialize, Deserializer, Payload, RawValue};

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Payload>, D::Error> {
            // `null` is a payload too, so presence alone decides; the field is absent when there is none.
            Box::<RawValue>::deserialize(deserializer).map(|raw| Some(Payload(Arc::from(raw))))
        }
    }

    pub(crate) mod list {
        use super::{Arc, Deserialize, Deserializer, Payload, RawValue};

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Vec<Payload>, D::Error> {
            let raw = Vec::<Box<RawValue>>::deserialize(deserializer)?;
            Ok(raw.into_iter().map(|raw| Payload(Arc::from(raw))).collect())
        }
    }
}

/// JSON as it is written. `Value` reads some names as instructions, see [`is_reserved`].
mod faithful {
    use std::fmt;

    use serde::de::{Error, MapAccess, SeqAccess, Visitor};
    use serde::{Deserialize, Deserializer};
    use serde_json::{Map, Number, Value};

    pub(super) struct Faithful(pub(super) Value);

    impl<'de> Deserialize<'de> for Faithful {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(FaithfulVisitor)
        }
    }

    struct FaithfulVisitor;

    impl<'de> Visitor<'de> for FaithfulVisitor {
        type Value = Faithful;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("json")
        }

        fn visit_unit<E: Error>(self) -> Result<Faithful, E> {
            Ok(Faithful(Value::Null))
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<Faithful, E> {
            Ok(Faithful(value.into()))
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<Faithful, E> {
            Ok(Faithful(value.into()))
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<Faithful, E> {
            Ok(Faithful(value.into()))
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<Faithful, E> {
            let number = Number::from_f64(value).ok_or_else(|| E::custom("number is not finite"))?;
            Ok(Faithful(Value::Number(number)))
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<Faithful, E> {
            Ok(Faithful(value.into()))
        }

        fn visit_string<E: Error>(self, value: String) -> Result<Faithful, E> {
            Ok(Faithful(value.into()))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Faithful, A::Error> {
            let mut list = Vec::new();
            while let Some(Faithful(item)) = items.next_element()? {
                list.push(item);
            }
            Ok(Faithful(list.into()))
        }

        fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Faithful, A::Error> {
            let mut map = Map::new();
            while let Some((name, Faithful(field))) = fields.next_entry()? {
                map.insert(name, field);
            }
            Ok(Faithful(map.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_spelling_is_canonical_whatever_the_source_looked_like() {
        let payload = Payload::parse(" { \"b\" : 1.0, \"a\" : [ 1e2, \"\\u00e9\" ] } ").unwrap();
        assert_eq!(payload.as_str(), "{\"a\":[100,\"é\"],\"b\":1}");
        assert_eq!(payload.digest(), Digest::of(payload.as_str()));
        assert_eq!(Payload::parse(payload.as_str()).unwrap(), payload);
    }

    #[test]
    fn integers_beyond_2_pow_53_are_refused_where_they_stand() {
        assert!(Payload::new(&json!({ "n": INTEGER_MAX })).is_ok());
        let error = Payload::parse("{\"a\":[0,9007199254740993]}").unwrap_err().to_string();
        assert!(error.contains("at=`/a/1`"), "{error}");
        assert!(Payload::parse("-9007199254740993").is_err());
        assert!(Payload::parse("1e17").is_err(), "its canonical text would be an integer beyond 2^53");
        let huge = Payload::parse("1e300").unwrap();
        assert_eq!(Payload::parse(huge.as_str()).unwrap(), huge);
    }

    #[test]
    fn a_name_that_the_json_library_gives_a_meaning_is_refused() {
        for text in
            [r#"[{"$serde_json::private::RawValue":"1"}]"#, r#"[{"\u0024serde_json::private::Number":"1"}]"#]
        {
            let error = Payload::parse(text).unwrap_err().to_string();
            assert!(error.contains("reserved") && error.contains("at=`/0`"), "{error}");
            assert!(serde_json::from_str::<Payload>(text).is_err());
        }
    }

    #[test]
    fn nesting_beyond_the_limit_is_refused() {
        let deep = "[".repeat(80) + &"]".repeat(80);
        assert!(Payload::parse(&deep).unwrap_err().to_string().contains("deeper than 64"));
        assert!(Payload::parse(&("[".repeat(100_000) + &"]".repeat(100_000))).is_err());
    }
}
