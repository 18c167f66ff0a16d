//! What a handle knows of streams without asking: the heads it saw or wrote last.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mongodb::bson::oid::ObjectId;
use orch::ledger::Head;

use super::place::Place;

/// Where a stream stood when it was last seen. It may have moved on since; what rests on it is compared by the write itself.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) head: Head,
    /// The last chunk follows this entry.
    pub(super) after: u64,
    /// Which of the streams of this name that there have been.
    pub(super) life: ObjectId,
    /// How often a row was replaced without entries, in the whole stream.
    pub(super) replaced: i64,
    /// The same for the last chunk alone.
    pub(super) revision: i64,
    /// The chunk that has the last row.
    pub(super) row_after: Option<u64>,
    /// Where the listings have it; nothing when that is not known.
    pub(super) place: Option<Place>,
}

/// Streams in each of two generations: some 300 bytes each.
const GENERATION: usize = 32_768;

/// What is known, by the name of the stream. What was not used for a generation is forgotten.
#[derive(Debug)]
pub(super) struct Cache {
    enabled: bool,
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<String, Known>,
    old: HashMap<String, Known>,
}

impl Cache {
    pub(super) fn new(enabled: bool) -> Self {
        Self { enabled, generations: Mutex::default() }
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        // Every change below is whole before the next begins.
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, name: &str) -> Option<Known> {
        let mut generations = self.generations();
        if let Some((name, known)) = generations.old.remove_entry(name) {
            generations.put(name, known);
        }
        generations.young.get(name).cloned()
    }

    pub(super) fn put(&self, name: String, known: Known) {
        if self.enabled {
            let mut generations = self.generations();
            generations.old.remove(&name);
            generations.put(name, known);
        }
    }

    pub(super) fn forget(&self, name: &str) {
        let mut generations = self.generations();
        generations.young.remove(name);
        generations.old.remove(name);
    }

    /// Puts down what was read, unless this handle knows a later head.
    pub(super) fn learn(&self, name: &str, known: &Known) {
        let newer = |mine: Known| mine.life == known.life && mine.head.seq > known.head.seq;
        if !self.get(name).is_some_and(newer) {
            self.put(name.to_owned(), known.clone());
        }
    }
}

impl Generations {
    fn put(&mut self, name: String, known: Known) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(seq: u64, life: ObjectId) -> Known {
        let head = Head { hash: orch::Digest::ZERO, seq };
        Known { head, after: 0, life, replaced: 0, revision: 0, row_after: None, place: None }
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let (cache, life) = (Cache::new(true), ObjectId::new());
        cache.put("used".into(), known(1, life));
        cache.put("unused".into(), known(1, life));
        for n in 0..3 * GENERATION {
            cache.put(n.to_string(), known(1, life));
            if n % 1_000 == 0 {
                assert!(cache.get("used").is_some(), "after {n}");
            }
        }
        assert!(cache.get("unused").is_none());
        let generations = cache.generations();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION);
    }

    #[test]
    fn what_was_read_does_not_replace_what_was_written_later() {
        let (cache, life) = (Cache::new(true), ObjectId::new());
        cache.put("s".into(), known(5, life));
        cache.learn("s", &known(4, life));
        assert_eq!(cache.get("s").unwrap().head.seq, 5);
        cache.learn("s", &known(6, life));
        assert_eq!(cache.get("s").unwrap().head.seq, 6);
        cache.learn("s", &known(2, ObjectId::from_bytes([7; 12])));
        assert_eq!(cache.get("s").unwrap().head.seq, 2, "another stream of this name");
        cache.forget("s");
        assert!(cache.get("s").is_none());
    }

    #[test]
    fn nothing_is_known_where_writes_are_weak() {
        let cache = Cache::new(false);
        cache.put("s".into(), known(5, ObjectId::new()));
        assert!(cache.get("s").is_none());
    }
}
