//! The protocol of workers outside, as a worker in any language speaks it.

use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{Answered, FULL, STRANGER, Service, ask, only};
use crate::auth::Scope;

/// Submits a job and answers its run.
async fn job(service: &Service, order: Value) -> String {
    let job = service.post("/jobs", order).await.expect(StatusCode::CREATED);
    job["jobId"].as_str().unwrap().to_owned()
}

/// As a worker whose token does nothing else.
async fn work(service: &Service, path: &str, body: Value) -> Answered {
    let token = only(Scope::Work);
    service.send(ask(Method::POST, path, Some(&token), Some("acme"), Some(body))).await
}

async fn lease(service: &Service) -> Value {
    let order = json!({ "worker": "py", "jobTypes": ["scan"], "waitSeconds": 2 });
    let leased = work(service, "/workers/leases", order).await.expect(StatusCode::OK);
    leased["items"][0].clone()
}

fn path(lease: &Value, rest: &str) -> String {
    format!("/workers/leases/{}{rest}", lease["leaseId"].as_str().unwrap())
}

async fn upload(service: &Service, path: &str, media: &str, bytes: &'static str) -> Answered {
    let mut request = ask(Method::POST, path, Some(FULL), Some("acme"), None);
    request.headers_mut().insert("content-type", media.parse().unwrap());
    let (parts, _) = request.into_parts();
    service.send(Request::from_parts(parts, Body::from(bytes))).await
}

#[tokio::test]
async fn a_worker_leases_lives_hands_in_and_ends() {
    let service = Service::start().await;
    let order =
        json!({ "jobType": "scan", "payload": { "file": "x" }, "rationale": "weekly", "maxAttempts": 3 });
    let run = job(&service, order).await;
    let lease = lease(&service).await;
    assert_eq!((&lease["input"], &lease["jobType"]), (&json!({ "file": "x" }), &json!("scan")));
    assert_eq!(
        (&lease["runId"], &lease["tenant"], &lease["attempt"]),
        (&json!(run), &json!("acme"), &json!(1))
    );
    assert_eq!(lease["retry"], json!({ "maxAttempts": 3, "failures": 0, "last": false }));
    assert_eq!(lease["rationale"], "weekly");
    assert_eq!(lease["correlationId"], lease["traceparent"].as_str().unwrap().split('-').nth(1).unwrap());
    let word = json!({ "progress": "half of it", "leaseSeconds": 60 });
    let renewed = work(&service, &path(&lease, ":heartbeat"), word).await.expect(StatusCode::OK);
    assert_eq!(renewed["cancel"], false);
    let log = upload(&service, &path(&lease, "/logs"), "text/plain", "begun\nended\n").await;
    let log = log.expect(StatusCode::CREATED);
    let made = path(&lease, "/artifacts?name=report.bin&mediaType=application%2Fx-report");
    let made = upload(&service, &made, "application/octet-stream", "bytes").await.expect(StatusCode::CREATED);
    assert_eq!((&made["name"], &made["size"]), (&json!("report.bin"), &json!(5)));
    let ended = json!({ "output": { "found": 2, "report": made }, "logs": log });
    work(&service, &path(&lease, ":complete"), ended).await.expect(StatusCode::NO_CONTENT);
    let job = service.get(&format!("/jobs/{run}")).await.expect(StatusCode::OK);
    assert_eq!((&job["stepStatus"], &job["status"]), (&json!("succeeded"), &json!("completed")));
    let logs = service.get(&format!("/runs/{run}/logs")).await.text;
    let lines: Vec<Value> = logs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said: Vec<_> = lines.iter().map(|line| line["line"].as_str().unwrap()).collect();
    assert_eq!(said, ["begun", "ended"]);
    let bytes = service.get(&format!("/artifacts/{}", made["hash"].as_str().unwrap())).await;
    assert_eq!(bytes.text, "bytes");
    let workers = service.get("/workers").await.expect(StatusCode::OK);
    assert_eq!(
        (&workers["items"][0]["worker"], &workers["items"][0]["jobTypes"]),
        (&json!("py"), &json!(["scan"]))
    );
    assert_eq!(workers["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn r2_a_worker_that_is_late_is_told_to_drop_its_work() {
    let service = Service::start().await;
    let run = job(&service, json!({ "jobType": "scan" })).await;
    let order = json!({ "worker": "slow", "jobTypes": ["scan"], "leaseSeconds": 1, "waitSeconds": 2 });
    let late = work(&service, "/workers/leases", order).await.expect(StatusCode::OK)["items"][0].clone();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let next = lease(&service).await;
    assert_eq!((&next["attempt"], &next["idempotencyKey"]), (&json!(2), &late["idempotencyKey"]));
    for action in [":complete", ":fail", ":release", ":heartbeat"] {
        let answer = work(&service, &path(&late, action), json!({})).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::CONFLICT, "LEASE_LOST"), "{action}");
    }
    work(&service, &path(&next, ":complete"), json!({ "output": "mine" }))
        .await
        .expect(StatusCode::NO_CONTENT);
    let step = service.get(&format!("/runs/{run}/steps/job")).await.expect(StatusCode::OK);
    assert_eq!(step["output"], "mine");
}

#[tokio::test]
async fn t1_a_lease_means_nothing_to_another_tenant_nor_does_a_garbled_one() {
    let service = Service::start().await;
    job(&service, json!({ "jobType": "scan" })).await;
    let lease = lease(&service).await;
    for action in [":complete", ":fail", ":release", ":heartbeat", "/logs", "/artifacts"] {
        let foreign =
            ask(Method::POST, &path(&lease, action), Some(STRANGER), Some("stranger"), Some(json!({})));
        let foreign = service.send(foreign).await;
        assert_eq!((foreign.status, foreign.code()), (StatusCode::NOT_FOUND, "NOT_FOUND"), "{action}");
        let garbled = work(&service, &format!("/workers/leases/e30{action}"), json!({})).await;
        assert_eq!((garbled.status, garbled.code()), (StatusCode::NOT_FOUND, "NOT_FOUND"), "{action}");
    }
    let order = json!({ "worker": "w", "jobTypes": ["scan"] });
    let foreign = ask(Method::POST, "/workers/leases", Some(STRANGER), Some("stranger"), Some(order));
    job(&service, json!({ "jobType": "scan" })).await;
    assert_eq!(service.send(foreign).await.expect(StatusCode::OK)["items"], json!([]));
    work(&service, &path(&lease, ":complete"), json!({})).await.expect(StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_failure_says_whether_it_is_worth_another_try_and_cancellation_reaches_the_worker() {
    let service = Service::start().await;
    let run = job(&service, json!({ "jobType": "scan", "maxAttempts": 2 })).await;
    let first = lease(&service).await;
    let failure = json!({ "code": "busy", "message": "later", "retryAfterSeconds": 1 });
    work(&service, &path(&first, ":fail"), failure).await.expect(StatusCode::NO_CONTENT);
    let second = lease(&service).await;
    assert_eq!((&second["attempt"], &second["retry"]["last"]), (&json!(2), &json!(true)));
    work(&service, &path(&second, ":fail"), json!({ "code": "broken", "retryable": false }))
        .await
        .expect(StatusCode::NO_CONTENT);
    let job_view = service.get(&format!("/jobs/{run}")).await.expect(StatusCode::OK);
    assert_eq!(job_view["status"], "failed");
    let run = job(&service, json!({ "jobType": "scan" })).await;
    let lease = lease(&service).await;
    service.post(&format!("/runs/{run}:cancel"), json!({})).await.expect(StatusCode::OK);
    let renewed = work(&service, &path(&lease, ":heartbeat"), json!({})).await.expect(StatusCode::OK);
    assert_eq!(renewed["cancel"], true);
    work(&service, &path(&lease, ":fail"), json!({ "status": "canceled" }))
        .await
        .expect(StatusCode::NO_CONTENT);
    let job_view = service.get(&format!("/jobs/{run}")).await.expect(StatusCode::OK);
    assert_eq!(job_view["status"], "cancelled");
}

#[tokio::test]
async fn what_is_wrong_with_a_workers_words_is_said_with_its_place() {
    let service = Service::start().await;
    let order =
        json!({ "worker": "", "jobTypes": ["Scan"], "max": 0, "leaseSeconds": 0, "waitSeconds": 61, "x": 1 });
    let answer = work(&service, "/workers/leases", order).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let details = answer.body["error"]["details"].to_string();
    for place in ["/worker", "/jobTypes/0", "/max", "/leaseSeconds", "/waitSeconds"] {
        assert!(details.contains(&format!("\"{place}\"")), "{place}: {details}");
    }
    job(&service, json!({ "jobType": "scan" })).await;
    let lease = lease(&service).await;
    let nothing = json!({ "hash": "0".repeat(64), "mediaType": "application/x-ndjson", "size": 1 });
    let answer = work(&service, &path(&lease, ":complete"), json!({ "logs": nothing })).await;
    assert_eq!(answer.body["error"]["details"][0]["pointer"], "/logs/hash", "{}", answer.text);
    let answer = work(&service, &path(&lease, ":fail"), json!({ "code": "Not a word" })).await;
    assert_eq!(answer.body["error"]["details"][0]["pointer"], "/code", "{}", answer.text);
    let answer = upload(&service, &path(&lease, "/logs"), "application/json", "{}").await;
    assert_eq!(answer.code(), "UNSUPPORTED_MEDIA_TYPE");
    work(&service, &path(&lease, ":release"), json!({})).await.expect(StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_worker_that_lost_the_answer_asks_again_with_its_key_and_has_the_same_lease() {
    let service = Service::start().await;
    job(&service, json!({ "jobType": "scan" })).await;
    let ask = || {
        let order = json!({ "worker": "py", "jobTypes": ["scan"], "waitSeconds": 2 });
        let mut request = ask(Method::POST, "/workers/leases", Some(FULL), Some("acme"), Some(order));
        request.headers_mut().insert("idempotency-key", "turn-1".parse().unwrap());
        request
    };
    let first = service.send(ask()).await.expect(StatusCode::OK);
    let second = service.send(ask()).await;
    assert!(second.headers.contains_key("idempotent-replayed"));
    assert_eq!(first["items"][0]["leaseId"], second.expect(StatusCode::OK)["items"][0]["leaseId"]);
}
