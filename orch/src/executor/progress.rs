//! How far a step is.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use super::secret::Redactor;

/// Takes a step's word on how far it is; only the latest counts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ProgressSink {
    redactor: Redactor,
    /// Most steps say nothing: made when one does, or when somebody follows.
    latest: Arc<OnceLock<watch::Sender<Option<Arc<str>>>>>,
}

impl ProgressSink {
    /// The longest note in bytes; what lies beyond is cut off after redaction.
    pub const NOTE_BYTES_MAX: usize = 1 << 10;

    /// A sink that has been told nothing yet.
    #[must_use]
    pub fn new(redactor: Redactor) -> Self {
        Self { redactor, latest: Arc::default() }
    }

    fn sender(&self) -> &watch::Sender<Option<Arc<str>>> {
        self.latest.get_or_init(|| watch::Sender::new(None))
    }

    /// Says how far the step is, such as `12 of 40 files`.
    pub fn note(&self, text: &str) {
        let clean = self.redactor.text(text);
        let end = clean.floor_char_boundary(Self::NOTE_BYTES_MAX);
        self.sender().send_replace(Some(clean[..end].into()));
    }

    /// The latest note.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<str>> {
        self.latest.get()?.borrow().clone()
    }

    /// Tells of each change of the latest note; notes in quick succession become one.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.sender().subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::Secret;
    use std::collections::BTreeMap;

    #[test]
    fn only_the_latest_note_counts_and_it_is_short_and_clean() {
        let secrets = BTreeMap::from([("KEY".to_owned(), Secret::new("hunter22").unwrap())]);
        let progress = ProgressSink::new(Redactor::new(&secrets));
        assert_eq!(progress.latest(), None);
        progress.note("first");
        progress.note(&format!("hunter22 {}", "é".repeat(2_000)));
        let latest = progress.latest().unwrap();
        assert!(latest.starts_with("[redacted] é") && latest.len() <= ProgressSink::NOTE_BYTES_MAX);
    }
}
