//! What opening says when the server is not as it should be, and how connections are secured.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use orch::lock::{Holder, Lock as _};
use orch::queue::Queue as _;
use orch::store::Store as _;
use orch::{DagId, Digest, ErrorKind, RunId, RunKey, TenantId, Timestamp};
use orch_backend_redis::{RedisBackend, RedisConfig};
use orch_servers::{Kind, Server, certificate, redis_command, skipped};

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

/// A server that listens for encrypted connections alone, and asks clients for certificates (`yes`) or not (`no`).
fn start_encrypted(asks: &str) -> Option<Server> {
    let (own, ca) = (file("server.pem"), file("ca.pem"));
    let listen = ["--port", "0", "--tls-port", "{port}", "--tls-auth-clients", asks];
    let show = ["--tls-cert-file", &own, "--tls-key-file", &own, "--tls-ca-cert-file", &ca];
    start(&[&listen[..], &show].concat())
}

fn file(name: &str) -> String {
    certificate(name).display().to_string()
}

/// Whether all seams answer.
async fn works(backend: &RedisBackend) {
    let (tenant, dag) = (TenantId::new("t").unwrap(), DagId::new("dag").unwrap());
    let run = RunKey { tenant: tenant.clone(), run: RunId::derive(&tenant, &dag, "1", &Digest::ZERO) };
    assert!(backend.store().run(&run).await.unwrap().is_none());
    assert!(backend.queue().depth(&tenant, Timestamp::EPOCH).await.unwrap().is_empty());
    backend.lock().release(&[Holder { tenant, name: "h".into() }]).await.unwrap();
}

#[tokio::test]
async fn an_encrypted_connection_wants_a_server_that_somebody_vouches_for() {
    let Some(server) = start_encrypted("no") else { return };
    let port = server.port();
    for host in ["localhost", "127.0.0.1"] {
        works(&open(&format!("rediss://{host}:{port}?ca={}", file("ca.pem"))).await.unwrap()).await;
    }
    for ca in [String::new(), format!("?ca={}", file("other-ca.pem"))] {
        let (kind, text) = open(&format!("rediss://me:secret@localhost:{port}{ca}")).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Refused, "{ca}: {text}");
        assert!(text.contains("certificate of the server") && text.contains("rediss://localhost"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn a_client_that_shows_no_certificate_or_a_strange_one_is_turned_down() {
    let Some(server) = start_encrypted("yes") else { return };
    let url = format!("rediss://localhost:{}?ca={}", server.port(), file("ca.pem"));
    let own = format!("&cert={}&key={}", file("client.pem"), file("client.key"));
    works(&open(&format!("{url}{own}")).await.unwrap()).await;
    let stranger = format!("&cert={0}&key={0}", file("stranger.pem"));
    for shown in [String::new(), stranger] {
        let (kind, text) = open(&format!("{url}{shown}")).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Refused, "{shown}: {text}");
        assert!(text.contains("or the client's own"), "{text}");
    }
    let other_key = format!("&cert={}&key={}", file("client.pem"), file("server.pem"));
    let (kind, text) = open(&format!("{url}{other_key}")).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Invalid, "the key is another's: {text}");
}

#[tokio::test]
async fn who_is_encrypted_and_who_is_not_tell_each_other() {
    let (Some(encrypted), Some(plain)) = (start_encrypted("no"), start(&[])) else { return };
    for (url, kind, says) in [
        (format!("redis://localhost:{}", encrypted.port()), ErrorKind::Unavailable, "rediss"),
        (format!("rediss://localhost:{}", plain.port()), ErrorKind::Unavailable, "does it speak TLS"),
    ] {
        let (told, text) = open(&url).await.unwrap_err();
        assert!(told == kind && text.contains(says), "{url}: {text}");
    }
}

#[tokio::test]
async fn a_file_that_holds_no_certificate_or_key_is_named() {
    // Nobody listens there: it is found before.
    let url = "rediss://127.0.0.1:9";
    let (certificate, key) = (file("client.pem"), file("client.key"));
    for (options, named) in [
        (format!("ca={key}"), key.as_str()),
        (format!("ca={}", file("make.sh")), "make.sh"),
        ("ca=/no/such.pem".to_owned(), "/no/such.pem"),
        (format!("cert={key}&key={key}"), &key),
        (format!("cert={certificate}&key={}", file("ca.pem")), "ca.pem"),
        (format!("cert={certificate}&key=/no/such.key"), "/no/such.key"),
    ] {
        let (kind, text) = open(&format!("{url}?{options}")).await.unwrap_err();
        assert!(kind == ErrorKind::Invalid && text.contains(named), "{options}: {text}");
    }
}

#[tokio::test]
async fn the_nodes_of_a_cluster_are_spoken_to_with_certificates_too() {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (port, bus) = (free(), free().to_string());
    let (own, ca, tls) = (file("server.pem"), file("ca.pem"), port.to_string());
    let cluster = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--tls-cluster", "yes"];
    let show =
        ["--tls-port", &tls, "--tls-cert-file", &own, "--tls-key-file", &own, "--tls-ca-cert-file", &ca];
    let Some(server) = start(&[&cluster[..], &show].concat()) else { return };
    assert_eq!(redis_command(server.port(), &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "+OK");
    for _ in 0..100 {
        if redis_command(server.port(), &["CLUSTER", "INFO"]).contains("cluster_state:ok") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let url = format!("rediss://localhost:{port}?ca={ca}");
    let own = format!("&cert={}&key={}", file("client.pem"), file("client.key"));
    works(&open(&format!("{url}{own}")).await.unwrap()).await;
    let (kind, text) = open(&url).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Refused, "{text}");
}
