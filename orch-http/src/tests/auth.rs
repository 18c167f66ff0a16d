//! Tokens of issuers: good ones are taken, and everything that can be wrong with one is refused.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use orch::{Clock as _, SystemClock};
use p521::ecdsa::signature::Signer as _;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use serde_json::{Value, json};

use super::{Service, ask};
use crate::auth::{Algorithm, Authentication, Issuer, Issuers};

const ISSUER: &str = "https://authority.example";

/// A key pair that signs tokens.
enum Signer {
    Ed25519(Ed25519KeyPair),
    Ec(&'static str, EcdsaKeyPair),
    P521(p521::ecdsa::SigningKey),
    Rsa(Box<RsaKeyPair>),
}

impl Signer {
    fn ed25519() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
    }

    fn p256() -> Self {
        Self::ec("P-256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    fn p384() -> Self {
        Self::ec("P-384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING)
    }

    fn ec(curve: &'static str, kind: &'static signature::EcdsaSigningAlgorithm) -> Self {
        let document = EcdsaKeyPair::generate_pkcs8(kind, &SystemRandom::new()).unwrap();
        Self::Ec(curve, EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &SystemRandom::new()).unwrap())
    }

    fn p521() -> Self {
        let mut scalar = [0; 66];
        SystemRandom::new().fill(&mut scalar[2..]).unwrap();
        Self::P521(p521::ecdsa::SigningKey::from_slice(&scalar).unwrap())
    }

    fn rsa() -> Self {
        let pem = include_str!("fixtures/rsa.key");
        let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
        Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(&der).unwrap()))
    }

    fn jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let ec = |curve: &str, point: &[u8]| {
            let (x, y) = point.split_at(point.len() / 2);
            json!({ "kty": "EC", "crv": curve, "kid": kid, "x": text(x), "y": text(y) })
        };
        match self {
            Self::Ed25519(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": text(key.public_key().as_ref()) })
            }
            Self::Ec(curve, key) => ec(curve, &key.public_key().as_ref()[1..]),
            Self::P521(key) => ec("P-521", &key.verifying_key().to_sec1_point(false).as_bytes()[1..]),
            Self::Rsa(key) => {
                let public: ring::rsa::PublicKeyComponents<Vec<u8>> = key.public().into();
                json!({ "kty": "RSA", "kid": kid, "n": text(&public.n), "e": text(&public.e), "use": "sig" })
            }
        }
    }

    fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Self::Ec(_, key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::P521(key) => {
                let signature: p521::ecdsa::Signature = key.sign(message);
                signature.to_bytes().to_vec()
            }
            Self::Rsa(key) => {
                let padding: &dyn signature::RsaEncoding = match alg {
                    "PS256" => &signature::RSA_PSS_SHA256,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signed = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, message, &mut signed).unwrap();
                signed
            }
        }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.sign(header["alg"].as_str().unwrap_or(""), signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn seconds(ahead: i64) -> i64 {
    SystemClock.now().as_micros() / 1_000_000 + ahead
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": ["orch"], "sub": "service/tests", "exp": seconds(300), "nbf": seconds(-5),
        "scope": "openid orch:read orchestrator:write orch:operate", "stellaops:tenant": "acme",
        "operator_reason": "said by the token", "operator_ticket": "T-9",
    })
}

fn header(alg: &str, kid: &str) -> Value {
    json!({ "alg": alg, "kid": kid, "typ": "at+jwt" })
}

struct Keys(tempfile::TempDir);

impl Keys {
    fn new(keys: &[Value]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write(keys);
        folder
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("jwks.json")
    }

    fn write(&self, keys: &[Value]) {
        std::fs::write(self.path(), json!({ "keys": keys }).to_string()).unwrap();
    }

    fn issuer(&self) -> Value {
        json!({ "issuer": ISSUER, "audiences": ["orch"], "jwks_file": self.path() })
    }
}

async fn service(issuer: Value) -> Service {
    let issuer: Issuer = serde_json::from_value(issuer).unwrap();
    let issuers = Issuers::new(vec![issuer]).unwrap();
    Service::with(Authentication { issuers, ..Authentication::default() }).await
}

async fn status(service: &Service, token: &str) -> StatusCode {
    service.send(ask(Method::GET, "/runs", Some(token), Some("acme"), None)).await.status
}

#[tokio::test]
async fn tokens_of_every_kind_of_key_are_taken_and_speak_for_their_tenants_only() {
    let (ed, rsa) = (Signer::ed25519(), Signer::rsa());
    let (p256, p384, p521) = (Signer::p256(), Signer::p384(), Signer::p521());
    let ec = [p256.jwk("p256"), p384.jwk("p384"), p521.jwk("p521")];
    let keys = Keys::new(&[&[ed.jwk("ed"), rsa.jwk("rsa")], &ec[..]].concat());
    let mut issuer = keys.issuer();
    issuer["algorithms"] = json!(Algorithm::ALL);
    let service = service(issuer).await;
    for (signer, alg, kid) in [
        (&ed, "EdDSA", "ed"),
        (&p256, "ES256", "p256"),
        (&p384, "ES384", "p384"),
        (&p521, "ES512", "p521"),
        (&rsa, "RS256", "rsa"),
        (&rsa, "PS256", "rsa"),
    ] {
        let token = signer.token(&header(alg, kid), &claims());
        assert_eq!(status(&service, &token).await, StatusCode::OK, "{alg}");
        let other = service.send(ask(Method::GET, "/runs", Some(&token), Some("umbrella"), None)).await;
        assert_eq!(other.code(), "TENANT_FORBIDDEN");
    }
    let unnamed = ed.token(&json!({ "alg": "EdDSA", "typ": "at+jwt" }), &claims());
    assert_eq!(status(&service, &unnamed).await, StatusCode::OK, "without a kid every key is tried");
}

#[tokio::test]
async fn everything_that_can_be_wrong_with_a_token_is_refused_alike() {
    let (ed, rsa, stranger) = (Signer::ed25519(), Signer::rsa(), Signer::ed25519());
    let keys = Keys::new(&[ed.jwk("ed"), rsa.jwk("rsa")]);
    let service = service(keys.issuer()).await;
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        ed.token(&header("EdDSA", "ed"), &claims)
    };
    let good = ed.token(&header("EdDSA", "ed"), &claims());
    assert_eq!(status(&service, &good).await, StatusCode::OK);
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let mut forged = claims();
    forged["stellaops:tenant"] = json!("acme umbrella");
    let wrong = [
        ("another issuer", with("iss", json!("https://other.example"))),
        ("another audience", with("aud", json!("other"))),
        ("ended", with("exp", json!(seconds(-31)))),
        ("without an end", with("exp", Value::Null)),
        ("not yet", with("nbf", json!(seconds(120)))),
        ("issued later", with("iat", json!(seconds(120)))),
        ("without a subject", with("sub", json!(""))),
        ("an endless subject", with("sub", json!("x".repeat(257)))),
        ("an endless reason", with("operator_reason", json!("x".repeat(257)))),
        ("bound to a key", with("cnf", json!({ "jkt": "x" }))),
        ("bound to a certificate", with("cnf", json!({ "x5t#S256": "x" }))),
        ("another type", ed.token(&json!({ "alg": "EdDSA", "kid": "ed", "typ": "JWT" }), &claims())),
        ("no type", ed.token(&json!({ "alg": "EdDSA", "kid": "ed" }), &claims())),
        ("an unknown key", stranger.token(&header("EdDSA", "ed"), &claims())),
        ("an unknown kid", ed.token(&header("EdDSA", "other"), &claims())),
        ("another algorithm than its key", ed.token(&header("RS256", "rsa"), &claims())),
        ("a key as a shared secret", ed.token(&header("HS256", "rsa"), &claims())),
        ("none", format!("{}.{body}.", part(&json!({ "alg": "none", "typ": "at+jwt" })))),
        ("unsigned", format!("{head}.{body}.")),
        ("other claims under the signature", format!("{head}.{}.{signature}", part(&forged))),
        (
            "what must be understood",
            ed.token(&json!({ "alg": "EdDSA", "kid": "ed", "typ": "at+jwt", "crit": ["x"] }), &claims()),
        ),
        ("a part too many", format!("{good}.x")),
    ];
    for (what, token) in wrong {
        let answer = service.send(ask(Method::GET, "/runs", Some(&token), Some("acme"), None)).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"), "{what}");
        assert!(!answer.text.contains(body), "{what}");
    }
}

/// A request of a DPoP client.
fn proven(method: Method, path: &str, token: &str, proofs: &[String]) -> http::Request<axum::body::Body> {
    let mut request = ask(method, path, None, Some("acme"), None);
    let fields = request.headers_mut();
    fields.insert("host", "orch.example".parse().unwrap());
    fields.insert("authorization", format!("DPoP {token}").parse().unwrap());
    for proof in proofs {
        fields.append("dpop", proof.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_bound_token_is_good_with_a_proof_of_its_key_for_this_request_once() {
    let (issuer, holder, thief) = (Signer::ed25519(), Signer::p256(), Signer::p256());
    let keys = Keys::new(&[issuer.jwk("ed")]);
    let service = service(keys.issuer()).await;
    let point = holder.jwk("");
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, point["x"], point["y"]);
    let mut bound = claims();
    bound["cnf"] = json!({ "jkt": URL_SAFE_NO_PAD.encode(orch::Digest::of(canonical).as_bytes()) });
    let token = issuer.token(&header("EdDSA", "ed"), &bound);
    let unbound = issuer.token(&header("EdDSA", "ed"), &claims());
    let hash = |token: &str| URL_SAFE_NO_PAD.encode(orch::Digest::of(token).as_bytes());
    let head = |signer: &Signer| json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": signer.jwk("") });
    let said = |jti: &str| {
        json!({
            "jti": jti, "htm": "GET", "htu": format!("https://ORCH.example:443{}/runs#x", crate::BASE),
            "iat": seconds(0), "ath": hash(&token),
        })
    };
    let proof = |jti: &str| holder.token(&head(&holder), &said(jti));
    let with = |name: &str, value: Value| {
        let mut claims = said(name);
        claims[name] = value;
        holder.token(&head(&holder), &claims)
    };
    let send = async |token: &str, proofs: &[String]| {
        service.send(proven(Method::GET, "/runs", token, proofs)).await
    };
    let first = proof("first");
    assert_eq!(send(&token, std::slice::from_ref(&first)).await.status, StatusCode::OK);
    assert_eq!(send(&token, &[proof("second")]).await.status, StatusCode::OK);
    let private = {
        let mut jwk = holder.jwk("");
        jwk["d"] = json!("x");
        holder.token(&json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": jwk }), &said("private"))
    };
    let wrong = [
        ("shown before", vec![first]),
        ("none", vec![]),
        ("two", vec![proof("a"), proof("b")]),
        ("another key", vec![thief.token(&head(&thief), &said("thief"))]),
        ("signed by another key", vec![thief.token(&head(&holder), &said("forged"))]),
        ("a private key", vec![private]),
        ("no type", vec![holder.token(&json!({ "alg": "ES256", "jwk": holder.jwk("") }), &said("untyped"))]),
        ("no key", vec![holder.token(&json!({ "typ": "dpop+jwt", "alg": "ES256" }), &said("keyless"))]),
        ("another method", vec![with("htm", json!("POST"))]),
        ("another path", vec![with("htu", json!("https://orch.example/other"))]),
        ("another host", vec![with("htu", json!(format!("https://evil.example{}/runs", crate::BASE)))]),
        ("another token", vec![with("ath", json!(hash(&unbound)))]),
        ("too old", vec![with("iat", json!(seconds(-61)))]),
        ("from the future", vec![with("iat", json!(seconds(90)))]),
        ("without a name", vec![with("jti", json!(""))]),
    ];
    for (what, proofs) in wrong {
        let answer = send(&token, &proofs).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"), "{what}");
        let how = answer.headers["www-authenticate"].to_str().unwrap();
        assert!(how.starts_with("DPoP error="), "{what}: {how}");
    }
    // Neither is a bound token one for whoever bears it, nor the other way round.
    assert_eq!(status(&service, &token).await, StatusCode::UNAUTHORIZED);
    assert_eq!(send(&unbound, &[with("ath", json!(hash(&unbound)))]).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_proof_is_for_the_address_that_callers_use_whatever_is_in_between() {
    let (issuer, holder) = (Signer::ed25519(), Signer::ed25519());
    let keys = Keys::new(&[issuer.jwk("ed")]);
    let known: Issuer = serde_json::from_value(keys.issuer()).unwrap();
    let authentication = Authentication {
        issuers: Issuers::new(vec![known]).unwrap(),
        proofs: crate::auth::Proofs::at("https://flows.example/team/").unwrap(),
        ..Authentication::default()
    };
    let mut service = Service::with(authentication).await;
    service.router = axum::Router::new().nest("/inner", service.router.clone());
    let jwk = holder.jwk("");
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":{}}}"#, jwk["x"]);
    let mut bound = claims();
    bound["cnf"] = json!({ "jkt": URL_SAFE_NO_PAD.encode(orch::Digest::of(canonical).as_bytes()) });
    let token = issuer.token(&header("EdDSA", "ed"), &bound);
    for (address, expected) in [
        ("https://flows.example/team/inner", StatusCode::OK),
        ("https://orch.example/inner", StatusCode::UNAUTHORIZED),
        ("https://flows.example/inner", StatusCode::UNAUTHORIZED),
    ] {
        let proof = holder.token(
            &json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk }),
            &json!({
                "jti": address, "htm": "GET", "htu": format!("{address}{}/runs", crate::BASE), "iat": seconds(0),
                "ath": URL_SAFE_NO_PAD.encode(orch::Digest::of(&token).as_bytes()),
            }),
        );
        let mut request = proven(Method::GET, "/runs", &token, &[proof]);
        *request.uri_mut() = format!("/inner{}/runs", crate::BASE).parse().unwrap();
        assert_eq!(service.send(request).await.status, expected, "{address}");
    }
}

#[tokio::test]
async fn only_the_algorithms_and_types_that_an_issuer_uses_are_taken() {
    let rsa = Signer::rsa();
    let keys = Keys::new(&[rsa.jwk("rsa")]);
    let mut issuer = keys.issuer();
    issuer["algorithms"] = json!([Algorithm::Ps256]);
    issuer["types"] = json!(["JWT"]);
    let service = service(issuer).await;
    let token = |alg: &str, typ: &str| rsa.token(&json!({ "alg": alg, "kid": "rsa", "typ": typ }), &claims());
    assert_eq!(status(&service, &token("PS256", "jwt")).await, StatusCode::OK);
    assert_eq!(status(&service, &token("RS256", "JWT")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(&service, &token("PS256", "at+jwt")).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn every_tenant_is_allowed_only_where_the_issuer_may_say_so() {
    let ed = Signer::ed25519();
    let keys = Keys::new(&[ed.jwk("ed")]);
    let mut every = claims();
    every["stellaops:tenant"] = json!("*");
    let token = ed.token(&header("EdDSA", "ed"), &every);
    for (may, expected) in [(false, StatusCode::FORBIDDEN), (true, StatusCode::OK)] {
        let mut issuer = keys.issuer();
        issuer["every_tenant"] = json!(may);
        assert_eq!(status(&service(issuer).await, &token).await, expected);
    }
}

#[tokio::test]
async fn what_the_token_says_of_reason_and_ticket_goes_before_the_headers() {
    let ed = Signer::ed25519();
    let keys = Keys::new(&[ed.jwk("ed")]);
    let service = service(keys.issuer()).await;
    let token = ed.token(&header("EdDSA", "ed"), &claims());
    let body = Some(json!({ "dagId": "hello", "inputs": { "name": "you" } }));
    let run = service.send(ask(Method::POST, "/runs", Some(&token), Some("acme"), body)).await;
    let run = run.expect(StatusCode::CREATED)["runId"].as_str().unwrap().to_owned();
    let path = format!("/runs/{run}:replay");
    service
        .send(ask(Method::POST, &path, Some(&token), Some("acme"), None))
        .await
        .expect(StatusCode::CREATED);
    let request = orch::store::EntriesRequest {
        tenant: super::tenant("acme"),
        stream: orch::ledger::Stream::Audit,
        after: 0,
        limit: 100,
    };
    let audit = service.orch.store().entries(&[request]).await.unwrap().remove(0).lines;
    let last = audit.lines().last().unwrap();
    assert!(
        last.contains("said by the token") && last.contains("T-9") && last.contains("service/tests"),
        "{last}"
    );
}

#[tokio::test]
async fn a_new_key_is_found_when_a_token_names_it_and_a_lost_file_keeps_the_old_ones() {
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let keys = Keys::new(&[old.jwk("old")]);
    let set = crate::auth::test_keys(keys.path());
    let start = SystemClock.now();
    let find = |kid: &'static str, after: u64| {
        let at = start.plus(Duration::from_secs(after));
        let set = &set;
        async move { set.find(Some(kid), at).await.len() }
    };
    assert_eq!((find("old", 0).await, find("new", 0).await), (1, 0));
    keys.write(&[new.jwk("new")]);
    assert_eq!(find("new", 5).await, 0, "not asked again so soon");
    assert_eq!((find("new", 15).await, find("old", 16).await), (1, 0));
    std::fs::remove_file(keys.path()).unwrap();
    assert_eq!(find("new", 60 * 60).await, 1, "the old keys stay in use");
    assert_eq!(find("new", 25 * 60 * 60).await, 0, "and not for ever");
}

#[test]
fn an_issuer_that_contradicts_itself_is_refused() {
    for wrong in [
        json!({ "issuer": ISSUER, "audiences": [], "jwks_file": "x" }),
        json!({ "issuer": ISSUER, "audiences": ["a"] }),
        json!({ "issuer": ISSUER, "audiences": ["a"], "jwks_file": "x", "jwks_url": "https://x" }),
        json!({ "issuer": ISSUER, "audiences": ["a"], "jwks_url": "http://elsewhere.example/keys" }),
        json!({ "issuer": ISSUER, "audiences": ["a"], "jwks_file": "x", "leeway_seconds": 61 }),
    ] {
        let issuer: Issuer = serde_json::from_value(wrong.clone()).unwrap();
        assert!(Issuers::new(vec![issuer]).is_err(), "{wrong}");
    }
}

#[cfg(feature = "jwks-url")]
#[tokio::test]
async fn keys_are_fetched_from_a_url() {
    let ed = Signer::ed25519();
    let set = json!({ "keys": [ed.jwk("ed")] }).to_string();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/keys", axum::routing::get(move || async move { set }));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let service = service(json!({ "issuer": ISSUER, "audiences": ["orch"], "jwks_url": url })).await;
    assert_eq!(status(&service, &ed.token(&header("EdDSA", "ed"), &claims())).await, StatusCode::OK);
}

#[test]
fn nothing_that_holds_a_token_shows_it() {
    let (local, text) = crate::auth::LocalToken::draw();
    let shown = format!("{local:?} {text:?}");
    assert!(!shown.contains(text.expose()), "{shown}");
    let (token, hash) = crate::auth::draw_token();
    assert_eq!(hash, orch::Digest::of(token.expose()));
}
