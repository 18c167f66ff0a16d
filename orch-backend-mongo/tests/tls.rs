//! Encrypted connections: who vouches for the server, and what a client shows.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use orch::lock::{Holder, Lock as _};
use orch::queue::Queue as _;
use orch::store::Store as _;
use orch::{DagId, Digest, ErrorKind, RunId, RunKey, TenantId, Timestamp};
use orch_backend_mongo::{MongoBackend, MongoConfig};
use orch_servers::{Kind, Server, certificate, skipped};

fn file(name: &str) -> String {
    certificate(name).display().to_string()
}

/// A server that takes encrypted connections alone.
fn start(options: &[&str]) -> Option<Server> {
    let (own, ca) = (file("server.pem"), file("ca.pem"));
    let tls = ["--tlsMode", "requireTLS", "--tlsCertificateKeyFile", &own, "--tlsCAFile", &ca];
    let server = Server::start(Kind::Mongo, &[&tls, options].concat());
    if server.is_none() {
        skipped(Kind::Mongo);
    }
    server
}

async fn open(server: &str, options: &str) -> Result<MongoBackend, (ErrorKind, String)> {
    let url = format!("mongodb://{server}/?serverSelectionTimeoutMS=2000&{options}");
    let backend = MongoBackend::open(MongoConfig::new(url).unwrap()).await;
    backend.map_err(|error| (error.kind(), format!("{error:?}")))
}

/// Whether all seams answer.
async fn works(backend: &MongoBackend) {
    let (tenant, dag) = (TenantId::new("t").unwrap(), DagId::new("dag").unwrap());
    let run = RunKey { tenant: tenant.clone(), run: RunId::derive(&tenant, &dag, "1", &Digest::ZERO) };
    assert!(backend.store().run(&run).await.unwrap().is_none());
    assert!(backend.queue().depth(&tenant, Timestamp::EPOCH).await.unwrap().is_empty());
    backend.lock().release(&[Holder { tenant, name: "h".into() }]).await.unwrap();
    backend.close().await;
}

#[tokio::test]
async fn an_encrypted_connection_wants_a_server_that_somebody_vouches_for() {
    let Some(server) = start(&["--tlsAllowConnectionsWithoutCertificates"]) else { return };
    let port = server.port();
    let right = format!("tls=true&tlsCAFile={}", file("ca.pem"));
    for host in ["localhost", "127.0.0.1"] {
        works(&open(&format!("{host}:{port}"), &right).await.unwrap()).await;
    }
    let host = format!("localhost:{port}");
    for options in ["tls=true".to_owned(), format!("tls=true&tlsCAFile={}", file("other-ca.pem"))] {
        let (kind, text) = open(&host, &options).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Refused, "{options}: {text}");
        assert!(text.contains("check `tlsCAFile`") && text.contains(&host), "{text}");
    }
    let (kind, text) = open(&host, "").await.unwrap_err();
    assert!(kind == ErrorKind::Unavailable && text.contains("does it want TLS"), "{text}");
}

#[tokio::test]
async fn a_client_that_shows_no_certificate_or_a_strange_one_is_turned_down() {
    let Some(server) = start(&[]) else { return };
    let host = format!("localhost:{}", server.port());
    let shown = |name| format!("tls=true&tlsCAFile={}&tlsCertificateKeyFile={}", file("ca.pem"), file(name));
    works(&open(&host, &shown("client.pem")).await.unwrap()).await;
    for options in [format!("tls=true&tlsCAFile={}", file("ca.pem")), shown("stranger.pem")] {
        let (kind, text) = open(&host, &options).await.unwrap_err();
        // This server hangs up without a word on who shows nothing.
        assert!(matches!(kind, ErrorKind::Refused | ErrorKind::Unavailable), "{options}: {text}");
        let says = "or the client's own";
        assert!(text.contains(says) || text.contains("does it want a client's certificate"), "{text}");
        assert!(text.contains("`tlsCertificateKeyFile`") && text.contains(&host), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_told() {
    let Some(server) = Server::start(Kind::Mongo, &[]) else { return skipped(Kind::Mongo) };
    let (kind, text) = open(&format!("localhost:{}", server.port()), "tls=true").await.unwrap_err();
    assert!(kind == ErrorKind::Unavailable && text.contains("does it speak TLS"), "{text}");
}

#[tokio::test]
async fn a_file_that_holds_no_certificate_or_key_is_named() {
    for (option, path) in [
        ("tlsCAFile", file("client.key")),
        ("tlsCAFile", file("make.sh")),
        ("tlsCAFile", "/no/such.pem".to_owned()),
        ("tlsCertificateKeyFile", file("client.key")),
        ("tlsCertificateKeyFile", file("ca.pem")),
        ("tlsCertificateKeyFile", "/no/such.pem".to_owned()),
    ] {
        // Nobody listens there: it is found before.
        let (kind, text) = open("127.0.0.1:9", &format!("tls=true&{option}={path}")).await.unwrap_err();
        assert!(kind == ErrorKind::Invalid && text.contains(&path), "{option}: {text}");
    }
}
