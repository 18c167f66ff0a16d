//! The dice: every choice of a simulation, the same for the same seed, and what they have done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often each fault has struck.
pub type Fired = BTreeMap<&'static str, u64>;

/// Dice that fall the same way for the same seed, and count the faults they have let happen.
#[derive(Clone, Debug)]
pub struct Dice(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    random: u64,
    fired: Fired,
}

impl Dice {
    /// Dice for a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike (Steele, Lea, Flood, "Fast splittable pseudorandom number
        // generators", 2014: the finaliser of SplitMix64).
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(Arc::new(Mutex::new(State { random: (mixed ^ (mixed >> 31)) | 1, fired: Fired::new() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number below `sides` (Marsaglia, "Xorshift RNGs", 2003).
    pub fn roll(&self, sides: u64) -> u64 {
        let mut state = self.state();
        state.random ^= state.random << 13;
        state.random ^= state.random >> 7;
        state.random ^= state.random << 17;
        state.random % sides.max(1)
    }

    /// A place in a list of `len`.
    pub fn pick(&self, len: usize) -> usize {
        usize::try_from(self.roll(len as u64)).unwrap_or_default()
    }

    /// Whether something happens that does in `percent` of all cases.
    pub fn chance(&self, percent: u64) -> bool {
        percent > 0 && self.roll(100) < percent
    }

    /// As [`Dice::chance`]; counts what happened.
    pub fn falls(&self, what: &'static str, percent: u64) -> bool {
        let falls = self.chance(percent);
        if falls {
            self.note(what);
        }
        falls
    }

    /// Counts what happened.
    pub fn note(&self, what: &'static str) {
        *self.state().fired.entry(what).or_default() += 1;
    }

    /// How often a fault has struck.
    #[must_use]
    pub fn fired(&self, what: &str) -> u64 {
        self.state().fired.get(what).copied().unwrap_or_default()
    }

    /// How often each fault has struck.
    #[must_use]
    pub fn all_fired(&self) -> Fired {
        self.state().fired.clone()
    }
}
