//! The sweep: looks at every run that is due, whoever started it and whatever was lost.
//!
//! Every run that is not finished and waits for more than a person carries `wake_at`. The sweep comes by at that
//! instant for runs that this process knows of, and within `sweep_every` for those of any other; within four times that
//! where the last look found nothing and the store never tells whether anybody has written since.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::core::Core;
use super::health::{self, Call};
use crate::error::Result;
use crate::id::RunKey;
use crate::store::DueQuery;
use crate::time::Timestamp;

/// Runs looked at in one go.
const PAGE: usize = 500;
/// After how many times `sweep_every` an engine looks again that found nothing due in a store that never tells whether
/// anybody has written: three questions a minute by default.
const UNTOLD: u32 = 4;

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
    let mut everything = rebuild;
    let mut failures: u32 = 0;
    let mut quiet = None;
    // Whether the store tells at all: just after a change some cannot. Whether the last sweep found nothing, and how many
    // rests ago.
    let (mut tells, mut nothing, mut rests) = (false, false, 0);
    while !core.closing.is_cancelled() {
        let stamp = core.store.stamp();
        tells |= stamp.is_some();
        // Nobody has written since the last sweep found nothing, as far as can be told, and nothing that was there then is
        // due by now.
        let unmoved = match stamp {
            Some(_) => stamp == quiet,
            None => !tells && nothing && rests < UNTOLD,
        };
        if !unmoved || core.alarm.at() <= core.now() {
            core.alarm.take();
            let until = if everything { Timestamp::MAX } else { core.now() };
            rests = 0;
            match sweep(&core, until).await {
                Ok(Swept { looked_at, next_at }) => {
                    core.health.works(Call::Read);
                    (failures, everything) = (0, false);
                    nothing = looked_at == 0;
                    quiet = stamp.filter(|_| nothing);
                    if let Some(next_at) = next_at {
                        core.alarm.set(next_at);
                    }
                }
                Err(error) => {
                    (failures, quiet, nothing) = (failures.saturating_add(1), None, false);
                    core.health.failed(Call::Read, &error, core.now());
                }
            }
        }
        rests += 1;
        let every = core.settings.sweep_every;
        match failures {
            0 => rest(&core, every, true).await,
            _ => rest(&core, health::rest(&core.worker.id, failures, every / 16, every), false).await,
        }
    }
}

/// Rests until the alarm rings, if it is listened to, and no longer than `span` by the process's own time: the clock may
/// jump.
async fn rest(core: &Arc<Core>, span: Duration, listen: bool) {
    let mut latest = std::pin::pin!(tokio::time::sleep(span));
    loop {
        // Not before a moment has passed: an instant that lies in the past is swept once, not in a tight loop.
        let at = if listen { core.alarm.at() } else { Timestamp::MAX };
        let moment = at.since(core.now()).max(Duration::from_millis(1));
        tokio::select! {
            biased;
            () = &mut latest => return,
            () = tokio::time::sleep(moment) => return,
            () = core.closing.cancelled() => return,
            () = core.alarm.earlier.notified() => {}
        }
    }
}

/// What a sweep found.
struct Swept {
    looked_at: usize,
    /// When the next run is due.
    next_at: Option<Timestamp>,
}

/// Looks at every run due by `until`.
async fn sweep(core: &Arc<Core>, until: Timestamp) -> Result<Swept> {
    let mut after: Option<(Timestamp, RunKey)> = None;
    let mut looked_at = 0;
    loop {
        let page = core.store.due(&DueQuery { until, after: after.clone(), limit: PAGE }).await?;
        let full = page.runs.len() >= PAGE;
        after = page.runs.last().cloned().or(after);
        let now = core.now();
        for (at, key) in page.runs {
            let mine = core.settings.tenants.as_ref().is_none_or(|tenants| tenants.contains(&key.tenant));
            if mine {
                looked_at += 1;
                core.look(key, at <= now).await?;
            }
        }
        if !full {
            return Ok(Swept { looked_at, next_at: page.next_at });
        }
    }
}
