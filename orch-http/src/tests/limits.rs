//! Bounds: over one is an answer, never a stall.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, StatusCode};
use orch::{ManualClock, Orchestrator, Timestamp};
use serde_json::json;

use super::{FULL, Service, ask, only, token};
use crate::auth::{Authentication, Scope, Scopes};
use crate::{BASE, HttpLimits, RateLimit, Settings, router};

fn service(orch: &Orchestrator, limits: HttpLimits) -> Service {
    let read = [Scope::Read].into_iter().collect();
    let tokens =
        vec![token(FULL, &["acme", "umbrella"], Scopes::all()), token(&only(Scope::Read), &["acme"], read)];
    let authentication = Authentication { tokens, ..Authentication::default() };
    let router = router(orch.clone(), Settings { authentication, limits, ..Settings::default() });
    Service { orch: orch.clone(), router }
}

#[tokio::test]
async fn a_tenant_asks_as_often_as_it_may_and_is_told_when_to_come_again() {
    let start: Timestamp = "2026-01-01T00:00:00.000000Z".parse().unwrap();
    let clock = Arc::new(ManualClock::new(start));
    let orch = Orchestrator::builder().clock(Arc::clone(&clock) as _).start().unwrap();
    let tenant_rate = Some(RateLimit { per_second: 0.5, burst: 3 });
    let service = service(&orch, HttpLimits { tenant_rate, ..HttpLimits::default() });
    for remaining in ["2", "1", "0"] {
        let answer = service.get("/runs").await;
        assert_eq!(
            (answer.status, &answer.headers["x-ratelimit-remaining"]),
            (StatusCode::OK, &remaining.parse().unwrap())
        );
        assert_eq!(answer.headers["x-ratelimit-limit"], "3");
    }
    let refused = service.get("/runs").await;
    assert_eq!((refused.status, refused.code()), (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"));
    assert_eq!(
        (&refused.headers["retry-after"], &refused.headers["x-ratelimit-remaining"]),
        (&"2".parse().unwrap(), &"0".parse().unwrap())
    );
    let full = start.as_micros() / 1_000_000 + 6;
    assert_eq!(refused.headers["x-ratelimit-reset"], full.to_string());
    let other = service.send(ask(Method::GET, "/runs", Some(FULL), Some("umbrella"), None)).await;
    assert_eq!(other.status, StatusCode::OK, "another tenant has a bucket of its own");
    clock.set(start.plus(Duration::from_secs(2)));
    assert_eq!(service.get("/runs").await.status, StatusCode::OK);
    assert_eq!(service.get("/runs").await.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn one_caller_does_not_use_up_what_another_may_ask() {
    let orch = Orchestrator::builder().clock(Arc::new(ManualClock::new(Timestamp::EPOCH))).start().unwrap();
    let subject_rate = Some(RateLimit { per_second: 0.001, burst: 1 });
    let service = service(&orch, HttpLimits { subject_rate, ..HttpLimits::default() });
    let mut statuses = Vec::new();
    for token in [FULL.to_owned(), FULL.to_owned(), only(Scope::Read)] {
        statuses.push(service.send(ask(Method::GET, "/runs", Some(&token), Some("acme"), None)).await.status);
    }
    assert_eq!(statuses, [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS, StatusCode::OK]);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whatever_it_says_of_its_length() {
    let orch = Orchestrator::builder().start().unwrap();
    let service = service(&orch, HttpLimits { body_bytes: 100, ..HttpLimits::default() });
    let long = json!({ "dagId": "x".repeat(100) });
    let answer = service.post("/runs", long.clone()).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"));
    let chunks = long
        .to_string()
        .into_bytes()
        .chunks(10)
        .map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()))
        .collect::<Vec<_>>();
    let mut request = ask(Method::POST, "/runs", Some(FULL), Some("acme"), Some(json!({})));
    *request.body_mut() = Body::from_stream(futures::stream::iter(chunks));
    assert_eq!(service.send(request).await.code(), "BODY_TOO_LARGE");
    let mut keyed = ask(Method::POST, "/runs", Some(FULL), Some("acme"), Some(long));
    keyed.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    assert_eq!(service.send(keyed).await.code(), "BODY_TOO_LARGE");
}

#[tokio::test]
async fn what_is_packed_or_of_another_kind_is_refused_unread() {
    let service = Service::start().await;
    for (name, value) in [("content-type", "text/plain"), ("content-encoding", "gzip")] {
        let mut request = ask(Method::POST, "/runs", Some(FULL), Some("acme"), Some(json!({})));
        request.headers_mut().insert(name, value.parse().unwrap());
        let answer = service.send(request).await;
        assert_eq!(
            (answer.status, answer.code()),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE"),
            "{name}"
        );
    }
    let deep = format!("{}1{}", "[".repeat(1_000), "]".repeat(1_000));
    let mut request = ask(Method::POST, "/runs", Some(FULL), Some("acme"), Some(json!({})));
    *request.body_mut() = Body::from(format!("{{\"dagId\":\"hello\",\"inputs\":{deep}}}"));
    assert_eq!(service.send(request).await.code(), "INVALID_REQUEST");
}

#[tokio::test]
async fn too_many_at_once_are_turned_away_at_once_and_it_recovers() {
    let orch = Orchestrator::builder().start().unwrap();
    let service = service(&orch, HttpLimits { in_flight: 1, ..HttpLimits::default() });
    // A body that does not come holds the one place.
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let body = futures::stream::once(async move {
        let _ = receiver.await;
        Ok::<_, std::io::Error>("{}")
    });
    let mut slow = ask(Method::POST, "/runs", Some(FULL), Some("acme"), Some(json!({})));
    *slow.body_mut() = Body::from_stream(body);
    let turned_away = async {
        tokio::task::yield_now().await;
        let answer = service.get("/runs").await;
        assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"));
        assert!(answer.headers.contains_key("retry-after"));
        sender.send(()).unwrap();
    };
    let (slow, ()) = tokio::join!(service.send(slow), turned_away);
    assert_eq!(slow.code(), "INVALID_REQUEST");
    assert_eq!(service.get("/runs").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_too_long_is_answered_in_time() {
    let orch = Orchestrator::builder().start().unwrap();
    let service =
        service(&orch, HttpLimits { request_time: Duration::from_secs(5), ..HttpLimits::default() });
    let mut endless = ask(Method::POST, "/runs", Some(FULL), Some("acme"), Some(json!({})));
    *endless.body_mut() = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let answer = service.send(endless).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT"));
}

#[tokio::test]
async fn what_leads_nowhere_is_answered_like_every_other_error() {
    let service = Service::start().await;
    let nowhere = Request::get(format!("{BASE}/nowhere/at/all")).body(Body::empty()).unwrap();
    let answer = service.send(nowhere).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::NOT_FOUND, "NOT_FOUND"));
    let put = ask(Method::PUT, "/runs", Some(FULL), Some("acme"), None);
    let answer = service.send(put).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"));
    assert_eq!(answer.headers["allow"], "POST, GET");
}
