//! Task: other programs are to start runs and look at them over HTTP, in a service that has routes of its own.
//!
//! `orch_http::router` is an axum router: nest it under any prefix. The orchestrator stays yours, so the program goes on
//! using it directly as well.

use axum::Router;
use axum::routing::get;
use orch::engine::{Identity, Orchestrator};
use orch::executor::{Failure, StepContext};
use orch::{Limits, Secret, TenantId};
use orch_http::auth::{Authentication, LocalToken};
use orch_http::{BASE, Settings, router};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const DAG: &str = "
apiVersion: orch/v1
kind: Dag
id: hello
steps:
  - { id: greet, uses: fn/greet, with: World }
";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let greet = |_: StepContext, name: String| async move { Ok::<_, Failure>(format!("Hello, {name}!")) };
    let orchestrator = Orchestrator::builder().task("greet", greet).start()?;
    let who = Identity::new(TenantId::new("acme")?, "example");
    orchestrator.publish(&who, orch::spec::parse("hello.yaml", DAG, &Limits::default())?).await?;

    // A token for this process alone; real services name issuers, or tokens of which they know the hash.
    let (token, text) = LocalToken::draw();
    let authentication = Authentication { local: Some(token), ..Authentication::default() };
    let settings = Settings { authentication, ..Settings::default() };
    let closing = settings.closing.clone();
    let host = Router::new()
        .route("/", get(|| async { "the host" }))
        .nest("/flows", router(orchestrator.clone(), settings));

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let stopped = closing.clone();
    let serving =
        axum::serve(listener, host).with_graceful_shutdown(async move { stopped.cancelled().await });
    let server = tokio::spawn(async move { serving.await });

    say(&format!("GET /: {}", ask(&address, &text, "GET", "/", None).await?.1));
    let runs = format!("/flows{BASE}/runs");
    let order = json!({ "dagId": "hello" });
    let (status, started) = ask(&address, &text, "POST", &runs, Some(&order)).await?;
    say(&format!("POST {runs}: {status}"));
    let started: Value = serde_json::from_str(&started)?;
    orchestrator.wait(&who, started["runId"].as_str().unwrap_or("").parse()?).await?;
    let listed: Value = serde_json::from_str(&ask(&address, &text, "GET", &runs, None).await?.1)?;
    let items = listed["items"].as_array().map_or(0, Vec::len);
    say(&format!("GET {runs}: {items} run, {}", listed["items"][0]["status"].as_str().unwrap_or("")));

    // Streams and long polls end, requests are answered, and then the engine comes to rest.
    closing.cancel();
    server.await??;
    orchestrator.shutdown().await;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn say(line: &str) {
    println!("{line}");
}

/// A client in a few lines: answers the status and the body.
async fn ask(
    address: &str,
    token: &Secret,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<(String, String), Box<dyn std::error::Error>> {
    let text = body.map(Value::to_string).unwrap_or_default();
    let (length, token) = (text.len(), token.expose());
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
         x-stella-tenant: acme\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{text}"
    );
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    Ok((head.split(' ').nth(1).unwrap_or("").to_owned(), body.to_owned()))
}
