//! Where the file is and how safe each commit is.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use orch::{Error, Result};

/// How a commit reaches the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// Every commit is flushed: it survives loss of power.
    #[default]
    Full,
    /// Commits are flushed at checkpoints only: they survive the process, the last ones may not survive loss of power.
    Normal,
}

/// The settings of a [`SqliteBackend`](crate::SqliteBackend).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteConfig {
    /// The file. It and its directory are made if they are missing, readable by their owner only.
    pub path: PathBuf,
    /// How a commit reaches the disk.
    pub synchronous: Synchronous,
    /// Connections for reading.
    pub readers: u32,
    /// How long to wait for another process that is writing.
    pub busy_timeout: Duration,
    /// Only look: nothing is made or changed, and what would write is `Refused`. The file must be there.
    pub read_only: bool,
}

impl SqliteConfig {
    /// The settings for a file, everything else as it is by default.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            synchronous: Synchronous::Full,
            readers: 4,
            busy_timeout: Duration::from_secs(5),
            read_only: false,
        }
    }
}

impl FromStr for SqliteConfig {
    type Err = Error;

    /// Reads `sqlite:PATH`, with `?synchronous=full`, `?synchronous=normal` or `?mode=ro` (only look) after it; several
    /// are joined with `&`.
    fn from_str(url: &str) -> Result<Self> {
        let invalid = |what: &'static str| {
            Error::invalid(what)
                .with("value", url)
                .with("expected", "sqlite:PATH?synchronous=full|normal&mode=ro")
        };
        let rest = url.strip_prefix("sqlite:").ok_or_else(|| invalid("not an address of a sqlite file"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if path.is_empty() || path == ":memory:" {
            return Err(invalid("address names no file"));
        }
        let mut config = Self::new(path);
        for option in query.split('&').filter(|option| !option.is_empty()) {
            match option {
                "synchronous=full" => config.synchronous = Synchronous::Full,
                "synchronous=normal" => config.synchronous = Synchronous::Normal,
                "mode=ro" => config.read_only = true,
                _ => return Err(invalid("unknown option in the address").with("option", option)),
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_file_and_its_durability() {
        let config: SqliteConfig = "sqlite:a/b.db?synchronous=normal".parse().unwrap();
        assert_eq!((config.path.to_str(), config.synchronous), (Some("a/b.db"), Synchronous::Normal));
        let config: SqliteConfig = "sqlite:/x.db".parse().unwrap();
        assert_eq!((config.path.to_str(), config.synchronous), (Some("/x.db"), Synchronous::Full));
        assert!(!config.read_only);
        let config: SqliteConfig = "sqlite:/x.db?synchronous=normal&mode=ro".parse().unwrap();
        assert_eq!((config.synchronous, config.read_only), (Synchronous::Normal, true));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for url in [
            "",
            "x.db",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:x?synchronous=off",
            "sqlite:x?wal=1",
            "sqlite:x?mode=rw",
        ] {
            assert!(url.parse::<SqliteConfig>().is_err(), "{url}");
        }
    }
}
