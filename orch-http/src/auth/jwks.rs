//! The keys of an issuer: from a file or a URL, read again now and then, and when a token names a key that is not known.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use orch::{Error, Timestamp};
use serde_json::Value;

use super::jws::Key;

/// How long keys are used without looking whether they have changed.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// How soon an unknown key, or a failure, makes them be read again.
const FLOOR: Duration = Duration::from_secs(10);
/// How long keys are used that cannot be read again.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a reading may take.
#[cfg(feature = "jwks-url")]
const READ_TIME: Duration = Duration::from_secs(5);
/// Bytes of a set of keys.
const BYTES_MAX: usize = 256 << 10;
/// Keys of a set.
const KEYS_MAX: usize = 100;

/// Where an issuer publishes its keys.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    File(PathBuf),
    #[cfg(feature = "jwks-url")]
    Url(super::fetch::Fetcher),
}

/// The keys of an issuer.
#[derive(Debug)]
pub(crate) struct KeySet {
    place: Place,
    known: RwLock<Known>,
    /// One reading at a time.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    keys: Arc<[Key]>,
    read_at: Option<Timestamp>,
    tried_at: Option<Timestamp>,
}

impl KeySet {
    pub(super) fn new(place: Place) -> Self {
        Self { place, known: RwLock::default(), reading: tokio::sync::Mutex::default() }
    }

    /// The keys that a token may have been signed with: the one it names, or all if it names none.
    pub(crate) async fn find(&self, kid: Option<&str>, now: Timestamp) -> Vec<Key> {
        let age = |at: Option<Timestamp>| at.map_or(Duration::MAX, |at| now.since(at));
        let known = self.known();
        let found = matching(&known.keys, kid);
        if age(known.read_at) < FRESH && !found.is_empty() {
            return found;
        }
        if age(known.tried_at) >= FLOOR {
            let _turn = self.reading.lock().await;
            // Somebody else may have read them while this one waited.
            if age(self.known().tried_at) >= FLOOR {
                self.read(now).await;
            }
        }
        let known = self.known();
        if age(known.read_at) < STALE { matching(&known.keys, kid) } else { Vec::new() }
    }

    fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn read(&self, now: Timestamp) {
        let text = match &self.place {
            Place::File(path) => tokio::fs::read(path).await.map_err(|cause| {
                Error::unavailable("the keys cannot be read").with("file", path.display()).caused_by(cause)
            }),
            #[cfg(feature = "jwks-url")]
            Place::Url(fetcher) => fetcher.get(BYTES_MAX, READ_TIME).await,
        };
        let keys = text.and_then(|text| keys(&text));
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.tried_at = Some(now);
        match keys {
            Ok(keys) => {
                known.keys = keys.into();
                known.read_at = Some(now);
            }
            Err(error) => {
                tracing::warn!(%error, "the keys of an issuer cannot be read again; the old ones stay in use")
            }
        }
    }
}

fn matching(keys: &[Key], kid: Option<&str>) -> Vec<Key> {
    let named = |key: &&Key| kid.is_none() || key.kid.is_none() || key.kid.as_deref() == kid;
    keys.iter().filter(named).cloned().collect()
}

/// Reads a JWK set.
fn keys(text: &[u8]) -> orch::Result<Vec<Key>> {
    if text.len() > BYTES_MAX {
        return Err(Error::limit_exceeded("the set of keys is too large").with("limit", BYTES_MAX));
    }
    let set: Value = serde_json::from_slice(text)
        .map_err(|cause| Error::invalid("the keys are no json").caused_by(cause))?;
    let list = set.get("keys").and_then(Value::as_array);
    let list = list.ok_or_else(|| Error::invalid("a set of keys has a list `keys`"))?;
    Ok(list.iter().take(KEYS_MAX).filter_map(Key::read).collect())
}
