//! Gates, signals and jobs: what waits for somebody outside.

use http::StatusCode;
use orch::Limits;
use serde_json::{Value, json};

use super::{Service, tenant};

const ASKING: &str = "
apiVersion: orch/v1
kind: Dag
id: asking
steps:
  - { id: first, uses: gate/approval, with: { question: 'go on?' } }
  - { id: second, uses: gate/policy }
  - { id: told, uses: wait/signal, with: { name: go }, needs: [first] }
";

pub(super) async fn asking(service: &Service) -> String {
    let who = orch::Identity::new(tenant("acme"), "setup");
    let dag = orch::spec::parse("asking.yaml", ASKING, &Limits::default()).unwrap();
    service.orch.publish(&who, dag).await.unwrap();
    let run = service.post("/runs", json!({ "dagId": "asking" })).await.expect(StatusCode::CREATED);
    run["runId"].as_str().unwrap().to_owned()
}

async fn gates(service: &Service) -> Vec<Value> {
    let (mut gates, mut token) = (Vec::new(), String::new());
    loop {
        let page = service.get(&format!("/gates?page_size=1{token}")).await.expect(StatusCode::OK);
        gates.extend(page["items"].as_array().unwrap().iter().cloned());
        assert!(page["items"].as_array().unwrap().len() <= 1);
        let Some(next) = page["next_page_token"].as_str() else { return gates };
        token = format!("&page_token={next}");
    }
}

#[tokio::test]
async fn every_waiting_gate_is_listed_once_until_it_is_decided() {
    let service = Service::start().await;
    let runs = [asking(&service).await, asking(&service).await];
    // Both gates of both runs are asked by the scheduler, in its own time.
    let mut waiting = gates(&service).await;
    while waiting.len() < 4 {
        tokio::task::yield_now().await;
        waiting = gates(&service).await;
    }
    let mut named: Vec<_> =
        waiting.iter().map(|gate| format!("{} {}", gate["runId"], gate["stepId"])).collect();
    named.dedup();
    assert_eq!(named.len(), 4);
    let gate = waiting.iter().find(|gate| gate["runId"] == runs[0] && gate["stepId"] == "first").unwrap();
    assert_eq!(gate["asked"]["question"], "go on?");
    let path = format!("/gates/{}/first:decide", runs[0]);
    let wrong = json!({ "decision": "approved", "planHash": "0".repeat(64) });
    assert_eq!(service.post(&path, wrong).await.code(), "REFUSED");
    let verdict = json!({ "decision": "approved", "reason": "looks good", "planHash": gate["planHash"] });
    service.post(&path, verdict.clone()).await.expect(StatusCode::OK);
    assert_eq!(gates(&service).await.len(), 3);
    assert_eq!(service.post(&path, verdict).await.code(), "REFUSED");
}

#[tokio::test]
async fn a_signal_reaches_the_step_that_waits_for_it() {
    let service = Service::start().await;
    let run = asking(&service).await;
    let signal = json!({ "name": "go", "payload": { "answer": 42 } });
    service.post(&format!("/runs/{run}/signals"), signal).await.expect(StatusCode::ACCEPTED);
    for gate in ["first", "second"] {
        let path = format!("/gates/{run}/{gate}:decide");
        service.post(&path, json!({ "decision": "approved" })).await.expect(StatusCode::OK);
    }
    let who = orch::Identity::new(tenant("acme"), "test");
    service.orch.wait(&who, run.parse().unwrap()).await.unwrap();
    let told = service.get(&format!("/runs/{run}/steps/told")).await.expect(StatusCode::OK);
    assert_eq!(told["output"]["answer"], 42, "{told}");
}

#[tokio::test]
async fn a_job_is_a_run_of_one_step_and_its_payload_is_never_an_expression() {
    let service = Service::start().await;
    let payload = json!({ "text": "${{ run.id }}" });
    let order = json!({ "jobType": "mirror-build", "payload": payload, "runToken": "t", "maxAttempts": 3, "timeout": "10m" });
    let answer = service.post("/jobs", order.clone()).await;
    let job = answer.expect(StatusCode::CREATED);
    assert_eq!((job["jobType"].as_str(), job["stepStatus"].as_str()), (Some("mirror-build"), Some("queued")));
    assert_eq!(job["payloadDigest"], orch::Payload::new(&payload).unwrap().digest().to_string());
    service.post("/jobs", order).await.expect(StatusCode::OK);
    let id = job["jobId"].as_str().unwrap();
    assert_eq!(service.get(&format!("/jobs/{id}")).await.expect(StatusCode::OK)["jobId"], id);
    let again = service.post(&format!("/jobs/{id}:replay"), json!({})).await.expect(StatusCode::CREATED);
    assert_eq!((&again["replayOf"], &again["payloadDigest"]), (&json!(id), &job["payloadDigest"]));
    let run = service.post("/runs", json!({ "dagId": "hello", "inputs": { "name": "x" } })).await.body;
    let no_job = service.get(&format!("/jobs/{}", run["runId"].as_str().unwrap())).await;
    assert_eq!((no_job.status, no_job.code()), (StatusCode::NOT_FOUND, "NOT_FOUND"));
}

#[tokio::test]
async fn what_is_wrong_with_a_job_is_told_by_the_names_of_its_fields() {
    let service = Service::start().await;
    let answer = service.post("/jobs", json!({ "jobType": "a", "timeout": "soon" })).await;
    assert_eq!(answer.body["error"]["details"][0]["pointer"], "/timeout", "{}", answer.text);
}
