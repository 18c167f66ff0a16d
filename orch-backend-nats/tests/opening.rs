//! What opening says when the server is not as it should be, and how connections are secured.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use orch::lock::Lock as _;
use orch::queue::{Item, Queue as _};
use orch::{DagId, Digest, ErrorKind, QueueName, RunId, StepId, TenantId, Timestamp};
use orch_backend_nats::{NatsAuth, NatsBackend, NatsConfig};
use orch_servers::{Kind, Server, Shared, address, certificate, namespace, skipped};

async fn try_open(config: NatsConfig) -> Result<NatsBackend, (ErrorKind, String)> {
    NatsBackend::open(config).await.map_err(|error| (error.kind(), format!("{error:?}")))
}

async fn open(url: &str) -> Result<NatsBackend, (ErrorKind, String)> {
    try_open(url.parse().unwrap()).await
}

/// A server with a file of settings.
fn start(settings: &str) -> Option<(Server, tempfile::TempDir)> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("nats.conf");
    std::fs::write(&file, settings).unwrap();
    let Some(server) = Server::start(Kind::Nats, &["--config", file.to_str().unwrap()]) else {
        skipped(Kind::Nats);
        return None;
    };
    Some((server, directory))
}

fn item(number: usize) -> Item {
    let (tenant, dag) = (TenantId::new("t").unwrap(), DagId::new("dag").unwrap());
    Item {
        queue: QueueName::default_queue(),
        priority: 0,
        ready_at: Timestamp::EPOCH,
        run: RunId::derive(&tenant, &dag, &number.to_string(), &Digest::ZERO),
        plan_index: 0,
        step: StepId::new("step").unwrap().into(),
        attempt: 1,
        tenant,
        dag,
    }
}

/// Whether both seams answer.
async fn works(backend: &NatsBackend) {
    let tenant = TenantId::new("t").unwrap();
    assert!(backend.queue().depth(&tenant, Timestamp::EPOCH).await.unwrap().is_empty());
    backend.lock().release(&[orch::lock::Holder { tenant, name: "h".into() }]).await.unwrap();
}

#[tokio::test]
async fn a_refused_connection_says_so_and_where() {
    // Nobody listens on the discard port.
    let (kind, text) = open("nats://me:secret@127.0.0.1:9").await.unwrap_err();
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(text.contains("is it running") && text.contains("nats://127.0.0.1:9"), "{text}");
    assert!(!text.contains("secret"), "{text}");
    let (kind, text) = open("nats://no-such-host.invalid").await.unwrap_err();
    assert_eq!(kind, ErrorKind::Unavailable, "{text}");
}

#[tokio::test]
async fn wrong_and_missing_credentials_are_refused_and_right_ones_work() {
    let Some((server, _directory)) = start("authorization { user: me, password: right }") else { return };
    let port = server.port();
    for credentials in ["", "me:wrong-password@", "nobody:right@", "token@"] {
        let (kind, text) = open(&format!("nats://{credentials}127.0.0.1:{port}")).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Refused, "{credentials}: {text}");
        assert!(!text.contains("wrong-password") && text.contains("credentials"), "{text}");
    }
    works(&open(&format!("nats://me:right@127.0.0.1:{port}")).await.unwrap()).await;
    let Some((server, _directory)) = start("authorization { token: \"t0/ken\" }") else { return };
    works(&open(&format!("nats://t0%2Fken@127.0.0.1:{}", server.port())).await.unwrap()).await;
}

#[tokio::test]
async fn an_nkey_proves_who_the_client_is() {
    let settings =
        "authorization { users = [ { nkey: UCFI23PLIYYS2OTYTHB37ERF262B6ILOYKM7YQZ6CPNQCWOJH5JRNSEZ } ] }";
    let Some((server, directory)) = start(settings) else { return };
    let seed = directory.path().join("user.nk");
    std::fs::write(&seed, "SUAF4TYNZBTBKGSHCGFMVFAI5N5ZY5PMFVH2XL6K4JO24YVBJRZBGPPQL4\n").unwrap();
    let mut config = NatsConfig::new("127.0.0.1", server.port());
    config.auth = NatsAuth::Nkey(seed.clone());
    works(&try_open(config.clone()).await.unwrap()).await;
    std::fs::write(&seed, "SUAnonsense").unwrap();
    let (kind, text) = try_open(config.clone()).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Refused, "{text}");
    config.auth = NatsAuth::Credentials(directory.path().join("missing.creds"));
    let (kind, text) = try_open(config).await.unwrap_err();
    assert!(kind == ErrorKind::Invalid && text.contains("missing.creds"), "{text}");
}

/// What the documentation says is enough for a process, in this namespace.
const ENOUGH: &str = r#"
    publish: [
        "orch.n.>", "$JS.API.STREAM.INFO.orch_n_queue", "$JS.API.STREAM.INFO.orch_n_lock",
        "$JS.API.STREAM.MSG.GET.orch_n_queue", "$JS.API.STREAM.MSG.GET.orch_n_lock",
        "$JS.API.CONSUMER.CREATE.orch_n_queue", "$JS.FC.orch_n_queue.>"
    ]
    subscribe: [ "_INBOX.>" ]
"#;

#[tokio::test]
async fn a_missing_permission_is_told() {
    let settings = format!(
        "authorization {{ users = [
            {{ user: all, password: pw }}
            {{ user: enough, password: pw, permissions: {{ {ENOUGH} }} }}
            {{ user: none, password: pw, permissions: {{ publish: [ \"x\" ], subscribe: [ \">\" ] }} }}
            {{ user: deaf, password: pw, permissions: {{ publish: [ \">\" ], subscribe: [ \"x\" ] }} }}
        ] }}"
    );
    let Some((server, _directory)) = start(&settings) else { return };
    let url = |user: &str| {
        format!("nats://{user}:pw@127.0.0.1:{}?namespace=n&timeout=700&maxBytes=4194304", server.port())
    };
    for user in ["none", "deaf"] {
        let (kind, text) = open(&url(user)).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Refused, "{user}: {text}");
        assert!(text.contains("give it the permission") && text.contains("ermissions Violation"), "{text}");
    }
    let (kind, text) = open(&url("enough")).await.unwrap_err();
    assert!(
        kind == ErrorKind::Refused && text.contains("STREAM.CREATE"),
        "it may not make the streams: {text}"
    );
    let all = open(&url("all")).await.unwrap();
    works(&open(&url("enough")).await.unwrap()).await;
    // So many that the server asks in between whether the client keeps up.
    let items: Vec<_> = (0..5_000).map(item).collect();
    all.queue().push(&items).await.unwrap();
    let depth =
        open(&url("enough")).await.unwrap().queue().depth(&items[0].tenant, Timestamp::EPOCH).await.unwrap();
    assert_eq!(depth[0].ready, 5_000);
}

#[tokio::test]
async fn a_server_without_jetstream_is_told() {
    let settings = "accounts { A { users = [ { user: a, password: pw } ] } }";
    let Some((server, _directory)) = start(settings) else { return };
    let (kind, text) = open(&format!("nats://a:pw@127.0.0.1:{}", server.port())).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Unsupported, "{text}");
    assert!(text.contains("jetstream is off") && !text.contains("pw@"), "{text}");
}

#[tokio::test]
async fn an_old_server_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let info = r#"{"server_id":"A","server_name":"old","version":"2.10.29","go":"go1","host":"127.0.0.1","port":1,
            "headers":true,"max_payload":1048576,"proto":1,"client_id":1,"jetstream":true}"#;
        client.write_all(format!("INFO {}\r\n", info.replace(['\n', ' '], "")).as_bytes()).unwrap();
        let mut buffer = [0; 1024];
        while client.read(&mut buffer).is_ok_and(|count| count > 0) {
            let _ = client.write_all(b"PONG\r\n");
        }
    });
    let (kind, text) = open(&format!("nats://127.0.0.1:{port}")).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Unsupported, "{text}");
    assert!(text.contains("2.10.29") && text.contains("needs 2.11"), "{text}");
}

#[tokio::test]
async fn replicas_without_a_cluster_and_foreign_streams_are_told() {
    let Some(url) = address(Shared::Nats) else { return };
    let (kind, text) = open(&format!("{url}?namespace={}&replicas=3", namespace())).await.unwrap_err();
    assert!(kind == ErrorKind::Unsupported && text.contains("replicas"), "{text}");
    let name = namespace();
    let client = async_nats::connect(&url).await.unwrap();
    let foreign = async_nats::jetstream::stream::Config {
        name: format!("orch_{name}_queue"),
        subjects: vec![format!("orch.{name}.queue.*.*")],
        ..Default::default()
    };
    async_nats::jetstream::new(client).create_stream(foreign).await.unwrap();
    let (kind, text) = open(&format!("{url}?namespace={name}")).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Refused, "{text}");
    assert!(text.contains(&format!("orch_{name}_queue")) && text.contains("setting=`discard`"), "{text}");
}

#[tokio::test]
async fn encrypted_connections_are_checked_both_ways() {
    let settings = format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        certificate("server.pem"),
        certificate("server.pem"),
        certificate("ca.pem"),
    );
    let Some((server, _directory)) = start(&settings) else { return };
    let mut config = NatsConfig::new("localhost", server.port());
    config.timeout = Duration::from_secs(2);
    config.tls = true;
    for ca in [None, Some("other-ca.pem"), Some("client.key")] {
        config.ca = ca.map(certificate);
        let (kind, text) = try_open(config.clone()).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Refused, "nobody vouches for the server: {text}");
        assert!(text.contains("certificates") && text.contains("localhost"), "{text}");
    }
    config.ca = Some(certificate("ca.pem"));
    for client in [None, Some("stranger.pem")] {
        (config.certificate, config.key) = (client.map(certificate), client.map(certificate));
        let (kind, text) = try_open(config.clone()).await.unwrap_err();
        assert_eq!(kind, ErrorKind::Refused, "the server asks for a certificate: {text}");
    }
    config.certificate = Some(certificate("client.pem"));
    config.key = Some(certificate("client.key"));
    works(&try_open(config.clone()).await.unwrap()).await;
    config.tls = false;
    works(&try_open(config).await.unwrap()).await;
}
