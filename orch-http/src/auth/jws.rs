//! Signed tokens (JWS, RFC 7515) and the keys that verify them (JWK, RFC 7517), on ring; P-521, which it does not have, is RustCrypto's.
//!
//! No library of JSON Web Tokens chooses its cryptography per verifier: the choice is one for the whole process, and the
//! process is the host's.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p521::ecdsa::signature::Verifier as _;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

macro_rules! algorithms {
    ($($name:ident = $word:literal),* $(,)?) => {
        /// How tokens are signed. There is no `none` and nothing with shared keys: whoever verifies could sign.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[allow(missing_docs, reason = "the names are those of RFC 7518 and RFC 8037")]
        pub enum Algorithm { $( #[serde(rename = $word)] $name, )* }

        impl Algorithm {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name in headers.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => $word, )* }
            }
        }

        impl FromStr for Algorithm {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $( $word => Ok(Self::$name), )* _ => Err(()) }
            }
        }
    };
}

algorithms! {
    Rs256 = "RS256", Rs384 = "RS384", Rs512 = "RS512",
    Ps256 = "PS256", Ps384 = "PS384", Ps512 = "PS512",
    Es256 = "ES256", Es384 = "ES384", Es512 = "ES512", EdDsa = "EdDSA",
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A token taken apart; nothing of it is believed yet.
pub(super) struct Unverified<'a> {
    pub(super) header: Header,
    /// Header and claims as they are signed.
    signed: &'a str,
    signature: Vec<u8>,
    claims: &'a str,
}

/// What a token says about itself. Anything that must be understood and is not here makes it no token.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    alg: String,
    pub(super) kid: Option<String>,
    pub(super) typ: Option<String>,
    /// The key of whoever signed; believed of proofs alone, which are about just that.
    pub(super) jwk: Option<Value>,
    /// Extensions that must be understood: there are none.
    crit: Option<Value>,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart; nothing for what is none.
    pub(super) fn read(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        (header.crit.is_none() && !claims.contains('.')).then_some(Self { header, signed, signature, claims })
    }

    pub(super) fn algorithm(&self) -> Option<Algorithm> {
        self.header.alg.parse().ok()
    }

    /// The claims, without any proof: enough to see who should be asked for a key, and for nothing else.
    pub(super) fn unproven_claims(&self) -> Option<Value> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(self.claims).ok()?).ok()
    }

    /// Whether this key has signed the token.
    pub(super) fn is_signed_by(&self, key: &Key, algorithm: Algorithm) -> bool {
        key.verifies(algorithm, self.signed.as_bytes(), &self.signature)
    }
}

/// A public key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(super) kid: Option<String>,
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// A point in its uncompressed form.
    P256(Vec<u8>),
    P384(Vec<u8>),
    P521(Box<p521::ecdsa::VerifyingKey>),
    Ed25519(Vec<u8>),
}

impl Key {
    /// Reads a JWK; nothing for one that verifies nothing here.
    pub(super) fn read(jwk: &Value) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let point = |length: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == length && y.len() == length).then(|| [&[4][..], &x, &y].concat())
        };
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("EC", Some("P-521")) => {
                Material::P521(Box::new(p521::ecdsa::VerifyingKey::from_sec1_bytes(&point(66)?).ok()?))
            }
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
            _ => return None,
        };
        let algorithm = match text("alg") {
            None => None,
            // A key for something else verifies nothing here.
            Some(name) => Some(name.parse().ok()?),
        };
        Some(Self { kid: text("kid").map(str::to_owned), algorithm, material })
    }

    fn verifies(&self, algorithm: Algorithm, message: &[u8], signed: &[u8]) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Es512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        if self.algorithm.is_some_and(|own| own != algorithm) {
            return false;
        }
        let plain = |kind: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(kind, key).verify(message, signed).is_ok()
        };
        match (&self.material, algorithm) {
            (Material::P256(key), Es256) => plain(&signature::ECDSA_P256_SHA256_FIXED, key),
            (Material::P384(key), Es384) => plain(&signature::ECDSA_P384_SHA384_FIXED, key),
            (Material::P521(key), Es512) => p521::ecdsa::Signature::from_slice(signed)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            (Material::Ed25519(key), EdDsa) => plain(&signature::ED25519, key),
            (Material::Rsa { n, e }, _) => {
                let parameters = match algorithm {
                    Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    Es256 | Es384 | Es512 | EdDsa => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signed).is_ok()
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// RFC 7515, appendix A.4.
    const JWK: (&str, &str) = (
        "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
        "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
    );
    const SIGNED: &str = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";

    #[test]
    fn the_example_of_the_rfc_for_p_521_is_taken_and_nothing_near_it() {
        let jwk = |x: &str, y: &str| Key::read(&json!({ "kty": "EC", "crv": "P-521", "x": x, "y": y }));
        let key = jwk(JWK.0, JWK.1).unwrap();
        let token = Unverified::read(SIGNED).unwrap();
        assert_eq!(token.algorithm(), Some(Algorithm::Es512));
        assert!(token.is_signed_by(&key, Algorithm::Es512));
        assert!(!token.is_signed_by(&key, Algorithm::Es384));
        for near in
            [SIGNED.replace(".UGF5", ".UGF4"), SIGNED.replace("_Jn", "_In"), SIGNED.replace("O_Jn", "")]
        {
            assert!(!Unverified::read(&near).unwrap().is_signed_by(&key, Algorithm::Es512), "{near}");
        }
        // A signature of zeros; keys that are no points of the curve.
        let zeros = format!("{}{}", &SIGNED[..SIGNED.rfind('.').unwrap() + 1], "A".repeat(176));
        assert!(!Unverified::read(&zeros).unwrap().is_signed_by(&key, Algorithm::Es512));
        assert!(jwk(JWK.1, JWK.0).is_none() && jwk(JWK.0, &JWK.1[4..]).is_none());
    }
}
