//! Proofs that whoever presents a token holds the key that it is bound to (DPoP, RFC 9449).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::OriginalUri;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header;
use http::request::Parts;
use orch::{Digest, Error, Timestamp};
use serde_json::Value;
use url::Url;

use super::jws::{Key, Unverified};

/// The header that carries a proof.
const HEADER: &str = "dpop";
/// What `typ` of a proof says.
const TYPE: &str = "dpop+jwt";
/// How old a proof may be, and how far the clock of its maker may be ahead.
const AGE: Duration = Duration::from_secs(60);
/// The longest name of a proof, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// Proofs that are remembered, each for as long as it could be shown again. Beyond that no further ones are taken.
const REMEMBERED: usize = 200_000;

/// What proofs are held against. Each is good for one request to one process.
#[derive(Default)]
pub struct Proofs {
    /// Where callers reach the service; without it, the host that the request names, over either scheme.
    public: Option<Url>,
    seen: Mutex<HashMap<Digest, Timestamp>>,
}

impl fmt::Debug for Proofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proofs")
            .field("public", &self.public.as_ref().map(Url::as_str))
            .finish_non_exhaustive()
    }
}

impl Proofs {
    /// Proofs for a service that its callers reach at this address, with the prefix that a proxy takes away.
    ///
    /// # Errors
    /// `Invalid` for what is no address.
    pub fn at(public: &str) -> orch::Result<Self> {
        let url = Url::parse(public).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| Error::invalid("not an address of a service").with("url", public))?;
        Ok(Self { public: Some(url), ..Self::default() })
    }

    /// Whether the request proves possession of the key whose thumbprint a token names.
    pub(super) fn check(
        &self,
        parts: &Parts,
        token: &str,
        thumbprint: &str,
        now: Timestamp,
    ) -> Result<(), &'static str> {
        let mut proofs = parts.headers.get_all(HEADER).iter();
        let (Some(proof), None) = (proofs.next(), proofs.next()) else {
            return Err("a token that is bound to a key comes with one proof");
        };
        let unverified =
            proof.to_str().ok().and_then(Unverified::read).ok_or("the proof is no signed token")?;
        if !unverified.header.typ.as_deref().is_some_and(|typ| typ.eq_ignore_ascii_case(TYPE)) {
            return Err("the proof is of another type");
        }
        let algorithm = unverified.algorithm().ok_or("the proof is signed in a way that is not taken")?;
        let jwk = unverified.header.jwk.as_ref().ok_or("the proof holds no key")?;
        if jwk.get("d").is_some() {
            return Err("the proof holds a private key");
        }
        let key = Key::read(jwk).ok_or("the key of the proof is not understood")?;
        if !unverified.is_signed_by(&key, algorithm) {
            return Err("the proof was not signed by its key");
        }
        if self::thumbprint(jwk).as_deref() != Some(thumbprint) {
            return Err("the proof is of another key than the token's");
        }
        let claims = unverified.unproven_claims().ok_or("the proof says nothing")?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or("");
        if text("htm") != parts.method.as_str() || !self.is_here(parts, text("htu")) {
            return Err("the proof is for another request");
        }
        if text("ath") != URL_SAFE_NO_PAD.encode(Digest::of(token).as_bytes()) {
            return Err("the proof is for another token");
        }
        let made =
            claims.get("iat").and_then(super::issuer::instant).ok_or("the proof was made at no time")?;
        if now >= made.plus(AGE) || made >= now.plus(AGE) {
            return Err("the proof is too old, or from the future");
        }
        let name = text("jti");
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err("the proof has no name, or too long a one");
        }
        let shown = Digest::of_parts(&[thumbprint.as_bytes(), name.as_bytes()]);
        self.remember(shown, made.plus(AGE), now)
    }

    /// Whether this is the address of the request, without query and fragment.
    fn is_here(&self, parts: &Parts, address: &str) -> bool {
        let Ok(mut address) = Url::parse(address) else { return false };
        address.set_query(None);
        address.set_fragment(None);
        // A host that nests the router takes its prefix away.
        let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0);
        if let Some(public) = &self.public {
            let prefix = public.as_str().trim_end_matches('/');
            return Url::parse(&format!("{prefix}{}", uri.path())).is_ok_and(|here| here == address);
        }
        let named = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let Some(host) = named.or(parts.uri.authority().map(|authority| authority.as_str())) else {
            return false;
        };
        let here = |scheme| Url::parse(&format!("{scheme}://{host}{}", uri.path()));
        ["https", "http"].into_iter().any(|scheme| here(scheme).is_ok_and(|here| here == address))
    }

    /// Takes a proof once.
    fn remember(&self, proof: Digest, until: Timestamp, now: Timestamp) -> Result<(), &'static str> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.get(&proof).is_some_and(|until| now < *until) {
            return Err("the proof was shown before");
        }
        if seen.len() >= REMEMBERED {
            seen.retain(|_, until| now < *until);
        }
        if seen.len() >= REMEMBERED {
            return Err("too many proofs were shown lately");
        }
        seen.insert(proof, until);
        Ok(())
    }
}

/// The SHA-256 thumbprint of a key (RFC 7638): its required members alone, in the order of their names.
fn thumbprint(jwk: &Value) -> Option<String> {
    let names: &[&str] = match jwk.get("kty")?.as_str()? {
        "RSA" => &["e", "kty", "n"],
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        _ => return None,
    };
    let members: Option<Vec<String>> = names
        .iter()
        .map(|name| Some(format!("{}:{}", Value::from(*name), jwk.get(*name)?.as_str().map(Value::from)?)))
        .collect();
    let text = format!("{{{}}}", members?.join(","));
    Some(URL_SAFE_NO_PAD.encode(Digest::of(text).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_is_that_of_the_standard() {
        // RFC 7638, section 3.1.
        let jwk = serde_json::json!({
            "kty": "RSA", "alg": "RS256", "kid": "2011-04-29", "e": "AQAB",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCi\
                  FV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7\
                  d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-c\
                  sFCur-kEgU8awapJzKnqDKgw",
        });
        assert_eq!(thumbprint(&jwk).as_deref(), Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"));
    }

    #[test]
    fn a_proof_is_taken_once_until_it_is_too_old_anyway() {
        let proofs = Proofs::default();
        let (proof, start) = (Digest::of("a"), Timestamp::from_micros(1_000_000));
        let later = |seconds| start.plus(Duration::from_secs(seconds));
        assert!(proofs.remember(proof, later(60), start).is_ok());
        assert!(proofs.remember(proof, later(60), later(59)).is_err());
        assert!(proofs.remember(proof, later(120), later(60)).is_ok());
    }
}
