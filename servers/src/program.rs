//! Which servers and tools tests use, and where their programs lie.

use std::path::{Path, PathBuf};

/// A program that tests use: of a server, or a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// The name by which `ORCH_REQUIRE` and the cache know it.
    pub name: &'static str,
    pub(crate) file: &'static str,
    /// The packages of Debian that hold it and the libraries it needs, and where it lies in them; nothing for those from
    /// PyPI.
    pub(crate) debian: Option<(&'static [&'static str], &'static str)>,
}

/// The checker of metrics and rules of Prometheus 2, from Debian.
pub const PROMTOOL: Program =
    Program { name: "promtool", file: "promtool", debian: Some((&["prometheus"], "usr/bin/promtool")) };

impl Program {
    /// Every program.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Kind::ALL.into_iter().map(Kind::program).chain([PROMTOOL])
    }

    /// Where it is: the fetched one, or else the one that is installed.
    #[must_use]
    pub fn find(self) -> Option<PathBuf> {
        let installed = || {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).map(|folder| folder.join(self.file)).find(|file| file.is_file())
        };
        let fetched = self.folder().join(self.file);
        if fetched.exists() { Some(fetched) } else { installed() }
    }

    /// Where it is fetched to. Libraries that it needs and the machine may lack lie in `lib` below.
    pub(crate) fn folder(self) -> PathBuf {
        cache().join(self.name)
    }
}

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
        self.program().name
    }

    pub(crate) const fn program(self) -> Program {
        let (name, file, debian): (_, _, Option<(&[&str], _)>) = match self {
            Self::Redis => {
                let packages = &["redis-server", "redis-tools", "libjemalloc2", "liblzf1"];
                ("redis", "redis-server", Some((packages, "usr/bin/redis-server")))
            }
            Self::Valkey => ("valkey", "valkey-server", None),
            Self::Mongo => ("mongo", "mongod", None),
            Self::Nats => ("nats", "nats-server", None),
        };
        Program { name, file, debian }
    }
}

/// The ignored folder for what is fetched.
pub(crate) fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/servers")
}
