//! The arithmetic of slots, the same for every backend that counts in Rust.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Acquire, Grant, Slot};
use crate::error::{Error, Result};
use crate::time::Timestamp;

/// How long slots of a dead holder are kept when nobody asks for their keys, so that a process whose clock is fast does
/// no harm to others.
const LONG: Duration = Duration::from_secs(3_600);

/// Everything that is held in one tenant. A backend keeps it as one document, changes it by these methods and writes it
/// under compare-and-swap; what compares equal afterwards need not be written.
///
/// As JSON it is `{"last":9,"holders":{"HOLDER":{"KEY":[7,1795000000000000],"KEY":null}}}`: the last fence, and what
/// each holder took, with the fence and the end of the lease in microseconds since 1970, or `null` for a slot it has
/// lost and does not know of. Nobody holding anything, it is `{"last":9}`. It grows with the slots that are held, by
/// some 40 bytes each beside the names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Slots {
    /// The last fence granted. One count for all keys, so that nothing need be kept of a key nobody holds.
    last: u64,
    /// What each holder took; nothing in place of a slot that it lost. Each has at least one that it did not lose.
    holders: BTreeMap<String, BTreeMap<String, Option<Grant>>>,
    /// Who stands at each key.
    keys: BTreeMap<String, BTreeSet<String>>,
    /// The holders by when the last of their leases ends.
    ends: BTreeSet<(Timestamp, String)>,
}

/// The JSON of [`Slots`].
#[derive(Serialize, Deserialize)]
struct Stored {
    last: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    holders: BTreeMap<String, BTreeMap<String, Option<(u64, i64)>>>,
}

impl From<Stored> for Slots {
    fn from(stored: Stored) -> Self {
        let mut slots = Self::after(stored.last);
        for (holder, taken) in stored.holders {
            for (key, grant) in taken {
                let grant =
                    grant.map(|(fence, until)| Grant { fence, lease_until: Timestamp::from_micros(until) });
                if let Some(grant) = grant {
                    slots.last = slots.last.max(grant.fence);
                    slots.keys.entry(key.clone()).or_default().insert(holder.clone());
                }
                slots.holders.entry(holder.clone()).or_default().insert(key, grant);
            }
            slots.ends.extend(slots.end(&holder).map(|end| (end, holder.clone())));
        }
        slots
    }
}

impl From<Slots> for Stored {
    fn from(slots: Slots) -> Self {
        let parts = |grant: Grant| (grant.fence, grant.lease_until.as_micros());
        let taken = |taken: BTreeMap<String, Option<Grant>>| {
            taken.into_iter().map(|(key, grant)| (key, grant.map(parts))).collect()
        };
        let holders = slots.holders.into_iter().map(|(holder, keys)| (holder, taken(keys))).collect();
        Self { last: slots.last, holders }
    }
}

impl Slots {
    /// Nothing held, and every fence from now on higher than `last`.
    #[must_use]
    pub fn after(last: u64) -> Self {
        Self { last, ..Self::default() }
    }

    /// The last fence granted.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// Whether nobody holds anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    /// Takes slots as [`Lock::acquire`](super::Lock::acquire) promises: all of them or none. A refusal may change
    /// something, too: leases that have ended are lost to their holders from then on. Holders that ended an hour ago
    /// and never came back are forgotten.
    ///
    /// The request's tenant is not looked at: these are that tenant's slots.
    pub fn acquire(&mut self, acquire: &Acquire) -> Option<Vec<Grant>> {
        let holder = acquire.holder.name.as_str();
        self.forget_long_dead(acquire.now);
        self.forget_dead(holder, acquire.now);
        for slot in &acquire.slots {
            self.expire(&slot.key, acquire.now);
        }
        if !acquire.slots.iter().all(|slot| self.room(holder, slot)) {
            return None;
        }
        let until = acquire.now.plus(acquire.lease);
        Some(acquire.slots.iter().map(|slot| self.take(holder, &slot.key, until)).collect())
    }

    /// Prolongs everything that `holder` holds to `until`.
    ///
    /// # Errors
    /// `LeaseLost` when the lease of any of its slots has ended or it holds none; nothing is prolonged then.
    pub fn renew(&mut self, holder: &str, until: Timestamp, now: Timestamp) -> Result<()> {
        let lasts = |grant: &Option<Grant>| grant.is_some_and(|grant| grant.lease_until > now);
        let taken = self.holders.get(holder).filter(|taken| taken.values().all(lasts));
        let Some(taken) = taken else {
            return Err(Error::lease_lost("a slot was lost").with("holder", holder));
        };
        for key in taken.keys().cloned().collect::<Vec<_>>() {
            self.take(holder, &key, until);
        }
        Ok(())
    }

    /// Gives back everything that `holder` holds.
    pub fn release(&mut self, holder: &str) {
        self.unplace(holder);
        for key in self.holders.remove(holder).unwrap_or_default().into_keys() {
            self.leave(&key, holder);
        }
    }

    /// Frees the slots of `key` whose lease has ended. Their holders keep believing, so that `renew` tells them.
    fn expire(&mut self, key: &str, now: Timestamp) {
        let standing = self.keys.get(key).into_iter().flatten();
        let ended = |holder: &&String| self.grant(holder, key).is_some_and(|grant| grant.lease_until <= now);
        for holder in standing.filter(ended).cloned().collect::<Vec<_>>() {
            self.unplace(&holder);
            self.leave(key, &holder);
            if let Some(taken) = self.holders.get_mut(&holder) {
                taken.insert(key.to_owned(), None);
            }
            self.place(&holder);
            self.forget_dead(&holder, now);
        }
    }

    /// Forgets `holder` if it holds nothing any more: what it takes from then on has nothing to do with before.
    fn forget_dead(&mut self, holder: &str, now: Timestamp) {
        if self.end(holder).is_none_or(|end| end <= now) {
            self.release(holder);
        }
    }

    fn forget_long_dead(&mut self, now: Timestamp) {
        while let Some((end, holder)) = self.ends.first() {
            if end.plus(LONG) > now {
                break;
            }
            let holder = holder.clone();
            self.release(&holder);
        }
    }

    fn room(&self, holder: &str, slot: &Slot) -> bool {
        let standing = self.keys.get(&slot.key);
        standing.is_none_or(|holders| holders.contains(holder) || holders.len() < slot.capacity as usize)
            && slot.capacity > 0
    }

    /// Lets `holder` have a slot of `key` until then, by the fence that it has or else by a new one.
    fn take(&mut self, holder: &str, key: &str, lease_until: Timestamp) -> Grant {
        self.unplace(holder);
        let fence = self.grant(holder, key).map_or(self.last + 1, |grant| grant.fence);
        self.last = self.last.max(fence);
        let grant = Grant { fence, lease_until };
        self.holders.entry(holder.to_owned()).or_default().insert(key.to_owned(), Some(grant));
        self.keys.entry(key.to_owned()).or_default().insert(holder.to_owned());
        self.place(holder);
        grant
    }

    fn grant(&self, holder: &str, key: &str) -> Option<Grant> {
        *self.holders.get(holder)?.get(key)?
    }

    /// When the last lease of `holder` ends.
    fn end(&self, holder: &str) -> Option<Timestamp> {
        self.holders.get(holder)?.values().flatten().map(|grant| grant.lease_until).max()
    }

    /// Takes `holder` out of the order of ends, before its leases change.
    fn unplace(&mut self, holder: &str) {
        if let Some(end) = self.end(holder) {
            self.ends.remove(&(end, holder.to_owned()));
        }
    }

    fn place(&mut self, holder: &str) {
        self.ends.extend(self.end(holder).map(|end| (end, holder.to_owned())));
    }

    fn leave(&mut self, key: &str, holder: &str) {
        if let Some(standing) = self.keys.get_mut(key) {
            standing.remove(holder);
            if standing.is_empty() {
                self.keys.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TenantId;
    use crate::lock::Holder;
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};

    fn asks(holder: &str, keys: &[&str], capacity: u32, now: i64) -> Acquire {
        let slots = keys.iter().map(|key| Slot { key: (*key).to_owned(), capacity }).collect();
        let holder = Holder { tenant: TenantId::new("t").unwrap(), name: holder.to_owned() };
        Acquire { holder, slots, lease: Duration::from_secs(1), now: seconds(now) }
    }

    fn seconds(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn text(slots: &Slots) -> String {
        serde_json::to_string(slots).unwrap()
    }

    #[test]
    fn the_document_is_as_it_is_told() {
        let mut slots = Slots::after(6);
        slots.acquire(&asks("b", &["y"], 1, 1)).unwrap();
        slots.acquire(&Acquire { lease: Duration::from_secs(2), ..asks("b", &["x"], 1, 1) }).unwrap();
        slots.acquire(&asks("a", &["y"], 1, 2)).unwrap();
        let document = r#"{"last":9,"holders":{"a":{"y":[9,3000000]},"b":{"x":[8,3000000],"y":null}}}"#;
        assert_eq!(text(&slots), document);
        assert_eq!(serde_json::from_str::<Slots>(document).unwrap(), slots);
        slots.release("a");
        slots.release("b");
        assert!(slots.is_empty());
        assert_eq!(text(&slots), r#"{"last":9}"#);
    }

    #[test]
    fn fences_go_on_after_everything_was_given_back() {
        let mut slots = Slots::default();
        let first = slots.acquire(&asks("a", &["x", "y"], 1, 0)).unwrap();
        slots.release("a");
        let mut slots: Slots = serde_json::from_str(&text(&slots)).unwrap();
        let second = slots.acquire(&asks("b", &["x"], 1, 0)).unwrap();
        assert!(second[0].fence > first[1].fence);
        assert_eq!(slots.last(), second[0].fence);
    }

    #[test]
    fn holders_long_dead_are_forgotten_by_whoever_acquires_anything() {
        let mut slots = Slots::default();
        slots.acquire(&asks("dead", &["x"], 1, 0)).unwrap();
        slots.acquire(&asks("lives", &["y"], 1, 3_600)).unwrap();
        assert!(text(&slots).contains("dead"), "its clock may be slow: it was an hour and a second");
        slots.acquire(&asks("lives", &["y"], 1, 3_601)).unwrap();
        assert!(!text(&slots).contains("dead"));
    }

    #[test]
    fn a_refused_holder_leaves_no_trace() {
        let mut slots = Slots::default();
        slots.acquire(&asks("a", &["y"], 1, 0)).unwrap();
        let before = slots.clone();
        assert_eq!(slots.acquire(&asks("b", &["x", "y"], 1, 0)), None);
        assert_eq!(slots, before);
        assert!(slots.renew("b", seconds(9), seconds(0)).is_err());
        slots.release("b");
        assert_eq!(slots, before);
    }

    proptest! {
        #[test]
        fn no_more_than_the_capacity_is_live_and_the_document_holds_everything(
            steps in prop::collection::vec(
                (select(&["a", "b", "c", "d"][..]), subsequence(vec!["x", "y"], 1..=2), 0..4u8, 0..3i64), 1..60,
            ),
        ) {
            let (mut slots, mut now, mut highest) = (Slots::default(), 0, 0);
            for (holder, keys, what, pause) in steps {
                now += pause * 400;
                let micros = Timestamp::from_micros(now * 1_000);
                match what {
                    0 => slots.release(holder),
                    1 => drop(slots.renew(holder, micros.plus(Duration::from_secs(2)), micros)),
                    _ => {
                        let before = slots.clone();
                        let asked = Acquire { now: micros, ..asks(holder, &keys, 2, 0) };
                        for (key, grant) in keys.iter().zip(slots.acquire(&asked).into_iter().flatten()) {
                            let kept = before.grant(holder, key).is_some_and(|held| held.fence == grant.fence);
                            prop_assert!(kept || grant.fence > highest);
                            highest = highest.max(grant.fence);
                        }
                    }
                }
                for (key, standing) in &slots.keys {
                    prop_assert!((1..=2).contains(&standing.len()));
                    prop_assert!(standing.iter().all(|holder| slots.grant(holder, key).is_some()));
                }
                prop_assert_eq!(slots.ends.len(), slots.holders.len());
                let again: Slots = serde_json::from_str(&text(&slots)).unwrap();
                prop_assert_eq!(again, slots.clone());
            }
        }
    }
}
