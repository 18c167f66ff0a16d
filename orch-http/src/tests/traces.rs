//! From a caller to a task: one trace, and what goes along with it.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use http::{Method, StatusCode};
use opentelemetry_sdk::trace::SpanData;
use orch::executor::{Failure, Secret, StepContext};
use orch::trace::{attempt_span, run_span};
use orch::{Limits, Orchestrator};
use serde_json::{Value, json};

use super::{FULL, Service, ask, tenant, token};
use crate::auth::{Authentication, Scopes};
use crate::observe::{Collector, Traces};
use crate::{Settings, router};

/// Keeps what it is told.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

#[async_trait]
impl Collector for Kept {
    async fn collect(&self, spans: Vec<SpanData>) -> Result<(), String> {
        self.0.lock().unwrap().extend(spans);
        Ok(())
    }
}

impl Kept {
    fn all(&self) -> Vec<SpanData> {
        self.0.lock().unwrap().clone()
    }

    fn named(&self, name: &str) -> Vec<SpanData> {
        self.all().into_iter().filter(|span| span.name == name).collect()
    }
}

const BELOW: &str = "
apiVersion: orch/v1
kind: Dag
id: below
steps: [{ id: tells, uses: fn/tells }]
";
const FLOW: &str = "
apiVersion: orch/v1
kind: Dag
id: flow
steps:
  - { id: tells, uses: fn/tells }
  - { id: fails, uses: fn/fails, retry: { maxAttempts: 2, backoff: 10ms }, needs: [tells] }
  - { id: works, uses: worker/scan, needs: [tells], timeout: 1h }
  - { id: below, uses: dag/below@1, needs: [tells] }
";

/// What a task hands on.
async fn tells(context: StepContext, _: Value) -> Result<Value, Failure> {
    Ok(json!({ "traceparent": context.traceparent(), "baggage": context.baggage }))
}

async fn fails(_: StepContext, _: Value) -> Result<Value, Failure> {
    Err(Failure::retryable("no", "not now"))
}

async fn traced(ratio: f64) -> (Service, Traces, Kept) {
    let kept = Kept::default();
    let traces = Traces::start(vec![Box::new(kept.clone())], ratio);
    let orch = Orchestrator::builder()
        .task("tells", tells)
        .task("fails", fails)
        .observe(Arc::new(traces.clone()))
        .start()
        .unwrap();
    let who = orch::Identity::new(tenant("acme"), "setup");
    for text in [BELOW, FLOW] {
        orch.publish(&who, orch::spec::parse("dag.yaml", text, &Limits::default()).unwrap()).await.unwrap();
    }
    let authentication =
        Authentication { tokens: vec![token(FULL, &["acme"], Scopes::all())], ..Default::default() };
    let settings = Settings { authentication, traces: Some(traces.clone()), ..Settings::default() };
    (Service { router: router(orch.clone(), settings), orch }, traces, kept)
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Starts a run as a caller that records its trace, or does not, or has none.
async fn start(service: &Service, dag: &str, flags: Option<&str>) -> orch::RunId {
    started(service, "/runs", json!({ "dagId": dag, "inputs": {} }), flags).await
}

/// The run that a request starts.
async fn started(service: &Service, path: &str, body: Value, flags: Option<&str>) -> orch::RunId {
    let mut request = ask(Method::POST, path, Some(FULL), Some("acme"), Some(body));
    let headers = request.headers_mut();
    if let Some(flags) = flags {
        headers.insert("traceparent", format!("00-{TRACE}-{CALLER}-{flags}").parse().unwrap());
    }
    headers.append("baggage", "user=alice".parse().unwrap());
    headers.append("baggage", "tier=gold;p=1".parse().unwrap());
    let started = service.send(request).await.expect(StatusCode::CREATED);
    started["runId"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_from_the_caller_over_request_run_and_attempt_to_the_task_and_baggage_goes_along() {
    let (service, traces, kept) = traced(0.0).await;
    let run = start(&service, "flow", Some("01")).await;
    let lease = json!({ "worker": "w", "jobTypes": ["scan"], "waitSeconds": 20 });
    let leased = service.post("/workers/leases", lease).await.expect(StatusCode::OK);
    let lease = &leased["items"][0];
    let id = lease["leaseId"].as_str().unwrap();
    service.post(&format!("/workers/leases/{id}:complete"), json!({})).await.expect(StatusCode::NO_CONTENT);
    let who = orch::Identity::new(tenant("acme"), "reader");
    service.orch.wait(&who, run).await.unwrap();
    let state = service.orch.inspect(&who, run).await.unwrap();
    let below = state.steps().iter().find_map(|step| step.child_run).unwrap();
    service.orch.wait(&who, below).await.unwrap();
    traces.finish().await;

    let hex = crate::api::trace::hex;
    assert!(kept.all().iter().all(|span| span.span_context.trace_id().to_string() == TRACE));
    let request = kept.named("POST /api/v1/orchestrator/runs").pop().unwrap();
    assert_eq!((request.parent_span_id.to_string().as_str(), request.parent_span_is_remote), (CALLER, true));
    let runs = kept.named("orchestrator.run");
    let span = |id| runs.iter().find(|span| span.span_context.span_id().to_bytes() == run_span(id)).unwrap();
    assert_eq!((runs.len(), span(run).parent_span_id), (2, request.span_context.span_id()));
    assert_eq!(span(below).parent_span_id.to_bytes(), run_span(run));
    let steps = kept.named("orchestrator.step");
    let of = |id: orch::RunId, step: &str, attempt| {
        let own = attempt_span(id, &step.parse().unwrap(), attempt);
        let found = steps.iter().find(|span| span.span_context.span_id().to_bytes() == own);
        let found = found.unwrap_or_else(|| panic!("{step} {attempt}: {steps:?}"));
        assert_eq!(found.parent_span_id.to_bytes(), run_span(id), "{step} {attempt}");
        assert!(found.start_time <= found.end_time);
        format!("00-{TRACE}-{}-01", hex(own))
    };
    assert_eq!(steps.len(), 5);
    // What tasks hand on, in this process and outside.
    let output = |state: &orch::planner::RunState| {
        state.steps().iter().find_map(|step| step.output.clone()).unwrap().payload().to_value()
    };
    let said = json!({ "traceparent": of(run, "tells", 1), "baggage": "user=alice,tier=gold;p=1" });
    assert_eq!(output(&state), said);
    let child = service.orch.inspect(&who, below).await.unwrap();
    let said = json!({ "traceparent": of(below, "tells", 1), "baggage": "user=alice,tier=gold;p=1" });
    assert_eq!(output(&child), said);
    assert_eq!(lease["traceparent"], of(run, "works", 1));
    assert_eq!(lease["baggage"], "user=alice,tier=gold;p=1");
    assert_ne!(of(run, "fails", 1), of(run, "fails", 2));
    service.orch.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_and_a_rerun_go_on_in_the_trace_of_their_caller_with_its_baggage() {
    let (service, traces, kept) = traced(0.0).await;
    let who = orch::Identity::new(tenant("acme"), "reader");
    let first = start(&service, "below", None).await;
    service.orch.wait(&who, first).await.unwrap();
    let mut again = Vec::new();
    for (action, body) in [("replay", json!({})), ("rerun", json!({ "from": "tells" }))] {
        let run = started(&service, &format!("/runs/{first}:{action}"), body, Some("01")).await;
        service.orch.wait(&who, run).await.unwrap();
        let created = service.orch.inspect(&who, run).await.unwrap().created.clone();
        assert_eq!(created.baggage.as_deref(), Some("user=alice,tier=gold;p=1"), "{action}");
        again.push(run);
    }
    traces.finish().await;
    let spans = kept.named("orchestrator.run");
    for run in again {
        let own = spans.iter().find(|span| span.span_context.span_id().to_bytes() == run_span(run)).unwrap();
        assert_eq!(own.span_context.trace_id().to_string(), TRACE);
    }
    service.orch.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_caller_does_not_record_is_not_told_and_of_the_rest_a_share_is() {
    let who = orch::Identity::new(tenant("acme"), "reader");
    for (ratio, flags, told) in
        [(1.0, Some("00"), false), (0.0, None, false), (1.0, None, true), (0.0, Some("01"), true)]
    {
        let (service, traces, kept) = traced(ratio).await;
        let run = start(&service, "below", flags).await;
        service.orch.wait(&who, run).await.unwrap();
        // Only looking is told of by nobody but a caller that records it.
        service.get("/runs").await.expect(StatusCode::OK);
        traces.finish().await;
        assert_eq!(kept.all().len(), if told { 3 } else { 0 }, "{ratio} {flags:?}");
        service.orch.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_submitted_in_no_trace_begins_its_own() {
    let (service, traces, kept) = traced(1.0).await;
    let who = orch::Identity::new(tenant("acme"), "embedded");
    let submit = orch::Submit::new(orch::DagRef::Latest("below".parse().unwrap()), json!({}));
    let run = service.orch.submit(&who, submit).await.unwrap().run.run;
    service.orch.wait(&who, run).await.unwrap();
    traces.finish().await;
    let span = kept.named("orchestrator.run").pop().unwrap();
    assert_eq!(span.parent_span_id, opentelemetry::trace::SpanId::INVALID);
    assert_eq!(span.span_context.trace_id().to_string(), run.to_string());
    service.orch.shutdown().await;
}

const LEAKY: &str = "
apiVersion: orch/v1
kind: Dag
id: leaky
steps: [{ id: leaks, uses: fn/leaks, secrets: [KEY], retry: { maxAttempts: 2, backoff: 10ms } }]
";

/// Says its secret when it fails, and when it succeeds.
async fn leaks(context: StepContext, _: Value) -> Result<Value, Failure> {
    let secret = context.secrets["KEY"].expose().to_owned();
    match context.attempt {
        1 => Err(Failure::retryable("no", format!("{secret} was refused"))),
        _ => Ok(json!({ "key": secret })),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_secret_is_in_no_span() {
    const SECRET: &str = "hunter2-planted";
    let kept = Kept::default();
    let traces = Traces::start(vec![Box::new(kept.clone())], 1.0);
    let orch = Orchestrator::builder()
        .task("leaks", leaks)
        .secrets(|_, name| (name == "KEY").then(|| Secret::new(SECRET).unwrap()))
        .observe(Arc::new(traces.clone()))
        .start()
        .unwrap();
    let who = orch::Identity::new(tenant("acme"), "setup");
    orch.publish(&who, orch::spec::parse("dag.yaml", LEAKY, &Limits::default()).unwrap()).await.unwrap();
    let authentication =
        Authentication { tokens: vec![token(FULL, &["acme"], Scopes::all())], ..Default::default() };
    let settings = Settings { authentication, traces: Some(traces.clone()), ..Settings::default() };
    let service = Service { router: router(orch.clone(), settings), orch };
    let run = start(&service, "leaky", Some("01")).await;
    service.orch.wait(&who, run).await.unwrap();
    let credentials = format!("{SECRET}.x.y");
    service.send(ask(Method::GET, "/runs", Some(&credentials), Some("acme"), None)).await;
    traces.finish().await;
    assert_eq!(kept.named("orchestrator.step").len(), 2, "a failure and a success");
    let told = format!("{:?}", kept.all());
    assert!(!told.contains("hunter2"), "{told}");
    service.orch.shutdown().await;
}
