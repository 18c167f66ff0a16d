//! The OpenAPI document: committed, served, and true of what the service answers.

use std::path::{Path, PathBuf};

use axum::body::Body;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{FULL, Service, ask};
use crate::OPENAPI;
use crate::api::code::Code;
use crate::auth::Scope;
use crate::openapi::{codes, document};
use crate::resources::routes;

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// Compares a file with what it should hold; `ORCH_BLESS=1` writes it anew.
fn committed(name: &str, current: &str) {
    if std::env::var_os("ORCH_BLESS").is_some() {
        std::fs::create_dir_all(docs(name).parent().unwrap()).unwrap();
        std::fs::write(docs(name), current).unwrap();
    }
    let found = std::fs::read_to_string(docs(name)).unwrap_or_default();
    assert!(found == current, "docs/{name} is stale; `cargo xtask bless` writes it anew");
}

#[test]
fn the_committed_document_is_the_current_one() {
    let text = serde_json::to_string_pretty(&document(&routes())).unwrap();
    committed("openapi/orchestrator.json", &format!("{text}\n"));
}

#[test]
fn the_tables_of_the_guide_are_those_of_the_code() {
    let mut routes_table = "| route | scope | what it does |\n|---|---|---|\n".to_owned();
    for facts in routes().iter().map(|route| &route.facts) {
        let scope = match facts.guard {
            crate::api::Guard::Open => "–".to_owned(),
            crate::api::Guard::Scope(scope) => format!("`{scope}`"),
            crate::api::Guard::Every(scope) => format!("`{scope}`, every tenant"),
        };
        routes_table +=
            &format!("| `{} {}` | {scope} | {} |\n", facts.method, facts.path.as_str(), facts.summary);
    }
    let mut scopes_table = "| scope | also written | needs | allows |\n|---|---|---|---|\n".to_owned();
    for scope in Scope::ALL {
        let aliases: Vec<String> = scope.aliases().iter().map(|alias| format!("`{alias}`")).collect();
        let needs = match scope.elevation() {
            None => "–",
            Some(elevation) if elevation.needs_ticket => "reason, ticket",
            Some(_) => "reason",
        };
        scopes_table += &format!("| `{scope}` | {} | {needs} | {} |\n", aliases.join(", "), scope.meaning());
    }
    let mut codes_table = "| code | status | when |\n|---|---|---|\n".to_owned();
    for code in Code::ALL {
        codes_table +=
            &format!("| `{}` | {} | {} |\n", code.as_str(), code.status().as_u16(), code.meaning());
    }
    let mut text = std::fs::read_to_string(docs("http.md")).unwrap();
    for (name, table) in [("routes", routes_table), ("scopes", scopes_table), ("codes", codes_table)] {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
        let from = text.find(&begin).unwrap_or_else(|| panic!("docs/http.md has no {begin}")) + begin.len();
        let to = from + text[from..].find(&end).unwrap_or_else(|| panic!("docs/http.md has no {end}"));
        text.replace_range(from..to, &table);
    }
    committed("http.md", &text);
}

#[tokio::test]
async fn the_document_and_its_page_are_served_to_anybody_and_again_only_if_changed() {
    let service = Service::start().await;
    let get = |path: &str, tag: Option<&str>| {
        let mut request = Request::get(path.to_owned());
        if let Some(tag) = tag {
            request = request.header("if-none-match", tag);
        }
        service.send(request.body(Body::empty()).unwrap())
    };
    let served = get(OPENAPI, None).await;
    assert_eq!(served.body, document(&routes()));
    let tag = served.headers["etag"].to_str().unwrap();
    assert_eq!(get(OPENAPI, Some(tag)).await.status, StatusCode::NOT_MODIFIED);
    let page = get(&format!("{OPENAPI}/page"), None).await;
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    for facts in routes().iter().map(|route| &route.facts) {
        assert!(page.text.contains(&format!("id=\"{}\"", facts.operation)), "{}", facts.operation);
    }
    assert!(!page.text.contains("<script") && !page.text.contains("http"), "nothing comes from elsewhere");
}

/// Holds an answer against what the document says of its operation.
fn conforms(document: &Value, operation: &str, answer: &super::Answered) {
    let paths = document["paths"].as_object().unwrap();
    let all = paths.values().flat_map(|methods| methods.as_object().unwrap().values());
    let of = all.into_iter().find(|known| known["operationId"] == operation).unwrap();
    let response = &of["responses"][answer.status.as_str()];
    assert!(response.is_object(), "{operation} says nothing of {}: {}", answer.status, answer.text);
    let media = answer.headers["content-type"].to_str().unwrap();
    let mut schema = response["content"][media]["schema"].clone();
    assert!(schema.is_object(), "{operation} says nothing of {media}");
    schema["components"] = document["components"].clone();
    let problems: Vec<String> = jsonschema::options()
        .offline()
        .build(&schema)
        .unwrap()
        .iter_errors(&answer.body)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert_eq!(problems, [""; 0], "{operation}: {}", answer.text);
}

#[tokio::test]
async fn what_the_service_answers_is_what_the_document_says() {
    let service = Service::start().await;
    let document = document(&routes());
    let started = service.post("/runs", json!({ "dagId": "hello", "inputs": { "name": "you" } })).await;
    conforms(&document, "startRun", &started);
    let run = started.body["runId"].as_str().unwrap().to_owned();
    let who = orch::Identity::new(super::tenant("acme"), "test");
    service.orch.wait(&who, run.parse().unwrap()).await.unwrap();
    for (operation, path) in [
        ("health", "/admin/health".to_owned()),
        ("ready", "/admin/ready".to_owned()),
        ("listDags", "/dags".to_owned()),
        ("getDag", "/dags/hello".to_owned()),
        ("getDagVersion", "/dags/hello/1".to_owned()),
        ("listRuns", "/runs".to_owned()),
        ("getRun", format!("/runs/{run}")),
        ("getRunStatus", format!("/runs/{run}/status")),
        ("listSteps", format!("/runs/{run}/steps")),
        ("getStep", format!("/runs/{run}/steps/greet")),
        ("listEvents", format!("/runs/{run}/events")),
        ("getGraph", format!("/runs/{run}/graph")),
        ("explainStep", format!("/runs/{run}/explain?stepId=greet")),
        ("listGates", "/gates".to_owned()),
        ("listQueues", "/queues".to_owned()),
        ("listAudit", "/audit".to_owned()),
    ] {
        let answer = service.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        conforms(&document, operation, &answer);
    }
    for (operation, path, body) in [
        ("publishDag", "/dags".to_owned(), json!({ "dag": 7 })),
        ("submitJob", "/jobs".to_owned(), json!({ "jobType": "scan" })),
        ("replayRun", format!("/runs/{run}:replay"), json!({})),
        ("rerunRun", format!("/runs/{run}:rerun"), json!({ "from": "shout" })),
        ("cancelRun", format!("/runs/{run}:cancel"), json!({})),
        ("retryRun", format!("/runs/{run}:retry"), json!({ "steps": ["no step"] })),
        ("sendSignal", format!("/runs/{run}/signals"), json!({ "name": "go" })),
        ("decideGate", format!("/gates/{run}/greet:decide"), json!({ "decision": "approved" })),
        ("disableDag", "/dags/hello/1:disable".to_owned(), json!({})),
        ("warm", "/admin/warm".to_owned(), json!({})),
    ] {
        conforms(&document, operation, &service.post(&path, body).await);
    }
}

#[tokio::test]
async fn every_refusal_that_a_route_can_give_anybody_is_in_the_document() {
    let service = Service::start().await;
    let document = document(&routes());
    for facts in routes().into_iter().map(|route| route.facts) {
        let crate::api::Guard::Scope(_) = facts.guard else { continue };
        let path = super::guards::somewhere(&facts);
        for (token, tenant) in [(None, Some("acme")), (Some(FULL), None), (Some(FULL), Some("stranger"))] {
            let body = (facts.method == Method::POST).then(|| json!({}));
            let answer = service.send(ask(facts.method.clone(), &path, token, tenant, body)).await;
            conforms(&document, facts.operation, &answer);
            assert!(codes(&facts).iter().any(|code| code.as_str() == answer.code()), "{}", answer.text);
        }
    }
}
