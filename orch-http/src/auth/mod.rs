//! Who makes a request: tokens and what they allow.

mod dpop;
#[cfg(feature = "jwks-url")]
mod fetch;
mod issuer;
mod jwks;
mod jws;
mod principal;
mod scope;
mod token;

use http::header;
use http::request::Parts;
use orch::{Secret, Timestamp};

pub use dpop::Proofs;
pub use issuer::{Issuer, Issuers};
pub use jws::Algorithm;
pub use principal::{Elevated, Principal, Tenants};
pub use scope::{Elevation, Scope, Scopes};
pub use token::{ApiToken, LocalToken, draw_token};

use crate::api::code::Code;
use crate::api::error::{ApiError, ApiResult};

/// Why an elevated action is done.
pub const REASON_HEADER: &str = "x-stella-operator-reason";
/// Which ticket asks for it.
pub const TICKET_HEADER: &str = "x-stella-operator-ticket";
/// The longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Every way in which a caller may prove who it is. With none of them, nobody gets in.
#[derive(Debug, Default)]
pub struct Authentication {
    /// The token of whoever works at this machine.
    pub local: Option<LocalToken>,
    /// Tokens handed out by hand.
    pub tokens: Vec<ApiToken>,
    /// The services whose tokens are taken.
    pub issuers: Issuers,
    /// What proofs of possession are held against, for tokens that are bound to a key (DPoP, RFC 9449).
    pub proofs: Proofs,
}

impl Authentication {
    /// Whether nobody could get in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.local.is_none() && self.tokens.is_empty() && self.issuers.is_empty()
    }

    /// Who makes this request.
    pub(crate) async fn authenticate(&self, parts: &Parts, now: Timestamp) -> ApiResult<Principal> {
        let (scheme, token) = credentials(parts)?;
        if scheme == Scheme::Dpop {
            return self.proven(parts, &token, now).await;
        }
        if self.local.as_ref().is_some_and(|local| local.is(&token)) {
            return Ok(Principal::local());
        }
        if let Some(known) = self.tokens.iter().find(|known| known.is(&token)) {
            return Some(known)
                .filter(|known| known.is_valid(now))
                .map(ApiToken::principal)
                .ok_or_else(denied);
        }
        // A bound token alone is no more than what somebody may have stolen.
        let principal = self.issuers.principal(token.expose(), now).await;
        principal.filter(|principal| principal.bound_to.is_none()).ok_or_else(denied)
    }

    /// Who makes a request with a token that is bound to a key.
    async fn proven(&self, parts: &Parts, token: &Secret, now: Timestamp) -> ApiResult<Principal> {
        let principal = self.issuers.principal(token.expose(), now).await.ok_or_else(denied)?;
        let key = principal.bound_to.as_deref().ok_or_else(denied)?;
        self.proofs.check(parts, token.expose(), key, now).map_err(|why| {
            tracing::debug!(why, "a proof of possession is not taken");
            let how = http::HeaderValue::from_static(
                "DPoP error=\"invalid_dpop_proof\", algs=\"ES256 ES384 EdDSA PS256 RS256\"",
            );
            ApiError::new(
                Code::Unauthenticated,
                "this needs a proof of possession that is good for this request",
            )
            .with_header(header::WWW_AUTHENTICATE, how)
        })?;
        Ok(principal)
    }
}

/// How a token is presented.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    /// Whoever bears it may use it.
    Bearer,
    /// Whoever holds its key may use it.
    Dpop,
}

/// The token of a request.
fn credentials(parts: &Parts) -> ApiResult<(Scheme, Secret)> {
    let given = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, token) = given.and_then(|value| value.split_once(' ')).ok_or_else(denied)?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Scheme::Bearer,
        "dpop" => Scheme::Dpop,
        _ => return Err(denied()),
    };
    if token.len() > TOKEN_BYTES_MAX {
        return Err(denied());
    }
    Ok((scheme, Secret::new(token.trim()).map_err(|_| denied())?))
}

/// One answer for every token that is not good, so that nothing can be learnt from it.
fn denied() -> ApiError {
    let how = http::HeaderValue::from_static("Bearer realm=\"orch\"");
    ApiError::new(Code::Unauthenticated, "this needs a valid token: `Authorization: Bearer …`")
        .with_header(header::WWW_AUTHENTICATE, how)
}

/// The keys in a file, for tests of their ages.
#[cfg(test)]
pub(crate) fn test_keys(file: std::path::PathBuf) -> jwks::KeySet {
    jwks::KeySet::new(jwks::Place::File(file))
}
