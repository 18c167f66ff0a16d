//! How many of something are under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what is under way: requests, streams.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    /// How many there are.
    pub(crate) fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// One more, until the answer is dropped; nothing when there are so many already.
    pub(crate) fn enter(&self, most: usize) -> Option<Entered> {
        let more = |count: usize| (count < most).then_some(count + 1);
        let entered = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        entered.ok().map(|_| Entered(self.clone()))
    }
}

/// One that is under way.
#[derive(Debug)]
pub(crate) struct Entered(Count);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
