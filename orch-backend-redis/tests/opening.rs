//! What opening says when the server is not as it should be, and how connections are secured.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use orch::ErrorKind;
use orch_backend_redis::{RedisBackend, RedisConfig};
use orch_servers::{Kind, Server, redis_command, skipped};

async fn open(url: &str) -> Result<RedisBackend, (ErrorKind, String)> {
    let config = url.parse::<RedisConfig>().unwrap();
    RedisBackend::open(config).await.map_err(|error| (error.kind(), format!("{error:?}")))
}

fn start(options: &[&str]) -> Option<Server> {
    let server = Server::start(Kind::Redis, options);
    if server.is_none() {
        skipped(Kind::Redis);
    }
    server
}

#[tokio::test]
async fn a_refused_connection_says_so_and_where() {
    // Nobody listens on the discard port.
    let (kind, text) = open("redis://me:secret@127.0.0.1:9/0").await.unwrap_err();
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(text.contains("is it running?") && text.contains("redis://127.0.0.1:9/0"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn wrong_and_missing_credentials_are_refused_and_right_ones_work() {
    let Some(server) = start(&["--requirepass", "right"]) else { return };
    let port = server.port();
    for credentials in ["", ":wrong-password@", "nobody:right@"] {
        let (kind, text) = open(&format!("redis://{credentials}127.0.0.1:{port}")).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Refused, "{credentials}: {text}");
        assert!(!text.contains("wrong-password"), "{text}");
    }
    open(&format!("redis://:right@127.0.0.1:{port}")).await.unwrap();
}

#[tokio::test]
async fn a_missing_permission_is_told() {
    let Some(server) = start(&[]) else { return };
    let port = server.port();
    for (user, missing) in
        [("one", "-zadd"), ("two", "-evalsha"), ("three", "resetchannels"), ("four", "-subscribe")]
    {
        let acl = ["ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all", missing];
        assert_eq!(redis_command(port, &acl), "+OK");
        let (kind, text) = open(&format!("redis://{user}:pw@127.0.0.1:{port}")).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Refused, "{missing}: {text}");
        assert!(text.contains("lacks a permission"), "{missing}: {text}");
    }
    // What the documentation says is enough.
    let acl =
        ["ACL", "SETUSER", "enough", "on", ">pw", "~{orch:*", "&orch:*", "+@read", "+@write", "+@scripting"];
    let acl = [&acl[..], &["+@connection", "+@pubsub", "+info", "+config|get"]].concat();
    assert_eq!(redis_command(port, &acl), "+OK");
    open(&format!("redis://enough:pw@127.0.0.1:{port}")).await.unwrap();
}

#[tokio::test]
async fn what_could_lose_data_is_warned_of() {
    let Some(server) =
        start(&["--appendonly", "yes", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"])
    else {
        return;
    };
    let backend = open(&server.url()).await.unwrap();
    let told = backend.warnings().join("\n");
    assert!(told.contains("allkeys-lru") && told.contains("everysec"), "{told}");
    assert!(backend.version().starts_with("redis 7"), "{}", backend.version());
    let Some(safe) = start(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    assert!(open(&safe.url()).await.unwrap().warnings().is_empty());
}

#[tokio::test]
async fn a_replica_is_refused() {
    let Some(master) = start(&[]) else { return };
    let port = master.port().to_string();
    let Some(replica) = start(&["--replicaof", "127.0.0.1", &port]) else { return };
    let (kind, text) = open(&replica.url()).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Refused, "{text}");
    assert!(text.contains("name its master"), "{text}");
}

#[tokio::test]
async fn a_namespace_that_is_set_by_hand_is_checked_too() {
    for name in ["", "a:queue", "a}b", "Orch"] {
        let mut config = RedisConfig::new("127.0.0.1", 9);
        config.namespace = name.to_owned();
        let error = RedisBackend::open(config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name}: {error:?}");
    }
}
