//! Dead Simple Signing Envelopes (DSSE v1.0.2): who vouches for a document.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use orch::proof::PublicKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the signature of a DAG is about.
pub const DAG_PAYLOAD_TYPE: &str = "application/vnd.orch.dag.v1";
/// The most signatures of one envelope.
const SIGNATURES_MAX: usize = 16;

/// Signatures over a document that travels beside them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signatures {
    /// What kind of document it is: `application/vnd.orch.dag.v1`.
    pub payload_type: String,
    /// The document itself in Base64, if it is to travel twice; it must be the same.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub payload: Option<String>,
    /// The signatures; one that verifies is enough.
    #[schemars(length(min = 1, max = 16))]
    pub signatures: Vec<OneSignature>,
}

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneSignature {
    /// The public key: 64 lowercase hex digits. Without it every trusted key is tried.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keyid: Option<String>,
    /// The Ed25519 signature (RFC 8032) over the pre-authentication encoding, in Base64.
    pub sig: String,
}

impl Signatures {
    /// The first of the trusted keys that vouches for `document`.
    #[must_use]
    pub fn signer<'a>(&self, document: &[u8], trusted: &'a [PublicKey]) -> Option<&'a PublicKey> {
        let same = |payload: &String| decode(payload).is_some_and(|bytes| bytes == document);
        if self.payload_type != DAG_PAYLOAD_TYPE || !self.payload.as_ref().is_none_or(same) {
            return None;
        }
        let message = encoding(&self.payload_type, document);
        self.signatures.iter().take(SIGNATURES_MAX).find_map(|one| {
            let signature: [u8; 64] = decode(&one.sig)?.try_into().ok()?;
            let named = |key: &PublicKey| one.keyid.as_ref().is_none_or(|id| *id == key.to_string());
            trusted.iter().find(|key| named(key) && key.verify(&message, &signature))
        })
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

/// The pre-authentication encoding (DSSE, "Signature Definition"): what is really signed.
#[must_use]
pub fn encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_that_of_the_specification() {
        let encoded = encoding("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }
}
