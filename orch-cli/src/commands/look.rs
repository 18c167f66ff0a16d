//! `orch runs logs` and `orch artifact get`: what the steps of a run said and made.

use std::path::Path;

use orch::executor::{LogLine, LogStream};
use orch::ledger::{ArtifactRef, Event};
use orch::{Digest, ErrorKind, StepKey};

use super::document::write;
use crate::args::{ArtifactCommand, Globals};
use crate::connect::{Mode, Session};
use crate::fault::{Advise as _, Fault, Result};
use crate::output::{Out, style, words};
use crate::select;

/// The log that one attempt left behind.
struct AttemptLog {
    step: StepKey,
    attempt: u32,
    artifact: ArtifactRef,
}

/// Prints what the attempts of a run said, in the order in which they ended.
pub(crate) async fn logs(globals: &Globals, out: &Out, run: &str, step: Option<&StepKey>) -> Result<()> {
    let session = Session::open(globals, Mode::Look).await?;
    let run = select::run(&session, run).await?;
    if let Some(step) = step {
        let state = session.orch.inspect(&session.who, run).await?;
        if state.plan.position(step.id.as_str()).is_none() {
            let error = orch::Error::not_found("no such step").with("step", step).with("run", run);
            return Err(Fault::from(error).hint("`orch runs show RUN` names its steps"));
        }
    }
    let mut events = session.orch.events(&session.who, run, 0, false);
    let mut found = false;
    while let Some((entry, _)) = events.next().await? {
        let Some(log) = left(entry.event).filter(|log| step.is_none_or(|step| belongs(&log.step, step)))
        else {
            continue;
        };
        let bytes = session.desk.artifact(&log.artifact.hash).await;
        let bytes = bytes.advise(|error| gone(error.kind()))?;
        found = true;
        if out.json {
            out.bytes(&bytes);
        } else {
            print(out, &log, &String::from_utf8_lossy(&bytes));
        }
        if out.is_gone() {
            break;
        }
    }
    drop(events);
    session.close().await;
    if !found {
        out.note("no attempt that has ended has said anything");
    }
    Ok(())
}

/// Whether a step is the one asked for, or a child of it.
fn belongs(step: &StepKey, asked: &StepKey) -> bool {
    step.id == asked.id && (asked.index.is_none() || asked.index == step.index)
}

fn left(event: Event) -> Option<AttemptLog> {
    let (step, attempt, logs) = match event {
        Event::StepSucceeded(e) => (e.step, e.attempt, e.logs),
        Event::StepFailed(e) => (e.step, e.attempt, e.logs),
        Event::StepParked(e) => (e.step, e.attempt, e.logs),
        Event::StepCancelled(e) => (e.step, e.attempt, e.logs),
        _ => return None,
    };
    Some(AttemptLog { step, attempt, artifact: logs? })
}

fn print(out: &Out, log: &AttemptLog, text: &str) {
    let (bold, dim) = (style::BOLD, style::DIM);
    out.line(format_args!("{bold}{}{bold:#} {dim}attempt {}{dim:#}", log.step, log.attempt));
    for line in text.lines() {
        match serde_json::from_str::<LogLine>(line) {
            Ok(line) => {
                let said = words::harmless(&line.line);
                out.line(format_args!("{dim}{}{dim:#} {:<6} {said}", line.at, stream(line.stream)));
            }
            Err(_) => out.line(words::harmless(line)),
        }
    }
}

fn stream(stream: LogStream) -> &'static str {
    match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        LogStream::Step => "step",
        LogStream::Orch => "orch",
    }
}

fn gone(kind: ErrorKind) -> Option<String> {
    (kind == ErrorKind::NotFound).then(|| "--artifacts names the directory they are kept in".to_owned())
}

pub(crate) async fn artifact(globals: &Globals, out: &Out, command: ArtifactCommand) -> Result<()> {
    let ArtifactCommand::Get { hash, output } = command;
    get(globals, out, &hash, output.as_deref()).await
}

/// Writes an artifact whose bytes have the digest it is named by.
async fn get(globals: &Globals, out: &Out, hash: &Digest, output: Option<&Path>) -> Result<()> {
    let session = Session::open(globals, Mode::Look).await?;
    let bytes = session.desk.artifact(hash).await;
    let bytes = bytes.advise(|error| gone(error.kind()))?;
    session.close().await;
    write(out, output, &bytes)
}
