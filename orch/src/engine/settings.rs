//! How an orchestrator behaves: plain data, apart from the components it is built from.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::id::{QueueName, TenantId};
use crate::limits::Limits;

/// The longest rest between two sweeps.
const SWEEP_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What this process does. A process may do all of it, or leave some to others on the same backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Accepts new runs.
    pub submit: bool,
    /// Sweeps: looks after timers, lost attempts and lost hints.
    pub schedule: bool,
    /// Claims and executes steps.
    pub work: bool,
}

impl Roles {
    /// Everything.
    pub const ALL: Self = Self { submit: true, schedule: true, work: true };
}

/// How an orchestrator behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What this process does.
    pub roles: Roles,
    /// Attempts it executes at once, 1 to 100 000.
    pub slots: usize,
    /// Queues it works for; nothing means every queue.
    pub queues: Option<Vec<QueueName>>,
    /// Tenants it works for; nothing means every tenant.
    pub tenants: Option<Vec<TenantId>>,
    /// How long an attempt counts as alive without a word from its worker, at least 100 ms. Shorter means a dead
    /// worker's work is taken up sooner; longer means fewer entries for long steps (one per third of a lease).
    pub lease: Duration,
    /// How often the sweep looks for runs that are due, 1 ms to a day; an engine that knows of an earlier instant looks
    /// then. Four times this where it found nothing in a store that never tells whether anybody has written
    /// ([`Store::stamp`](crate::store::Store::stamp)): an idle worker asks such a store three times a minute by default.
    /// Bounds how long a run of a dead process goes unnoticed.
    pub sweep_every: Duration,
    /// How long a graceful shutdown waits for attempts to end by themselves.
    pub drain: Duration,
    /// How long an attempt that was told to stop may take before it is abandoned.
    pub grace: Duration,
    /// Unfinished runs kept in memory; further ones are read again when something happens to them.
    pub cached_runs: usize,
    /// How process steps are isolated, for the record in every run; nothing when there are none.
    pub sandbox: Option<String>,
    /// Bounds on size and count.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            roles: Roles::ALL,
            slots: 16,
            queues: None,
            tenants: None,
            lease: Duration::from_secs(30),
            sweep_every: Duration::from_secs(5),
            drain: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            cached_runs: 10_000,
            sandbox: None,
            limits: Limits::default(),
        }
    }
}

impl Settings {
    pub(super) fn check(&self) -> Result<()> {
        if !(1..=100_000).contains(&self.slots) {
            return Err(Error::invalid("slots must lie between 1 and 100000").with("slots", self.slots));
        }
        if self.lease < Duration::from_millis(100) {
            return Err(
                Error::invalid("lease must be at least 100 ms").with("lease", format!("{:?}", self.lease))
            );
        }
        if !(Duration::from_millis(1)..=SWEEP_MAX).contains(&self.sweep_every) {
            let every = format!("{:?}", self.sweep_every);
            return Err(
                Error::invalid("sweep_every must lie between 1 ms and a day").with("sweep_every", every)
            );
        }
        if self.cached_runs == 0 {
            return Err(Error::invalid("cached_runs must be more than zero"));
        }
        Ok(())
    }
}
