//! Child processes without a sandbox.
//!
//! What a step declares and nothing here can enforce makes it fail before it starts (invariant S1): processor,
//! memory and process limits, and any word about the network. Wall-clock time and output are enforced.
//!
//! A child runs in a process group of its own, which is killed as a whole when the attempt ends, however it ends. A
//! process that makes itself a session of its own leaves that group and outlives it; so does the group when orch
//! itself is killed. Only a sandbox can hold these.

mod capture;
mod command;
mod group;

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::{FusedFuture, try_join3};
use rustix::process::Signal;

use self::capture::{Capture, OverLimit, feed};
use self::command::{Command, outcome};
use self::group::Group;
use super::{Executor, Failure, LogStream, Outcome, StepContext};
use crate::payload::Payload;

/// How child processes are run.
#[derive(Clone, Debug)]
pub struct ProcessSettings {
    /// The directory that working directories lie below; the usual one of a step that names none.
    pub root: PathBuf,
    /// Where commands are looked for, and the `PATH` a child sees.
    pub path: String,
    /// Bytes of standard output, and of standard error, of a step that declares no limit.
    pub output_bytes: u64,
    /// The most bytes a step may declare; it is held in memory.
    pub output_bytes_max: u64,
    /// The time from asking a child to end (SIGTERM) to ending it (SIGKILL).
    pub grace: Duration,
    /// The time to read what is left in the pipes after the child has ended: somebody else may hold them open.
    pub drain: Duration,
}

impl ProcessSettings {
    /// Working directories below `root`; `/usr/bin:/bin`; 1 MiB of output, at most 64 MiB; two seconds of grace.
    #[must_use]
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            path: "/usr/bin:/bin".to_owned(),
            output_bytes: 1 << 20,
            output_bytes_max: 64 << 20,
            grace: Duration::from_secs(2),
            drain: Duration::from_millis(500),
        }
    }
}

/// Runs `process` steps as child processes of this one.
///
/// | field of `with` | meaning |
/// |---|---|
/// | `command` | a name looked up in `PATH`, or a path |
/// | `args` | its arguments |
/// | `env` | its environment beside `PATH`, the declared secrets and the variables below; nothing is inherited |
/// | `stdin` | a string as it is, anything else as JSON |
/// | `workdir` | a directory below the root |
///
/// | variable | what a child learns about itself |
/// |---|---|
/// | `ORCH_RUN_ID` | the run |
/// | `ORCH_STEP` | the step, children of a `forEach` as `step[index]` |
/// | `ORCH_ATTEMPT` | which attempt, from 1 |
/// | `ORCH_IDEMPOTENCY_KEY` | the same for all attempts of the step in this run |
/// | `TRACEPARENT` | the trace that the attempt is a span of (W3C Trace Context); only where there is one |
/// | `BAGGAGE` | what goes along with the run (W3C Baggage); only where there is some |
///
/// Standard output that is JSON becomes the step's output, other text becomes `{"stdout": text}`. Failures: `exit_N`
/// and `signal_N` (retryable), `output_limit`, `command_not_found`, `limit_not_enforceable` and others (final).
#[derive(Clone, Debug)]
pub struct ProcessExecutor {
    settings: ProcessSettings,
}

/// Why an attempt is over.
enum End {
    Exited,
    Cancelled,
    TimedOut,
    Over(OverLimit),
}

impl ProcessExecutor {
    /// An executor that confines nothing: for commands as trusted as the operator who asks for it.
    #[must_use]
    pub const fn unsandboxed(settings: ProcessSettings) -> Self {
        Self { settings }
    }

    async fn run(&self, context: &StepContext, input: &Payload) -> Result<Outcome, Failure> {
        refuse_unenforceable(context)?;
        let command = Command::read(input)?;
        let mut group = Group::spawn(command.prepare(&self.settings, context)?)?;
        let declared = context.limits.as_ref().and_then(|limits| limits.output);
        let bytes_max = declared.unwrap_or(self.settings.output_bytes).min(self.settings.output_bytes_max);
        let mut out = Capture::new(LogStream::Stdout, bytes_max, context.log.clone());
        let mut err = Capture::new(LogStream::Stderr, bytes_max, context.log.clone());
        let end = self.supervise(&mut group, context, command.stdin_bytes(), &mut out, &mut err).await?;
        let status = tokio::time::timeout(self.settings.grace, group.status()).await;
        let (out, err) = (out.into_text(), err.into_text());
        match end {
            End::Cancelled => Ok(Outcome::Cancelled),
            End::TimedOut => Ok(Outcome::TimedOut),
            End::Over(over) => Err(Failure::fatal("output_limit", over.to_string())),
            End::Exited => {
                let late = |_| Failure::retryable("process_error", "the ended process could not be reaped");
                outcome(status.map_err(late)??, out, &err)
            }
        }
    }

    /// Feeds and reads the child until something ends it. When this returns, its group has been killed, and what it
    /// had written was read as far as there was time.
    async fn supervise(
        &self,
        group: &mut Group,
        context: &StepContext,
        stdin: Vec<u8>,
        out: &mut Capture,
        err: &mut Capture,
    ) -> Result<End, Failure> {
        let pipes = group.pipes();
        let feeding = feed(pipes.stdin, stdin);
        let moving = try_join3(feeding, out.fill(pipes.stdout), err.fill(pipes.stderr));
        let mut moving = pin!(moving.fuse());
        let mut exited = pin!(group.exited());
        let mut end = tokio::select! {
            biased;
            () = context.cancellation.cancelled() => End::Cancelled,
            Err(over) = &mut moving => End::Over(over),
            exited = &mut exited => exited.map(|()| End::Exited)?,
            () = wall(context) => End::TimedOut,
        };
        if matches!(end, End::Cancelled | End::TimedOut) {
            group.signal(Signal::TERM);
            // Reading goes on, so that a child with last words does not wait for a full pipe.
            tokio::select! {
                _ = &mut exited => {}
                Err(_) = &mut moving => {}
                () = tokio::time::sleep(self.settings.grace) => {}
            }
        }
        // The tree first, the pipes after: while anybody holds them open, reading to their end would not end.
        group.signal(Signal::KILL);
        if !moving.is_terminated()
            && let Ok(Err(over)) = tokio::time::timeout(self.settings.drain, &mut moving).await
            && matches!(end, End::Exited)
        {
            end = End::Over(over);
        }
        Ok(end)
    }
}

#[async_trait]
impl Executor for ProcessExecutor {
    async fn execute(&self, context: StepContext, input: Payload) -> Outcome {
        self.run(&context, &input).await.unwrap_or_else(Outcome::Failed)
    }
}

/// Ends when the attempt's wall-clock limit does; never without one.
async fn wall(context: &StepContext) {
    match context.limits.as_ref().and_then(|limits| limits.wall) {
        Some(wall) => tokio::time::sleep(wall.duration()).await,
        None => std::future::pending().await,
    }
}

/// Fails a step that relies on a limit which only a sandbox can keep (invariant S1).
fn refuse_unenforceable(context: &StepContext) -> Result<(), Failure> {
    let limits = context.limits.clone().unwrap_or_default();
    let declared = [
        ("limits.cpu", limits.cpu.is_some()),
        ("limits.memory", limits.memory.is_some()),
        ("limits.processes", limits.processes.is_some()),
        ("network", context.network.is_some()),
    ];
    let names: Vec<_> = declared.iter().filter(|(_, declared)| *declared).map(|(name, _)| *name).collect();
    if names.is_empty() {
        return Ok(());
    }
    let names = names.join(", ");
    let message =
        format!("{names} cannot be enforced without a sandbox; run the step in one, or do not declare it");
    Err(Failure::fatal("limit_not_enforceable", message))
}

#[cfg(test)]
mod tests;
