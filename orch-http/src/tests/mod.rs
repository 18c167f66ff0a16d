//! The service as its clients see it, without a socket: requests go into the router, answers come out.

mod auth;
#[cfg(feature = "client")]
mod client;
mod dags;
mod examples;
mod guards;
mod hostile;
mod idempotency;
mod limits;
mod looking;
mod metrics;
mod openapi;
mod proving;
#[cfg(feature = "server")]
mod redaction;
mod runs;
mod streams;
#[cfg(feature = "otel")]
mod traces;
mod waiting;
mod workers;

use axum::Router;
use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use orch::executor::{Failure, StepContext};
use orch::{Digest, Limits, Orchestrator, TenantId};
use serde_json::Value;
use tower::ServiceExt as _;

use crate::auth::{ApiToken, Authentication, Scope, Scopes, Tenants};
use crate::{BASE, Settings, router};

/// A token that does everything for the tenants `acme` and `umbrella`.
pub(crate) const FULL: &str = "full-token-of-the-tests";
/// A token for another tenant only.
pub(crate) const STRANGER: &str = "stranger-token-of-the-tests";

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

pub(crate) fn token(text: &str, tenants: &[&str], scopes: Scopes) -> ApiToken {
    ApiToken {
        subject: format!("test/{text}"),
        hash: Digest::of(text),
        tenants: Tenants::Some(tenants.iter().map(|name| tenant(name)).collect()),
        scopes,
        expires: None,
    }
}

/// A service in memory with a DAG that says hello.
pub(crate) struct Service {
    pub(crate) orch: Orchestrator,
    pub(crate) router: Router,
}

pub(crate) const HELLO: &str = "
apiVersion: orch/v1
kind: Dag
id: hello
inputs: { type: object, properties: { name: { type: string } }, required: [name] }
steps:
  - { id: greet, uses: fn/greet, with: '${{ inputs.name }}' }
  - { id: shout, uses: fn/greet, needs: [greet], with: '${{ steps.greet.output }}' }
";

impl Service {
    pub(crate) async fn start() -> Self {
        let mut tokens = vec![
            token(FULL, &["acme", "umbrella"], Scopes::all()),
            token(STRANGER, &["stranger"], Scopes::all()),
        ];
        for scope in Scope::ALL {
            tokens.push(token(&only(*scope), &["acme"], [*scope].into_iter().collect()));
        }
        Self::with(Authentication { tokens, ..Authentication::default() }).await
    }

    pub(crate) async fn with(authentication: Authentication) -> Self {
        let greet = |_: StepContext, name: String| async move { Ok::<_, Failure>(format!("hello {name}")) };
        let orch = Orchestrator::builder().task("greet", greet).start().unwrap();
        let who = orch::Identity::new(tenant("acme"), "setup");
        let dag = orch::spec::parse("hello.yaml", HELLO, &Limits::default()).unwrap();
        orch.publish(&who, dag).await.unwrap();
        let router = router(orch.clone(), Settings { authentication, ..Settings::default() });
        Self { orch, router }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answered {
        Answered::of(self.router.clone().oneshot(request).await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answered {
        self.send(ask(Method::GET, path, Some(FULL), Some("acme"), None)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answered {
        self.send(ask(Method::POST, path, Some(FULL), Some("acme"), Some(body))).await
    }
}

/// The token that has one scope.
pub(crate) fn only(scope: Scope) -> String {
    format!("only-{scope}-token-of-the-tests")
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl Answered {
    pub(crate) async fn of(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Self {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or("")
    }

    #[track_caller]
    pub(crate) fn expect(self, status: StatusCode) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.body
    }
}

/// A request with a reason and a ticket, as elevated actions want them.
pub(crate) fn ask(
    method: Method,
    path: &str,
    token: Option<&str>,
    tenant: Option<&str>,
    body: Option<Value>,
) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(format!("{BASE}{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if let Some(tenant) = tenant {
        request = request.header("x-stella-tenant", tenant);
    }
    request = request.header("x-stella-operator-reason", "a test").header("x-stella-operator-ticket", "T-1");
    match body {
        None => request.body(Body::empty()).unwrap(),
        Some(body) => {
            request.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap()
        }
    }
}
