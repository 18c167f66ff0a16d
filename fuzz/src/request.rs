//! What must hold for any request whatsoever. The body of the fuzz target of the same name; the test
//! `orch-http/tests/fuzz_corpus.rs` runs it over the committed corpus.

use std::cell::RefCell;

use axum::Router;
use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::BodyExt as _;
use orch::{Digest, Identity, Limits, Orchestrator, TenantId};
use orch_http::auth::{ApiToken, Authentication, Scopes, Tenants};
use orch_http::{Code, Settings, router};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

/// Requests that a service answers before a new one is made: what one left behind is met by the next, and memory stays small.
const AGE: u32 = 200;
const TOKEN: &str = "a token that does everything";
const TENANT: &str = "acme";
const DAG: &str = "
apiVersion: orch/v1
kind: Dag
id: hello
steps:
  - { id: wait, uses: wait/signal, with: { name: go } }
  - { id: work, uses: worker/scan, timeout: 1h }
  - { id: ask, uses: gate/approval, needs: [wait] }
";

struct Service {
    runtime: Runtime,
    router: Router,
    age: u32,
}

thread_local! {
    static SERVICE: RefCell<Option<Service>> = const { RefCell::new(None) };
}

/// A request is answered, in the service's own words: no panic, no defect, no stall, and every error in its envelope.
///
/// The first line is the method and the path below the base, then come fields of the head, an empty line and the body. Who
/// asks and for which tenant is said unless the head says otherwise.
pub(crate) fn request(text: &[u8]) {
    let Some(request) = read(text) else { return };
    SERVICE.with_borrow_mut(|kept| {
        let mut service = kept.take().filter(|service| service.age < AGE).unwrap_or_else(Service::new);
        service.age += 1;
        service.runtime.block_on(answer(service.router.clone(), request));
        *kept = Some(service);
    });
}

impl Service {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
        let runtime = runtime.expect("a runtime of this thread");
        let tenant = TenantId::new(TENANT).expect("a tenant");
        let token = ApiToken {
            subject: "fuzz".to_owned(),
            hash: Digest::of(TOKEN),
            tenants: Tenants::Every,
            scopes: Scopes::all(),
            expires: None,
        };
        let authentication = Authentication { tokens: vec![token], ..Authentication::default() };
        let router = runtime.block_on(async {
            let orch = Orchestrator::builder().start().expect("an orchestrator in memory");
            let dag = orch::spec::parse("hello", DAG, &Limits::default()).expect("a document");
            orch.publish(&Identity::new(tenant, "fuzz"), dag).await.expect("a dag");
            router(orch, Settings { authentication, ..Settings::default() })
        });
        Self { runtime, router, age: 0 }
    }
}

/// The request that a text stands for, if it stands for one that an HTTP server would let through.
fn read(text: &[u8]) -> Option<Request<Body>> {
    let end = text.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = end.map_or((text, &[][..]), |end| (&text[..end], &text[end + 2..]));
    let mut lines = std::str::from_utf8(head).ok()?.lines();
    // What does not lie below the base is the host's to answer.
    let (method, path) = lines.next()?.split_once(' ').filter(|(_, path)| path.starts_with('/'))?;
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).ok()?)
        .uri(format!("{}{path}", orch_http::BASE))
        .body(Body::from(body.to_vec()))
        .ok()?;
    let fields = request.headers_mut();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        fields.append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value.trim()).ok()?);
    }
    for (name, value) in [
        (header::AUTHORIZATION, format!("Bearer {TOKEN}")),
        (HeaderName::from_static("x-stella-tenant"), TENANT.to_owned()),
        (HeaderName::from_static("x-stella-operator-reason"), "fuzzing".to_owned()),
        (HeaderName::from_static("x-stella-operator-ticket"), "F-1".to_owned()),
    ] {
        fields.entry(name).or_insert(HeaderValue::try_from(value).ok()?);
    }
    Some(request)
}

async fn answer(router: Router, request: Request<Body>) {
    let said = format!("{} {}", request.method(), request.uri());
    let looks = request.method() == Method::HEAD;
    let response = router.oneshot(request).await.expect("a router answers");
    let (status, head) = (response.status(), response.headers().clone());
    let media = head.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or("");
    // A stream goes on for as long as somebody listens.
    if media == "text/event-stream" || status.is_informational() {
        return;
    }
    let body = response.into_body().collect().await.map(|whole| whole.to_bytes());
    if !status.is_client_error() && !status.is_server_error() {
        return;
    }
    let body =
        body.unwrap_or_else(|error| panic!("{said}: {status}: the body of an error breaks off: {error}"));
    if looks && body.is_empty() {
        return;
    }
    let error: Value =
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{said}: {status}: {error}"));
    let code = error["error"]["code"].as_str().or(error["code"].as_str()).unwrap_or_default();
    let known = Code::ALL.iter().find(|known| known.as_str() == code);
    assert!(known.is_some_and(|known| known.status() == status), "{said}: {status} {error}");
    let defect = [Code::Internal, Code::LedgerCorrupt].iter().any(|defect| Some(defect) == known);
    assert!(!defect, "{said}: {status} {error}");
}
