//! How the service behaves: plain data, apart from what it is built from.

use std::time::Duration;

use http::HeaderName;

use crate::auth::Authentication;

/// How the service behaves.
#[derive(Debug)]
pub struct Settings {
    /// How callers prove who they are. With nothing in it, nobody gets in.
    pub authentication: Authentication,
    /// The headers that may name the tenant; the first is the one that answers speak of.
    pub tenant_headers: Vec<HeaderName>,
    /// Bounds on size, count and time.
    pub limits: HttpLimits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            authentication: Authentication::default(),
            tenant_headers: vec![
                HeaderName::from_static("x-stella-tenant"),
                HeaderName::from_static("x-stellaops-tenant"),
            ],
            limits: HttpLimits::default(),
        }
    }
}

/// The bounds of requests.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Bytes of a JSON body, after unpacking. 4 MiB by default: a document of the largest size fits.
    pub body_bytes: usize,
    /// How long a request may take that is no stream and no long poll. 30 s by default.
    pub request_time: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self { body_bytes: 4 << 20, request_time: Duration::from_secs(30) }
    }
}
