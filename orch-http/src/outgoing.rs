//! Connections that this process opens: over TLS, or on this machine; no proxy, no redirect.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orch::{Error, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use url::{Host, Url};

/// An address that nobody can listen in on: `https`, or `http` on this machine.
///
/// # Errors
/// `Invalid` for any other.
pub(crate) fn address(text: &str) -> Result<Url> {
    let wrong = || {
        Error::invalid("not an address that nobody can listen in on: https, or http on this machine")
            .with("url", text)
    };
    let url = Url::parse(text).map_err(|_| wrong())?;
    let local = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if url.scheme() == "https" || (url.scheme() == "http" && local) { Ok(url) } else { Err(wrong()) }
}

/// A client that trusts these authorities, or those of the system; with a time, no answer takes longer.
///
/// # Errors
/// `Invalid` where there are none that can be used.
pub(crate) fn client(authorities: Option<&Path>, time: Option<Duration>) -> Result<reqwest::Client> {
    let unfit = |cause: Box<dyn std::error::Error + Send + Sync>| {
        let error = Error::invalid("no certificate authority can be used");
        authorities
            .map_or(error, |file| {
                Error::invalid("the certificate authorities cannot be used").with("file", file.display())
            })
            .caused_by(cause)
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
        .no_proxy();
    let client = time.into_iter().fold(client, reqwest::ClientBuilder::timeout).build();
    client.map_err(|cause| unfit(cause.into()))
}
