//! Secrets, and keeping them out of everything that is kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Failure, Outcome};
use crate::error::{Error, Result};
use crate::payload::Payload;

/// What stands where a secret stood.
const REDACTED: &str = "[redacted]";

/// A value that never prints itself.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The shortest secret, in bytes. A shorter one would be found all over harmless text.
    pub const BYTES_MIN: usize = 4;

    /// Wraps a secret value.
    ///
    /// # Errors
    /// `Invalid` when it is shorter than [`Secret::BYTES_MIN`].
    pub fn new(value: impl Into<Arc<str>>) -> Result<Self> {
        let value = value.into();
        if value.len() < Self::BYTES_MIN {
            return Err(Error::invalid("a secret needs at least 4 bytes, or it cannot be kept out of logs"));
        }
        Ok(Self(value))
    }

    /// The value. Hand it to the step and to nothing else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Replaces the secrets of one attempt by `[redacted]`: as they are, as JSON and URLs spell them, and in Base64,
/// also where they are only a part of what was encoded. A value with several lines is found line by line too.
///
/// It finds spellings, not meanings: a step that encrypts or reverses a secret before printing it gets past.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Longest first, so that no spelling hides a longer one.
    spellings: Arc<[String]>,
}

impl Redactor {
    /// A redactor for these secrets.
    #[must_use]
    pub fn new(secrets: &BTreeMap<String, Secret>) -> Self {
        let mut spellings = BTreeSet::new();
        for secret in secrets.values() {
            let value = secret.expose();
            let lines = value.lines().map(str::trim).filter(|line| line.len() >= Secret::BYTES_MIN);
            for part in std::iter::once(value).chain(lines) {
                spell(part, &mut spellings);
            }
        }
        let mut spellings: Vec<_> = spellings.into_iter().collect();
        spellings.sort_by_key(|spelling| std::cmp::Reverse(spelling.len()));
        Self { spellings: spellings.into() }
    }

    /// `text` without the secrets.
    #[must_use]
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut clean = Cow::Borrowed(text);
        for spelling in self.spellings.iter() {
            if clean.contains(spelling.as_str()) {
                clean = Cow::Owned(clean.replace(spelling.as_str(), REDACTED));
            }
        }
        clean
    }

    /// `payload` without the secrets: in its strings, its field names and the digits of its numbers.
    #[must_use]
    pub fn payload(&self, payload: Payload) -> Payload {
        if !self.spellings.iter().any(|spelling| payload.as_str().contains(spelling.as_str())) {
            return payload;
        }
        // What was canonical stays so when strings are replaced; if not, saying nothing is the safe answer.
        Payload::new(&self.value(payload.to_value())).unwrap_or_default()
    }

    /// An outcome without the secrets, fit for the ledger.
    #[must_use]
    pub fn outcome(&self, outcome: Outcome) -> Outcome {
        if self.spellings.is_empty() {
            return outcome;
        }
        match outcome {
            Outcome::Succeeded(output) => Outcome::Succeeded(self.payload(output)),
            Outcome::Failed(failure) => Outcome::Failed(Failure {
                code: self.text(&failure.code).into_owned(),
                message: self.text(&failure.message).into_owned(),
                ..failure
            }),
            Outcome::Cancelled | Outcome::TimedOut => outcome,
        }
    }

    /// Recursion is bounded: a payload is at most [`crate::payload::PAYLOAD_DEPTH_MAX`] deep.
    fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text).into_owned()),
            Value::Number(number) => match self.text(&number.to_string()) {
                Cow::Borrowed(_) => Value::Number(number),
                Cow::Owned(clean) => Value::String(clean),
            },
            Value::Array(items) => items.into_iter().map(|item| self.value(item)).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, field)| (self.text(&name).into_owned(), self.value(field)))
                .collect(),
            Value::Null | Value::Bool(_) => value,
        }
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

/// The characters a URL carries as they are (RFC 3986, section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Every way `value` is commonly written.
fn spell(value: &str, spellings: &mut BTreeSet<String>) {
    spellings.insert(value.to_owned());
    let json = Value::from(value).to_string();
    spellings.insert(json[1..json.len() - 1].to_owned());
    for set in [NON_ALPHANUMERIC, UNRESERVED] {
        let percent = utf8_percent_encode(value, set).to_string();
        spellings.insert(percent.replace("%20", "+"));
        spellings.insert(lowercase_escapes(&percent));
        spellings.insert(percent);
    }
    for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
        spellings.insert(engine.encode(value));
    }
    for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
        spellings.extend((0..3).filter_map(|offset| inner_base64(&engine, value, offset)));
    }
}

/// The Base64 characters that depend on nothing but `value` when `offset` bytes (modulo 3) stand before it.
fn inner_base64(engine: &impl base64::Engine, value: &str, offset: usize) -> Option<String> {
    let text = engine.encode([&[0; 3][..offset], value.as_bytes()].concat());
    let (first, end) = ((offset * 8).div_ceil(6), (offset + value.len()) * 8 / 6);
    text.get(first..end).filter(|inner| inner.len() > Secret::BYTES_MIN).map(str::to_owned)
}

/// `%2F` as `%2f`.
fn lowercase_escapes(percent: &str) -> String {
    let mut after = usize::MAX;
    let lower = |c: char| {
        after = if c == '%' { 0 } else { after.saturating_add(1) };
        if after <= 2 { c.to_ascii_lowercase() } else { c }
    };
    percent.chars().map(lower).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn redactor(value: &str) -> Redactor {
        Redactor::new(&BTreeMap::from([("KEY".to_owned(), Secret::new(value).unwrap())]))
    }

    #[test]
    fn a_secret_too_short_to_be_hidden_is_refused() {
        assert!(Secret::new("abc").is_err());
        assert!(Secret::new("abcd").is_ok());
    }

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("hunter22").unwrap();
        assert_eq!(format!("{secret:?} {:?}", redactor("hunter22")), "[secret] Redactor { .. }");
    }

    #[test]
    fn every_common_spelling_is_replaced() {
        let secret = "p\"ss/ wörd+1";
        let redactor = redactor(secret);
        for (spelling, shown) in [
            (secret.to_owned(), "x[redacted]y"),
            (json!(secret).to_string(), "x\"[redacted]\"y"),
            ("p%22ss%2F%20w%C3%B6rd%2B1".into(), "x[redacted]y"),
            ("p%22ss%2f%20w%c3%b6rd%2b1".into(), "x[redacted]y"),
            ("p%22ss%2F+w%C3%B6rd%2B1".into(), "x[redacted]y"),
            (STANDARD.encode(secret), "x[redacted]y"),
            (URL_SAFE_NO_PAD.encode(secret), "x[redacted]y"),
        ] {
            assert_eq!(redactor.text(&format!("x{spelling}y")), shown, "{spelling}");
        }
        assert_eq!(redactor.text("harmless"), "harmless");
    }

    #[test]
    fn each_line_of_a_key_is_hidden_alone() {
        let redactor = redactor("-----BEGIN KEY-----\nMIIabcdef\n-----END KEY-----\n");
        assert_eq!(redactor.text("got MIIabcdef!"), "got [redacted]!");
    }

    #[test]
    fn outcomes_are_cleaned_in_strings_names_and_numbers() {
        let redactor = redactor("12345678");
        let dirty = json!({"a": ["is 12345678"], "12345678": 1, "n": 12345678, "m": 1});
        let clean = json!({"a": ["is [redacted]"], "[redacted]": 1, "n": "[redacted]", "m": 1});
        let outcome = redactor.outcome(Outcome::Succeeded(Payload::new(&dirty).unwrap()));
        assert_eq!(outcome, Outcome::Succeeded(Payload::new(&clean).unwrap()));
        let outcome = redactor.outcome(Failure::fatal("x", "no 12345678").into());
        assert_eq!(outcome, Failure::fatal("x", "no [redacted]").into());
    }

    proptest! {
        /// Wherever a secret stands within what is encoded, at most its border characters remain.
        #[test]
        fn base64_around_a_secret_does_not_give_it_away(
            before in "[a-z:]{0,7}", secret in "[!-~]{6,20}", after in "[a-z]{0,7}",
        ) {
            let text = STANDARD.encode(format!("{before}{secret}{after}"));
            prop_assert!(redactor(&secret).text(&text).contains(REDACTED), "{}", text);
        }

        #[test]
        fn nothing_of_the_plain_secret_remains(before in ".{0,20}", secret in "[!-~]{4,20}", after in ".{0,20}") {
            let clean = redactor(&secret).text(&format!("{before}{secret}{after}")).into_owned();
            prop_assume!(!REDACTED.contains(&secret));
            prop_assert!(clean.contains(REDACTED));
        }
    }
}
