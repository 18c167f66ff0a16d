//! What operations see.

use http::{Method, StatusCode};
use orch::engine::Lease;
use orch::executor::{Failure, Outcome};
use orch::{Identity, Orchestrator};
use serde_json::json;

use super::{FULL, STRANGER, Service, ask, only, tenant, token};
use crate::auth::{ApiToken, Authentication, LocalToken, Scope, Scopes, Tenants};
use crate::{Metrics, Settings, router};

const EVERYTHING: &str = "token-for-every-tenant";

/// A service whose engine is observed.
async fn observed() -> Service {
    let every = ApiToken { tenants: Tenants::Every, ..token(EVERYTHING, &[], Scopes::all()) };
    let tokens = vec![every, token(FULL, &["acme", "umbrella"], Scopes::all())];
    let metrics = Metrics::default();
    let orch = Orchestrator::builder().observe(metrics.observer()).start().unwrap();
    let authentication = Authentication { tokens, ..Authentication::default() };
    let router = router(orch.clone(), Settings { authentication, metrics, ..Settings::default() });
    Service { orch, router }
}

/// The metrics as Prometheus would read them.
async fn scrape(service: &Service) -> String {
    let answer = service.send(ask(Method::GET, "/admin/metrics", Some(EVERYTHING), None, None)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let media = answer.headers["content-type"].to_str().unwrap();
    assert!(media.starts_with("application/openmetrics-text; version=1.0.0"), "{media}");
    assert!(answer.text.ends_with("# EOF\n"));
    answer.text
}

/// The value of a series.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is not in\n{text}")).parse().unwrap()
}

/// Has two jobs fail, the first after another attempt, a third wait, and two requests refused.
async fn busy(service: &Service) {
    let who = Identity::new(tenant("acme"), "worker");
    for retryable in [true, false] {
        let job = json!({ "jobType": "scan", "maxAttempts": 2 });
        service.post("/jobs", job).await.expect(StatusCode::CREATED);
        for _ in 0..if retryable { 2 } else { 1 } {
            let lease = Lease { wait: std::time::Duration::from_secs(5), ..Lease::of("w", ["scan"]) };
            let leased = service.orch.lease(&who, lease).await.unwrap().remove(0);
            let failure = Failure { retryable, ..Failure::fatal("broken", "no") };
            let outcome = if leased.attempt == 2 { Outcome::Cancelled } else { failure.into() };
            service.orch.finish_lease(&who, &leased.token, outcome, None).await.unwrap();
        }
    }
    service.post("/jobs", json!({ "jobType": "later" })).await.expect(StatusCode::CREATED);
    service.post("/jobs", json!({ "jobType": 1 })).await.expect(StatusCode::BAD_REQUEST);
    service.send(ask(Method::GET, "/runs", Some("wrong"), Some("acme"), None)).await;
}

#[tokio::test]
async fn what_happens_is_counted_once_and_measured() {
    let service = observed().await;
    busy(&service).await;
    let text = scrape(&service).await;
    for (series, expected) in [
        (r#"orchestrator_runs_total{tenant="acme",status="failed"}"#, 2.0),
        (r#"orchestrator_run_duration_seconds_count"#, 2.0),
        (r#"orchestrator_attempts_total{outcome="failed"}"#, 3.0),
        (r#"orchestrator_step_retries_total{tenant="acme"}"#, 1.0),
        (r#"orchestrator_queue_depth{tenant="acme",queue="worker.later"}"#, 1.0),
        (r#"orchestrator_backend_failures_total{seam="store"}"#, 0.0),
        (r#"orchestrator_active_attempts"#, 0.0),
        (r#"orchestrator_waiting_workers"#, 0.0),
        (r#"orchestrator_trouble"#, 0.0),
        (r#"orchestrator_http_requests_total{operation="submitJob",status="2xx"}"#, 3.0),
        (r#"orchestrator_http_requests_total{operation="submitJob",status="4xx"}"#, 1.0),
        (r#"orchestrator_http_request_duration_seconds_count{operation="submitJob"}"#, 4.0),
        (r#"orchestrator_http_errors_total{code="UNAUTHENTICATED"}"#, 1.0),
        (r#"orchestrator_http_errors_total{code="INVALID_REQUEST"}"#, 1.0),
        (r#"orchestrator_streams_open"#, 0.0),
    ] {
        assert_eq!(value(&text, series), expected, "{series} in\n{text}");
    }
    let appends = value(&text, "orchestrator_appends_total");
    assert!(appends >= 8.0 && value(&text, "orchestrator_commit_batch_size_sum") >= appends, "{text}");
    assert!(value(&text, "orchestrator_commit_duration_seconds_count") > 0.0);
}

#[tokio::test]
async fn metrics_of_every_tenant_are_for_tokens_of_every_tenant() {
    let service = Service::start().await;
    for (given, status, code) in [
        (None, StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"),
        (Some(FULL), StatusCode::FORBIDDEN, "TENANT_FORBIDDEN"),
        (Some(STRANGER), StatusCode::FORBIDDEN, "TENANT_FORBIDDEN"),
        (Some(&*only(Scope::Admin)), StatusCode::FORBIDDEN, "TENANT_FORBIDDEN"),
    ] {
        let answer = service.send(ask(Method::GET, "/admin/metrics", given, Some("acme"), None)).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{given:?}");
    }
    let reader =
        ApiToken { tenants: Tenants::Every, ..token(EVERYTHING, &[], [Scope::Read].into_iter().collect()) };
    let (local, text) = LocalToken::draw();
    let authentication =
        Authentication { local: Some(local), tokens: vec![reader], ..Authentication::default() };
    let service = Service::with(authentication).await;
    let answer = service.send(ask(Method::GET, "/admin/metrics", Some(EVERYTHING), None, None)).await;
    assert_eq!(answer.code(), "SCOPE_REQUIRED");
    let answer = service.send(ask(Method::GET, "/admin/metrics", Some(text.expose()), None, None)).await;
    assert_eq!(answer.status, StatusCode::OK);
}

fn ops(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ops").join(name)
}

/// Runs `promtool check WHAT` on a text; skipped where there is none.
fn promtool(arguments: &[&str], text: &str) {
    use std::io::Write as _;
    let Some(program) = orch_servers::PROMTOOL.find() else {
        return orch_servers::skipped_without(orch_servers::PROMTOOL.name);
    };
    let mut command = std::process::Command::new(program);
    command.arg("check").args(arguments).stdin(std::process::Stdio::piped());
    let output = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
    let mut child = output.unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{text}");
}

/// The words of a text that could be names of metrics.
fn names(text: &str) -> std::collections::BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let ours = |word: &&str| word.starts_with("orchestrator_") || word.starts_with("orchestrator:");
    words.filter(ours).map(str::to_owned).collect()
}

#[tokio::test]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    let service = observed().await;
    service.post("/jobs", json!({ "jobType": "scan" })).await.expect(StatusCode::CREATED);
    let mut request = ask(Method::GET, "/admin/metrics", Some(EVERYTHING), None, None);
    request.headers_mut().insert("accept", "text/plain".parse().unwrap());
    let answer = service.send(request).await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(
        !answer.text.contains("# EOF") && answer.text.contains("# TYPE orchestrator_appends_total counter")
    );
    promtool(&["metrics"], &answer.text);
}

#[tokio::test]
async fn alerts_and_dashboard_speak_of_metrics_that_there_are() {
    let service = observed().await;
    // A family shows up with its first series.
    busy(&service).await;
    let run = service.get("/runs").await.body["items"][0]["runId"].as_str().unwrap().to_owned();
    service.post(&format!("/runs/{run}:cancel"), json!({})).await.expect(StatusCode::OK);
    let mut stream = ask(Method::GET, &format!("/runs/stream?runId={run}"), Some(FULL), Some("acme"), None);
    stream.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
    assert!(service.send(stream).await.text.contains("ENDED"));
    let text = scrape(&service).await;
    let mut known = names(&text);
    let declared = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    for (name, kind) in declared {
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        known.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    }
    let alerts = std::fs::read_to_string(ops("alerts.yaml")).unwrap();
    let recorded: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    known.extend(recorded.iter().map(|name| (*name).to_owned()));
    let dashboard = std::fs::read_to_string(ops("dashboard.json")).unwrap();
    let read: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert!(read["panels"].as_array().unwrap().len() > 15);
    for (file, text) in [("alerts.yaml", &alerts), ("dashboard.json", &dashboard)] {
        let unknown: Vec<_> = names(text).into_iter().filter(|name| !known.contains(name)).collect();
        assert_eq!(unknown, [""; 0], "{file}");
    }
    let runbook = std::fs::read_to_string(ops("runbook.md")).unwrap().to_lowercase();
    for link in alerts.lines().filter_map(|line| line.trim().strip_prefix("runbook: docs/ops/runbook.md#")) {
        assert!(runbook.contains(&format!("\n## {link}\n")), "{link} is not in the runbook");
    }
    promtool(&["rules", ops("alerts.yaml").to_str().unwrap()], "");
}
