//! `orch-server` as a real process: how it starts, refuses to, serves, and ends.
#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod kit;
#[cfg(feature = "otel")]
mod telemetry;
mod workers;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use rustix::process::Signal;
use serde_json::{Value, json};

use kit::{BASE, Lab, PATIENCE, Server, TICK};

fn errors(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn hello() -> Value {
    json!({ "apiVersion": "orch/v1", "kind": "Dag", "id": "hello", "steps": [
        { "id": "nap", "uses": "wait/sleep", "with": { "duration": "300ms" } },
        { "id": "echo", "uses": "fn/echo", "needs": ["nap"], "with": "hello" }
    ] })
}

/// Starts a run; answers its id.
fn begin(server: &Server) -> String {
    let (published, _) = server.ask("POST", "/dags", Some(&hello()));
    assert!(published == 201 || published == 200, "{published}");
    let (status, started) = server.ask("POST", "/runs", Some(&json!({ "dagId": "hello" })));
    assert_eq!(status, 201, "{started}");
    started["runId"].as_str().unwrap().to_owned()
}

fn until_completed(server: &Server, run: &str) {
    let mut found = Value::Null;
    for _ in 0..PATIENCE.as_millis() / TICK.as_millis() {
        found = server.ask("GET", &format!("/runs/{run}"), None).1;
        if found["status"] == "completed" {
            return;
        }
        std::thread::sleep(TICK);
    }
    panic!("{found}");
}

#[test]
fn it_starts_with_nothing_said_and_its_token_is_this_users_alone_and_gone_at_the_end() {
    let lab = Lab::new();
    let mut server = lab.start(&[]);
    assert!(server.said.starts_with("orch-server "), "{}", server.said);
    let token = std::fs::metadata(lab.path(".orch/token")).unwrap();
    assert_eq!(token.permissions().mode() & 0o777, 0o600);
    until_completed(&server, &begin(&server));
    let token = server.token.take();
    assert_eq!(server.ask("GET", "/runs", None).0, 401);
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    assert!(!lab.path(".orch/token").exists());
    let log = std::fs::read_to_string(lab.path("log")).unwrap();
    assert!(!log.contains(&token.unwrap()), "{log}");
}

#[test]
fn r4_a_server_that_was_killed_goes_on_with_its_runs_when_it_is_started_again() {
    let lab = Lab::new();
    let server = lab.start(&[]);
    let run = begin(&server);
    server.signal(Signal::KILL);
    drop(server);
    until_completed(&lab.start(&[]), &run);
}

#[test]
fn it_listens_where_others_can_reach_it_only_encrypted_and_with_a_way_to_tell_who_they_are() {
    let lab = Lab::new();
    let said = errors(&lab.run(&["--listen", "0.0.0.0:0"]));
    assert!(
        said.contains("nothing would be encrypted") && said.contains("nobody could tell who they are"),
        "{said}"
    );
    lab.write("proxy.toml", "[listen]\nbehind_proxy = true\n");
    let said = errors(&lab.run(&["--config", "proxy.toml", "--listen", "0.0.0.0:0"]));
    assert!(said.contains("nobody could tell who they are") && !said.contains("encrypted"), "{said}");
    lab.write("nobody.toml", "[auth]\nlocal_token = false\n");
    let said = errors(&lab.run(&["--config", "nobody.toml"]));
    assert!(said.contains("nobody could get in"), "{said}");
    assert!(!lab.path(".orch").exists(), "nothing was begun");
}

#[test]
fn everything_that_is_wrong_with_a_configuration_is_told_at_once_with_its_place() {
    let lab = Lab::new();
    lab.write(
        "bad.toml",
        "[listen]\nadress = \"127.0.0.1:1\"\n\n[work]\nslots = 0\nenabled = \"yes\"\n\n[nothing]\n",
    );
    let said = errors(&lab.run(&["config", "check", "--config", "bad.toml"]));
    for part in [
        "bad.toml:2:1: unknown setting `adress`",
        "did you mean `address`?",
        "bad.toml:5:1",
        "bad.toml:6:1",
        "unknown setting `nothing`",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    lab.write("broken.toml", "[listen\n");
    let said = errors(&lab.run(&["config", "check", "--config", "broken.toml"]));
    assert!(said.contains("broken.toml:1:"), "{said}");
    let said = errors(&lab.run(&["config", "check", "--config", "missing.toml"]));
    assert!(said.contains("missing.toml: cannot be read"), "{said}");
}

#[test]
fn the_example_is_the_default_and_what_flags_say_goes_before_the_file() {
    let lab = Lab::new();
    let example = lab.run(&["config", "example"]).stdout;
    std::fs::write(lab.path("orch-server.toml"), &example).unwrap();
    assert!(lab.run(&["config", "check"]).status.success());
    let shown = lab.run(&["config", "show"]).stdout;
    std::fs::remove_file(lab.path("orch-server.toml")).unwrap();
    assert_eq!(String::from_utf8(shown), String::from_utf8(lab.run(&["config", "show"]).stdout));
    lab.write(
        "orch-server.toml",
        "[listen]\naddress = \"127.0.0.1:1111\"\n[backends]\nstore = \"memory:\"\n",
    );
    let shown = lab.run(&["config", "show", "--listen", "127.0.0.1:2222"]).stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("127.0.0.1:2222") && shown.contains("memory:"), "{shown}");
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/deploy/orch-server.toml");
    if std::env::var_os("ORCH_BLESS").is_some() {
        std::fs::write(committed, &example).unwrap();
    }
    assert!(
        std::fs::read(committed).unwrap() == example,
        "{committed} is stale; `cargo xtask bless` writes it anew"
    );
}

#[test]
fn a_password_in_an_address_is_not_shown() {
    let lab = Lab::new();
    for arguments in [&["config", "show"][..], &["config", "check"], &[]] {
        let output = lab.run(&[arguments, &["--store", "mongodb://me:s3cret@127.0.0.1:1/db"]].concat());
        let said = [output.stdout, output.stderr].concat();
        assert!(!String::from_utf8_lossy(&said).contains("s3cret"), "{arguments:?}");
    }
}

#[test]
fn an_address_may_stand_in_a_file_that_the_environment_names() {
    let lab = Lab::new();
    lab.write("store.url", "sqlite:elsewhere.db\n");
    let started = |arguments: &[&str], set: &[(&str, &str)]| {
        let output = lab.command(arguments).envs(set.iter().copied()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let file = ("ORCH_STORE_FILE", "store.url");
    let (code, said) = started(&["config", "show"], &[file]);
    assert!(code == Some(0) && said.contains("store = \"@store.url\""), "{said}");
    let (code, said) = started(&["config", "show", "--store", "sqlite:third.db"], &[file]);
    assert!(code == Some(0) && said.contains("third.db"), "a flag goes before: {said}");
    let (code, said) = started(&["config", "check"], &[file, ("ORCH_STORE", "memory:")]);
    assert!(code == Some(1) && said.contains("ORCH_STORE and ORCH_STORE_FILE are both set"), "{said}");
    let (code, said) = started(&["config", "check"], &[("ORCH_QUEUE_FILE", "missing")]);
    assert!(code == Some(1) && said.contains("cannot be read"), "{said}");
}

#[test]
fn a_token_that_was_made_by_hand_does_what_it_allows_and_its_file_holds_no_more_than_its_hash() {
    let lab = Lab::new();
    let made = lab.run(&["token", "new", "--subject", "ci", "--tenant", "default", "--scope", "orch:read"]);
    let text = String::from_utf8(made.stdout).unwrap();
    let token = text.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned();
    let lines = text.split_once("tokens file:\n").unwrap().1;
    assert!(!lines.contains(&token) && lines.contains("sha256"), "{lines}");
    lab.write("tokens.toml", lines);
    lab.write("orch-server.toml", "[auth]\ntokens_file = \"tokens.toml\"\n");
    let mut server = lab.start(&[]);
    server.token = Some(token);
    assert_eq!(server.ask("GET", "/runs", None).0, 200);
    let (status, refused) = server.ask("POST", "/dags", Some(&hello()));
    assert_eq!((status, refused["error"]["code"].as_str()), (403, Some("SCOPE_REQUIRED")));
    lab.write(
        "tokens.toml",
        "[[token]]\nsubject = \"\"\nsha256 = \"x\"\ntenants = [\"NO\"]\nscopes = [\"what\"]\n",
    );
    let said = errors(&lab.run(&["--listen", "127.0.0.1:0"]));
    assert!(said.contains("tokens.toml:2") && said.contains("tokens.toml:3"), "{said}");
}

#[test]
fn a_client_that_never_finishes_its_head_is_cut_off() {
    let lab = Lab::new();
    lab.write("orch-server.toml", "[limits]\nheader_seconds = 1\n");
    let server = lab.start(&[]);
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: here\r\n").unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{rest:?}");
}

#[test]
fn an_address_has_only_so_many_connections() {
    let lab = Lab::new();
    lab.write("orch-server.toml", "[limits]\nconnections_per_address = 2\n");
    let server = lab.start(&[]);
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let (_one, _two) = (connect(), connect());
    let mut third = connect();
    assert!(matches!(third.read(&mut [0; 1]), Ok(0) | Err(_)), "it is closed at once");
}

#[test]
fn it_ends_when_told_to_while_a_stream_is_open() {
    let lab = Lab::new();
    let mut server = lab.start(&[]);
    let run = begin(&server);
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let token = server.token.clone().unwrap();
    write!(
        stream,
        "GET {BASE}/runs/stream?runId={run} HTTP/1.1\r\nhost: here\r\naccept: text/event-stream\r\n\
         authorization: Bearer {token}\r\nx-stella-tenant: default\r\n\r\n"
    )
    .unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    server.signal(Signal::INT);
    assert_eq!(server.wait(), Some(0));
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("event: end") || rest.contains("run.completed"), "{rest}");
}

#[test]
fn health_says_whether_a_server_is_there() {
    let lab = Lab::new();
    let server = lab.start(&[]);
    let address = format!("127.0.0.1:{}", server.port);
    assert!(lab.run(&["health", "--listen", &address]).status.success());
    drop(server);
    assert!(!lab.run(&["health", "--listen", &address]).status.success());
}

#[tokio::test]
async fn it_speaks_tls_with_its_certificate_and_asks_for_those_of_clients() {
    use rustls::pki_types::pem::PemObject as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let lab = Lab::new();
    let file = |name: &str| orch_servers::certificate(name).display().to_string();
    let text = format!(
        "[listen]\ntls_cert = {:?}\ntls_key = {:?}\ntls_client_ca = {:?}\n",
        file("server.pem"),
        file("server.pem"),
        file("ca.pem")
    );
    lab.write("orch-server.toml", &text);
    let server = lab.start(&[]);
    assert!(server.said.contains("https://"), "{}", server.said);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = || {
        let builder = rustls::ClientConfig::builder_with_provider(std::sync::Arc::clone(&provider));
        builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots.clone())
    };
    let chain = vec![rustls::pki_types::CertificateDer::from_pem_file(file("client.pem")).unwrap()];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(file("client.key")).unwrap();
    let known = builder().with_client_auth_cert(chain, key).unwrap();
    for (config, expected) in [(known, true), (builder().with_no_client_auth(), false)] {
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        let answered = async {
            let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await?;
            let ask = format!("GET {BASE}/admin/health HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n");
            stream.write_all(ask.as_bytes()).await?;
            let mut head = [0; 12];
            stream.read_exact(&mut head).await?;
            Ok::<_, std::io::Error>(head)
        };
        assert_eq!(answered.await.is_ok_and(|head| &head == b"HTTP/1.1 200"), expected);
    }
}

#[test]
fn a_head_holds_only_so_many_fields_and_bytes() {
    let lab = Lab::new();
    let server = lab.start(&[]);
    let ask = |fields: usize, bytes: usize| {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = format!("GET {BASE}/admin/health HTTP/1.1\r\nhost: here\r\nconnection: close\r\n");
        for number in 0..fields {
            head.push_str(&format!("x-{number}: {}\r\n", "y".repeat(bytes / fields)));
        }
        // A server that has had enough may have hung up already.
        let _ = stream.write_all(format!("{head}\r\n").as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.get(9..12).unwrap_or_default().to_owned()
    };
    assert_eq!(ask(90, 90), "200");
    assert_eq!(ask(200, 200), "431", "fields");
    assert_eq!(ask(10, 60_000), "200");
    assert!(matches!(&*ask(10, 1 << 20), "431" | ""), "bytes");
    assert_eq!(ask(1, 1), "200", "it goes on");
}
