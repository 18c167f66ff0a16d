//! How streams and subjects are named.

use orch::TenantId;
use orch::queue::Item;
use std::fmt::Write as _;

/// The names of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// The stream of the queue, and what its subjects begin with.
    pub(crate) queue: String,
    pub(crate) items: String,
    /// The stream of the lock, and what its subjects begin with.
    pub(crate) lock: String,
    slots: String,
    buckets: String,
}

impl Names {
    pub(crate) fn new(namespace: &str) -> Self {
        Self {
            queue: format!("orch_{namespace}_queue"),
            items: format!("orch.{namespace}.queue."),
            lock: format!("orch_{namespace}_lock"),
            slots: format!("orch.{namespace}.slots."),
            buckets: format!("orch.{namespace}.bucket."),
        }
    }

    /// What the queue's stream holds.
    pub(crate) fn queue_subjects(&self) -> Vec<String> {
        vec![format!("{}*.*", self.items)]
    }

    /// What the lock's stream holds.
    pub(crate) fn lock_subjects(&self) -> Vec<String> {
        vec![format!("{}*", self.slots), format!("{}*.*", self.buckets)]
    }

    /// Where the state of an item is. What makes it the same item is all in it.
    pub(crate) fn item(&self, item: &Item) -> String {
        format!("{}{}.{}", self.items, token(item.tenant.as_str()), token(&item.id()))
    }

    /// Where everything is that is held in a tenant.
    pub(crate) fn slots(&self, tenant: &TenantId) -> String {
        format!("{}{}", self.slots, token(tenant.as_str()))
    }

    /// Where a bucket is.
    pub(crate) fn bucket(&self, tenant: &TenantId, key: &str) -> String {
        format!("{}{}.{}", self.buckets, token(tenant.as_str()), token(key))
    }
}

/// A text as one token of a subject, reversibly: every byte but `a-z A-Z 0-9 _ / -` is written `=XX`.
fn token(text: &str) -> String {
    let mut token = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_/-".contains(&byte) {
            token.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(token, "={byte:02X}");
        }
    }
    // A token may not be empty.
    if token.is_empty() { "=".to_owned() } else { token }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_one_legal_token_of_its_own() {
        let texts = ["", "=", "a.b", "a=2Eb", "a b", "*", ">", "é", "a/b[3]/1", "\n"];
        let tokens = texts.map(token);
        for (n, token) in tokens.iter().enumerate() {
            assert!(!token.is_empty() && !token.contains(['.', '*', '>', ' ', '\n']), "{token}");
            assert!(tokens[..n].iter().all(|other| other != token), "{token}");
        }
        assert_eq!(tokens[2], "a=2Eb");
        assert_eq!(tokens[8], "a/b=5B3=5D/1");
    }
}
