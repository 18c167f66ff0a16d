//! Identifiers, parsed once at the edge and trusted afterwards.
//!
//! Every key begins with a [`TenantId`], so no call can be made without saying whose data it touches.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;
use crate::error::{Error, Result};

/// The longest identifier, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// Checks the identifier grammar `[a-z0-9][a-z0-9._-]{0,127}` and says what is wrong with `text`.
fn check_slug(what: &'static str, text: &str) -> Result<()> {
    let problem = if text.is_empty() {
        "is empty"
    } else if text.len() > ID_BYTES_MAX {
        "is longer than 128 bytes"
    } else if !text.as_bytes()[0].is_ascii_lowercase() && !text.as_bytes()[0].is_ascii_digit() {
        "must begin with a lowercase letter or a digit"
    } else if let Some(bad) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-')) {
        return Err(Error::invalid(format!("{what} may hold only a-z 0-9 . _ -"))
            .with("character", bad)
            .with("value", shown(text)));
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("{what} {problem}")).with("value", shown(text)))
}

/// A bounded, printable form of untrusted text for error messages.
fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(60).flat_map(char::escape_default).collect();
    if text.chars().count() > 60 {
        short.push('…');
    }
    short
}

macro_rules! slug_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct $name(Arc<str>);

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                // Sorted sets compare many clones of one identifier.
                if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// Parses `text`.
            ///
            /// # Errors
            /// `Invalid` when it does not match `[a-z0-9][a-z0-9._-]{0,127}`.
            pub fn new(text: impl AsRef<str>) -> Result<Self> {
                check_slug($what, text.as_ref())?;
                Ok(Self(text.as_ref().into()))
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": "^[a-z0-9][a-z0-9._-]{0,127}$",
                })
            }
        }
    };
}

slug_id!(
    /// Whose data it is. The first part of every key.
    TenantId,
    "tenant"
);
slug_id!(
    /// The name of a DAG within a tenant.
    DagId,
    "dag id"
);
slug_id!(
    /// The name of a declared step within a DAG.
    StepId,
    "step id"
);
slug_id!(
    /// The name of a work queue within a tenant.
    QueueName,
    "queue"
);

impl QueueName {
    /// The queue of steps that name none.
    #[must_use]
    pub fn default_queue() -> Self {
        Self("default".into())
    }
}

/// A run: 32 lowercase hex digits, the first half of a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId([u8; 16]);

impl RunId {
    /// The first id in order.
    pub const MIN: Self = Self([0; 16]);

    /// Derives the id of the run that (tenant, dag, token, inputs) names, so that submitting the same
    /// thing twice is one run without any further index (invariant R5).
    #[must_use]
    pub fn derive(tenant: &TenantId, dag: &DagId, token: &str, inputs: &Digest) -> Self {
        let digest = Digest::of_parts(&[
            b"orch/run/v1",
            tenant.as_str().as_bytes(),
            dag.as_str().as_bytes(),
            token.as_bytes(),
            inputs.as_bytes(),
        ]);
        let mut id = [0; 16];
        id.copy_from_slice(&digest.as_bytes()[..16]);
        Self(id)
    }

    /// The raw bytes, for hashing.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::digest::write_hex(&self.0, f)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RunId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        crate::digest::parse_hex(text)
            .map(Self)
            .ok_or_else(|| Error::invalid("run id is 32 lowercase hex digits").with("value", shown(text)))
    }
}

impl Serialize for RunId {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RunId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A run together with the tenant it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunKey {
    /// Whose run it is.
    pub tenant: TenantId,
    /// Which run.
    pub run: RunId,
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.run)
    }
}

/// A step of a run: a declared step, or one child of a `forEach` step. Written `scan` or `scan[3]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepKey {
    /// The declared step.
    pub id: StepId,
    /// The position among the children of a `forEach` step, from 0.
    pub index: Option<u32>,
}

impl StepKey {
    /// The child at `index` of this declared step.
    #[must_use]
    pub fn child(&self, index: u32) -> Self {
        Self { id: self.id.clone(), index: Some(index) }
    }
}

impl From<StepId> for StepKey {
    fn from(id: StepId) -> Self {
        Self { id, index: None }
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            None => fmt::Display::fmt(&self.id, f),
            Some(index) => write!(f, "{}[{index}]", self.id),
        }
    }
}

impl fmt::Debug for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StepKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(open) = text.find('[') else {
            return Ok(Self { id: StepId::new(text)?, index: None });
        };
        let index = text[open + 1..]
            .strip_suffix(']')
            .filter(|digits| {
                digits.bytes().all(|b| b.is_ascii_digit()) && (!digits.starts_with('0') || *digits == "0")
            })
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| {
                Error::invalid("step is written `id` or `id[index]`").with("value", shown(text))
            })?;
        Ok(Self { id: StepId::new(&text[..open])?, index: Some(index) })
    }
}

impl Serialize for StepKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Some(index) = self.index else { return serializer.serialize_str(self.id.as_str()) };
        // Without going through `fmt`: the ledger writes one per entry.
        let id = self.id.as_str();
        let mut text = String::with_capacity(id.len() + 12);
        text.push_str(id);
        text.push('[');
        text.push_str(itoa::Buffer::new().format(index));
        text.push(']');
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for StepKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One process's life as a worker. Drawn anew at every start, so that a restarted process never passes
/// for the one that died; a human name is only a label beside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(Arc<str>);

impl WorkerId {
    /// Wraps an id that is unique to this process start.
    #[must_use]
    pub fn new(unique: impl Into<Arc<str>>) -> Self {
        Self(unique.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_the_grammar_are_refused_with_a_reason() {
        for (text, reason) in [
            ("", "is empty"),
            ("../etc", "must begin with"),
            ("a/b", "may hold only"),
            ("Upper", "must begin with"),
            ("a\u{0}b", "may hold only"),
            (&"a".repeat(129), "longer than 128"),
        ] {
            let error = TenantId::new(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
        assert!(DagId::new("a").is_ok());
        assert!(DagId::new("0.a_b-c").is_ok());
    }

    #[test]
    fn step_keys_round_trip_and_have_one_spelling() {
        for text in ["scan", "scan[0]", "scan[12]"] {
            assert_eq!(text.parse::<StepKey>().unwrap().to_string(), text);
        }
        for text in ["scan[", "scan[]", "scan[01]", "scan[+1]", "scan[1]x", "[1]", "scan[4294967296]"] {
            assert!(text.parse::<StepKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn r5_run_id_depends_on_every_part_and_on_their_borders() {
        let id = |t: &str, d: &str, k: &str, i: &[u8]| {
            RunId::derive(&TenantId::new(t).unwrap(), &DagId::new(d).unwrap(), k, &Digest::of(i))
        };
        let base = id("t", "d", "k", b"i");
        assert_eq!(base, id("t", "d", "k", b"i"));
        for other in [
            id("u", "d", "k", b"i"),
            id("t", "e", "k", b"i"),
            id("t", "d", "l", b"i"),
            id("t", "d", "k", b"j"),
        ] {
            assert_ne!(base, other);
        }
        assert_ne!(id("ab", "c", "k", b"i"), id("a", "bc", "k", b"i"));
    }
}
