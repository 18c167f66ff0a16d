//! How the backends do: what fails is counted, told without flooding the log, and rested after.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::id::WorkerId;
use crate::time::Timestamp;

/// How long nothing more is said of a call that goes on failing, or that fails now and then.
const QUIET: Duration = Duration::from_secs(60);

/// What an engine asks of its backends all the time, and has to go on asking when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Append,
    Read,
    Keep,
    Claim,
    Push,
    Wait,
    Settle,
    Slots,
    /// Every call of the queue of hints at work for outside workers.
    Outside,
}

impl Call {
    const COUNT: usize = Self::Outside as usize + 1;

    /// What is the matter while it fails.
    fn failing(self) -> &'static str {
        match self {
            Self::Append => "runs cannot be written",
            Self::Read => "runs cannot be read",
            Self::Keep => "what attempts leave behind cannot be kept",
            Self::Claim => "hints cannot be claimed",
            Self::Push => "hints cannot be pushed; the sweep will make them again",
            Self::Wait => "the queue cannot be waited on; it is asked now and then",
            Self::Settle => "deliveries cannot be settled; they will come again",
            Self::Slots => "slots cannot be taken, prolonged or given back",
            Self::Outside => "hints for outside workers cannot be pushed, claimed or settled",
        }
    }

    /// That it does not fail any more.
    fn working(self) -> &'static str {
        match self {
            Self::Append => "runs can be written again",
            Self::Read => "runs can be read again",
            Self::Keep => "what attempts leave behind can be kept again",
            Self::Claim => "hints can be claimed again",
            Self::Push => "hints can be pushed again",
            Self::Wait => "the queue can be waited on again",
            Self::Settle => "deliveries can be settled again",
            Self::Slots => "slots can be taken, prolonged and given back again",
            Self::Outside => "hints for outside workers can be pushed, claimed and settled again",
        }
    }
}

/// Calls of the backends that have failed since the start: refused, unanswered or in doubt. A call is tried again for as
/// long as that may help, and each try that fails counts; a lost race does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Appends, and reads of runs.
    pub store: u64,
    /// Pushes, claims, settles and waits.
    pub queue: u64,
    /// Slots taken, prolonged and given back.
    pub lock: u64,
    /// Outputs and logs kept.
    pub artifacts: u64,
}

/// How each call has done.
#[derive(Debug, Default)]
pub(super) struct Health([Record; Call::COUNT]);

#[derive(Debug)]
struct Record {
    /// Failures since the start.
    total: AtomicU64,
    /// Failures since it last worked.
    in_a_row: AtomicU64,
    /// When a failure was last told of, in microseconds.
    told_at: AtomicI64,
    /// Why it failed last, while it has not worked since, and whether that was told.
    last: Mutex<Option<(String, bool)>>,
}

impl Default for Record {
    fn default() -> Self {
        let (total, in_a_row, last) = Default::default();
        Self { total, in_a_row, told_at: AtomicI64::new(i64::MIN), last }
    }
}

impl Health {
    /// A call has failed. The first failure is told, then one a minute while it lasts.
    pub(super) fn failed(&self, call: Call, error: &Error, now: Timestamp) {
        let record = &self.0[call as usize];
        record.total.fetch_add(1, Ordering::Relaxed);
        let failures = record.in_a_row.fetch_add(1, Ordering::AcqRel) + 1;
        let told = record.told_at.load(Ordering::Relaxed);
        let quiet = i64::try_from(QUIET.as_micros()).unwrap_or(i64::MAX);
        let tell = now.as_micros().checked_sub(told).is_none_or(|since| since.abs() >= quiet);
        let mut last = record.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.as_ref().is_some_and(|(_, told)| *told);
        *last = Some((error.to_string(), before || tell));
        drop(last);
        if tell {
            record.told_at.store(now.as_micros(), Ordering::Relaxed);
            tracing::warn!(%error, kind = error.kind().as_str(), failures, "{}", call.failing());
        }
    }

    /// A call has worked. Told if its failure was.
    pub(super) fn works(&self, call: Call) {
        let record = &self.0[call as usize];
        if record.in_a_row.load(Ordering::Acquire) == 0 {
            return;
        }
        let failures = record.in_a_row.swap(0, Ordering::AcqRel);
        let last = record.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        if last.is_some_and(|(_, told)| told) {
            tracing::info!(failures, "{}", call.working());
        }
    }

    /// Whether a call failed last.
    pub(super) fn fails(&self, call: Call) -> bool {
        self.0[call as usize].in_a_row.load(Ordering::Acquire) > 0
    }

    /// What keeps this process from getting on: what is tried again all the while, and why it failed last.
    pub(super) fn trouble(&self) -> Option<String> {
        [Call::Append, Call::Keep, Call::Claim].into_iter().find_map(|call| {
            let last = self.0[call as usize].last.lock().unwrap_or_else(PoisonError::into_inner);
            last.as_ref().map(|(why, _)| format!("{}: {why}", call.failing()))
        })
    }

    /// Counts since the start.
    pub(super) fn failures(&self) -> Failures {
        let sum = |calls: &[Call]| {
            calls.iter().map(|call| self.0[*call as usize].total.load(Ordering::Relaxed)).sum()
        };
        Failures {
            store: sum(&[Call::Append, Call::Read]),
            queue: sum(&[Call::Push, Call::Claim, Call::Settle, Call::Wait, Call::Outside]),
            lock: sum(&[Call::Slots]),
            artifacts: sum(&[Call::Keep]),
        }
    }
}

/// Whether a backend is away, as opposed to one call being wrong.
pub(super) fn is_away(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Indeterminate)
}

/// How long to rest after so many failures in a row: `first`, twice as long each time, `most` at last. Half of it depends
/// on who rests, so that workers that lost the same server do not come back to it all at once.
pub(super) fn rest(worker: &WorkerId, failures: u32, first: Duration, most: Duration) -> Duration {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1).min(31)).unwrap_or(u32::MAX);
    let full = first.min(most).saturating_mul(doubled).min(most);
    let half = u64::try_from(full.as_micros() / 2).unwrap_or(u64::MAX / 2);
    let digest = Digest::of_parts(&[b"orch/rest/v1", worker.as_str().as_bytes(), &failures.to_be_bytes()]);
    let mut drawn = [0; 8];
    drawn.copy_from_slice(&digest.as_bytes()[..8]);
    let share = (u128::from(u64::from_be_bytes(drawn)) * u128::from(half)) >> 64;
    Duration::from_micros(half.saturating_add(u64::try_from(share).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(50);
    const MOST: Duration = Duration::from_secs(5);

    #[test]
    fn a_rest_doubles_up_to_its_bound_and_no_two_workers_rest_alike() {
        let (one, other) = (WorkerId::new("host/1"), WorkerId::new("host/2"));
        for failures in 1..100 {
            let full = FIRST.saturating_mul(1 << (failures - 1).min(20)).min(MOST);
            let rested = rest(&one, failures, FIRST, MOST);
            assert!(
                rested >= full / 2 - Duration::from_micros(1) && rested <= full,
                "{failures}: {rested:?}"
            );
            assert_eq!(rested, rest(&one, failures, FIRST, MOST), "the same wherever it is asked");
            assert_ne!(rested, rest(&other, failures, FIRST, MOST), "{failures}");
        }
        assert!(rest(&one, u32::MAX, FIRST, MOST) >= MOST / 2);
        assert!(rest(&one, 1, MOST, FIRST) <= FIRST, "never longer than the most");
    }

    #[test]
    fn failures_are_counted_by_seam_and_trouble_lasts_until_it_works_again() {
        let (health, now) = (Health::default(), Timestamp::from_micros(0));
        let away = |what: &'static str| Error::unavailable(what);
        assert_eq!((health.trouble(), health.failures()), (None, Failures::default()));
        health.failed(Call::Wait, &away("no word"), now);
        assert_eq!(health.trouble(), None, "hints are claimed all the same");
        health.failed(Call::Claim, &away("queue"), now);
        health.failed(Call::Append, &away("store"), now);
        health.failed(Call::Slots, &away("lock"), now);
        assert_eq!(health.trouble().as_deref(), Some("runs cannot be written: store"));
        assert_eq!(health.failures(), Failures { store: 1, queue: 2, lock: 1, artifacts: 0 });
        health.works(Call::Append);
        assert_eq!(health.trouble().as_deref(), Some("hints cannot be claimed: queue"));
        health.works(Call::Claim);
        assert_eq!((health.trouble(), health.fails(Call::Claim)), (None, false));
        assert_eq!(health.failures().queue, 2, "what was counted stays");
    }
}
