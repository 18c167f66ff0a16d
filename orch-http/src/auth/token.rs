//! Static tokens: random bytes that were handed out, of which only the hash is kept.

use std::collections::BTreeMap;

use orch::{Digest, Secret, Timestamp};

use super::principal::{Principal, Tenants};
use super::scope::Scopes;
use crate::api::trace::{draw, hex};

/// The token of whoever works at this machine: drawn at every start, for loopback only.
#[derive(Debug)]
pub struct LocalToken(Digest);

impl LocalToken {
    /// Draws one. The text is handed out here and nowhere else.
    #[must_use]
    pub fn draw() -> (Self, Secret) {
        let text = format!("orch-local-{}", hex(draw::<32>()));
        (Self(Digest::of(&text)), Secret::new(text).expect("hex is a secret of good length"))
    }

    pub(super) fn is(&self, token: &Secret) -> bool {
        same(&self.0, token)
    }
}

/// Draws a token to be handed out, and answers it with its hash, which is all that need be kept.
#[must_use]
pub fn draw_token() -> (Secret, Digest) {
    let text = format!("orch-token-{}", hex(draw::<32>()));
    let hash = Digest::of(&text);
    (Secret::new(text).expect("hex is a secret of good length"), hash)
}

/// A token for a small set-up or for a machine, with what it allows.
#[derive(Clone, Debug)]
pub struct ApiToken {
    /// The name of whoever holds it, for the record.
    pub subject: String,
    /// SHA-256 of the token.
    pub hash: Digest,
    /// The tenants it speaks for.
    pub tenants: Tenants,
    /// What it allows.
    pub scopes: Scopes,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

impl ApiToken {
    pub(super) fn is(&self, token: &Secret) -> bool {
        same(&self.hash, token)
    }

    pub(super) fn is_valid(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|end| now < end)
    }

    pub(super) fn principal(&self) -> Principal {
        Principal {
            subject: self.subject.clone(),
            tenants: self.tenants.clone(),
            scopes: self.scopes,
            elevated: BTreeMap::new(),
            expires: self.expires,
            bound_to: None,
        }
    }
}

/// Compares hashes, all 32 bytes whatever the first of them say.
fn same(hash: &Digest, token: &Secret) -> bool {
    let given = Digest::of(token.expose());
    let differing = hash.as_bytes().iter().zip(given.as_bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    std::hint::black_box(differing) == 0
}
