//! A run as its committer knows it.

use std::time::Duration;

use super::change::Request;
use crate::planner::RunState;

/// Time spent on appends to one run in a row after which others are given way: who loses every race is not heard of otherwise.
const TURN: Duration = Duration::from_secs(1);
/// How often that is halved when others are seen to append. It doubles with each turn in which they are not.
const CROWD: u32 = 4;

/// A run as the committer knows it.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) residency: Residency,
    pub(super) pending: Vec<Request>,
    /// Whether it stands in the queue of runs to be looked after.
    pub(super) listed: bool,
    /// When reading it began, by the committer's own count.
    pub(super) reading_from: u64,
    /// The same, once it is read and until it is used: to what was asked before, an answer without an append is then as good as
    /// the store's word.
    pub(super) read_from: Option<u64>,
    /// When it was last touched, by the same count.
    pub(super) touched: u64,
    /// Others may append to it, as it was read or a race was lost: the state before an append is kept, so that whoever loses
    /// reads what is new, and not the whole run.
    pub(super) shared: bool,
    /// How long the appends of this turn took, and how often turns are halved.
    streak: Duration,
    crowd: u32,
    /// How far it was read when reading it began.
    pub(super) read_to: u64,
}

impl Known {
    /// Others have appended to the run.
    pub(super) fn meet(&mut self) {
        (self.shared, self.streak, self.crowd) = (true, Duration::ZERO, CROWD);
    }

    /// Whether it is the others' turn, now that an append has landed that took so long.
    pub(super) fn gives_way(&mut self, took: Duration) -> bool {
        self.streak += took;
        let over = self.streak >= TURN / (1 << self.crowd);
        if over {
            (self.streak, self.crowd) = (Duration::ZERO, self.crowd.saturating_sub(1));
        }
        over
    }
}

#[derive(Debug, Default)]
pub(super) enum Residency {
    /// Never read, or dropped.
    #[default]
    Unknown,
    /// Read and not there, as far as is known.
    Missing,
    Here(Box<RunState>),
    /// With a future that reads or appends.
    Away,
}
