//! Where the servers are and how they are spoken to.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use orch::{Error, Result};
use url::Url;

/// How a client says who it is. What is secret in it appears in no error and no log.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NatsAuth {
    /// It does not.
    None,
    /// By user and password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// By a token.
    Token(String),
    /// By the seed of an nkey, in a file.
    Nkey(PathBuf),
    /// By a file of credentials (a JWT and its seed), as `nsc` writes them.
    Credentials(PathBuf),
}

impl fmt::Debug for NatsAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Password { .. } => f.write_str("Password"),
            Self::Token(_) => f.write_str("Token"),
            Self::Nkey(file) => f.debug_tuple("Nkey").field(file).finish(),
            Self::Credentials(file) => f.debug_tuple("Credentials").field(file).finish(),
        }
    }
}

/// The settings of a [`NatsBackend`](crate::NatsBackend).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatsConfig {
    /// Host and port of some servers of the cluster; the others are found through them.
    pub hosts: Vec<(String, u16)>,
    /// How the client says who it is.
    pub auth: NatsAuth,
    /// Whether the connection must be encrypted (TLS). It is, too, where the server asks for it.
    pub tls: bool,
    /// Whether TLS begins before the server says anything (its setting `handshake_first`).
    pub tls_first: bool,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// The client's own certificate (PEM), where the server wants one; goes with `key`.
    pub certificate: Option<PathBuf>,
    /// The key (PEM) of the client's certificate.
    pub key: Option<PathBuf>,
    /// What the streams and every subject are named after: 1 to 64 of `a-z A-Z 0-9 _ -`. Two namespaces know nothing
    /// of each other.
    pub namespace: String,
    /// How long the server may take for one answer. A write without an answer counts as one that may have happened.
    pub timeout: Duration,
    /// On how many servers of a cluster the streams are kept, 1 to 5. It counts when they are made.
    pub replicas: usize,
    /// Bytes that items may take in the queue's stream, at some 500 each; beyond them a push is `LimitExceeded`. The
    /// stream itself may hold a quarter and 1 MiB more, the lock's stream a quarter of it. It counts when they are made;
    /// the server reserves that much for the account.
    pub max_bytes: u64,
}

const MAX_BYTES: u64 = 512 << 20;

const FORM: &str = "nats://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…][?namespace=NAME]";

impl NatsConfig {
    /// The settings for one server, everything else as it is by default.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            hosts: vec![(host.into(), port)],
            auth: NatsAuth::None,
            tls: false,
            tls_first: false,
            ca: None,
            certificate: None,
            key: None,
            namespace: "orch".to_owned(),
            timeout: Duration::from_secs(5),
            replicas: 1,
            max_bytes: MAX_BYTES,
        }
    }

    /// The servers, without credentials.
    #[must_use]
    pub fn address(&self) -> String {
        let scheme = if self.tls { "tls" } else { "nats" };
        let host = |(host, port): &(String, u16)| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        format!("{scheme}://{}", self.hosts.iter().map(host).collect::<Vec<_>>().join(","))
    }

    fn set(&mut self, option: &str, value: &str) -> Result<()> {
        let wrong = |what: &'static str| Error::invalid(what).with("option", option).with("value", value);
        match option {
            "namespace" => value.clone_into(&mut self.namespace),
            "timeout" => {
                let millis = value.parse().ok().filter(|millis| (100..=600_000).contains(millis));
                let millis = millis.ok_or_else(|| wrong("a timeout is 100 to 600000 milliseconds"))?;
                self.timeout = Duration::from_millis(millis);
            }
            "replicas" => self.replicas = value.parse().map_err(|_| wrong("replicas are 1 to 5"))?,
            "maxBytes" => {
                let bytes = value.parse().ok().filter(|bytes| (1 << 20..=1 << 50).contains(bytes));
                self.max_bytes = bytes.ok_or_else(|| wrong("bytes of a queue are from 1048576"))?;
            }
            "tls" if value == "first" => self.tls_first = true,
            "ca" => self.ca = Some(value.into()),
            "cert" => self.certificate = Some(value.into()),
            "key" => self.key = Some(value.into()),
            "nkey" | "credentials" if self.auth != NatsAuth::None => {
                return Err(
                    Error::invalid("address says in two ways who the client is").with("option", option)
                );
            }
            "nkey" => self.auth = NatsAuth::Nkey(value.into()),
            "credentials" => self.auth = NatsAuth::Credentials(value.into()),
            _ => {
                return Err(Error::invalid("unknown option in the address").with("option", option).with(
                    "expected",
                    "namespace, credentials, nkey, ca, cert, key, tls=first, timeout, replicas or maxBytes",
                ));
            }
        }
        Ok(())
    }

    /// What holds of settings wherever they come from.
    pub(crate) fn check(&self) -> Result<()> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        if !(1..=64).contains(&self.namespace.len()) || !self.namespace.chars().all(fits) {
            return Err(Error::invalid("a namespace holds 1 to 64 of a-z A-Z 0-9 _ -")
                .with("option", "namespace")
                .with("value", &self.namespace));
        }
        if !(1..=5).contains(&self.replicas) {
            return Err(Error::invalid("replicas are 1 to 5").with("value", self.replicas));
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err(Error::invalid("`cert` and `key` go together"));
        }
        Ok(())
    }
}

impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsConfig")
            .field("address", &self.address())
            .field("auth", &self.auth)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl FromStr for NatsConfig {
    type Err = Error;

    /// Reads `nats://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…][?OPTION=VALUE&…]`, or `tls://…` for TLS; `TOKEN@` alone is
    /// a token. Options: `namespace`, `credentials` and `nkey` (files), `ca`, `cert`, `key` (files, PEM), `tls=first`,
    /// `timeout` (milliseconds), `replicas`, `maxBytes`. Credentials with other signs than letters and digits are
    /// percent-encoded. Errors show nothing of the address but the part that is wrong.
    fn from_str(url: &str) -> Result<Self> {
        let invalid = |what: &'static str| Error::invalid(what).with("expected", FORM);
        // A list of hosts is no URL: the others are taken out, and read by themselves.
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| invalid("not an address of a nats server"))?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let start = rest[..end].rfind('@').map_or(0, |at| at + 1);
        // Such a sign in a password ends the address, and the rest of the password would be taken for something else.
        if rest.contains('#') || (start == 0 && rest.contains('@')) {
            return Err(invalid("a sign like / ? # @ is not percent-encoded"));
        }
        let mut hosts = rest[start..end].split(',');
        let first = hosts.next().unwrap_or_default();
        let single = format!("{scheme}://{}{first}{}", &rest[..start], &rest[end..]);
        let parsed = Url::parse(&single).map_err(|_| invalid("not an address of a nats server"))?;
        let tls = match parsed.scheme() {
            "nats" => false,
            "tls" => true,
            _ => return Err(invalid("not an address of a nats server")),
        };
        if !matches!(parsed.path(), "" | "/") {
            return Err(invalid("address has a path, and a nats server has none"));
        }
        let mut config = Self { tls, hosts: Vec::new(), ..Self::new("", 0) };
        for host in std::iter::once(first).chain(hosts) {
            let host = Url::parse(&format!("nats://{host}")).ok();
            let read = |host: Url| Some((host.host_str()?.trim_matches(['[', ']']).to_owned(), host.port()));
            match host.and_then(read).filter(|(name, _)| !name.is_empty()) {
                Some((name, port)) => config.hosts.push((name, port.unwrap_or(4222))),
                None => return Err(invalid("address names no host")),
            }
        }
        let decoded = |text: &str| {
            let text = percent_encoding::percent_decode_str(text).decode_utf8();
            text.map(|text| text.into_owned()).map_err(|_| invalid("credentials are no UTF-8 text"))
        };
        let (user, password) = (decoded(parsed.username())?, parsed.password().map(decoded).transpose()?);
        config.auth = match password {
            Some(password) => NatsAuth::Password { user, password },
            None if user.is_empty() => NatsAuth::None,
            None => NatsAuth::Token(user),
        };
        for (option, value) in parsed.query_pairs() {
            config.set(&option, &value)?;
        }
        config.check()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_servers_credentials_and_options() {
        let config: NatsConfig =
            "tls://me:p%40ss@a:1,b,[::1]:3?namespace=x-1&timeout=250&ca=/ca.pem&replicas=3&maxBytes=1048576&tls=first"
                .parse()
                .unwrap();
        let host = |name: &str, port| (name.to_owned(), port);
        assert_eq!(config.hosts, [host("a", 1), host("b", 4222), host("::1", 3)]);
        assert_eq!(config.address(), "tls://a:1,b:4222,[::1]:3");
        assert_eq!(config.auth, NatsAuth::Password { user: "me".into(), password: "p@ss".into() });
        assert_eq!((config.tls, config.tls_first, config.replicas), (true, true, 3));
        assert_eq!((config.namespace.as_str(), config.max_bytes), ("x-1", 1 << 20));
        assert_eq!((config.timeout, config.ca), (Duration::from_millis(250), Some("/ca.pem".into())));
        assert_eq!("nats://h".parse::<NatsConfig>().unwrap(), NatsConfig::new("h", 4222));
        let auth = |url: &str| url.parse::<NatsConfig>().unwrap().auth;
        assert_eq!(auth("nats://t0ken@h"), NatsAuth::Token("t0ken".into()));
        assert_eq!(auth("nats://h?credentials=/x.creds"), NatsAuth::Credentials("/x.creds".into()));
        assert_eq!(auth("nats://h?nkey=/x.nk"), NatsAuth::Nkey("/x.nk".into()));
    }

    #[test]
    fn what_is_not_understood_is_refused_without_the_password() {
        for url in [
            "",
            "h:1",
            "http://h",
            "nats://",
            "nats://:secret@",
            "nats://:secret@h/x",
            "nats://me:pa?secret@h",
            "nats://me:pa#secret@h",
            "nats://me:pa/secret@h",
            "nats://:secret@h:port",
            "nats://:secret@h?wal=1",
            "nats://:secret@h?namespace=a.b",
            "nats://:secret@h?namespace=",
            "nats://:secret@h?timeout=1",
            "nats://:secret@h?replicas=6",
            "nats://:secret@h?maxBytes=1",
            "nats://:secret@h?tls=maybe",
            "nats://:secret@h?cert=x",
            "nats://:secret@h?credentials=x",
        ] {
            let error = url.parse::<NatsConfig>().expect_err(url);
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
        for url in ["nats://me:secret@h", "nats://secret@h"] {
            let config: NatsConfig = url.parse().unwrap();
            assert!(!format!("{config:?} {}", config.address()).contains("secret"));
        }
    }
}
