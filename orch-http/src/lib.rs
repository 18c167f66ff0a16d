//! The HTTP service of orch: a router that mounts into a host or stands alone.
//!
//! # Example
//!
//! ```
//! use axum::routing::get;
//! use orch::Orchestrator;
//! use orch_http::auth::{Authentication, LocalToken};
//! use orch_http::{Settings, router};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), orch::Error> {
//! let orchestrator = Orchestrator::builder().start()?;
//! let (token, text) = LocalToken::draw();
//! let authentication = Authentication { local: Some(token), ..Authentication::default() };
//! let service = router(orchestrator.clone(), Settings { authentication, ..Settings::default() });
//! // Beside the host's own routes, under any prefix.
//! let host: axum::Router = axum::Router::new().route("/", get(|| async { "the host" })).nest("/flows", service);
//! # drop((host, text));
//! # orchestrator.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Rooms
//!
//! | room | what it is |
//! |---|---|
//! | `api/` | what all resources have in common: the table of routes, guards, errors, bodies, pages, idempotency keys |
//! | [`auth`] | who makes a request: tokens, scopes, tenants, reasons |
//! | `resources/` | a file for each resource: its routes, its guards, what it says |
//! | `stream/` | what happens to runs, as it happens |
//! | [`observe`] | what operations see: metrics, the log of ends, spans |
//! | `openapi/` | the OpenAPI document and its page, made from the table of routes |
//! | [`dsse`] | who vouches for a document |
//! | `client/` | the other end: a typed client, feature `client` |
//! | `server/` | the program `orch-server`: configuration, connections, beginning and end |
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `server` | yes | the program `orch-server` and the module `server` |
//! | `client` | no | the module `client`: a typed client of the service, which is also a store that can be read |
//! | `otel` | no | spans of requests, runs and attempts over OTLP and as lines of JSON |
//! | `jwks-url` | with `server` | keys of issuers from a URL, besides files |
//! | `mongo`, `redis`, `nats` | no | what `orch-server` can keep things on besides SQLite |

mod api;
pub mod auth;
#[cfg(feature = "client")]
pub mod client;
pub mod dsse;
pub mod observe;
mod openapi;
#[cfg(feature = "outgoing")]
mod outgoing;
mod resources;
#[cfg(feature = "server")]
pub mod server;
mod settings;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use orch::Orchestrator;

pub use api::code::Code;
pub use observe::{Metrics, TENANTS_MAX};
pub use settings::{DagSettings, HttpLimits, RateLimit, Settings, StreamSettings};

/// Where the resources are, below the prefix of the host.
pub const BASE: &str = "/api/v1/orchestrator";

/// Where the OpenAPI document is, below the prefix of the host; the same for people is at its `/page`.
pub const OPENAPI: &str = "/.well-known/openapi";
const OPENAPI_PAGE: &str = "/.well-known/openapi/page";

/// What every handler may use. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct App(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) orch: Orchestrator,
    pub(crate) auth: auth::Authentication,
    pub(crate) settings: Settings,
    /// Streams that are open.
    pub(crate) streams: api::count::Count,
    /// Who listens to all runs of a tenant.
    pub(crate) hubs: stream::Hubs,
    /// Requests that are under way.
    pub(crate) requests: api::count::Count,
    /// Exports that are under way.
    pub(crate) exports: api::count::Count,
    /// Workers that wait for work.
    pub(crate) waiting: api::count::Count,
    pub(crate) rates: api::rate::Rates,
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The whole service as a router: nest it under any prefix, beside a host's own routes.
///
/// The orchestrator stays the host's: shut it down after the server has ended.
///
/// # Panics
/// When no header is to name the tenant.
pub fn router(orchestrator: Orchestrator, mut settings: Settings) -> Router {
    assert!(!settings.tenant_headers.is_empty(), "some header must name the tenant");
    let auth = std::mem::take(&mut settings.authentication);
    let (requests, streams) = (api::count::Count::default(), api::count::Count::default());
    settings.metrics.watch(&requests, &streams);
    let app = App(Arc::new(Shared {
        orch: orchestrator,
        auth,
        settings,
        streams,
        hubs: Default::default(),
        requests,
        exports: Default::default(),
        waiting: Default::default(),
        rates: Default::default(),
    }));
    let routes = resources::routes();
    let (document, page) = resources::described(&openapi::document(&routes));
    let router = api::route::mount(&app, BASE, routes).route(OPENAPI, document).route(OPENAPI_PAGE, page);
    router.layer(axum::middleware::from_fn_with_state(app, api::wrap::every))
}
