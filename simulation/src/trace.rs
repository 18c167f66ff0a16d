//! What happened at the seams, in order: two simulations of one seed must tell it alike, byte by byte.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The record of every call of a seam and its answer. Clones share it; each speaks for one process.
#[derive(Clone, Default)]
pub struct Trace {
    shared: Option<Arc<Mutex<String>>>,
    begun: Option<Instant>,
    who: Arc<str>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("who", &self.who).finish_non_exhaustive()
    }
}

impl Trace {
    /// An empty record that begins now.
    #[must_use]
    pub fn begin() -> Self {
        let shared = Some(Arc::new(Mutex::new(String::with_capacity(64 << 10))));
        Self { shared, begun: Some(Instant::now()), who: "world".into() }
    }

    /// The same record, for another process.
    #[must_use]
    pub fn of(&self, who: &str) -> Self {
        Self { who: who.into(), ..self.clone() }
    }

    /// Records a line.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let (Some(shared), Some(begun)) = (&self.shared, self.begun) else { return };
        let mut text = text(shared);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:>9.3} {:<8} {what}", begun.elapsed().as_secs_f64(), self.who);
    }

    /// The whole record.
    #[must_use]
    pub fn text(&self) -> String {
        self.shared.as_ref().map(|shared| text(shared).clone()).unwrap_or_default()
    }
}

fn text(shared: &Mutex<String>) -> MutexGuard<'_, String> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer in a word.
pub(crate) fn word<T>(answer: &orch::Result<T>) -> &'static str {
    answer.as_ref().map_or_else(|error| error.kind().as_str(), |_| "ok")
}
