//! Looking at runs: records, pictures, explanations, logs, attempts.

use http::{Method, StatusCode};
use orch::executor::{LogStream, StepContext};
use orch::{Failure, Limits, Orchestrator};
use serde_json::json;

use super::{FULL, STRANGER, Service, ask, tenant, token};
use crate::auth::{Authentication, Scopes};
use crate::{Settings, router};

const TRYING: &str = "
apiVersion: orch/v1
kind: Dag
id: trying
steps:
  - { id: each, uses: fn/try, forEach: { items: [1, 2] }, with: '${{ item }}', retry: { maxAttempts: 2, backoff: 1ms } }
  - { id: after, uses: fn/try, needs: [each], with: 7 }
";

/// A run in which every first attempt fails, and every attempt says so.
async fn tried() -> (Service, String) {
    let attempt = |context: StepContext, number: u32| async move {
        context.log.line(LogStream::Step, &format!("attempt {} at {number}", context.attempt));
        match context.attempt {
            1 if number < 7 => Err(Failure::retryable("first_time", "it is the first time")),
            _ => Ok(number),
        }
    };
    let orch = Orchestrator::builder().task("try", attempt).start().unwrap();
    let who = orch::Identity::new(tenant("acme"), "setup");
    orch.publish(&who, orch::spec::parse("t.yaml", TRYING, &Limits::default()).unwrap()).await.unwrap();
    let tokens = vec![token(FULL, &["acme"], Scopes::all())];
    let authentication = Authentication { tokens, ..Authentication::default() };
    let router = router(orch.clone(), Settings { authentication, ..Settings::default() });
    let service = Service { orch, router };
    let run = service.post("/runs", json!({ "dagId": "trying" })).await.expect(StatusCode::CREATED);
    let run = run["runId"].as_str().unwrap().to_owned();
    service.orch.wait(&who, run.parse().unwrap()).await.unwrap();
    (service, run)
}

#[tokio::test]
async fn the_record_is_given_byte_for_byte_and_page_by_page() {
    let (service, run) = tried().await;
    let (mut lines, mut token, mut prev) = (Vec::new(), String::new(), "0".repeat(64));
    loop {
        let page =
            service.get(&format!("/runs/{run}/events?page_size=2{token}")).await.expect(StatusCode::OK);
        lines.extend(page["items"].as_array().unwrap().iter().map(ToString::to_string));
        let Some(next) = page["next_page_token"].as_str() else {
            assert_eq!(page["head_seq"], lines.len());
            break;
        };
        token = format!("&page_token={next}");
    }
    for line in lines {
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(entry["prev"], prev);
        prev = orch::Digest::of(orch::Payload::parse(&line).unwrap().as_str()).to_string();
    }
}

#[tokio::test]
async fn each_attempt_of_a_step_is_told_with_its_end_and_its_log() {
    let (service, run) = tried().await;
    let step = service.get(&format!("/runs/{run}/steps/each%5B1%5D")).await.expect(StatusCode::OK);
    let attempts = step["attempts"].as_array().unwrap();
    let ends: Vec<_> = attempts.iter().map(|attempt| attempt["status"].as_str().unwrap()).collect();
    assert_eq!(ends, ["failed", "succeeded"]);
    assert_eq!(attempts[0]["errorCode"], "first_time");
    assert!(attempts[1]["logsRef"].is_string() && step["output"] == 2, "{step}");
    let children = service.get(&format!("/runs/{run}/steps?parent=each")).await.expect(StatusCode::OK);
    assert_eq!(children["items"].as_array().unwrap().len(), 2);
    assert_eq!(children["items"][1]["stepId"], "each[1]");
    assert_eq!(service.get(&format!("/runs/{run}/steps/other")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_logs_of_a_step_are_those_of_its_children_and_of_no_other() {
    let (service, run) = tried().await;
    let all = service.get(&format!("/runs/{run}/logs")).await;
    assert_eq!((all.status, all.text.lines().count()), (StatusCode::OK, 5), "{}", all.text);
    assert_eq!(all.headers["content-type"], "application/x-ndjson");
    let each = service.get(&format!("/runs/{run}/logs?stepId=each")).await;
    assert_eq!(each.text.lines().count(), 4);
    let first = service.get(&format!("/runs/{run}/logs?stepId=each%5B0%5D")).await;
    let lines: Vec<serde_json::Value> =
        first.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["attempt"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    assert!(lines.iter().all(|line| line["stepId"] == "each[0]" && line["line"].is_string()));
    assert_eq!(service.get(&format!("/runs/{run}/logs?stepId=other")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_run_is_drawn_in_every_format_with_the_statuses_of_its_steps() {
    let (service, run) = tried().await;
    let graph = service.get(&format!("/runs/{run}/graph")).await.expect(StatusCode::OK);
    assert_eq!(graph["nodes"][0]["stepId"], "each");
    assert_eq!(graph["nodes"][1]["status"], "succeeded");
    assert_eq!((&graph["edges"][0]["from"], &graph["edges"][0]["to"]), (&json!("each"), &json!("after")));
    for (format, begin) in [("svg", "<svg"), ("dot", "digraph"), ("mermaid", "flowchart")] {
        let drawn = service.get(&format!("/runs/{run}/graph?format={format}")).await;
        assert!(drawn.status == StatusCode::OK && drawn.text.contains(begin), "{}", drawn.text);
    }
}

#[tokio::test]
async fn t1_an_artifact_is_its_tenants_alone_and_a_browser_does_not_show_it() {
    let (service, run) = tried().await;
    let step = service.get(&format!("/runs/{run}/steps/after")).await.expect(StatusCode::OK);
    let path = format!("/artifacts/{}", step["logsRef"].as_str().unwrap());
    let log = service.get(&path).await;
    assert!(log.status == StatusCode::OK && log.text.contains("attempt 1 at 7"), "{}", log.text);
    assert_eq!(log.headers["content-disposition"], "attachment");
    assert_eq!(log.headers["x-content-type-options"], "nosniff");
    let tokens = vec![token(FULL, &["acme"], Scopes::all()), token(STRANGER, &["stranger"], Scopes::all())];
    let authentication = Authentication { tokens, ..Authentication::default() };
    let router = router(service.orch.clone(), Settings { authentication, ..Settings::default() });
    let service = Service { router, ..service };
    let theirs = service.send(ask(Method::GET, &path, Some(STRANGER), Some("stranger"), None)).await;
    assert_eq!((theirs.status, theirs.code()), (StatusCode::NOT_FOUND, "NOT_FOUND"));
    assert_eq!(service.get("/artifacts/no-hash").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_audit_stream_is_read_page_by_page_and_is_empty_before_anything_was_done() {
    let (service, run) = tried().await;
    for _ in 0..3 {
        service.post(&format!("/runs/{run}:replay"), json!({})).await.expect(StatusCode::CREATED);
    }
    let first = service.get("/audit?page_size=2").await.expect(StatusCode::OK);
    assert_eq!(
        (&first["items"][0]["data"]["action"], &first["head_seq"]),
        (&json!("dag.publish"), &json!(4))
    );
    let next = first["next_page_token"].as_str().unwrap();
    let rest = service.get(&format!("/audit?page_token={next}")).await.expect(StatusCode::OK);
    assert_eq!(rest["items"][1]["data"]["detail"]["ticket"], "T-1", "{rest}");
    let other = Service::start().await;
    let empty = other.send(ask(Method::GET, "/audit", Some(FULL), Some("umbrella"), None)).await;
    assert_eq!(empty.expect(StatusCode::OK)["items"], json!([]));
}

#[tokio::test]
async fn a_step_is_explained() {
    let (service, run) = tried().await;
    let why = service.get(&format!("/runs/{run}/explain?stepId=after")).await.expect(StatusCode::OK);
    assert_eq!((&why["status"], &why["reasons"][0]["code"]), (&json!("succeeded"), &json!("succeeded")));
    let none = service.get(&format!("/runs/{run}/explain?stepId=other")).await;
    assert_eq!(none.status, StatusCode::NOT_FOUND);
    let which = service.get(&format!("/runs/{run}/explain")).await;
    assert_eq!(which.body["error"]["details"][0]["pointer"], "?", "{}", which.text);
}
