//! The examples of the OpenAPI document, taken at their word.

use http::{Method, StatusCode};
use orch::Identity;
use orch::engine::{Lease, Leased};
use orch::executor::Failure;
use serde_json::{Value, json};

use super::waiting::asking;
use super::{FULL, Service, ask, tenant};
use crate::resources::routes;

fn who() -> Identity {
    Identity::new(tenant("acme"), "setup")
}

/// Starts a run of something; answers its id.
async fn run(service: &Service, path: &str, order: Value) -> String {
    let run = service.post(path, order).await.expect(StatusCode::CREATED);
    run["runId"].as_str().or(run["jobId"].as_str()).unwrap().to_owned()
}

async fn lease(service: &Service) -> Leased {
    run(service, "/jobs", json!({ "jobType": "scan" })).await;
    let asked = Lease { wait: std::time::Duration::from_secs(5), ..Lease::of("w", ["scan"]) };
    service.orch.lease(&who(), asked).await.unwrap().remove(0)
}

/// Brings about what the example of an operation needs; answers where it goes.
async fn prepared(service: &Service, operation: &str, path: &str) -> String {
    let ended = async |run: &str| service.orch.wait(&who(), run.parse().unwrap()).await.unwrap();
    let (name, value) = match operation {
        "replayJob" => ("{runId}", run(service, "/jobs", json!({ "jobType": "scan" })).await),
        "replayRun" | "rerunRun" => {
            let order = json!({ "dagId": "hello", "inputs": { "name": "me" } });
            let run = run(service, "/runs", order).await;
            ended(&run).await;
            ("{runId}", run)
        }
        "retryRun" => {
            let leased = lease(service).await;
            let failure = Failure::fatal("broken", "no");
            service.orch.finish_lease(&who(), &leased.token, failure.into(), None).await.unwrap();
            ("{runId}", leased.run.to_string())
        }
        "decideGate" | "sendSignal" => {
            let run = asking(service).await;
            while service.orch.inspect(&who(), run.parse().unwrap()).await.unwrap().row().steps.waiting < 2 {
                tokio::task::yield_now().await;
            }
            return path.replace("{runId}", &run).replace("{stepId}", "first");
        }
        "renewLease" | "completeLease" | "failLease" => {
            ("{leaseId}", lease(service).await.token.as_str().to_owned())
        }
        _ => ("", String::new()),
    };
    assert!(name.is_empty() || path.contains(name), "{operation} has another path by now");
    if name.is_empty() { path.to_owned() } else { path.replace(name, &value) }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_of_a_body_is_taken_as_it_stands() {
    let service = Service::start().await;
    let mut taken = 0;
    for facts in routes().into_iter().map(|route| route.facts) {
        let wants = facts.body.is_some_and(|(media, _)| media.contains(&"application/json"));
        assert_eq!(wants, facts.example.is_some(), "{} has a body of JSON, or an example", facts.operation);
        let Some(example) = facts.example else { continue };
        let path = prepared(&service, facts.operation, facts.path.as_str()).await;
        assert!(!path.contains('{'), "{}: what is {path}?", facts.operation);
        let body: Value = serde_json::from_str(example).unwrap();
        let answer = service.send(ask(Method::POST, &path, Some(FULL), Some("acme"), Some(body))).await;
        assert!(answer.status.is_success(), "{}: {} {}", facts.operation, answer.status, answer.text);
        taken += 1;
    }
    assert!(taken >= 14, "{taken}");
}
