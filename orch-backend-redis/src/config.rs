//! Where the server is and how it is spoken to.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use orch::{Error, Result};
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use url::Url;

/// After how long a quiet peer is asked whether it is there.
const QUIET: Duration = Duration::from_secs(15);

/// The settings of a [`RedisBackend`](crate::RedisBackend).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisConfig {
    /// Host and port of the server, or of some nodes of a cluster.
    pub hosts: Vec<(String, u16)>,
    /// Whether the connection is encrypted (TLS).
    pub tls: bool,
    /// The user, where access is by user (ACL).
    pub username: Option<String>,
    /// The password. It appears in no error and no log.
    pub password: Option<String>,
    /// The number of the database; a cluster has only 0.
    pub database: u32,
    /// What every key begins with: 1 to 64 of `a-z 0-9 . _ -`. Two namespaces know nothing of each other.
    pub namespace: String,
    /// How long a command may take. Afterwards a write counts as one that may have happened.
    pub timeout: Duration,
    /// Certificates (PEM) to trust instead of those built in.
    pub ca: Option<PathBuf>,
    /// The client's own certificate (PEM), where the server wants one; goes with `key`.
    pub certificate: Option<PathBuf>,
    /// The key (PEM) of the client's certificate.
    pub key: Option<PathBuf>,
}

impl RedisConfig {
    /// The settings for one server, everything else as it is by default.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            hosts: vec![(host.into(), port)],
            tls: false,
            username: None,
            password: None,
            database: 0,
            namespace: "orch".to_owned(),
            timeout: Duration::from_secs(5),
            ca: None,
            certificate: None,
            key: None,
        }
    }

    /// Host, port and database, without credentials.
    #[must_use]
    pub fn address(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let hosts: Vec<String> = self.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        format!("{scheme}://{}/{}", hosts.join(","), self.database)
    }

    /// The address of one host as the driver takes it.
    pub(crate) fn node(&self, (host, port): &(String, u16)) -> redis::ConnectionInfo {
        let (host, port) = (host.clone(), *port);
        let address = match self.tls {
            true => redis::ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            false => redis::ConnectionAddr::Tcp(host, port),
        };
        let mut settings = redis::RedisConnectionInfo::default().set_db(i64::from(self.database));
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        let info = redis::IntoConnectionInfo::into_connection_info(address);
        let info = info.expect("an address of this form is taken").set_redis_settings(settings);
        info.set_tcp_settings(Self::wire())
    }

    /// A subscription sends nothing: without being asked, it would never learn that its peer is gone without a word.
    pub(crate) fn wire() -> TcpSettings {
        let asking = TcpKeepalive::new().with_time(QUIET).with_interval(QUIET / 3).with_retries(3);
        TcpSettings::default().set_keepalive(asking)
    }

    /// Checks what a program may have set by itself: a namespace with other signs would be no namespace of its own.
    pub(crate) fn check(&self) -> Result<()> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
        if self.namespace.is_empty() || self.namespace.len() > 64 || !self.namespace.chars().all(fits) {
            return Err(Error::invalid("a namespace holds 1 to 64 of a-z 0-9 . _ -")
                .with("namespace", &self.namespace));
        }
        Ok(())
    }

    fn set(&mut self, option: &str, value: &str) -> Result<()> {
        let wrong = |what: &'static str| Error::invalid(what).with("option", option).with("value", value);
        match option {
            "namespace" => {
                self.namespace = value.to_owned();
                self.check()?;
            }
            "timeout" => {
                let millis = value.parse().ok().filter(|millis| (100..=600_000).contains(millis));
                let millis = millis.ok_or_else(|| wrong("a timeout is 100 to 600000 milliseconds"))?;
                self.timeout = Duration::from_millis(millis);
            }
            "ca" => self.ca = Some(value.into()),
            "cert" => self.certificate = Some(value.into()),
            "key" => self.key = Some(value.into()),
            _ => {
                return Err(Error::invalid("unknown option in the address")
                    .with("option", option)
                    .with("expected", "namespace, timeout, ca, cert or key"));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("address", &self.address())
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl FromStr for RedisConfig {
    type Err = Error;

    /// Reads `redis://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…][/DATABASE][?OPTION=VALUE&…]`, or `rediss://…` for TLS.
    /// Options: `namespace`, `timeout` (milliseconds), `ca`, `cert`, `key` (files, PEM). Credentials with other signs
    /// than letters and digits are percent-encoded. Errors show nothing of the address but the part that is wrong.
    fn from_str(url: &str) -> Result<Self> {
        const FORM: &str = "redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE][?namespace=NAME]";
        let invalid = |what: &'static str| Error::invalid(what).with("expected", FORM);
        // A list of hosts is no URL: the others are taken out, and read by themselves.
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| invalid("not an address of a redis server"))?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let start = rest[..end].rfind('@').map_or(0, |at| at + 1);
        // Such a sign in a password ends the address, and the rest of the password would be taken for something else.
        if rest.contains('#') || (start == 0 && rest.contains('@')) {
            return Err(invalid("a sign like / ? # @ is not percent-encoded"));
        }
        let mut hosts = rest[start..end].split(',');
        let first = hosts.next().unwrap_or_default();
        let single = format!("{scheme}://{}{first}{}", &rest[..start], &rest[end..]);
        let parsed = Url::parse(&single).map_err(|_| invalid("not an address of a redis server"))?;
        let tls = match parsed.scheme() {
            "redis" => false,
            "rediss" => true,
            _ => return Err(invalid("not an address of a redis server")),
        };
        let mut config = Self { tls, hosts: Vec::new(), ..Self::new("", 0) };
        for host in std::iter::once(first).chain(hosts) {
            let host = Url::parse(&format!("redis://{host}")).ok();
            let read = |host: Url| Some((host.host_str()?.trim_matches(['[', ']']).to_owned(), host.port()));
            match host.and_then(read).filter(|(name, _)| !name.is_empty()) {
                Some((name, port)) => config.hosts.push((name, port.unwrap_or(6379))),
                None => return Err(invalid("address names no host")),
            }
        }
        let decoded = |text: &str| {
            let text = percent_encoding::percent_decode_str(text).decode_utf8();
            text.map(|text| text.into_owned()).map_err(|_| invalid("credentials are no UTF-8 text"))
        };
        config.username = Some(decoded(parsed.username())?).filter(|name| !name.is_empty());
        config.password = parsed.password().map(decoded).transpose()?;
        if let Some(database) = Some(parsed.path().trim_start_matches('/')).filter(|path| !path.is_empty()) {
            config.database = database.parse().map_err(|_| invalid("database is no number"))?;
        }
        for (option, value) in parsed.query_pairs() {
            config.set(&option, &value)?;
        }
        if config.certificate.is_some() != config.key.is_some() {
            return Err(invalid("`cert` and `key` go together"));
        }
        if !config.tls && (config.ca.is_some() || config.certificate.is_some()) {
            return Err(invalid("certificates are for rediss://"));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_hosts_credentials_database_and_options() {
        let config: RedisConfig =
            "rediss://me:p%40ss@a:1,b,[::1]:3/2?namespace=x.1&timeout=250&ca=/ca.pem".parse().unwrap();
        let host = |name: &str, port| (name.to_owned(), port);
        assert_eq!(config.hosts, [host("a", 1), host("b", 6379), host("::1", 3)]);
        assert!(config.tls);
        assert_eq!((config.username.as_deref(), config.password.as_deref()), (Some("me"), Some("p@ss")));
        assert_eq!((config.database, config.namespace.as_str()), (2, "x.1"));
        assert_eq!((config.timeout, config.ca), (Duration::from_millis(250), Some("/ca.pem".into())));
        let plain: RedisConfig = "redis://h".parse().unwrap();
        assert_eq!(plain, RedisConfig::new("h", 6379));
    }

    #[test]
    fn what_is_not_understood_is_refused_without_the_password() {
        for url in [
            "",
            "h:1",
            "http://h",
            "redis://",
            "redis://:secret@",
            "redis://:secret@h/x",
            "redis://:secret@h:port",
            "redis://:secret@h?wal=1",
            "redis://me:?secret@h",
            "redis://me:1?timeout=secret@h",
            "redis://me:1/secret@h",
            "redis://me:1#secret@h",
            "redis://:secret@h?namespace=A",
            "redis://:secret@h?timeout=1",
            "redis://:secret@h?ca=x",
            "rediss://:secret@h?cert=x",
        ] {
            let error = url.parse::<RedisConfig>().expect_err(url);
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
        let config: RedisConfig = "redis://me:secret@h".parse().unwrap();
        assert!(!format!("{config:?} {}", config.address()).contains("secret"));
    }
}
