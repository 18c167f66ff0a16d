//! Fetching the keys of an issuer over HTTP.

use std::path::Path;
use std::time::Duration;

use orch::{Error, Result};
use url::Url;

use crate::outgoing;

/// Fetches one document from one address.
#[derive(Clone, Debug)]
pub(crate) struct Fetcher {
    client: reqwest::Client,
    url: Url,
}

impl Fetcher {
    /// For an address that nobody can listen in on: `https`, or `http` on this machine.
    pub(super) fn new(url: &str, authorities: Option<&Path>) -> Result<Self> {
        Ok(Self { url: outgoing::address(url)?, client: outgoing::client(authorities, None)? })
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
