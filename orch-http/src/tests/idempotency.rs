//! Idempotency keys: the same request is answered the same, another is refused, a dead one is taken over.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use orch::executor::{Failure, StepContext};
use orch::{Limits, ManualClock, Orchestrator, Timestamp};
use serde_json::{Value, json};

use super::{FULL, HELLO, STRANGER, Service, ask, tenant, token};
use crate::auth::{Authentication, Scopes};
use crate::{Settings, router};

async fn keyed(service: &Service, path: &str, key: &str, body: Value) -> super::Answered {
    let mut request = ask(Method::POST, path, Some(FULL), Some("acme"), Some(body));
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    service.send(request).await
}

fn order(name: &str) -> Value {
    json!({ "dagId": "hello", "inputs": { "name": name } })
}

#[tokio::test]
async fn the_same_request_is_done_once_and_answered_the_same() {
    let service = Service::start().await;
    let first = keyed(&service, "/runs", "k-1", order("you")).await;
    assert_eq!((first.status, first.headers.get("idempotent-replayed")), (StatusCode::CREATED, None));
    let second = keyed(&service, "/runs", "k-1", order("you")).await;
    assert_eq!(
        (second.status, second.headers["idempotent-replayed"].to_str().unwrap()),
        (StatusCode::CREATED, "true")
    );
    assert_eq!((second.body, &second.headers["content-type"]), (first.body, &first.headers["content-type"]));
    let runs = service.get("/runs").await.expect(StatusCode::OK);
    assert_eq!(runs["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_is_good_for_one_body_on_one_path_and_for_one_caller() {
    let service = Service::start().await;
    keyed(&service, "/runs", "k", order("you")).await.expect(StatusCode::CREATED);
    let other = keyed(&service, "/runs", "k", order("me")).await;
    assert_eq!((other.status, other.code()), (StatusCode::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED"));
    keyed(&service, "/jobs", "k", json!({ "jobType": "a" })).await.expect(StatusCode::CREATED);
    let mut stranger =
        ask(Method::POST, "/jobs", Some(STRANGER), Some("stranger"), Some(json!({ "jobType": "b" })));
    stranger.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    service.send(stranger).await.expect(StatusCode::CREATED);
    for wrong in ["", &"x".repeat(256)] {
        assert_eq!(keyed(&service, "/runs", wrong, order("you")).await.code(), "INVALID_REQUEST");
    }
}

#[tokio::test]
async fn what_was_refused_is_not_kept() {
    let service = Service::start().await;
    let missing = json!({ "dagId": "later" });
    assert_eq!(keyed(&service, "/runs", "k", missing.clone()).await.status, StatusCode::NOT_FOUND);
    let dag = json!({ "apiVersion": "orch/v1", "kind": "Dag", "id": "later", "steps": [
        { "id": "a", "uses": "fn/greet", "with": "x" }
    ] });
    service.post("/dags", dag).await.expect(StatusCode::CREATED);
    keyed(&service, "/runs", "k", missing).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn two_at_once_are_one_and_the_other_waits_or_hears_the_answer() {
    let service = Service::start().await;
    let asks: Vec<_> = (0..8).map(|_| keyed(&service, "/runs", "k", order("you"))).collect();
    let answers = futures::future::join_all(asks).await;
    for answer in &answers {
        let fine = answer.status == StatusCode::CREATED || answer.code() == "IDEMPOTENCY_IN_PROGRESS";
        assert!(fine, "{}", answer.text);
    }
    let runs = service.get("/runs").await.expect(StatusCode::OK);
    assert_eq!(runs["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_claim_of_a_dead_process_is_taken_over_and_old_keys_are_cleared_away() {
    let start: Timestamp = "2026-01-01T12:00:00.000000Z".parse().unwrap();
    let clock = Arc::new(ManualClock::new(start));
    let greet = |_: StepContext, name: String| async move { Ok::<_, Failure>(name) };
    let orch = Orchestrator::builder().task("greet", greet).clock(Arc::clone(&clock) as _).start().unwrap();
    let who = orch::Identity::new(tenant("acme"), "setup");
    orch.publish(&who, orch::spec::parse("h.yaml", HELLO, &Limits::default()).unwrap()).await.unwrap();
    let tokens = vec![token(FULL, &["acme"], Scopes::all())];
    let authentication = Authentication { tokens, ..Authentication::default() };
    let router = router(orch.clone(), Settings { authentication, ..Settings::default() });
    let service = Service { orch, router };
    let first = keyed(&service, "/runs", "k", order("you")).await.expect(StatusCode::CREATED);
    let replay = format!("/runs/{}:replay", first["runId"].as_str().unwrap());
    let replayed = keyed(&service, &replay, "k", json!({})).await.expect(StatusCode::CREATED);
    let keys = || async {
        let query =
            orch::store::DocsQuery { tenant: tenant("acme"), kind: "idempotency", after: None, limit: 100 };
        service.orch.store().docs(&query).await.unwrap().docs
    };
    // As if their process had died before it answered.
    for doc in keys().await {
        let mut kept: Value = serde_json::from_str(&doc.body).unwrap();
        kept["answer"] = Value::Null;
        let key = orch::store::DocKey { tenant: tenant("acme"), kind: "idempotency", key: doc.key };
        let put = orch::store::PutDoc { key, expect: orch::store::Expect::Any, body: Some(kept.to_string()) };
        service.orch.store().put_doc(&put).await.unwrap();
    }
    let waiting = keyed(&service, "/runs", "k", order("you")).await;
    assert_eq!((waiting.status, waiting.code()), (StatusCode::CONFLICT, "IDEMPOTENCY_IN_PROGRESS"));
    assert!(waiting.headers.contains_key("retry-after"));
    clock.set(start.plus(Duration::from_secs(121)));
    let again = keyed(&service, "/runs", "k", order("you")).await;
    assert_eq!((again.status, again.headers.get("idempotent-replayed")), (StatusCode::OK, None));
    assert_eq!(again.body["runId"], first["runId"], "it is the same run");
    let again = keyed(&service, &replay, "k", json!({})).await;
    assert_eq!((again.status, &again.body["runId"]), (StatusCode::OK, &replayed["runId"]));
    clock.set(start.plus(Duration::from_secs(3 * 24 * 60 * 60)));
    keyed(&service, "/runs", "other", order("you")).await.expect(StatusCode::CREATED);
    assert_eq!(keys().await.len(), 1, "the old keys are gone");
}
