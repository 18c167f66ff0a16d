//! Whatever is sent, the answer is one of ours: no panic, no defect, no stall.

use axum::body::Body;
use http::{Method, Request};
use proptest::prelude::*;
use proptest::sample::select;
use tower::ServiceExt as _;

use super::{Answered, FULL, Service};
use crate::BASE;
use crate::resources::routes;

/// Pieces that requests are made of: what the service knows, and what it should survive.
const PIECES: [&str; 24] = [
    "hello",
    "1",
    "0",
    "-1",
    "4294967296",
    "..",
    "%2e%2e",
    "%00",
    "%ff",
    "a[0]",
    "a%5B0%5D",
    ":",
    ":cancel",
    "*",
    "é",
    "{runId}",
    "0123456789abcdef0123456789abcdef",
    "\\",
    "//",
    "?",
    "runId=",
    "page_size=501",
    "page_token=e30",
    "cursor=r~x~1~1",
];

const BODIES: [&str; 14] = [
    "",
    "{}",
    "[]",
    "null",
    "{\"dagId\":\"hello\"}",
    "{\"dagId\":\"hello\",\"inputs\":{\"name\":\"x\"}}",
    "{\"dag\":{\"apiVersion\":\"orch/v1\"}}",
    "{\"dag\":\"\\u0000\"}",
    "{\"dagId\":\"a\",\"steps\":[{}]}",
    "{\"jobType\":\"a\",\"payload\":9007199254740993}",
    "{\"decision\":\"approved\"}",
    "{\"a\":1e999}",
    "\u{feff}{}",
    "{\"steps\":[\"a[99999999999]\"]}",
];

fn path() -> impl Strategy<Value = String> {
    let known: Vec<String> = routes().iter().map(|route| route.facts.path.as_str().to_owned()).collect();
    let filled =
        (select(known), prop::collection::vec(select(PIECES.to_vec()), 3)).prop_map(|(path, pieces)| {
            let mut pieces = pieces.into_iter();
            let segment =
                |segment: &str| match segment.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                    Some((_, action)) => format!("{}{action}", pieces.next().unwrap_or("x")),
                    None => segment.to_owned(),
                };
            path.split('/').map(segment).collect::<Vec<_>>().join("/")
        });
    let wild = prop::collection::vec(select(PIECES.to_vec()), 0..5)
        .prop_map(|pieces| format!("/{}", pieces.join("/")));
    (prop_oneof![4 => filled, 1 => wild], prop::collection::vec(select(PIECES.to_vec()), 0..3))
        .prop_map(|(path, query)| if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn no_request_meets_a_defect(
        path in path(),
        method in select(vec![Method::GET, Method::POST, Method::HEAD, Method::PUT, Method::DELETE]),
        body in prop_oneof![select(BODIES.to_vec()).prop_map(|body| body.as_bytes().to_vec()), prop::collection::vec(any::<u8>(), 0..64)],
        media in select(vec!["application/json", "application/yaml", "text/plain", ""]),
        key in select(vec!["", "k", "k", "\u{7f}"]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let service = Service::start().await;
            let request = Request::builder()
                .method(method)
                .uri(format!("{BASE}{path}"))
                .header("authorization", format!("Bearer {FULL}"))
                .header("x-stella-tenant", "acme")
                .header("x-stella-operator-reason", "a test")
                .header("x-stella-operator-ticket", "T-1")
                .header("content-type", media)
                .header("idempotency-key", key)
                .body(Body::from(body));
            // What is no URI or no header at all never arrives.
            let Ok(request) = request else { return };
            let response = service.router.clone().oneshot(request).await.unwrap();
            // The stream of all runs goes on for as long as somebody listens.
            if response.headers().get("content-type").is_some_and(|media| media == "text/event-stream") {
                return;
            }
            let answer = Answered::of(response).await;
            let own = [501, 503].contains(&answer.status.as_u16());
            assert!(own || !answer.status.is_server_error(), "{} {}", answer.status, answer.text);
            if answer.status.is_client_error() && !answer.text.is_empty() {
                assert!(!answer.code().is_empty(), "{}", answer.text);
            }
        });
    }
}
