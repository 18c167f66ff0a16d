//! Streams and their heads.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::id::RunId;

/// One append-only sequence of entries within a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// `audit`: what was done to the tenant's orchestration.
    Audit,
    /// `checkpoint`: signed heads, and what was pruned.
    Checkpoint,
    /// `run/ID`: one run.
    Run(RunId),
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Audit => f.write_str("audit"),
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::Run(run) => write!(f, "run/{run}"),
        }
    }
}

impl FromStr for Stream {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "audit" => Ok(Self::Audit),
            "checkpoint" => Ok(Self::Checkpoint),
            _ => text
                .strip_prefix("run/")
                .ok_or_else(|| {
                    Error::invalid("a stream is `audit`, `checkpoint` or `run/ID`").with("value", text)
                })?
                .parse()
                .map(Self::Run),
        }
    }
}

impl Serialize for Stream {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The last entry of a stream: what the next append is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// SHA-256 of the last entry; zeros when there is none.
    pub hash: Digest,
    /// Its sequence number; 0 when there is none.
    pub seq: u64,
}

impl Head {
    /// The head of a stream without entries.
    pub const EMPTY: Self = Self { hash: Digest::ZERO, seq: 0 };
}
