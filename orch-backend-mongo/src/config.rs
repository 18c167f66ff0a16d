//! Where the servers are, which database is orch's, and what a write must have survived.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mongodb::options::ConnectionString;
use orch::{Error, Result};

/// The settings of a [`MongoBackend`](crate::MongoBackend).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MongoConfig {
    /// What the driver is told: servers, user, TLS, timeouts. It may hold a password, so nothing prints it.
    url: String,
    /// The database that holds everything, 1 to 38 characters of `a-z A-Z 0-9 _ -`. Two namespaces never see each
    /// other.
    pub namespace: String,
    /// Whether the address may ask for less than `w=majority` and `journal=true`. An append that was answered may be
    /// lost then, and [`Capability::survives_power_loss`](orch::store::Capability) says so.
    pub allow_weak_writes: bool,
    /// How long one call may take. A write that takes longer is `Indeterminate`; it may still land.
    pub call_timeout: Duration,
    /// How often a worker that waits looks for items of other processes where there are no change streams: on a
    /// server that is no member of a replica set, or while the stream is being opened again.
    pub poll_every: Duration,
}

/// What the driver understands and this crate leaves to it, in lower case.
const OF_THE_DRIVER: [&str; 31] = [
    "appname",
    "authmechanism",
    "authmechanismproperties",
    "authsource",
    "connecttimeoutms",
    "directconnection",
    "heartbeatfrequencyms",
    "journal",
    "localthresholdms",
    "maxconnecting",
    "maxidletimems",
    "maxpoolsize",
    "minpoolsize",
    "readconcernlevel",
    "readpreference",
    "replicaset",
    "retryreads",
    "retrywrites",
    "servermonitoringmode",
    "serverselectiontimeoutms",
    "sockettimeoutms",
    "srvservicename",
    "ssl",
    "tls",
    "tlsallowinvalidcertificates",
    "tlscafile",
    "tlscertificatekeyfile",
    "tlsinsecure",
    "w",
    "waitqueuetimeoutms",
    "wtimeoutms",
];

const EXPECTED: &str = "mongodb://[USER:PASSWORD@]HOST[:PORT],…/[DATABASE][?OPTIONS]";

/// Bytes of a database's name; MongoDB allows 63, and some managed services 38.
const NAMESPACE_MAX: usize = 38;

impl MongoConfig {
    /// The settings for an address, everything else as it is by default.
    ///
    /// # Errors
    /// `Invalid`, as when it is parsed.
    pub fn new(url: impl AsRef<str>) -> Result<Self> {
        url.as_ref().parse()
    }

    /// The servers, without user and password.
    #[must_use]
    pub fn servers(&self) -> &str {
        let rest = self.url.split_once("://").map_or("", |(_, rest)| rest);
        let servers = rest.split(['/', '?']).next().unwrap_or("");
        servers.rsplit('@').next().unwrap_or("")
    }

    /// What the driver makes of the address.
    pub(crate) fn connection(&self) -> Result<ConnectionString> {
        ConnectionString::parse(&self.url).map_err(|cause| {
            let error =
                invalid("address of the database does not parse; user and password must be percent-encoded");
            // The driver quotes what it does not understand, which must not be a password.
            if self.url.contains('@') { error } else { error.caused_by(cause.to_string()) }
        })
    }

    fn set(&mut self, name: &str, value: &str) -> Result<bool> {
        match name {
            "namespace" => value.clone_into(&mut self.namespace),
            "allowWeakWrites" => {
                self.allow_weak_writes = value.parse().map_err(|_| wrong(name, value, "true or false"))?;
            }
            "callTimeoutMS" => self.call_timeout = millis(name, value)?,
            "pollMS" => self.poll_every = millis(name, value)?,
            _ if OF_THE_DRIVER.contains(&name.to_ascii_lowercase().as_str()) => return Ok(false),
            _ => return Err(invalid("unknown option in the address of the database").with("option", name)),
        }
        Ok(true)
    }

    fn check_namespace(&self) -> Result<()> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let length = (1..=NAMESPACE_MAX).contains(&self.namespace.len());
        if length
            && self.namespace.chars().all(fits)
            && !["admin", "config", "local"].contains(&&*self.namespace)
        {
            return Ok(());
        }
        Err(wrong("namespace", &self.namespace, "1 to 38 of a-z A-Z 0-9 _ -, not admin, config or local"))
    }

    /// Refuses what would break the store's promises.
    fn check_concerns(&self, connection: &ConnectionString) -> Result<()> {
        use mongodb::options::{Acknowledgment, ReadConcernLevel};
        if let Some(concern) = &connection.write_concern
            && !self.allow_weak_writes
        {
            let weak = |what| {
                Err(invalid(what).with("expected", "w=majority&journal=true, or allowWeakWrites=true"))
            };
            if !matches!(concern.w, None | Some(Acknowledgment::Majority)) {
                return weak("write concern `w` of the address may lose answered appends");
            }
            if concern.journal == Some(false) {
                return weak("`journal=false` of the address may lose answered appends");
            }
        }
        let level = connection.read_concern.as_ref().map(|concern| &concern.level);
        if !matches!(level, None | Some(ReadConcernLevel::Majority)) {
            return Err(wrong("readConcernLevel", "another", "majority, or nothing"));
        }
        Ok(())
    }
}

fn invalid(what: &'static str) -> Error {
    Error::invalid(what)
}

fn wrong(option: &str, value: &str, expected: &str) -> Error {
    invalid("option in the address of the database has a wrong value")
        .with("option", option)
        .with("value", value)
        .with("expected", expected)
}

fn millis(name: &str, value: &str) -> Result<Duration> {
    let millis = value.parse().ok().filter(|millis| *millis > 0);
    millis.map(Duration::from_millis).ok_or_else(|| wrong(name, value, "milliseconds from 1"))
}

impl fmt::Debug for MongoConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoConfig")
            .field("servers", &self.servers())
            .field("namespace", &self.namespace)
            .field("allow_weak_writes", &self.allow_weak_writes)
            .field("call_timeout", &self.call_timeout)
            .field("poll_every", &self.poll_every)
            .finish()
    }
}

impl FromStr for MongoConfig {
    type Err = Error;

    /// Reads MongoDB's own address, `mongodb://…` or `mongodb+srv://…`, with these options beside the driver's:
    /// `namespace` (otherwise the database of the path, otherwise `orch`), `allowWeakWrites`, `callTimeoutMS` (30000),
    /// `pollMS` (500).
    fn from_str(url: &str) -> Result<Self> {
        if !["mongodb://", "mongodb+srv://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(invalid("not an address of a mongodb database").with("expected", EXPECTED));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let path =
            base.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
        let mut config = Self {
            url: String::new(),
            namespace: if path.is_empty() { "orch".to_owned() } else { path.to_owned() },
            allow_weak_writes: false,
            call_timeout: Duration::from_secs(30),
            poll_every: Duration::from_millis(500),
        };
        let mut left = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or_else(|| wrong(option, "", "NAME=VALUE"))?;
            if name.eq_ignore_ascii_case("readPreference") && value != "primary" {
                return Err(wrong(name, value, "primary, or nothing"));
            }
            if !config.set(name, value)? {
                left.push(option);
            }
        }
        config.url = if left.is_empty() { base.to_owned() } else { format!("{base}?{}", left.join("&")) };
        config.check_namespace()?;
        config.check_concerns(&config.connection()?)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> MongoConfig {
        url.parse().unwrap()
    }

    fn refused(url: &str) -> String {
        let error = url.parse::<MongoConfig>().unwrap_err();
        assert_eq!(error.kind(), orch::ErrorKind::Invalid, "{url}");
        error.to_string()
    }

    #[test]
    fn the_namespace_is_an_option_or_the_path_or_orch() {
        assert_eq!(parsed("mongodb://h").namespace, "orch");
        assert_eq!(parsed("mongodb://h:1,i:2/?replicaSet=rs").namespace, "orch");
        assert_eq!(parsed("mongodb://h/flows").namespace, "flows");
        assert_eq!(parsed("mongodb://u:p@h/admin?namespace=flows&authSource=admin").namespace, "flows");
        for name in [
            "mongodb://h/admin",
            "mongodb://h/?namespace=",
            "mongodb://h/?namespace=a.b",
            "mongodb://h/?namespace=$x",
        ] {
            assert!(refused(name).contains("namespace"), "{name}");
        }
    }

    #[test]
    fn options_of_its_own_do_not_reach_the_driver() {
        let config =
            parsed("mongodb://h/?namespace=n&w=majority&callTimeoutMS=7&pollMS=9&allowWeakWrites=true");
        assert_eq!(config.url, "mongodb://h/?w=majority");
        assert_eq!(
            (config.call_timeout, config.poll_every),
            (Duration::from_millis(7), Duration::from_millis(9))
        );
        assert!(config.allow_weak_writes);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (url, named) in [
            ("mongodb://h/?nameSpace=n", "nameSpace"),
            ("mongodb://h/?compressors=zstd", "compressors"),
            ("mongodb://h/?callTimeoutMS=0", "callTimeoutMS"),
            ("mongodb://h/?pollMS=fast", "pollMS"),
            ("mongodb://h/?allowWeakWrites=perhaps", "allowWeakWrites"),
            ("mongodb://h/?readPreference=secondary", "readPreference"),
            ("mongodb://h/?readConcernLevel=local", "readConcernLevel"),
            ("mongodb://h/?flag", "flag"),
        ] {
            assert!(refused(url).contains(named), "{url}");
        }
        for url in ["", "h", "redis://h", "mongodb://", "mongodb://h:port"] {
            refused(url);
        }
    }

    #[test]
    fn a_weaker_write_concern_is_refused_unless_allowed() {
        for weak in ["w=1", "w=0", "w=2", "journal=false", "w=majority&journal=false", "w=rack"] {
            assert!(refused(&format!("mongodb://h/?{weak}")).contains("allowWeakWrites"), "{weak}");
        }
        for weak in ["w=1", "w=2", "journal=false", "w=1&journal=false"] {
            assert!(parsed(&format!("mongodb://h/?{weak}&allowWeakWrites=true")).allow_weak_writes, "{weak}");
        }
        for strong in ["w=majority", "journal=true", "wtimeoutMS=500", "w=majority&journal=true"] {
            parsed(&format!("mongodb://h/?{strong}"));
        }
    }

    #[test]
    fn no_password_is_printed() {
        let config = parsed("mongodb://user:s3cret@h:1,i/?authSource=admin");
        assert_eq!(config.servers(), "h:1,i");
        assert!(!format!("{config:?}").contains("s3cret"));
        for url in
            ["mongodb://user:s3cret@h/?w=1", "mongodb://user:s3cret@h@i:x/", "mongodb://us:er:s3cret@h/"]
        {
            let error = url.parse::<MongoConfig>().unwrap_err();
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }
}
