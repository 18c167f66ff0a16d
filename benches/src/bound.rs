//! How soon a run can end at best, whoever schedules it.

use std::time::Duration;

/// A step as a scheduler sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Work {
    /// Positions of what must have ended before; all smaller than the step's own.
    pub(crate) needs: Vec<usize>,
    /// What it takes, or what each of its children takes.
    pub(crate) takes: Vec<Duration>,
    /// How many of the children may run at once.
    pub(crate) at_once: Option<u32>,
}

/// The two bounds of list scheduling: no run ends before its longest path, nor before its work is done by all slots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bound {
    pub(crate) critical_path: Duration,
    pub(crate) per_slot: Duration,
}

impl Bound {
    /// Of steps in an order in which needs come first.
    pub(crate) fn of(steps: &[Work], slots: usize) -> Self {
        let mut ends: Vec<Duration> = Vec::with_capacity(steps.len());
        let mut total = Duration::ZERO;
        for step in steps {
            let ready = step.needs.iter().map(|need| ends[*need]).max().unwrap_or_default();
            let sum: Duration = step.takes.iter().sum();
            let longest = step.takes.iter().max().copied().unwrap_or_default();
            let shared = step.at_once.map_or(Duration::ZERO, |at_once| sum / at_once.max(1));
            ends.push(ready + longest.max(shared));
            total += sum;
        }
        let slots = u32::try_from(slots).unwrap_or(u32::MAX).max(1);
        Self { critical_path: ends.into_iter().max().unwrap_or_default(), per_slot: total / slots }
    }

    /// The larger of the two.
    pub(crate) fn lower(self) -> Duration {
        self.critical_path.max(self.per_slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(needs: &[usize], millis: &[u64]) -> Work {
        let takes = millis.iter().map(|millis| Duration::from_millis(*millis)).collect();
        Work { needs: needs.to_vec(), takes, at_once: None }
    }

    fn bound(steps: &[Work], slots: usize) -> (u128, u128, u128) {
        let bound = Bound::of(steps, slots);
        (bound.critical_path.as_millis(), bound.per_slot.as_millis(), bound.lower().as_millis())
    }

    #[test]
    fn the_longest_path_bounds_however_many_slots_there_are() {
        // A diamond whose right side is longer: 10 + 50 + 5.
        let diamond = [step(&[], &[10]), step(&[0], &[20]), step(&[0], &[50]), step(&[1, 2], &[5])];
        assert_eq!(bound(&diamond, 100), (65, 0, 65));
        assert_eq!(bound(&diamond, 1), (65, 85, 85));
    }

    #[test]
    fn work_over_slots_bounds_however_short_the_paths_are() {
        assert_eq!(bound(&vec![step(&[], &[10]); 100], 4), (10, 250, 250));
    }

    #[test]
    fn children_run_side_by_side_unless_they_may_not() {
        let mut each = step(&[0], &[10, 30, 20]);
        assert_eq!(bound(&[step(&[], &[5]), each.clone()], 100).0, 35);
        each.at_once = Some(1);
        assert_eq!(bound(&[step(&[], &[5]), each.clone()], 100).0, 65);
        each.at_once = Some(2);
        assert_eq!(bound(&[step(&[], &[5]), each], 100).0, 35);
    }

    #[test]
    fn what_did_not_run_takes_no_time() {
        assert_eq!(bound(&[step(&[], &[]), step(&[0], &[7])], 2), (7, 3, 7));
        assert_eq!(bound(&[], 2), (0, 0, 0));
    }
}
