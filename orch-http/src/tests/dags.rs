//! DAGs: published in every spelling, signed, listed, disabled.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use orch::Payload;
use orch::proof::SigningKey;
use serde_json::{Value, json};

use super::{FULL, HELLO, Service, ask, tenant, token};
use crate::auth::{Authentication, Scopes};
use crate::dsse::{DAG_PAYLOAD_TYPE, encoding};
use crate::{DagSettings, Settings, router};

fn document(id: &str, message: &str) -> Value {
    json!({ "apiVersion": "orch/v1", "kind": "Dag", "id": id, "steps": [
        { "id": "a", "uses": "fn/greet", "with": message }
    ] })
}

async fn with_headers(
    service: &Service,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
) -> super::Answered {
    let body = (method == Method::POST).then(|| json!({}));
    let mut request = ask(method, path, Some(FULL), Some("acme"), body);
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    service.send(request).await
}

#[tokio::test]
async fn one_document_in_every_spelling_is_one_version() {
    let service = Service::start().await;
    let dag = document("spelt", "x");
    let first = service.post("/dags", dag.clone()).await.expect(StatusCode::CREATED);
    assert_eq!((first["dagId"].as_str(), first["version"].as_u64()), (Some("spelt"), Some(1)));
    let parts = json!({ "dagId": "spelt", "steps": dag["steps"], "edges": [], "metadata": {} });
    for again in [json!({ "dag": dag }), json!({ "dag": dag.to_string() }), parts] {
        assert_eq!(service.post("/dags", again).await.expect(StatusCode::OK), first);
    }
    let mut yaml = ask(Method::POST, "/dags", Some(FULL), Some("acme"), None);
    yaml.headers_mut().insert("content-type", "application/yaml".parse().unwrap());
    *yaml.body_mut() = axum::body::Body::from(HELLO.replace("id: hello", "id: from-yaml"));
    service.send(yaml).await.expect(StatusCode::CREATED);
    service
        .post("/dags", json!({ "dag": document("spelt", "y"), "version": 3 }))
        .await
        .expect(StatusCode::CONFLICT);
    let second = service.post("/dags", json!({ "dag": document("spelt", "y"), "version": 2 })).await;
    assert_eq!(second.expect(StatusCode::CREATED)["version"], 2);
}

#[tokio::test]
async fn all_problems_of_a_document_are_told_and_nothing_is_published() {
    let service = Service::start().await;
    let dag = json!({ "apiVersion": "orch/v1", "kind": "Dag", "id": "bad", "steps": [
        { "id": "a", "uses": "fn/x", "needs": ["nobody"] }, { "id": "a", "uses": "what" }
    ] });
    let answer = service.post("/dags", json!({ "dag": dag })).await;
    let details = answer.body["error"]["details"].as_array().unwrap();
    assert!(details.len() >= 3, "{}", answer.text);
    assert!(details.iter().any(|detail| detail["pointer"] == "/steps/0/needs/0"), "{}", answer.text);
    assert_eq!(service.get("/dags/bad").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn versions_are_listed_by_dag_and_newest_first_page_by_page() {
    let service = Service::start().await;
    for (id, message) in [("b", "1"), ("a", "1"), ("b", "2"), ("b", "3")] {
        service.post("/dags", document(id, message)).await.expect(StatusCode::CREATED);
    }
    service.post("/dags/b/2:disable", json!({})).await.expect(StatusCode::OK);
    for (filter, expected) in [
        ("", vec!["a 1", "b 3", "b 2", "b 1", "hello 1"]),
        ("&active=true", vec!["a 1", "b 3", "b 1", "hello 1"]),
        ("&active=false", vec!["b 2"]),
        ("&dagId=b", vec!["b 3", "b 2", "b 1"]),
    ] {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let page = service.get(&format!("/dags?page_size=2{filter}{token}")).await.expect(StatusCode::OK);
            let items = page["items"].as_array().unwrap().iter();
            seen.extend(items.map(|item| format!("{} {}", item["dagId"].as_str().unwrap(), item["version"])));
            let Some(next) = page["next_page_token"].as_str() else { break };
            token = format!("&page_token={next}");
        }
        assert_eq!(seen, expected, "{filter}");
    }
}

#[tokio::test]
async fn a_version_is_sent_again_only_if_it_has_changed_and_changed_only_if_it_was_seen() {
    let service = Service::start().await;
    let answer = service.get("/dags/hello/1").await;
    let etag = answer.headers["etag"].to_str().unwrap().to_owned();
    let definition = answer.expect(StatusCode::OK)["definition"].take();
    assert_eq!(definition["id"], "hello");
    let same = with_headers(&service, Method::GET, "/dags/hello/1", &[("if-none-match", &etag)]).await;
    assert_eq!((same.status, same.text.as_str()), (StatusCode::NOT_MODIFIED, ""));
    let path = "/dags/hello/1:disable";
    let stale = with_headers(&service, Method::POST, path, &[("if-match", "\"other\"")]).await;
    assert_eq!((stale.status, stale.code()), (StatusCode::PRECONDITION_FAILED, "PRECONDITION_FAILED"));
    let changed = with_headers(&service, Method::POST, path, &[("if-match", &etag)]).await;
    assert_ne!(changed.headers["etag"].to_str().unwrap(), etag);
    assert_eq!(changed.expect(StatusCode::OK)["active"], false);
    let order = json!({ "dagId": "hello", "inputs": { "name": "x" } });
    assert_eq!(service.post("/runs", order.clone()).await.code(), "REFUSED");
    service.post("/dags/hello/1:enable", json!({})).await.expect(StatusCode::OK);
    service.post("/runs", order).await.expect(StatusCode::CREATED);
    assert_eq!(service.get("/dags/hello/2").await.status, StatusCode::NOT_FOUND);
    assert_eq!(service.get("/dags/hello/x").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn only_what_a_trusted_key_has_signed_is_published_where_signatures_are_required() {
    let (ours, theirs) =
        (SigningKey::from_hex(&"1".repeat(64)).unwrap(), SigningKey::from_hex(&"2".repeat(64)).unwrap());
    let service = Service::start().await;
    let tokens = vec![token(FULL, &["acme"], Scopes::all())];
    let settings = Settings {
        authentication: Authentication { tokens, ..Authentication::default() },
        dags: DagSettings { signers: vec![ours.public()], require_signature: true },
        ..Settings::default()
    };
    let service = Service { router: router(service.orch.clone(), settings), ..service };
    let dag = document("signed", "x");
    let text = Payload::new(&dag).unwrap();
    let envelope = |key: &SigningKey, text: &str| {
        let sig = STANDARD.encode(key.sign(&encoding(DAG_PAYLOAD_TYPE, text.as_bytes())));
        json!({ "payloadType": DAG_PAYLOAD_TYPE, "signatures": [{ "keyid": key.public().to_string(), "sig": sig }] })
    };
    let other = Payload::new(&document("signed", "y")).unwrap();
    for signature in [Value::Null, envelope(&theirs, text.as_str()), envelope(&ours, other.as_str())] {
        let refused = service.post("/dags", json!({ "dag": dag, "signature": signature })).await;
        assert_eq!((refused.status, refused.code()), (StatusCode::CONFLICT, "REFUSED"), "{signature}");
    }
    assert_eq!(service.get("/dags/signed").await.status, StatusCode::NOT_FOUND);
    let signature = envelope(&ours, text.as_str());
    service.post("/dags", json!({ "dag": dag, "signature": signature })).await.expect(StatusCode::CREATED);
    let shown = service.get("/dags/signed/1").await.expect(StatusCode::OK);
    assert_eq!(shown["signature"], signature);
    // The bytes of a text are signed as they are.
    let yaml = HELLO.replace("id: hello", "id: yaml");
    let signature = envelope(&ours, &yaml);
    service.post("/dags", json!({ "dag": yaml, "signature": signature })).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn publishing_is_recorded_before_it_happens() {
    let service = Service::start().await;
    service.post("/dags", document("noted", "x")).await.expect(StatusCode::CREATED);
    let request = orch::store::EntriesRequest {
        tenant: tenant("acme"),
        stream: orch::ledger::Stream::Audit,
        after: 0,
        limit: 100,
    };
    let audit = service.orch.store().entries(&[request]).await.unwrap().remove(0).lines;
    assert!(audit.lines().last().unwrap().contains("dag.publish"), "{audit}");
}
