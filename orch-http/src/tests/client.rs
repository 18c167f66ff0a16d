//! The typed client against a real service on a socket, and against services that break off or lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http_body_util::BodyExt as _;
use orch::engine::{DagRef, Lease, Resubmit, Roles, Submit};
use orch::executor::Outcome;
use orch::planner::Operation;
use orch::proof::{self, Scope, VerifyOptions};
use orch::store::RunsQuery;
use orch::{Digest, ErrorKind, Identity, Limits, Orchestrator, Payload, RunId};
use serde_json::json;
use tokio::net::TcpListener;

use super::{FULL, STRANGER, Service, tenant};
use crate::client::{Client, ClientSettings, Refusal};

const FLOWS: &str = "
apiVersion: orch/v1
kind: Dag
id: flows
steps:
  - { id: ask, uses: gate/approval, with: { message: may it }, timeout: 1h }
  - { id: hear, uses: wait/signal, needs: [ask], with: { name: go } }
  - { id: below, uses: dag/hello@1, needs: [hear], with: { name: you } }
  - { id: outside, uses: worker/scan, needs: [below], with: { image: alpine } }
";

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn client_of(server: String, token: &str) -> Client {
    let settings = ClientSettings {
        token: Some(token.to_owned()),
        reason: Some("a test".to_owned()),
        ticket: Some("T-1".to_owned()),
        ..ClientSettings::new(server, tenant("acme"))
    };
    Client::new(&settings).unwrap()
}

fn me() -> Identity {
    Identity::new(tenant("acme"), "reader")
}

/// An orchestrator that reads what the service keeps.
fn reader(client: &Client) -> Orchestrator {
    let roles = Roles { submit: true, schedule: false, work: false };
    let settings = orch::engine::Settings { roles, ..Default::default() };
    Orchestrator::builder().store(Arc::new(client.clone())).settings(settings).start().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_does_and_reads_is_what_the_orchestrator_has() {
    let service = Service::start().await;
    let client = client_of(serve(service.router.clone()).await, FULL);
    client.ready().await.unwrap();
    let dag = orch::spec::parse("flows.yaml", FLOWS, &Limits::default()).unwrap();
    let version = client.publish(&dag).await.unwrap();
    assert_eq!(client.publish(&dag).await.unwrap(), version);
    assert_eq!(client.dags().await.unwrap(), service.orch.dags(&me(), None, 10).await.unwrap().0);
    assert_eq!(client.dag(&dag.id).await.unwrap(), service.orch.dag(&me(), &dag.id).await.unwrap());
    let theirs = client.dag_version(&dag.id, None).await.unwrap();
    assert_eq!(theirs.plan, service.orch.dag_version(&me(), &dag.id, Some(1)).await.unwrap().plan);
    assert!(client.set_disabled(&dag.id, 1, true).await.unwrap().disabled);
    let submit = Submit::new(DagRef::Latest(dag.id.clone()), json!({}));
    assert_eq!(client.submit(&submit).await.unwrap_err().kind(), ErrorKind::Refused);
    client.set_disabled(&dag.id, 1, false).await.unwrap();

    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned();
    let (traceparent, baggage) = (Some(traceparent), Some("user=alice".to_owned()));
    let submit = Submit { traceparent: traceparent.clone(), baggage: baggage.clone(), ..submit };
    let submitted = client.submit(&submit).await.unwrap();
    let run = submitted.run.run;
    assert!(submitted.new);
    let carried = async |run| {
        let created = service.orch.inspect(&me(), run).await.unwrap().created.clone();
        created.traceparent.unwrap().contains("0af7651916cd43dd8448eb211c80319c")
            && created.baggage.as_deref() == Some("user=alice")
    };
    assert!(carried(run).await);
    let unfit = Submit { baggage: Some("a=\n".to_owned()), ..submit.clone() };
    assert_eq!(client.submit(&unfit).await.unwrap_err().kind(), ErrorKind::Invalid);
    let operate = async |operation: Operation| client.operate(run, &operation).await.unwrap();
    assert_eq!(operate(Operation::Pause).await.status, orch::RunStatus::Paused);
    operate(Operation::Resume).await;
    let step = "ask".parse().unwrap();
    operate(Operation::Decide { step, approved: true }).await;
    let payload = Payload::new(&json!({ "ok": true })).unwrap();
    operate(Operation::Signal { name: "go".to_owned(), payload }).await;

    let lease = Lease { wait: Duration::from_secs(30), ..Lease::of("w", ["scan"]) };
    let leased = client.lease(&lease).await.unwrap().pop().unwrap();
    assert_eq!((leased.input.as_str(), leased.run), (r#"{"image":"alpine"}"#, run));
    let renewed = client.renew_lease(&leased.token, Duration::from_secs(60), Some("half")).await.unwrap();
    assert!(!renewed.cancel && renewed.lease_until > leased.lease_until);
    let logs = client.upload_log(&leased.token, "a line\nanother".to_owned()).await.unwrap();
    let made = client.upload_artifact(&leased.token, None, Some("sbom"), "bytes").await.unwrap();
    assert_eq!(client.artifact(&made.hash).await.unwrap(), "bytes");
    let output = Outcome::Succeeded(Payload::new(&json!({ "sbom": made.hash })).unwrap());
    client.finish_lease(&leased.token, &output, Some(logs)).await.unwrap();
    let twice = client.finish_lease(&leased.token, &Outcome::Cancelled, None).await;
    assert_eq!(twice.unwrap_err().kind(), ErrorKind::LeaseLost);

    let reader = reader(&client);
    let ended = reader.wait(&me(), run).await.unwrap();
    assert_eq!(ended.status, orch::RunStatus::Completed);
    // Rows of all runs, that of the sub-DAG with its parent among them.
    let query = || RunsQuery { limit: 1, ..RunsQuery::all(tenant("acme")) };
    let (mut cursor, mut rows) = (None, Vec::new());
    loop {
        let page = reader.runs(&me(), RunsQuery { cursor, ..query() }).await.unwrap();
        rows.extend(page.runs);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let here = service.orch.runs(&me(), RunsQuery { limit: 50, ..query() }).await.unwrap().runs;
    assert!(rows == here && rows.iter().any(|row| row.parent.is_some()), "{rows:?}");
    let (theirs, ours) =
        (reader.inspect(&me(), run).await.unwrap(), service.orch.inspect(&me(), run).await.unwrap());
    assert_eq!((theirs.head, theirs.row()), (ours.head, ours.row()));

    let along = Resubmit { run_token: Some("once".to_owned()), traceparent, baggage };
    let again = client.replay(run, &along).await.unwrap();
    assert_eq!((again.new, again.run.replay_of), (true, Some(run)));
    let twice = client.replay(run, &along).await.unwrap();
    assert!((twice.new, twice.run.run) == (false, again.run.run) && carried(again.run.run).await);
    client.operate(again.run.run, &Operation::Cancel).await.unwrap();
    let hello = rows.iter().find(|row| row.parent.is_some()).unwrap().run;
    client.rerun(hello, &"shout".parse().unwrap(), &Resubmit::default()).await.unwrap();
    let taken = client.checkpoint(Scope::All).await.unwrap().unwrap();
    assert!(taken.heads().any(|(_, named)| named.stream == orch::ledger::Stream::Run(run)));
    let report = proof::verify_store(&client, &tenant("acme"), &VerifyOptions::default()).await.unwrap();
    assert!(report.is_clean() && report.streams > 4, "{report:?}");
    let mut export = Vec::new();
    let manifest = client.export(Some(run), &mut export).await.unwrap();
    let report =
        proof::verify_export(&export[..], &tenant("acme"), Some(&manifest), &VerifyOptions::default())
            .unwrap();
    assert!(report.is_clean() && report.entries == ended.head.seq, "{report:?}");
    assert!(client.prune(service.orch.now()).await.unwrap() >= 2);
    assert_eq!(reader.run(&me(), run).await.unwrap_err().kind(), ErrorKind::NotFound);
    service.orch.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_error_of_the_library_that_says_what_the_service_said() {
    let service = Service::start().await;
    let server = serve(service.router.clone()).await;
    let client = client_of(server.clone(), FULL);
    let nowhere = RunId::derive(&tenant("acme"), &"x".parse().unwrap(), "x", &Digest::ZERO);
    let missing = client.operate(nowhere, &Operation::Cancel).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let refusal = Refusal::of(&missing).unwrap();
    assert!(refusal.to_string().starts_with("the service answered 404 NOT_FOUND (trace "), "{refusal}");
    let submit = Submit::new(DagRef::Latest("hello".parse().unwrap()), json!({ "name": 1 }));
    let wrong = client.submit(&submit).await.unwrap_err();
    assert!(wrong.kind() == ErrorKind::Invalid && wrong.to_string().contains("/inputs/name"), "{wrong}");
    for token in [STRANGER, "nobody's"] {
        let denied =
            client_of(server.clone(), token).replay(nowhere, &Resubmit::default()).await.unwrap_err();
        assert!(denied.kind() == ErrorKind::Refused && Refusal::of(&denied).unwrap().is_denial());
    }
    let gone = client_of("http://127.0.0.1:1".to_owned(), FULL).lease(&Lease::of("w", ["scan"])).await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::Unavailable);
    service.orch.shutdown().await;
}

/// A service between which and its clients answers get lost.
#[derive(Clone, Default)]
struct Losing {
    lose: Arc<AtomicBool>,
    /// The head arrives, and the connection breaks off in the body.
    late: bool,
    asked: Arc<AtomicUsize>,
}

async fn lose(State(losing): State<Losing>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    losing.asked.fetch_add(1, Ordering::SeqCst);
    match losing.lose.swap(false, Ordering::SeqCst) {
        true if losing.late => {
            let broken = futures::stream::iter([Ok("{"), Err(std::io::Error::other("gone"))]);
            Response::new(axum::body::Body::from_stream(broken))
        }
        // What stands for a proxy whose connection broke off behind it.
        true => StatusCode::BAD_GATEWAY.into_response(),
        false => response,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_answer_got_lost_is_submitted_once() {
    for late in [false, true] {
        let service = Service::start().await;
        let losing = Losing { late, ..Losing::default() };
        let router = service.router.clone().layer(from_fn_with_state(losing.clone(), lose));
        let client = client_of(serve(router).await, FULL);
        losing.lose.store(true, Ordering::SeqCst);
        let submit = Submit::new(DagRef::Latest("hello".parse().unwrap()), json!({ "name": "you" }));
        let submitted = client.submit(&submit).await.unwrap();
        assert_eq!(losing.asked.load(Ordering::SeqCst), 2, "{late}");
        let runs = service.orch.runs(&me(), RunsQuery::all(tenant("acme"))).await.unwrap().runs;
        assert_eq!(runs.iter().map(|row| row.run).collect::<Vec<_>>(), [submitted.run.run], "{late}");
        service.orch.shutdown().await;
    }
}

/// Alters what the service says about a run.
async fn lie(request: Request, next: Next) -> Response {
    let altered = request.uri().path().ends_with("/events");
    let (parts, body) = next.run(request).await.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if altered {
        text = text.replace("hello hello you", "hello hello moo");
    }
    let mut response = Response::new(axum::body::Body::from(text));
    *response.status_mut() = parts.status;
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_alters_the_record_is_found_out() {
    let service = Service::start().await;
    let honest = client_of(serve(service.router.clone()).await, FULL);
    let submit = Submit::new(DagRef::Latest("hello".parse().unwrap()), json!({ "name": "you" }));
    let run = honest.submit(&submit).await.unwrap().run.run;
    service.orch.wait(&me(), run).await.unwrap();
    reader(&honest).inspect(&me(), run).await.unwrap();
    let lying = client_of(serve(service.router.clone().layer(axum::middleware::from_fn(lie))).await, FULL);
    let error = reader(&lying).inspect(&me(), run).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    service.orch.shutdown().await;
}
