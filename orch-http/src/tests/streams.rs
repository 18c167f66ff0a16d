//! Streams: everything once and in order, also after a break; and how they end.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt as _;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use orch::{Limits, Orchestrator};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tower::ServiceExt as _;

use super::{FULL, Service, ask, tenant, token};
use crate::auth::{ApiToken, Authentication, Scopes};
use crate::{BASE, Settings, StreamSettings, router};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn listen(service: &Service) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = service.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

fn request(address: SocketAddr, path: &str) -> tungstenite::handshake::client::Request {
    let mut request = format!("ws://{address}{BASE}{path}").into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("authorization", format!("Bearer {FULL}").parse().unwrap());
    headers.insert("x-stella-tenant", "acme".parse().unwrap());
    request
}

async fn open(address: SocketAddr, path: &str) -> Socket {
    connect_async(request(address, path)).await.unwrap().0
}

/// The next message, or the code with which the stream was closed.
async fn next(socket: &mut Socket) -> Result<Value, u16> {
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => return Ok(serde_json::from_str(&text).unwrap()),
            Message::Close(frame) => return Err(frame.map_or(1005, |frame| frame.code.into())),
            _ => {}
        }
    }
}

async fn all(socket: &mut Socket) -> (Vec<Value>, u16) {
    let mut messages = Vec::new();
    loop {
        match next(socket).await {
            Ok(message) => messages.push(message),
            Err(code) => return (messages, code),
        }
    }
}

async fn run(service: &Service) -> String {
    let order = json!({ "dagId": "hello", "inputs": { "name": "you" } });
    let run = service.post("/runs", order).await.expect(StatusCode::CREATED);
    run["runId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_stream_of_a_run_tells_everything_once_in_order_and_ends_with_it() {
    let service = Service::start().await;
    let run = run(&service).await;
    let mut socket = open(listen(&service).await, &format!("/runs/stream?runId={run}")).await;
    let (messages, code) = all(&mut socket).await;
    assert_eq!(code, 1000);
    let seqs: Vec<u64> = messages.iter().map(|message| message["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted() && seqs[0] == 1, "{seqs:?}");
    let last = messages.last().unwrap();
    assert_eq!((&last["type"], &last["status"]), (&json!("run.completed"), &json!("completed")));
    assert!(messages.iter().any(|message| message["type"] == "run.started"));
    assert!(messages.iter().all(|message| message["runId"] == run && message["dagId"] == "hello"));
}

#[tokio::test]
async fn a_stream_goes_on_after_any_message_without_gap_or_repetition() {
    let service = Service::start().await;
    let run = run(&service).await;
    let address = listen(&service).await;
    let (messages, _) = all(&mut open(address, &format!("/runs/stream?runId={run}")).await).await;
    for (place, message) in messages.iter().enumerate() {
        let cursor = message["cursor"].as_str().unwrap();
        let path = format!("/runs/stream?runId={run}&cursor={cursor}");
        let (rest, code) = all(&mut open(address, &path).await).await;
        assert_eq!((rest.as_slice(), code), (&messages[place + 1..], 1000), "{cursor}");
    }
}

#[tokio::test]
async fn events_of_a_run_are_the_same_messages_and_go_on_after_the_last_id() {
    let service = Service::start().await;
    let run = run(&service).await;
    let (messages, _) =
        all(&mut open(listen(&service).await, &format!("/runs/stream?runId={run}")).await).await;
    let read = |last: Option<String>| {
        let mut request =
            ask(Method::GET, &format!("/runs/stream?runId={run}"), Some(FULL), Some("acme"), None);
        request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
        if let Some(last) = last {
            request.headers_mut().insert("last-event-id", last.parse().unwrap());
        }
        service.send(request)
    };
    let data = |text: &str| -> Vec<Value> {
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    };
    let answer = read(None).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let mut heard = data(&answer.text);
    assert_eq!(heard.pop().unwrap()["code"], "ENDED");
    assert_eq!(heard, messages);
    let last = messages[1]["cursor"].as_str().unwrap().to_owned();
    let mut rest = data(&read(Some(last)).await.text);
    rest.pop();
    assert_eq!(rest, messages[2..]);
}

#[tokio::test]
async fn a_page_of_another_origin_may_not_listen_and_its_own_may_with_a_token_in_the_protocol() {
    let service = Service::start().await;
    let run = run(&service).await;
    let address = listen(&service).await;
    let path = format!("/runs/stream?runId={run}");
    let mut foreign = request(address, &path);
    foreign.headers_mut().insert("origin", "https://evil.example".parse().unwrap());
    let Err(tungstenite::Error::Http(refused)) = connect_async(foreign).await else { panic!("it listens") };
    assert_eq!(refused.status(), 403);
    let mut own = format!("ws://{address}{BASE}{path}").into_client_request().unwrap();
    let protocols = format!("orch.v1, orch.bearer.{FULL}, orch.tenant.acme");
    own.headers_mut().insert("origin", format!("http://{address}").parse().unwrap());
    own.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    let (mut socket, response) = connect_async(own).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "orch.v1");
    assert_eq!(all(&mut socket).await.1, 1000);
}

/// A service with a run that waits for a signal, so that its stream has no end of its own.
async fn waiting(token: ApiToken, settings: Settings) -> (Service, String) {
    const DAG: &str = "
apiVersion: orch/v1
kind: Dag
id: waiting
steps: [{ id: wait, uses: wait/signal, with: { name: go } }]
";
    let orch = Orchestrator::builder().start().unwrap();
    let who = orch::Identity::new(tenant("acme"), "setup");
    orch.publish(&who, orch::spec::parse("w.yaml", DAG, &Limits::default()).unwrap()).await.unwrap();
    let authentication = Authentication { tokens: vec![token], ..Authentication::default() };
    let router = router(orch.clone(), Settings { authentication, ..settings });
    let service = Service { orch, router };
    let run = service.post("/runs", json!({ "dagId": "waiting" })).await.expect(StatusCode::CREATED);
    (service, run["runId"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_end_of_the_token_ends_the_stream() {
    let soon = orch::Clock::now(&orch::SystemClock).plus(Duration::from_secs(1));
    let token = ApiToken { expires: Some(soon), ..token(FULL, &["acme"], Scopes::all()) };
    let (service, run) = waiting(token, Settings::default()).await;
    let mut socket = open(listen(&service).await, &format!("/runs/stream?runId={run}")).await;
    let (messages, code) = all(&mut socket).await;
    assert_eq!(code, 4401);
    assert!(!messages.is_empty());
}

#[tokio::test]
async fn a_service_that_ends_closes_its_streams_and_opens_no_more() {
    let settings = Settings::default();
    let closing = settings.closing.clone();
    let (service, run) = waiting(token(FULL, &["acme"], Scopes::all()), settings).await;
    let address = listen(&service).await;
    let path = format!("/runs/stream?runId={run}");
    let mut socket = open(address, &path).await;
    next(&mut socket).await.unwrap();
    closing.cancel();
    assert_eq!(all(&mut socket).await.1, 1001);
    let Err(tungstenite::Error::Http(refused)) = connect_async(request(address, &path)).await else {
        panic!("it opens another")
    };
    assert_eq!(refused.status(), 503);
    assert_eq!(service.get("/admin/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn no_more_streams_are_opened_than_the_settings_say_and_one_that_closed_makes_room() {
    let streams = StreamSettings { streams: 1, ..StreamSettings::default() };
    let settings = Settings { streams, ..Settings::default() };
    let (service, run) = waiting(token(FULL, &["acme"], Scopes::all()), settings).await;
    let address = listen(&service).await;
    let path = format!("/runs/stream?runId={run}");
    let mut first = open(address, &path).await;
    next(&mut first).await.unwrap();
    let Err(tungstenite::Error::Http(refused)) = connect_async(request(address, &path)).await else {
        panic!("it opens another")
    };
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (503, true));
    first.close(None).await.unwrap();
    while connect_async(request(address, &path)).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn silence_is_broken_by_heartbeats_and_a_client_that_answers_none_is_gone() {
    let heartbeat = Duration::from_millis(50);
    let streams = StreamSettings { heartbeat, streams: 1, ..StreamSettings::default() };
    let settings = Settings { streams, ..Settings::default() };
    let (service, run) = waiting(token(FULL, &["acme"], Scopes::all()), settings).await;
    let address = listen(&service).await;
    let path = format!("/runs/stream?runId={run}");
    let mut socket = open(address, &path).await;
    loop {
        if let Message::Ping(_) = socket.next().await.unwrap().unwrap() {
            break;
        }
    }
    // From here on nothing is read, so no ping is answered.
    while connect_async(request(address, &path)).await.is_err() {
        tokio::time::sleep(heartbeat).await;
    }
    drop(socket);
}

#[tokio::test]
async fn heartbeats_of_events_are_comments() {
    let streams = StreamSettings { heartbeat: Duration::from_millis(20), ..StreamSettings::default() };
    let settings = Settings { streams, ..Settings::default() };
    let (service, run) = waiting(token(FULL, &["acme"], Scopes::all()), settings).await;
    let request: Request<Body> =
        ask(Method::GET, &format!("/runs/stream?runId={run}"), Some(FULL), Some("acme"), None);
    let mut body = service.router.clone().oneshot(request).await.unwrap().into_body();
    let mut text = String::new();
    while !text.contains(": beat") {
        let frame = body.frame().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    assert!(text.starts_with(": orch.v1\n\n"), "{text}");
}

#[tokio::test]
async fn a_cursor_of_another_stream_is_refused() {
    let service = Service::start().await;
    let (one, other) = (run(&service).await, run(&service).await);
    for cursor in [format!("r~{other}~1~1"), "x".to_owned()] {
        let answer = service.get(&format!("/runs/stream?runId={one}&cursor={cursor}")).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::BAD_REQUEST, "INVALID_REQUEST"), "{cursor}");
    }
    let beyond = service.get(&format!("/runs/stream?runId={one}&cursor=r~{one}~9999~1")).await;
    assert_eq!((beyond.status, beyond.code()), (StatusCode::GONE, "CURSOR_EXPIRED"));
}

/// So many messages, as they come.
async fn some(socket: &mut Socket, count: usize) -> Vec<Value> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(20), next(socket)).await;
        messages.push(next.unwrap_or_else(|_| panic!("{count} wanted: {messages:#?}")).unwrap());
    }
    messages
}

#[tokio::test]
async fn a_stream_of_all_runs_tells_what_comes_and_goes_on_after_any_message() {
    let service = Service::start().await;
    run(&service).await;
    let address = listen(&service).await;
    let mut socket = open(address, "/runs/stream").await;
    let mut filtered = open(address, "/runs/stream?dagId=hello&status=completed").await;
    let mut none = open(address, "/runs/stream?dagId=other").await;
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(run(&service).await);
    }
    let who = orch::Identity::new(tenant("acme"), "test");
    for run in &runs {
        service.orch.wait(&who, run.parse().unwrap()).await.unwrap();
    }
    // What a run tells alone, it tells here, in the same order.
    let mut expected = 0;
    let mut alone = std::collections::BTreeMap::new();
    for run in &runs {
        let (messages, _) = all(&mut open(address, &format!("/runs/stream?runId={run}")).await).await;
        expected += messages.len();
        alone.insert(run.clone(), messages);
    }
    let messages = some(&mut socket, expected).await;
    let said = |message: &Value| {
        let mut message = message.clone();
        message.as_object_mut().unwrap().remove("cursor");
        message
    };
    for run in &runs {
        let of_run = messages.iter().filter(|message| message["runId"] == **run).map(said);
        assert!(of_run.eq(alone[run].iter().map(said)), "{run}");
    }
    for (place, message) in messages.iter().enumerate().take(expected - 1) {
        let cursor = message["cursor"].as_str().unwrap();
        let mut socket = open(address, &format!("/runs/stream?cursor={cursor}")).await;
        assert_eq!(some(&mut socket, expected - place - 1).await, messages[place + 1..], "{cursor}");
    }
    let ended = some(&mut filtered, 3).await;
    assert!(ended.iter().all(|message| message["type"] == "run.completed"), "{ended:#?}");
    let nothing = tokio::time::timeout(Duration::from_millis(200), next(&mut none)).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn a_stream_of_all_runs_catches_up_while_more_is_happening() {
    let service = Service::start().await;
    let address = listen(&service).await;
    let mut live = open(address, "/runs/stream").await;
    let first = run(&service).await;
    let begun = some(&mut live, 1).await;
    assert_eq!(begun[0]["runId"], first);
    let busy = async {
        for _ in 0..40 {
            run(&service).await;
        }
    };
    let cursor = begun[0]["cursor"].as_str().unwrap().to_owned();
    let late = async {
        let mut sockets = Vec::new();
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(15)).await;
            sockets.push(open(address, &format!("/runs/stream?cursor={cursor}")).await);
        }
        sockets
    };
    let ((), mut sockets) = tokio::join!(busy, late);
    let mut ended = 0;
    let mut messages = Vec::new();
    while ended < 41 {
        let message = some(&mut live, 1).await.remove(0);
        ended += usize::from(message["type"] == "run.completed");
        messages.push(message);
    }
    for socket in &mut sockets {
        assert_eq!(some(socket, messages.len()).await, messages);
    }
}

#[tokio::test]
async fn t1_a_stream_of_all_runs_is_of_one_tenant_and_its_cursors_are_good_for_nothing_else() {
    let service = Service::start().await;
    let address = listen(&service).await;
    let mut socket = open(address, "/runs/stream").await;
    let mut stranger = request(address, "/runs/stream");
    stranger.headers_mut().insert("authorization", format!("Bearer {}", super::STRANGER).parse().unwrap());
    stranger.headers_mut().insert("x-stella-tenant", "stranger".parse().unwrap());
    let mut stranger = connect_async(stranger).await.unwrap().0;
    let run = run(&service).await;
    let cursor = some(&mut socket, 1).await[0]["cursor"].as_str().unwrap().to_owned();
    let nothing = tokio::time::timeout(Duration::from_millis(300), next(&mut stranger)).await;
    assert!(nothing.is_err(), "{nothing:?}");
    for (path, code) in [
        (format!("/runs/stream?runId={run}&cursor={cursor}"), "INVALID_REQUEST"),
        (format!("/runs/stream?cursor=r~{run}~1~1"), "INVALID_REQUEST"),
        ("/runs/stream?cursor=t~0~x".to_owned(), "INVALID_REQUEST"),
        ("/runs/stream?cursor=t~0~m99999999".to_owned(), "CURSOR_EXPIRED"),
    ] {
        let mut request = ask(Method::GET, &path, Some(FULL), Some("acme"), None);
        request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
        assert_eq!(service.send(request).await.code(), code, "{path}");
    }
}

#[tokio::test]
async fn a_client_that_falls_behind_the_others_is_cut_off_and_may_go_on() {
    let service = Service::start().await;
    let who = orch::Identity::new(tenant("acme"), "test");
    let tokens = vec![token(FULL, &["acme"], Scopes::all())];
    let settings = Settings {
        authentication: Authentication { tokens, ..Authentication::default() },
        streams: StreamSettings { buffer: 16, ..StreamSettings::default() },
        ..Settings::default()
    };
    let service = Service { router: router(service.orch.clone(), settings), orch: service.orch };
    let mut request = ask(Method::GET, "/runs/stream", Some(FULL), Some("acme"), None);
    request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
    let response = service.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    for _ in 0..60 {
        let run = run(&service).await;
        service.orch.wait(&who, run.parse().unwrap()).await.unwrap();
    }
    let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    assert!(text.contains("TOO_SLOW"), "{text}");
    let last = text.lines().rev().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let mut socket = open(listen(&service).await, &format!("/runs/stream?cursor={last}")).await;
    let told = text.lines().filter(|line| line.starts_with("data: {\"type\"")).count();
    let rest = some(&mut socket, 300).await;
    assert!(told + rest.len() > 300 && rest[0]["cursor"] != last);
}
