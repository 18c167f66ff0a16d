//! Which servers there are, and where their programs lie.

use std::path::{Path, PathBuf};

/// A server that tests use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Redis 7, from Debian.
    Redis,
    /// Valkey 9, from PyPI.
    Valkey,
    /// MongoDB 6, from PyPI.
    Mongo,
    /// NATS 2.15, from PyPI.
    Nats,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Redis, Self::Valkey, Self::Mongo, Self::Nats];

    /// The name by which `ORCH_REQUIRE` and the cache know it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Valkey => "valkey",
            Self::Mongo => "mongo",
            Self::Nats => "nats",
        }
    }

    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Valkey => "valkey-server",
            Self::Mongo => "mongod",
            Self::Nats => "nats-server",
        }
    }

    /// The program: the fetched one, or else the one that is installed.
    pub(crate) fn find(self) -> Option<PathBuf> {
        let installed = || {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).map(|folder| folder.join(self.program())).find(|file| file.is_file())
        };
        let fetched = self.folder().join(self.program());
        if fetched.exists() { Some(fetched) } else { installed() }
    }

    /// Where it is fetched to. Libraries that it needs and the machine may lack lie in `lib` below.
    pub(crate) fn folder(self) -> PathBuf {
        cache().join(self.name())
    }
}

/// The ignored folder for what is fetched.
pub(crate) fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/servers")
}
