//! Where runs and steps can stand, in the words every surface uses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $( $(#[$vdoc:meta])* $variant:ident = $word:literal, )* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub enum $name { $( $(#[$vdoc])* $variant, )* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or_else(|| {
                    Error::invalid(concat!("unknown ", $what))
                        .with("value", text)
                        .with("expected", Self::ALL.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(", "))
                })
            }
        }
    };
}

words! {
    /// Where a run stands.
    RunStatus, "run status" {
        /// Submitted; nothing has started.
        Pending = "pending",
        /// Under way.
        Running = "running",
        /// Held: nothing new starts.
        Paused = "paused",
        /// Ended well.
        Completed = "completed",
        /// Ended with a failed step or out of time.
        Failed = "failed",
        /// Ended because somebody asked for it.
        Cancelled = "cancelled",
    }
}

impl RunStatus {
    /// Whether the run has ended.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

words! {
    /// Where a step stands.
    StepStatus, "step status" {
        /// Its needs are not settled yet, or there is no room for it.
        Pending = "pending",
        /// An attempt may start, at once or after a backoff.
        Queued = "queued",
        /// An attempt is under way.
        Running = "running",
        /// It waits for a verdict, a signal or the time.
        Waiting = "waiting",
        /// Settled: it did what it should.
        Succeeded = "succeeded",
        /// Settled: its last attempt failed.
        Failed = "failed",
        /// Settled: it was not run.
        Skipped = "skipped",
        /// Its attempts are used up; a person decides.
        Parked = "parked",
        /// Settled: the run was cancelled.
        Cancelled = "cancelled",
    }
}

impl StepStatus {
    /// Whether nothing more happens to the step by itself, and what needs it may be looked at.
    #[must_use]
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Skipped | Self::Cancelled)
    }
}

words! {
    /// Who decides a gate.
    GateKind, "gate" {
        /// A person.
        Approval = "approval",
        /// Another service.
        Policy = "policy",
    }
}

/// How many declared steps of a run stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepCounts {
    /// See [`StepStatus::Pending`].
    pub pending: u32,
    /// See [`StepStatus::Queued`].
    pub queued: u32,
    /// See [`StepStatus::Running`].
    pub running: u32,
    /// See [`StepStatus::Waiting`].
    pub waiting: u32,
    /// See [`StepStatus::Succeeded`].
    pub succeeded: u32,
    /// See [`StepStatus::Failed`].
    pub failed: u32,
    /// See [`StepStatus::Skipped`].
    pub skipped: u32,
    /// See [`StepStatus::Parked`].
    pub parked: u32,
    /// See [`StepStatus::Cancelled`].
    pub cancelled: u32,
}

impl StepCounts {
    /// The count of one status, to change.
    pub fn of(&mut self, status: StepStatus) -> &mut u32 {
        match status {
            StepStatus::Pending => &mut self.pending,
            StepStatus::Queued => &mut self.queued,
            StepStatus::Running => &mut self.running,
            StepStatus::Waiting => &mut self.waiting,
            StepStatus::Succeeded => &mut self.succeeded,
            StepStatus::Failed => &mut self.failed,
            StepStatus::Skipped => &mut self.skipped,
            StepStatus::Parked => &mut self.parked,
            StepStatus::Cancelled => &mut self.cancelled,
        }
    }

    /// The count of one status.
    #[must_use]
    pub fn get(&self, status: StepStatus) -> u32 {
        let mut copy = *self;
        *copy.of(status)
    }

    /// All steps.
    #[must_use]
    pub fn total(&self) -> u32 {
        StepStatus::ALL.iter().map(|status| self.get(*status)).sum()
    }
}
