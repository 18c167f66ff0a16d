//! SHA-256 digests, written as lowercase hex everywhere.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// A SHA-256 digest (FIPS 180-4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest([u8; 32]);

impl Digest {
    /// What the first entry of a stream names as its predecessor: 64 zeros.
    pub const ZERO: Self = Self([0; 32]);

    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes.as_ref()).into())
    }

    /// The digest of several parts, each preceded by its length as eight big-endian bytes, so that
    /// moving a byte from one part to the next changes the result.
    #[must_use]
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// The 32 raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Wraps 32 raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 64 hex digits as ASCII bytes, without going through `fmt`: the ledger writes two per entry.
    #[must_use]
    pub fn to_hex(&self) -> [u8; 64] {
        let mut hex = [0; 64];
        put_hex(&self.0, &mut hex);
        hex
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

pub(crate) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for part in bytes.chunks(32) {
        let mut hex = [0; 64];
        put_hex(part, &mut hex);
        f.write_str(std::str::from_utf8(&hex[..part.len() * 2]).map_err(|_| fmt::Error)?)?;
    }
    Ok(())
}

/// Two digits a byte, for as many bytes as there are.
fn put_hex(bytes: &[u8], hex: &mut [u8; 64]) {
    for (pair, byte) in hex.chunks_exact_mut(2).zip(bytes) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
}

/// Exactly `2 * N` lowercase hex digits, or nothing: a hash has one spelling.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let (mut bytes, mut seen) = ([0; N], 0);
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    // What is no digit has a value that no digit has a bit of.
    (seen < 16).then_some(bytes)
}

/// The value of each lowercase hex digit; whoever reads a ledger looks up a hundred of them per entry.
const VALUES: [u8; 256] = {
    let (mut values, mut value) = ([0x80; 256], 0);
    while value < 16 {
        values[HEX[value as usize] as usize] = value;
        value += 1;
    }
    values
};

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse_hex(text).map(Self).ok_or_else(|| Error::invalid("a digest is 64 lowercase hex digits"))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let hex = self.to_hex();
        serializer.serialize_str(std::str::from_utf8(&hex).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_abc_is_the_published_vector() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of("abc").to_string(), abc);
        assert_eq!(std::str::from_utf8(&Digest::of("abc").to_hex()).unwrap(), abc);
        assert_eq!(abc.parse::<Digest>().unwrap(), Digest::of("abc"));
        assert!(abc.to_uppercase().parse::<Digest>().is_err());
        for byte in 0..=u8::MAX {
            let text = [&abc.as_bytes()[..62], &[b'0', byte]].concat();
            let digit = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            let read = std::str::from_utf8(&text).ok().and_then(|text| text.parse::<Digest>().ok());
            assert_eq!(read.map(|digest| digest.to_string().into_bytes()), digit.then_some(text));
        }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(Digest::of_parts(&[b"ab", b"c"]), Digest::of_parts(&[b"a", b"bc"]));
    }
}
