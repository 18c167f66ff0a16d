//! Fetching the keys of an issuer over HTTP.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orch::{Error, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use url::{Host, Url};

/// Fetches one document from one address.
#[derive(Clone, Debug)]
pub(crate) struct Fetcher {
    client: reqwest::Client,
    url: Url,
}

impl Fetcher {
    /// For an address that nobody can listen in on: `https`, or `http` on this machine.
    pub(super) fn new(url: &str, authorities: Option<&Path>) -> Result<Self> {
        let wrong =
            || Error::invalid("keys are fetched over https, or over http on this machine").with("url", url);
        let url = Url::parse(url).map_err(|_| wrong())?;
        let local = match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if !(url.scheme() == "https" || (url.scheme() == "http" && local)) {
            return Err(wrong());
        }
        let unfit = |cause: Box<dyn std::error::Error + Send + Sync>| {
            Error::invalid("the keys of an issuer cannot be fetched").caused_by(cause)
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().map_err(|cause| unfit(cause.into()))?;
        let builder = match authorities {
            None => builder.with_platform_verifier().map_err(|cause| unfit(cause.into()))?,
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for authority in CertificateDer::pem_file_iter(file).map_err(|cause| unfit(cause.into()))? {
                    let authority = authority.map_err(|cause| unfit(cause.into()))?;
                    roots.add(authority).map_err(|cause| unfit(cause.into()))?;
                }
                builder.with_root_certificates(roots)
            }
        };
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(builder.with_no_client_auth())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build();
        Ok(Self { client: client.map_err(|cause| unfit(cause.into()))?, url })
    }

    /// The document, if it is not longer than `most` bytes and arrives in time.
    pub(super) async fn get(&self, most: usize, time: Duration) -> Result<Vec<u8>> {
        let away = |cause: reqwest::Error| {
            Error::unavailable("the keys cannot be fetched").caused_by(cause.without_url())
        };
        let mut response = self.client.get(self.url.clone()).timeout(time).send().await.map_err(away)?;
        if !response.status().is_success() {
            return Err(Error::unavailable("the keys cannot be fetched").with("status", response.status()));
        }
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(away)? {
            text.extend_from_slice(&chunk);
            if text.len() > most {
                return Err(Error::limit_exceeded("the set of keys is too large").with("limit", most));
            }
        }
        Ok(text)
    }
}
