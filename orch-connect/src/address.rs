//! Where store, queue and lock are: addresses, read, and shown without their secrets.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use orch::Error;
#[cfg(feature = "mongo")]
use orch_backend_mongo::MongoConfig;
#[cfg(feature = "nats")]
use orch_backend_nats::NatsConfig;
#[cfg(feature = "redis")]
use orch_backend_redis::RedisConfig;
use orch_backend_sqlite::SqliteConfig;

use crate::advice::{Advised, Result};

/// The most bytes of a file with an address.
const ADDRESS_BYTES: u64 = 64 << 10;

/// What the name of a place ends with where hints for workers outside wait.
const OUTSIDE: &str = "-outside";

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seam {
    /// Where runs are.
    Store,
    /// Where hints wait.
    Queue,
    /// Where slots are counted.
    Lock,
}

impl Seam {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Store, Self::Queue, Self::Lock];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Queue => "queue",
            Self::Lock => "lock",
        }
    }

    const fn argument(self) -> &'static str {
        match self {
            Self::Store => "--store",
            Self::Queue => "--queue",
            Self::Lock => "--lock",
        }
    }
}

/// Where something is kept.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// In this process.
    Memory,
    /// In a file.
    Sqlite(SqliteConfig),
    /// On MongoDB.
    #[cfg(feature = "mongo")]
    Mongo(Box<MongoConfig>),
    /// On Redis or Valkey.
    #[cfg(feature = "redis")]
    Redis(Box<RedisConfig>),
    /// On NATS.
    #[cfg(feature = "nats")]
    Nats(Box<NatsConfig>),
}

impl Address {
    /// Whether other machines can be there, too.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        !matches!(self, Self::Memory | Self::Sqlite(_))
    }

    /// Where hints at work for workers outside wait, beside the hints that wait here: in the same place under the name with
    /// `-outside` at its end.
    pub(crate) fn outside(&self) -> Self {
        let mut beside = self.clone();
        match &mut beside {
            Self::Memory => {}
            Self::Sqlite(config) => {
                let mut path = std::mem::take(&mut config.path).into_os_string();
                path.push(OUTSIDE);
                config.path = path.into();
            }
            #[cfg(feature = "mongo")]
            Self::Mongo(config) => config.namespace.push_str(OUTSIDE),
            #[cfg(feature = "redis")]
            Self::Redis(config) => config.namespace.push_str(OUTSIDE),
            #[cfg(feature = "nats")]
            Self::Nats(config) => config.namespace.push_str(OUTSIDE),
        }
        beside
    }

    /// Reads an address, or the file that `@FILE` names.
    ///
    /// # Errors
    /// `Invalid` for what is no address, `Unsupported` for a backend that has no such seam or that this build cannot use. No
    /// more of the text than its scheme is repeated: the rest may hold a password.
    pub fn read(seam: Seam, text: &str) -> Result<Self> {
        let text = match text.strip_prefix('@') {
            Some(file) => read_file(seam, file)?,
            None => text.to_owned(),
        };
        let text = text.as_str();
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "memory" if text == "memory:" => Ok(Self::Memory),
            "sqlite" => match text.parse() {
                Ok(config) => Ok(Self::Sqlite(config)),
                Err(error) => Err(Advised::from(error).hint(forms(seam))),
            },
            "mongodb" | "mongodb+srv" => mongo(text).map_err(|fault| named(fault, seam)),
            "redis" | "rediss" => redis(text).map_err(|fault| named(fault, seam)),
            "nats" | "tls" if seam == Seam::Store => {
                let error = Error::unsupported("nats keeps hints and slots, not runs");
                Err(Advised::from(error.with("argument", seam.argument())).hint(
                    "name another store (`sqlite:PATH`, `mongodb://…`, `redis://…`), and this server with --queue and --lock",
                ))
            }
            "nats" | "tls" => nats(text).map_err(|fault| named(fault, seam)),
            // No more than the scheme: the rest may hold a password.
            _ => {
                let error =
                    Error::invalid("not an address of anything orch knows").with("argument", seam.argument());
                let error = if scheme.is_empty() { error } else { error.with("scheme", scheme) };
                Err(Advised::from(error).hint(forms(seam)))
            }
        }
    }
}

impl fmt::Display for Address {
    /// The address without credentials and options.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Sqlite(config) => write!(f, "sqlite:{}", config.path.display()),
            #[cfg(feature = "mongo")]
            Self::Mongo(config) => write!(f, "mongodb://{}/{}", config.servers(), config.namespace),
            #[cfg(feature = "redis")]
            Self::Redis(config) => write!(f, "{}?namespace={}", config.address(), config.namespace),
            #[cfg(feature = "nats")]
            Self::Nats(config) => write!(f, "{}?namespace={}", config.address(), config.namespace),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first line of a file, for addresses with a password.
fn read_file(seam: Seam, file: &str) -> Result<String> {
    let wrong = |what: String| {
        Advised::from(Error::invalid(what).with("argument", seam.argument()).with("file", file))
            .hint("`@FILE` takes the first line of a file as the address")
    };
    let text = read_text(file.as_ref(), ADDRESS_BYTES)
        .map_err(|cause| wrong(format!("the address cannot be read: {cause}")))?;
    let line = text.lines().next().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('@'));
    line.map(str::to_owned).ok_or_else(|| wrong("the first line of the file is no address".to_owned()))
}

/// Says which argument a wrong address stands in.
fn named(Advised { error, hint }: Advised, seam: Seam) -> Advised {
    Advised { error: error.with("argument", seam.argument()), hint }
}

/// The text of a small file, as far as it may be long.
///
/// # Errors
/// As reading the file.
pub fn read_text(path: &Path, most: u64) -> std::io::Result<String> {
    let mut value = String::new();
    std::fs::File::open(path)?.take(most).read_to_string(&mut value)?;
    Ok(value)
}

fn forms(seam: Seam) -> String {
    let nats = if seam == Seam::Store { "" } else { ", `nats://…`" };
    format!("write `sqlite:PATH`, `mongodb://…`, `redis://…`{nats} or `memory:`")
}

/// A backend that this program was built without.
#[cfg(any(test, not(all(feature = "mongo", feature = "redis", feature = "nats"))))]
fn missing(what: &'static str, feature: &'static str) -> Advised {
    let error = Error::unsupported(format!("this build of orch cannot use {what}")).with("feature", feature);
    let build = format!("cargo build --release --package orch-cli --features {feature}");
    Advised::from(error).hint(format!("build it with the feature: `{build}`"))
}

#[cfg(feature = "mongo")]
fn mongo(text: &str) -> Result<Address> {
    Ok(Address::Mongo(Box::new(text.parse()?)))
}

#[cfg(not(feature = "mongo"))]
fn mongo(_: &str) -> Result<Address> {
    Err(missing("MongoDB", "mongo"))
}

#[cfg(feature = "redis")]
fn redis(text: &str) -> Result<Address> {
    Ok(Address::Redis(Box::new(text.parse()?)))
}

#[cfg(not(feature = "redis"))]
fn redis(_: &str) -> Result<Address> {
    Err(missing("Redis", "redis"))
}

#[cfg(feature = "nats")]
fn nats(text: &str) -> Result<Address> {
    Ok(Address::Nats(Box::new(text.parse()?)))
}

#[cfg(not(feature = "nats"))]
fn nats(_: &str) -> Result<Address> {
    Err(missing("NATS", "nats"))
}

/// Where the three are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Where runs are.
    pub store: Address,
    /// Where hints wait.
    pub queue: Address,
    /// Where slots are counted.
    pub lock: Address,
}

impl Places {
    /// The places that are named. Beside a file hints wait in memory, since making them again costs little there; beside a
    /// server they wait on it. Slots are counted where runs are.
    ///
    /// # Errors
    /// As [`Address::read`].
    pub fn read(store: &str, queue: Option<&str>, lock: Option<&str>) -> Result<Self> {
        let store = Address::read(Seam::Store, store)?;
        let queue = match queue {
            Some(text) => Address::read(Seam::Queue, text)?,
            None if store.is_remote() => store.clone(),
            None => Address::Memory,
        };
        let lock = match lock {
            Some(text) => Address::read(Seam::Lock, text)?,
            None => store.clone(),
        };
        Ok(Self { store, queue, lock })
    }

    /// The place of a seam.
    #[must_use]
    pub fn get(&self, seam: Seam) -> &Address {
        match seam {
            Seam::Store => &self.store,
            Seam::Queue => &self.queue,
            Seam::Lock => &self.lock,
        }
    }

    /// The directory of artifacts, if they are kept in one: the named one, the one beside the file, or one below the
    /// working directory.
    #[must_use]
    pub fn artifacts(&self, named: Option<&Path>) -> Option<PathBuf> {
        match (named, &self.store) {
            (Some(directory), _) => Some(directory.to_owned()),
            (None, Address::Sqlite(config)) => {
                Some(config.path.parent().map_or_else(PathBuf::new, ToOwned::to_owned).join("artifacts"))
            }
            (None, Address::Memory) => None,
            #[allow(unreachable_patterns, reason = "without a server's feature there is nothing else")]
            (None, _) => Some(PathBuf::from(".orch/artifacts")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(store: &str, queue: Option<&str>, lock: Option<&str>) -> Places {
        Places::read(store, queue, lock).unwrap_or_else(|fault| panic!("{store}: {fault:?}"))
    }

    #[test]
    fn hints_wait_in_memory_beside_a_file_and_slots_are_counted_in_it() {
        let Places { store, queue, lock } = places("sqlite:a/b.db", None, None);
        assert_eq!((store.to_string().as_str(), &queue), ("sqlite:a/b.db", &Address::Memory));
        assert_eq!(store, lock);
        let memory = places("memory:", None, Some("sqlite:x"));
        assert_eq!((memory.queue, memory.lock.to_string().as_str()), (Address::Memory, "sqlite:x"));
    }

    #[cfg(all(feature = "mongo", feature = "redis", feature = "nats"))]
    #[test]
    fn beside_a_server_everything_is_on_it_unless_said_otherwise_and_nothing_shows_a_password() {
        let all = places("redis://me:s3cret@h/1?namespace=x", None, None);
        assert!(all.store == all.queue && all.store == all.lock && all.store.is_remote());
        let mixed = places(
            "mongodb://me:s3cret@h,i/flows",
            Some("nats://s3cret@q"),
            Some("rediss://:s3cret@l?namespace=y"),
        );
        let shown = format!("{all:?} {mixed:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
        let shown = Seam::ALL.map(|seam| mixed.get(seam).to_string());
        assert_eq!(shown[0], "mongodb://h,i/flows");
        assert!(shown[1].starts_with("nats://q:4222?namespace="), "{shown:?}");
        assert_eq!(shown[2], "rediss://l:6379/0?namespace=y");
        assert_eq!(all.artifacts(None), Some(PathBuf::from(".orch/artifacts")));
    }
    #[cfg(not(any(feature = "mongo", feature = "redis", feature = "nats")))]
    #[test]
    fn a_server_that_this_build_cannot_use_names_what_was_missing_and_no_secret() {
        for (scheme, feature) in
            [("mongodb", "mongo"), ("mongodb+srv", "mongo"), ("rediss", "redis"), ("tls", "nats")]
        {
            let fault = Address::read(Seam::Queue, &format!("{scheme}://me:s3cret@h")).unwrap_err();
            assert!(fault.error.to_string().contains("this build of orch cannot use"), "{fault:?}");
            let hint = fault.hint.clone().unwrap_or_default();
            assert!(hint.contains(&format!("--features {feature}")), "{fault:?}");
            assert!(!format!("{fault:?}").contains("s3cret"), "{fault:?}");
        }
    }

    #[test]
    fn a_backend_that_was_not_built_in_names_the_feature_to_build_with() {
        let fault = missing("MongoDB", "mongo");
        assert!(fault.error.to_string().contains("this build of orch cannot use MongoDB"), "{fault:?}");
        assert!(fault.hint.clone().unwrap_or_default().contains("--features mongo"), "{fault:?}");
    }
    #[test]
    fn hints_for_workers_outside_wait_in_a_place_of_their_own() {
        let beside = |store: &str, queue| places(store, Some(queue), None).queue.outside().to_string();
        assert_eq!(beside("sqlite:a.db", "memory:"), "memory:");
        assert_eq!(beside("sqlite:a.db", "sqlite:a.db"), "sqlite:a.db-outside");
        #[cfg(feature = "redis")]
        assert!(beside("sqlite:a.db", "redis://h?namespace=x").ends_with("namespace=x-outside"));
        #[cfg(feature = "mongo")]
        assert!(beside("sqlite:a.db", "mongodb://h/flows").ends_with("/flows-outside"));
        #[cfg(feature = "nats")]
        assert!(beside("sqlite:a.db", "nats://h?namespace=x").ends_with("namespace=x-outside"));
    }
}
