//! The record, taken elsewhere: exports, manifests, checkpoints.

use axum::body::Body;
use futures::StreamExt as _;
use http::{Method, Request, StatusCode};
use orch::proof::{Checkpoint, Manifest, PublicKey, SigningKey, VerifyOptions, verify_export, verify_store};
use orch::{Limits, Orchestrator};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{FULL, STRANGER, Service, ask, tenant, token};
use crate::auth::{Authentication, Scopes};
use crate::{Settings, router};

fn options(checkpoints: Vec<Checkpoint>, key: Option<PublicKey>) -> VerifyOptions {
    VerifyOptions { limits: Limits::default(), checkpoints, key }
}

async fn run(service: &Service, name: &str) -> String {
    let order = json!({ "dagId": "hello", "inputs": { "name": name } });
    let run = service.post("/runs", order).await.expect(StatusCode::CREATED)["runId"].clone();
    let run = run.as_str().unwrap().to_owned();
    let who = orch::Identity::new(tenant("acme"), "test");
    service.orch.wait(&who, run.parse().unwrap()).await.unwrap();
    run
}

/// Exports; answers the file and its manifest.
async fn export(service: &Service, body: Value) -> (String, Value) {
    let answer = service.post("/exports", body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let id = answer.headers["x-export-id"].to_str().unwrap();
    assert!(answer.headers["location"].to_str().unwrap().ends_with(&format!("/exports/{id}")));
    (answer.text, service.get(&format!("/exports/{id}")).await.expect(StatusCode::OK))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_verifies_with_its_manifest_and_not_when_a_byte_is_another() {
    let service = Service::start().await;
    let one = run(&service, "one").await;
    run(&service, "two").await;
    for (body, runs) in [(json!({}), 2), (json!({ "runId": one }), 1)] {
        let (file, manifest) = export(&service, body).await;
        let manifest: Manifest = serde_json::from_value(manifest).unwrap();
        let verify = |file: &str| {
            verify_export(file.as_bytes(), &tenant("acme"), Some(&manifest), &options(Vec::new(), None))
                .unwrap()
        };
        assert!(verify(&file).is_clean());
        assert_eq!(file.lines().filter(|line| line.contains("\"run.created\"")).count(), runs);
        assert!(!verify(&file.replacen("hello", "jello", 1)).is_clean());
        assert!(!verify(file.split_once('\n').unwrap().1).is_clean());
    }
    let listed = service.get("/exports").await.expect(StatusCode::OK);
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    assert_eq!(listed["items"][1]["runId"], one);
    let audited = service.get("/audit").await.text;
    assert_eq!(audited.matches("ledger.export").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_a_manifest_is_of_its_tenant_and_there_only_when_the_client_took_everything() {
    let service = Service::start().await;
    run(&service, "one").await;
    let answer = service.post("/exports", json!({})).await;
    let path = format!("/exports/{}", answer.headers["x-export-id"].to_str().unwrap());
    let foreign = service.send(ask(Method::GET, &path, Some(STRANGER), Some("stranger"), None)).await;
    let unknown = service.send(ask(Method::GET, "/exports/00", Some(STRANGER), Some("stranger"), None)).await;
    assert_eq!((foreign.status, foreign.code()), (unknown.status, unknown.code()));
    assert_eq!(foreign.status, StatusCode::NOT_FOUND);
    let (stranger, _) = {
        let asked = ask(Method::POST, "/exports", Some(STRANGER), Some("stranger"), Some(json!({})));
        let answer = service.send(asked).await;
        (answer.text.clone(), answer)
    };
    assert!(!stranger.contains("acme"), "{stranger}");
    // One that leaves early finds no manifest.
    for number in 0..300 {
        run(&service, &format!("{number}{}", "x".repeat(8_000))).await;
    }
    let asked: Request<Body> = ask(Method::POST, "/exports", Some(FULL), Some("acme"), Some(json!({})));
    let response = service.router.clone().oneshot(asked).await.unwrap();
    let path = format!("/exports/{}", response.headers()["x-export-id"].to_str().unwrap());
    let mut pieces = response.into_body().into_data_stream();
    pieces.next().await.unwrap().unwrap();
    drop(pieces);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(service.get(&path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_asked_for_again_with_its_key_is_the_same_export() {
    let service = Service::start().await;
    for number in 0..300 {
        run(&service, &format!("{number}{}", "x".repeat(8_000))).await;
    }
    let asked = |body: Value| {
        let mut request = ask(Method::POST, "/exports", Some(FULL), Some("acme"), Some(body));
        request.headers_mut().insert("idempotency-key", "nightly".parse().unwrap());
        request
    };
    // The connection breaks, and the record grows meanwhile.
    let broken = service.router.clone().oneshot(asked(json!({}))).await.unwrap();
    let id = broken.headers()["x-export-id"].clone();
    broken.into_body().into_data_stream().next().await.unwrap().unwrap();
    run(&service, "meanwhile").await;
    let whole = service.send(asked(json!({}))).await;
    assert_eq!((&whole.headers["x-export-id"], whole.headers.get("idempotent-replayed")), (&id, None));
    assert!(whole.text.contains("meanwhile"));
    let path = format!("/exports/{}", id.to_str().unwrap());
    let manifest = service.get(&path).await.expect(StatusCode::OK);
    run(&service, "afterwards").await;
    let again = service.send(asked(json!({}))).await;
    assert_eq!(again.headers["x-export-id"], id);
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert!(again.text == whole.text, "{} and {} bytes", again.text.len(), whole.text.len());
    assert_eq!(service.get(&path).await.expect(StatusCode::OK), manifest);
    let listed = service.get("/exports").await.expect(StatusCode::OK);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    // The record has left each time.
    assert_eq!(service.get("/audit").await.text.matches("ledger.export").count(), 3);
    let other = service.send(asked(json!({ "runId": run(&service, "one").await }))).await;
    assert_eq!((other.status, other.code()), (StatusCode::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED"));
}

#[tokio::test]
async fn a_checkpoint_is_signed_and_finds_what_was_taken_out_afterwards() {
    let seed = "2a".repeat(32);
    let key = SigningKey::from_hex(&seed).unwrap();
    let public = key.public();
    let orch = Orchestrator::builder().start().unwrap();
    let tokens = vec![token(FULL, &["acme"], Scopes::all())];
    let authentication = Authentication { tokens, ..Authentication::default() };
    let settings = Settings { authentication, checkpoint_key: Some(key), ..Settings::default() };
    assert!(!format!("{settings:?}").contains(&seed));
    let service = Service { router: router(orch.clone(), settings), orch };
    let dag =
        super::HELLO.replace("fn/greet", "wait/sleep").replace("'${{ inputs.name }}'", "{ duration: 1ms }");
    let dag = dag.replace("'${{ steps.greet.output }}'", "{ duration: 1ms }");
    let mut publish = ask(Method::POST, "/dags", Some(FULL), Some("acme"), None);
    publish.headers_mut().insert("content-type", "application/yaml".parse().unwrap());
    let (parts, _) = publish.into_parts();
    service.send(Request::from_parts(parts, Body::from(dag))).await.expect(StatusCode::CREATED);
    run(&service, "one").await;
    let taken = service.post("/checkpoints", json!({})).await;
    assert_eq!(taken.status, StatusCode::CREATED, "{}", taken.text);
    let checkpoint = Checkpoint::from_json(&taken.text).unwrap();
    checkpoint.verify(Some(&public)).unwrap();
    let store = service.orch.store();
    let report =
        verify_store(store.as_ref(), &tenant("acme"), &options(vec![checkpoint], Some(public))).await;
    assert!(report.unwrap().is_clean());
    let again = service.post("/checkpoints", json!({ "sinceLast": true })).await;
    assert!(matches!(again.status, StatusCode::CREATED | StatusCode::NO_CONTENT), "{}", again.text);
    let listed = service.get("/checkpoints").await.expect(StatusCode::OK);
    assert!(listed["items"][0].to_string().contains("checkpoint.taken"), "{listed}");
    // Elsewhere there is no such run: the checkpoint misses it.
    let other = Orchestrator::builder().start().unwrap();
    let checkpoint = Checkpoint::from_json(&taken.text).unwrap();
    let report = verify_store(other.store().as_ref(), &tenant("acme"), &options(vec![checkpoint], None))
        .await
        .unwrap();
    assert!(!report.is_clean());
}
