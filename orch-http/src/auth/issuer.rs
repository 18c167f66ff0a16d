//! JSON Web Tokens as access tokens (RFC 9068): whose are taken, and what must stand in them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use orch::{Digest, Error, TenantId, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::jwks::{KeySet, Place};
use super::jws::{Algorithm, Unverified};
use super::principal::{Elevated, Principal, Tenants};
use super::scope::{Elevation, Scope, Scopes};

/// How far two clocks may differ at most.
const LEEWAY_MAX: u64 = 60;
/// Tokens whose verification is remembered.
const REMEMBERED: usize = 10_000;
/// How long it is: so long a key that was withdrawn still works.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// Bytes of a subject.
const SUBJECT_BYTES_MAX: usize = 256;

/// A service whose tokens are taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// What `iss` says.
    pub issuer: String,
    /// One of these must stand in `aud`.
    #[schemars(length(min = 1))]
    pub audiences: Vec<String>,
    /// The file of its keys (a JWK set).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<PathBuf>,
    /// Where it publishes them: `https://…`, or `http://` on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// The authorities that vouch for that address, in PEM; those of the system without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_ca: Option<PathBuf>,
    /// How its tokens may be signed.
    #[serde(default = "usual_algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// What `typ` may say.
    #[serde(default = "usual_types")]
    pub types: Vec<String>,
    /// The claims that name tenants: a text, several separated by spaces, or a list.
    #[serde(default = "usual_tenant_claims")]
    pub tenant_claims: Vec<String>,
    /// Whether `*` among them means every tenant.
    #[serde(default)]
    pub every_tenant: bool,
    /// Seconds that its clock may differ from this one's.
    #[serde(default = "usual_leeway")]
    #[schemars(range(max = 60))]
    pub leeway_seconds: u64,
}

fn usual_algorithms() -> Vec<Algorithm> {
    Algorithm::ALL.to_vec()
}

fn usual_types() -> Vec<String> {
    vec!["at+jwt".to_owned(), "application/at+jwt".to_owned()]
}

fn usual_tenant_claims() -> Vec<String> {
    vec!["stellaops:tenant".to_owned(), "tenants".to_owned()]
}

const fn usual_leeway() -> u64 {
    30
}

impl Issuer {
    fn place(&self) -> orch::Result<Place> {
        let wrong = |what: &'static str| Error::invalid(what).with("issuer", &self.issuer);
        if self.audiences.is_empty() || self.algorithms.is_empty() || self.leeway_seconds > LEEWAY_MAX {
            return Err(wrong("an issuer needs audiences, algorithms, and at most 60 s of leeway"));
        }
        match (&self.jwks_file, &self.jwks_url) {
            (Some(file), None) => Ok(Place::File(file.clone())),
            #[cfg(feature = "jwks-url")]
            (None, Some(url)) => Ok(Place::Url(super::fetch::Fetcher::new(url, self.jwks_ca.as_deref())?)),
            #[cfg(not(feature = "jwks-url"))]
            (None, Some(_)) => {
                Err(Error::unsupported("this build reads keys from files only: see the feature `jwks-url`"))
            }
            _ => Err(wrong("an issuer has either `jwks_file` or `jwks_url`")),
        }
    }
}

/// All whose tokens are taken.
#[derive(Debug, Default)]
pub struct Issuers {
    known: Vec<(Issuer, KeySet)>,
    /// What was verified a moment ago, by the hash of the token.
    remembered: Mutex<HashMap<Digest, (Principal, Timestamp)>>,
}

impl Issuers {
    /// Takes the tokens of these.
    ///
    /// # Errors
    /// `Invalid` for one that says too little or contradicts itself, `Unsupported` for keys at a URL in a build without that.
    pub fn new(issuers: Vec<Issuer>) -> orch::Result<Self> {
        let known: orch::Result<_> =
            issuers.into_iter().map(|issuer| Ok((issuer.clone(), KeySet::new(issuer.place()?)))).collect();
        Ok(Self { known: known?, remembered: Mutex::default() })
    }

    /// Whether nobody's tokens are taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whoever a token speaks for; nothing for one that is not good.
    pub(super) async fn principal(&self, token: &str, now: Timestamp) -> Option<Principal> {
        if self.known.is_empty() {
            return None;
        }
        let hash = Digest::of(token);
        if let Some((principal, until)) = self.lock().get(&hash)
            && now < *until
        {
            return Some(principal.clone());
        }
        match self.verify(token, now).await {
            Ok(principal) => {
                let end = principal.expires.unwrap_or(now).min(now.plus(REMEMBERED_FOR));
                let mut remembered = self.lock();
                if remembered.len() >= REMEMBERED {
                    remembered.retain(|_, (_, until)| now < *until);
                }
                if remembered.len() < REMEMBERED {
                    remembered.insert(hash, (principal.clone(), end));
                }
                Some(principal)
            }
            Err(why) => {
                // Told to operators: a stranger learns no more than that it is not good.
                tracing::debug!(why, "a token is not taken");
                None
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, (Principal, Timestamp)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn verify(&self, token: &str, now: Timestamp) -> Result<Principal, &'static str> {
        let unverified = Unverified::read(token).ok_or("it is no signed token")?;
        let claims = unverified.unproven_claims().ok_or("its claims are no json")?;
        let issuer = claims.get("iss").and_then(Value::as_str);
        let (issuer, keys) = self
            .known
            .iter()
            .find(|(known, _)| Some(known.issuer.as_str()) == issuer)
            .ok_or("its issuer is not known")?;
        let algorithm = unverified.algorithm().filter(|algorithm| issuer.algorithms.contains(algorithm));
        let algorithm = algorithm.ok_or("its issuer does not sign like this")?;
        let typ = unverified.header.typ.as_deref().unwrap_or("");
        if !issuer.types.iter().any(|known| known.eq_ignore_ascii_case(typ)) {
            return Err("it is of another type");
        }
        let candidates = keys.find(unverified.header.kid.as_deref(), now).await;
        if !candidates.iter().any(|key| unverified.is_signed_by(key, algorithm)) {
            return Err("no key of its issuer has signed it");
        }
        check(issuer, &claims, now)
    }
}

/// What a token that its issuer has signed allows.
fn check(issuer: &Issuer, claims: &Value, now: Timestamp) -> Result<Principal, &'static str> {
    let leeway = Duration::from_secs(issuer.leeway_seconds);
    let time = |name: &str| claims.get(name).map(|value| instant(value).ok_or("a time in it is no number"));
    let expires = time("exp").ok_or("it never ends")??;
    if now >= expires.plus(leeway) {
        return Err("it has ended");
    }
    for name in ["nbf", "iat"] {
        if time(name).transpose()?.is_some_and(|begin| now.plus(leeway) < begin) {
            return Err("it is not valid yet");
        }
    }
    let audiences = words(claims.get("aud"), false);
    if !audiences.iter().any(|audience| issuer.audiences.contains(audience)) {
        return Err("it is for another audience");
    }
    let bound_to = match claims.get("cnf") {
        None => None,
        Some(bound) => {
            let thumbprint = bound.get("jkt").and_then(Value::as_str).map(str::to_owned);
            Some(thumbprint.ok_or("it is bound in a way of which no proof is taken here")?)
        }
    };
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or("");
    if subject.is_empty() || subject.len() > SUBJECT_BYTES_MAX || subject.chars().any(char::is_control) {
        return Err("its subject is missing, too long or unprintable");
    }
    let scopes: Vec<String> =
        ["scope", "scp"].iter().flat_map(|name| words(claims.get(*name), true)).collect();
    Ok(Principal {
        subject: subject.to_owned(),
        tenants: tenants(issuer, claims),
        scopes: Scopes::of_words(scopes.iter().map(String::as_str)),
        elevated: elevated(claims)?,
        expires: Some(expires),
        bound_to,
    })
}

/// Seconds since 1970 (RFC 7519, NumericDate).
pub(super) fn instant(value: &Value) -> Option<Timestamp> {
    let seconds = value.as_i64().or_else(|| {
        #[expect(clippy::cast_possible_truncation, reason = "a fraction of a second does not matter")]
        value.as_f64().map(|seconds| seconds as i64)
    })?;
    Some(Timestamp::from_micros(seconds.saturating_mul(1_000_000)))
}

/// The words of a claim: a list of texts, or a text, which may hold several.
fn words(claim: Option<&Value>, split: bool) -> Vec<String> {
    match claim {
        Some(Value::String(text)) if split => text.split_whitespace().map(str::to_owned).collect(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => {
            items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    }
}

fn tenants(issuer: &Issuer, claims: &Value) -> Tenants {
    let named: Vec<String> =
        issuer.tenant_claims.iter().flat_map(|name| words(claims.get(name), true)).collect();
    if issuer.every_tenant && named.iter().any(|name| name == "*") {
        return Tenants::Every;
    }
    Tenants::Some(named.iter().filter_map(|name| TenantId::new(name).ok()).collect::<BTreeSet<_>>())
}

/// The reasons and tickets that the token was issued for.
fn elevated(claims: &Value) -> Result<BTreeMap<&'static str, Elevated>, &'static str> {
    let text = |name: String, most: usize| match claims.get(&name).map(|value| value.as_str().unwrap_or("")) {
        None => Ok(None),
        Some(text) if text.is_empty() || text.len() > most || text.chars().any(char::is_control) => {
            Err("a reason or a ticket in it is empty, too long or unprintable")
        }
        Some(text) => Ok(Some(text.to_owned())),
    };
    let mut all = BTreeMap::new();
    for elevation in Scope::ALL.iter().filter_map(|scope| scope.elevation()) {
        let said = Elevated {
            reason: text(elevation.reason_claim(), Elevation::REASON_MAX)?,
            ticket: text(elevation.ticket_claim(), Elevation::TICKET_MAX)?,
        };
        all.insert(elevation.name, said);
    }
    Ok(all)
}
