//! The table of routes. A route cannot be written down without its guard, and what a client must know of it stands
//! beside its handler: the OpenAPI document, the router and the tests of guards are made from the same rows.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use http::{Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use tower::ServiceExt as _;

use super::code::Code;
use super::error::ApiError;
use super::guard;
use super::path::{Template, action_of};
use crate::App;
use crate::auth::Scope;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Anybody, without a token: it tells nothing of any tenant.
    Open,
    /// Callers of a tenant whose token has the scope.
    Scope(Scope),
    /// Callers whose token has the scope and speaks for every tenant: it tells of all of them.
    Every(Scope),
}

/// The schema of something a route takes or gives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape(pub(crate) fn(&mut SchemaGenerator) -> Schema);

impl Shape {
    pub(crate) fn of<T: JsonSchema>() -> Self {
        Self(|generator| generator.subschema_for::<T>())
    }
}

/// What a route answers when all is well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Good {
    pub(crate) status: StatusCode,
    pub(crate) media: &'static str,
    pub(crate) shape: Option<Shape>,
}

/// What is known of a route besides its handler.
#[derive(Debug)]
pub(crate) struct RouteFacts {
    pub(crate) method: Method,
    pub(crate) path: Template,
    /// Its name in the OpenAPI document and in metrics.
    pub(crate) operation: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) guard: Guard,
    pub(crate) query: Option<Shape>,
    pub(crate) body: Option<(&'static [&'static str], Shape)>,
    /// A body that is taken, as JSON: a test takes it at its word.
    pub(crate) example: Option<&'static str>,
    pub(crate) good: Vec<Good>,
    /// What it may answer besides what every route may.
    pub(crate) codes: &'static [Code],
    /// It answers for as long as somebody listens: no time limit.
    pub(crate) endless: bool,
    /// It may wait for something to happen, and knows for how long.
    pub(crate) waits: bool,
    /// It makes the answer of a request with an idempotency key known again.
    pub(crate) idempotent_by_key: bool,
}

/// A route.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) facts: RouteFacts,
    handler: MethodRouter<App>,
}

/// The media type of almost everything.
pub(crate) const JSON: &str = "application/json";
/// One JSON document per line.
pub(crate) const NDJSON: &str = "application/x-ndjson";

impl Route {
    fn new<H, T>(
        method: Method,
        path: &'static str,
        operation: &'static str,
        guard: Guard,
        handler: H,
    ) -> Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("routes use the methods of HTTP");
        let idempotent_by_key = method == Method::POST;
        Self {
            facts: RouteFacts {
                method,
                path: Template::new(path),
                operation,
                summary: "",
                guard,
                query: None,
                body: None,
                example: None,
                good: Vec::new(),
                codes: &[],
                endless: false,
                waits: false,
                idempotent_by_key,
            },
            handler: on(filter, handler),
        }
    }

    /// A route that changes nothing.
    pub(crate) fn get<H, T>(path: &'static str, operation: &'static str, guard: Guard, handler: H) -> Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        Self::new(Method::GET, path, operation, guard, handler)
    }

    /// A route that changes something.
    pub(crate) fn post<H, T>(path: &'static str, operation: &'static str, guard: Guard, handler: H) -> Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        Self::new(Method::POST, path, operation, guard, handler)
    }

    /// What it does, in one sentence.
    pub(crate) fn says(mut self, summary: &'static str) -> Self {
        self.facts.summary = summary;
        self
    }

    /// The parameters of its query: the properties of a type.
    pub(crate) fn query<T: JsonSchema>(mut self) -> Self {
        self.facts.query = Some(Shape::of::<T>());
        self
    }

    /// What its body holds.
    pub(crate) fn takes<T: JsonSchema>(self) -> Self {
        self.takes_as::<T>(&[JSON])
    }

    /// What its body holds, in one of several media types.
    pub(crate) fn takes_as<T: JsonSchema>(mut self, media: &'static [&'static str]) -> Self {
        self.facts.body = Some((media, Shape::of::<T>()));
        self
    }

    /// A body that is taken, as JSON.
    pub(crate) fn like(mut self, example: &'static str) -> Self {
        self.facts.example = Some(example);
        self
    }

    /// What it answers when all is well.
    pub(crate) fn gives<T: JsonSchema>(self, status: StatusCode) -> Self {
        self.gives_as(status, JSON, Some(Shape::of::<T>()))
    }

    /// What it answers when all is well, in another media type than JSON; without one, nothing.
    pub(crate) fn gives_as(mut self, status: StatusCode, media: &'static str, shape: Option<Shape>) -> Self {
        self.facts.good.push(Good { status, media, shape });
        self
    }

    /// What it may answer besides what every route may.
    pub(crate) fn may(mut self, codes: &'static [Code]) -> Self {
        self.facts.codes = codes;
        self
    }

    /// May wait for something to happen, and knows for how long.
    pub(crate) fn waits(mut self) -> Self {
        self.facts.waits = true;
        self
    }

    /// Answers for as long as somebody listens. Such an answer is not kept for an idempotency key: its handler makes it again.
    pub(crate) fn endless(mut self) -> Self {
        self.facts.endless = true;
        self
    }
}

/// The routes below `prefix` as a router.
pub(crate) fn mount(app: &App, prefix: &'static str, routes: Vec<Route>) -> Router {
    let mut places: BTreeMap<&'static str, Vec<(&'static RouteFacts, MethodRouter)>> = BTreeMap::new();
    for Route { facts, handler } in routes {
        // The table lives as long as the process: a program builds one router.
        let facts: &'static RouteFacts = Box::leak(Box::new(facts));
        let guarded = handler.layer(axum::middleware::from_fn_with_state((app.clone(), facts), guard::check));
        places.entry(facts.path.base()).or_default().push((facts, guarded.with_state(app.clone())));
    }
    let mut router = Router::new();
    for (base, routes) in places {
        router = router.route(&format!("{prefix}{base}"), place(routes));
    }
    // Whatever else lies there, the base itself included, is answered in the same form.
    ["", "/", "/{*rest}"]
        .iter()
        .fold(router, |router, rest| router.route(&format!("{prefix}{rest}"), axum::routing::any(nowhere)))
}

/// All methods and actions of one path.
fn place(routes: Vec<(&'static RouteFacts, MethodRouter)>) -> MethodRouter {
    let routes: std::sync::Arc<[_]> = routes.into();
    axum::routing::any(move |request: Request| {
        let routes = std::sync::Arc::clone(&routes);
        async move { choose(&routes, request).await }
    })
}

async fn choose(routes: &[(&'static RouteFacts, MethodRouter)], request: Request) -> Response {
    // Without such an action, what looks like one is part of a name.
    let asked = action_of(request.uri().path());
    let asked = asked.filter(|action| routes.iter().any(|(facts, _)| facts.path.action() == Some(action)));
    let known: Vec<_> = routes.iter().filter(|(facts, _)| facts.path.action() == asked).collect();
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    match known.iter().find(|(facts, _)| facts.method == *method) {
        Some((_, handler)) => {
            let answered = handler.clone().oneshot(request).await;
            answered.unwrap_or_else(|never| match never {})
        }
        None if known.is_empty() => nowhere().await.into_response(),
        None => {
            let allowed: Vec<&str> = known.iter().map(|(facts, _)| facts.method.as_str()).collect();
            let message = format!("here only {} is understood", allowed.join(", "));
            let error = ApiError::new(Code::MethodNotAllowed, message);
            let allowed = http::HeaderValue::from_str(&allowed.join(", "));
            allowed
                .map_or(error.clone(), |value| error.with_header(http::header::ALLOW, value))
                .into_response()
        }
    }
}

async fn nowhere() -> ApiError {
    ApiError::not_found("resource")
}
