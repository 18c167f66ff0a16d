//! What a server says of itself: version, role, and whether its settings could lose data.

use orch::{Error, Result};
use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

/// The oldest version that is spoken to: it has exclusive ranges over streams.
const OLDEST: (u32, u32) = (6, 2);

/// The answer to `INFO`, and to `CONFIG GET appendfsync` where the user may ask.
pub(crate) struct Facts {
    info: String,
    fsync: Option<String>,
}

impl Facts {
    pub(crate) async fn ask(mut connection: impl ConnectionLike + Send) -> RedisResult<Self> {
        let info = cmd("INFO").query_async(&mut connection).await?;
        let settings = cmd("CONFIG").arg("GET").arg("appendfsync").query_async(&mut connection).await;
        let fsync = settings.ok().and_then(|settings: Vec<String>| settings.into_iter().nth(1));
        Ok(Self { info, fsync })
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.of("cluster_enabled") == "1"
    }

    fn of(&self, name: &str) -> &str {
        let lines = self.info.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| *key == name).map(|(_, value)| value.trim()).next().unwrap_or_default()
    }

    pub(crate) fn version(&self) -> String {
        let (name, version) = match self.of("valkey_version") {
            "" => ("redis", self.of("redis_version")),
            version => ("valkey", version),
        };
        let cluster = if self.is_cluster() { " cluster" } else { "" };
        format!("{name} {version}{cluster}")
    }

    pub(crate) fn check(&self) -> Result<()> {
        let mut numbers = self.of("redis_version").split('.').map_while(|number| number.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version < OLDEST {
            return Err(Error::unsupported(
                "the server is too old; orch needs redis 6.2 or later, or valkey",
            )
            .with("version", self.of("redis_version")));
        }
        if self.of("role") == "slave" && !self.is_cluster() {
            return Err(Error::refused("the server is a replica; name its master"));
        }
        if self.of("loading") == "1" {
            return Err(Error::unavailable("the server is loading its data"));
        }
        Ok(())
    }

    /// What could be lost, and whether an acknowledged write survives loss of power.
    pub(crate) fn persistence(&self) -> (Vec<String>, bool) {
        let mut warnings = Vec::new();
        let (policy, limited) = (self.of("maxmemory_policy"), self.of("maxmemory") != "0");
        if policy != "noeviction" && (limited || policy.is_empty()) {
            warnings.push(format!(
                "maxmemory-policy is `{policy}`: the server may throw keys away. As a store it would lose runs; as a \
                 queue, hints that the sweep makes again. Set `noeviction`"
            ));
        }
        let (aof, fsync) = (self.of("aof_enabled") == "1", self.fsync.as_deref());
        if !aof {
            warnings.push(
                "append-only file is off: a restart of the server loses what was written since its last snapshot. As \
                 a store it would lose runs; as a queue, hints that the sweep makes again. Set `appendonly yes`"
                    .to_owned(),
            );
        } else if fsync != Some("always") {
            warnings.push(format!(
                "appendfsync is {}: loss of power may lose the last moments of an acknowledged record. As a store set \
                 `appendfsync always`; as a queue nothing is needed",
                fsync.map_or("not known (CONFIG GET is not allowed)".to_owned(), |fsync| format!("`{fsync}`")),
            ));
        }
        (warnings, aof && fsync == Some("always"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch::ErrorKind;

    fn facts(info: &str, fsync: Option<&str>) -> Facts {
        Facts { info: info.to_owned(), fsync: fsync.map(str::to_owned) }
    }

    #[test]
    fn what_could_lose_data_is_told() {
        let told = |info: &str, fsync| facts(info, fsync).persistence();
        let (warnings, survives) =
            told("maxmemory:0\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n", Some("always"));
        assert_eq!((warnings.len(), survives), (0, true));
        let (warnings, survives) = told("maxmemory:5\nmaxmemory_policy:allkeys-lru\naof_enabled:0\n", None);
        assert_eq!((warnings.len(), survives), (2, false));
        let (warnings, survives) =
            told("maxmemory:0\nmaxmemory_policy:noeviction\naof_enabled:1\n", Some("everysec"));
        assert_eq!((warnings.len(), survives), (1, false));
        assert!(warnings[0].contains("everysec"));
        assert!(
            told("maxmemory:0\nmaxmemory_policy:noeviction\naof_enabled:1\n", None).0[0]
                .contains("not allowed")
        );
    }

    #[test]
    fn old_servers_and_replicas_are_refused() {
        let kind = |info: &str| facts(info, None).check().err().map(|error| error.kind());
        assert_eq!(kind("redis_version:6.0.16\nrole:master\n"), Some(ErrorKind::Unsupported));
        assert_eq!(kind("redis_version:7.0.15\nrole:slave\n"), Some(ErrorKind::Refused));
        assert_eq!(kind("redis_version:7.0.15\nrole:master\nloading:1\n"), Some(ErrorKind::Unavailable));
        assert_eq!(kind("redis_version:6.2.0\nrole:master\nloading:0\n"), None);
        let valkey = "redis_version:7.2.4\nvalkey_version:9.1.2\ncluster_enabled:1\n";
        assert_eq!(facts(valkey, None).version(), "valkey 9.1.2 cluster");
    }
}
