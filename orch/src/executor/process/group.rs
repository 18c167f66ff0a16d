//! A child process and everything it starts, as one thing to signal.

use std::io;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::executor::Failure;

/// A child that leads a process group of its own. The group is killed when this is dropped.
pub(super) struct Group {
    child: Child,
    leader: Pid,
    /// From here on the leader's number may belong to somebody else, and nothing is sent to it.
    reaped: bool,
}

/// The child's ends of the three pipes.
pub(super) struct Pipes {
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

impl Group {
    /// Starts the command as the leader of a new group.
    pub(super) fn spawn(mut command: Command) -> Result<Self, Failure> {
        let name = command.as_std().get_program().to_string_lossy().into_owned();
        let child = command.process_group(0).spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::fatal("command_not_found", format!("no command {name:?}")),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ArgumentListTooLong => {
                Failure::fatal("command_not_executable", format!("{name:?}: {error}"))
            }
            _ => Failure::retryable("process_error", format!("{name:?} cannot be started: {error}")),
        })?;
        let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let leader =
            leader.ok_or_else(|| Failure::retryable("process_error", "the new process has no id"))?;
        Ok(Self { child, leader, reaped: false })
    }

    /// The pipes; once.
    pub(super) fn pipes(&mut self) -> Pipes {
        let child = &mut self.child;
        Pipes { stdin: child.stdin.take(), stdout: child.stdout.take(), stderr: child.stderr.take() }
    }

    /// Ends when the leader has ended. It is not reaped, so its number stays taken and the group can be signalled
    /// without ever meeting a stranger.
    pub(super) async fn exited(&self) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::from_error("process_error", &error);
        let mut children = signal(SignalKind::child()).map_err(failed)?;
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while waitid(WaitId::Pid(self.leader), look).map_err(|error| failed(error.into()))?.is_none() {
            children.recv().await;
        }
        Ok(())
    }

    /// Signals every process of the group.
    pub(super) fn signal(&self, signal: Signal) {
        if !self.reaped {
            // The one error there can be is that nobody is left.
            let _ = kill_process_group(self.leader, signal);
        }
    }

    /// Waits for the leader's end and reaps it.
    pub(super) async fn status(&mut self) -> Result<ExitStatus, Failure> {
        let status = self.child.wait().await;
        self.reaped = true;
        status.map_err(|error| Failure::from_error("process_error", &error))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
