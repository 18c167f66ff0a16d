//! Runs: started, listed, looked at, steered.

use http::{Method, StatusCode};
use serde_json::json;

use super::{FULL, Service, ask, tenant};

#[tokio::test]
async fn r5_a_run_started_twice_with_one_token_is_one_run_and_is_found_again() {
    let service = Service::start().await;
    let order = json!({ "dagId": "hello", "inputs": { "name": "you" }, "runToken": "t-1" });
    let first = service.post("/runs", order.clone()).await.expect(StatusCode::CREATED);
    let second = service.post("/runs", order).await.expect(StatusCode::OK);
    assert_eq!((first["created"].as_bool(), second["created"].as_bool()), (Some(true), Some(false)));
    assert_eq!(first["runId"], second["runId"]);
    let run = first["runId"].as_str().unwrap();
    let who = orch::Identity::new(tenant("acme"), "test");
    service.orch.wait(&who, run.parse().unwrap()).await.unwrap();
    let found = service.get(&format!("/runs/{run}")).await.expect(StatusCode::OK);
    assert_eq!(found["status"], "completed");
    assert_eq!(found["outputs"]["shout"], "hello hello you");
    assert_eq!(found["traceId"], first["traceId"]);
    let steps = service.get(&format!("/runs/{run}/steps?page_size=1")).await.expect(StatusCode::OK);
    assert_eq!(steps["items"][0]["stepId"], "greet");
    let next = steps["next_page_token"].as_str().unwrap();
    let rest =
        service.get(&format!("/runs/{run}/steps?page_token={next}&page_size=1")).await.expect(StatusCode::OK);
    assert_eq!((rest["items"][0]["stepId"].as_str(), rest.get("next_page_token")), (Some("shout"), None));
}

#[tokio::test]
async fn lists_go_on_where_they_stopped_without_repeating_or_skipping() {
    let service = Service::start().await;
    for number in 0..7 {
        let order = json!({ "dagId": "hello", "inputs": { "name": "n" }, "runToken": format!("t-{number}") });
        service.post("/runs", order).await.expect(StatusCode::CREATED);
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = service.get(&format!("/runs?page_size=3{token}")).await.expect(StatusCode::OK);
        seen.extend(page["items"].as_array().unwrap().iter().map(|run| run["runId"].to_string()));
        let Some(next) = page["next_page_token"].as_str() else { break };
        token = format!("&page_token={next}");
    }
    let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (7, 7));
    let foreign = service.get(&format!("/runs?dagId=hello{token}")).await;
    assert_eq!((foreign.status, foreign.code()), (StatusCode::BAD_REQUEST, "INVALID_REQUEST"));
}

#[tokio::test]
async fn every_problem_of_a_request_is_told_with_its_place() {
    let service = Service::start().await;
    let order = json!({ "dagId": "NO", "version": 0, "inputs": [], "priority": 2000, "more": 1 });
    let answer = service.post("/runs", order).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::BAD_REQUEST, "INVALID_REQUEST"));
    let details = answer.body["error"]["details"].as_array().unwrap();
    let places: Vec<_> = details.iter().map(|detail| detail["pointer"].as_str().unwrap()).collect();
    for place in ["/dagId", "/version", "/inputs", "/priority", ""] {
        assert!(places.contains(&place), "{place} {places:?}");
    }
    let wrong = service.post("/runs", json!({ "dagId": "hello", "inputs": { "name": 7 } })).await;
    assert_eq!(wrong.body["error"]["details"][0]["pointer"], "/inputs/name", "{}", wrong.text);
}

#[tokio::test]
async fn an_error_is_a_problem_document_for_whoever_asks_for_one() {
    let service = Service::start().await;
    let mut request = ask(Method::GET, "/runs/00", Some(FULL), Some("acme"), None);
    request.headers_mut().insert("accept", "application/problem+json".parse().unwrap());
    let answer = service.send(request).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!((&answer.body["code"], &answer.body["status"]), (&json!("NOT_FOUND"), &json!(404)));
    assert_eq!(answer.body["trace_id"], answer.headers["x-stella-trace-id"].to_str().unwrap());
}

#[tokio::test]
async fn an_operation_is_recorded_with_its_reason_and_its_ticket() {
    let service = Service::start().await;
    let order = json!({ "dagId": "hello", "inputs": { "name": "you" } });
    let run = service.post("/runs", order).await.expect(StatusCode::CREATED)["runId"].clone();
    let run = run.as_str().unwrap();
    let who = orch::Identity::new(tenant("acme"), "test");
    service.orch.wait(&who, run.parse().unwrap()).await.unwrap();
    let again = service.post(&format!("/runs/{run}:replay"), json!({})).await.expect(StatusCode::CREATED);
    assert_eq!(again["run"]["replayOf"], run);
    let request = orch::store::EntriesRequest {
        tenant: tenant("acme"),
        stream: orch::ledger::Stream::Audit,
        after: 0,
        limit: 100,
    };
    let audit = service.orch.store().entries(&[request]).await.unwrap().remove(0).lines;
    let last = audit.lines().last().unwrap();
    assert!(last.contains(r#""reason":"a test""#) && last.contains(r#""ticket":"T-1""#), "{last}");
    assert!(last.contains("run.replay") && last.contains("test/full-token"), "{last}");
    let unknown = service.post(&format!("/runs/{run}:explode"), json!({})).await;
    assert_eq!(unknown.status, StatusCode::METHOD_NOT_ALLOWED);
}
