//! The life of a process as its seams see it: it goes on, it hangs, or it is dead.

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Stops a process at its seams: while it is held every call hangs; once it is dead every call hangs for ever.
#[derive(Clone, Debug, Default)]
pub struct Switch(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    held: bool,
    dead: bool,
    fuse: Option<Fuse>,
}

/// A death that is to come.
#[derive(Clone, Copy, Debug)]
struct Fuse {
    calls: u64,
    after: bool,
}

impl Switch {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the process, or lets it go on.
    pub fn hold(&self, held: bool) {
        self.state().held = held;
        self.0.changed.notify_waiters();
    }

    /// Whether the process is held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.state().held
    }

    /// Ends the process.
    pub fn kill(&self) {
        self.state().dead = true;
        self.0.changed.notify_waiters();
    }

    /// Ends the process after so many more calls: right before the last of them happens, or right after, so that it
    /// happens and nobody hears of it.
    pub fn kill_in(&self, calls: u64, after: bool) {
        self.state().fuse = Some(Fuse { calls, after });
    }

    /// Whether the process is dead.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Every call passes here before it happens. Answers whether the process dies right after this one.
    pub async fn before(&self) -> bool {
        let mut last = false;
        {
            let mut state = self.state();
            if let Some(fuse) = &mut state.fuse {
                fuse.calls = fuse.calls.saturating_sub(1);
                if fuse.calls == 0 {
                    last = fuse.after;
                    let before = !fuse.after;
                    state.fuse = None;
                    state.dead |= before;
                }
            }
        }
        if self.is_dead() {
            self.0.changed.notify_waiters();
        }
        self.go_on().await;
        last
    }

    /// Every call passes here once it has happened, with what [`Switch::before`] said.
    pub async fn after(&self, last: bool) {
        if last {
            self.kill();
        }
        self.go_on().await;
    }

    /// Waits while the process is held; for ever once it is dead.
    pub async fn go_on(&self) {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let (held, dead) = {
                let state = self.state();
                (state.held, state.dead)
            };
            if dead {
                return pending().await;
            }
            if !held {
                return;
            }
            changed.await;
        }
    }
}
