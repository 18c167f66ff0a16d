//! The sweep: looks at every run that is due, whoever started it and whatever was lost.
//!
//! Every run that is not finished and waits for more than a person carries `wake_at`. The sweep comes by at that
//! instant for runs of this process, and within `sweep_every` for runs of any other.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::Notify;

use super::core::Core;
use crate::error::Result;
use crate::id::RunKey;
use crate::store::DueQuery;
use crate::time::Timestamp;

/// Runs looked at in one go.
const PAGE: usize = 500;

/// The next instant this process knows of at which a run is due.
#[derive(Debug)]
pub(super) struct Alarm {
    at: AtomicI64,
    earlier: Notify,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { at: AtomicI64::new(i64::MAX), earlier: Notify::new() }
    }
}

impl Alarm {
    /// A run is due at `at`.
    pub(super) fn set(&self, at: Timestamp) {
        if self.at.fetch_min(at.as_micros(), Ordering::AcqRel) > at.as_micros() {
            self.earlier.notify_one();
        }
    }

    fn take(&self) {
        self.at.store(i64::MAX, Ordering::Release);
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_micros(self.at.load(Ordering::Acquire))
    }
}

/// Sweeps until the engine closes. With `rebuild`, every unfinished run is looked at first: a queue in memory begins
/// empty.
pub(super) async fn sweep_loop(core: Arc<Core>, rebuild: bool) {
    let mut until = if rebuild { Timestamp::MAX } else { core.now() };
    let mut failures: u32 = 0;
    while !core.closed.is_cancelled() {
        core.alarm.take();
        match sweep(&core, until).await {
            Ok(next) => {
                failures = 0;
                if let Some(next) = next {
                    core.alarm.set(next);
                }
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                tracing::warn!(%error, failures, "the sweep cannot read which runs are due");
            }
        }
        rest(&core, failures).await;
        until = core.now();
    }
}

async fn rest(core: &Arc<Core>, failures: u32) {
    let every = core.settings.sweep_every;
    let latest = core.now().plus(every * (1 << failures.min(4)));
    loop {
        // Not before a moment has passed: an instant that lies in the past is swept once, not in a tight loop.
        let at = if failures > 0 { latest } else { core.alarm.at().min(latest) };
        let at = at.max(core.now().plus(std::time::Duration::from_millis(1)));
        tokio::select! {
            () = core.sleep_until(at) => return,
            () = core.alarm.earlier.notified() => {}
        }
    }
}

/// Looks at every run due by `until`. Answers when the next one is.
async fn sweep(core: &Arc<Core>, until: Timestamp) -> Result<Option<Timestamp>> {
    let mut after: Option<(Timestamp, RunKey)> = None;
    loop {
        let page = core.store.due(&DueQuery { until, after: after.clone(), limit: PAGE }).await?;
        let full = page.runs.len() >= PAGE;
        after = page.runs.last().cloned().or(after);
        for (_, key) in page.runs {
            let mine = core.settings.tenants.as_ref().is_none_or(|tenants| tenants.contains(&key.tenant));
            if mine {
                core.look(key).await?;
            }
        }
        if !full {
            return Ok(page.next_at);
        }
    }
}
