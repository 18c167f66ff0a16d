//! A client of the service that speaks the words of the library: what it answers are the library's own types.
//!
//! A [`Client`] acts for one tenant with one token. It *does* things by methods that are called as those of
//! [`Orchestrator`](orch::Orchestrator), and it is a [`Store`](orch::store::Store) that can be read: an orchestrator on it
//! folds, explains and compares runs here, from entries whose chain it verifies here, so that nothing has to be believed
//! of the service.
//!
//! # Example
//!
//! ```no_run
//! use std::sync::Arc;
//! use orch::engine::{DagRef, Identity, Roles, Settings, Submit};
//! use orch::{DagId, Orchestrator, TenantId};
//! use orch_http::client::{Client, ClientSettings};
//!
//! # async fn example() -> orch::Result<()> {
//! let tenant = TenantId::new("acme")?;
//! let client = Client::new(&ClientSettings {
//!     token: Some(std::fs::read_to_string("token").unwrap_or_default()),
//!     ..ClientSettings::new("https://orch.example", tenant.clone())
//! })?;
//! let submitted = client
//!     .submit(&Submit::new(DagRef::Latest(DagId::new("scan")?), serde_json::json!({ "image": "alpine" })))
//!     .await?;
//! // Reading: an orchestrator that neither schedules nor works.
//! let roles = Roles { submit: true, schedule: false, work: false };
//! let reader = Orchestrator::builder()
//!     .store(Arc::new(client))
//!     .settings(Settings { roles, ..Settings::default() })
//!     .start()?;
//! let ended = reader.wait(&Identity::new(tenant, "reader"), submitted.run.run).await?;
//! println!("{}", ended.status);
//! # Ok(())
//! # }
//! ```

mod call;
mod dags;
mod proof;
mod runs;
mod store;
mod worker;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use orch::{Error, Result, TenantId};
use url::Url;

use crate::auth::{REASON_HEADER, TICKET_HEADER};
use crate::{BASE, outgoing};

pub use call::Refusal;

/// What names the tenant, wherever a service has not been told another name.
const TENANT_HEADER: HeaderName = HeaderName::from_static("x-stella-tenant");

/// Which service, for whom, and why.
#[derive(Clone)]
pub struct ClientSettings {
    /// Where the service is, with the prefix it is mounted under: `https://…`, or `http://` on this machine.
    pub server: String,
    /// The tenant.
    pub tenant: TenantId,
    /// The bearer token; without one only what is open can be asked.
    pub token: Option<String>,
    /// A PEM file of the certificate authorities to trust, instead of the system's.
    pub authorities: Option<PathBuf>,
    /// Why, for the record. Some scopes ask for it.
    pub reason: Option<String>,
    /// The ticket that tells more. Some scopes ask for it.
    pub ticket: Option<String>,
}

impl ClientSettings {
    /// A service and a tenant, and nothing else.
    pub fn new(server: impl Into<String>, tenant: TenantId) -> Self {
        Self { server: server.into(), tenant, token: None, authorities: None, reason: None, ticket: None }
    }
}

impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, tenant, .. } = self;
        f.debug_struct("ClientSettings")
            .field("server", server)
            .field("tenant", tenant)
            .finish_non_exhaustive()
    }
}

/// A client of one service, for one tenant. Cheap to clone; connections are shared.
///
/// What changes something is sent with an idempotency key of its own and sent again, a few times, when no answer arrives:
/// it happens once. What then is still not known is `Indeterminate`.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    /// Up to and with the base of all resources, without a slash at its end.
    base: String,
    tenant: TenantId,
    headers: HeaderMap,
}

impl Client {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// `Invalid` for an address that others could listen in on, for a token, reason or ticket that no header can carry, and
    /// for certificate authorities that cannot be read.
    pub fn new(settings: &ClientSettings) -> Result<Self> {
        let url = outgoing::address(&settings.server)?;
        let mut headers = HeaderMap::new();
        headers.insert(TENANT_HEADER, text("tenant", settings.tenant.as_str())?);
        if let Some(token) = &settings.token {
            let mut bearer = text("token", &format!("Bearer {}", token.trim()))?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        for (name, what, value) in
            [(REASON_HEADER, "reason", &settings.reason), (TICKET_HEADER, "ticket", &settings.ticket)]
        {
            if let Some(value) = value {
                headers.insert(name, text(what, value)?);
            }
        }
        let http = outgoing::client(settings.authorities.as_deref(), None)?;
        let base = format!("{}{BASE}", without_end(&url));
        Ok(Self(Arc::new(Inner { http, base, tenant: settings.tenant.clone(), headers })))
    }

    /// Whose runs it sees.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.0.tenant
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.0.base)
            .field("tenant", &self.0.tenant)
            .finish_non_exhaustive()
    }
}

/// A text as the value of a header. It is not repeated in the error: it may be a secret.
fn text(what: &'static str, value: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(value)
        .ok()
        .filter(|value| value.to_str().is_ok())
        .ok_or_else(|| Error::invalid("must hold visible ASCII characters to be sent").with("field", what))
}

/// An address without query, fragment and the slash at its end.
fn without_end(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_goes_below_the_prefix_and_shows_no_token() {
        let tenant = TenantId::new("acme").unwrap();
        let token = Some("very-secret".to_owned());
        let settings =
            ClientSettings { token, ..ClientSettings::new("http://127.0.0.1:8470/flows/?x#y", tenant) };
        let client = Client::new(&settings).unwrap();
        assert_eq!(client.0.base, "http://127.0.0.1:8470/flows/api/v1/orchestrator");
        for shown in [format!("{settings:?}"), format!("{client:?}"), format!("{:?}", client.0.headers)] {
            assert!(!shown.contains("very-secret"), "{shown}");
        }
    }

    #[test]
    fn what_others_could_listen_in_on_or_no_header_can_carry_is_refused() {
        let tenant = TenantId::new("acme").unwrap();
        let plain = ClientSettings::new("http://orch.example", tenant.clone());
        assert!(Client::new(&plain).is_err());
        let reason = Some("wegen\nÄrger".to_owned());
        let odd = ClientSettings { reason, ..ClientSettings::new("https://orch.example", tenant) };
        assert!(Client::new(&odd).unwrap_err().to_string().contains("reason"));
    }
}
