//! Following a run while this process carries it on: until it ends, waits for a person, or is interrupted.

use std::collections::BTreeMap;
use std::time::Duration;

use orch::engine::RunEvents;
use orch::ledger::{Entry, Event, Head, ReusedFrom, StepStatus};
use orch::planner::{RunState, StepRef, StepState, unshared_plan};
use orch::{Digest, Error, ErrorKind, RunId, StepKey};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::commands::Comparison;
use crate::connect::{DRAIN, Session};
use crate::fault::{FAILED, Fault, Result};
use crate::output::live::Progress;
use crate::output::{Out, run as show, words};

/// How often progress is drawn.
const FRAME: Duration = Duration::from_millis(100);
/// How long nothing must have happened before it is asked whether a person has to act.
const QUIET: Duration = Duration::from_millis(300);

/// How long a store may be away that a run is followed in. Nothing is lost by giving up.
const AWAY_MAX: Duration = Duration::from_secs(300);
/// How long it rests between two questions then.
const AWAY_REST: Duration = Duration::from_secs(1);
/// Entries read ahead of the screen.
const AHEAD: usize = 256;
/// How long an end may take before it is explained.
const PATIENCE: Duration = Duration::from_millis(500);

/// What only a person can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Need {
    /// The run, which may be that of a sub-DAG.
    pub(crate) run: RunId,
    /// The step that waits; none when the run as a whole does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<StepKey>,
    /// What for.
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What a person can be waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "waitsFor", rename_all = "camelCase")]
pub(crate) enum What {
    /// A verdict on a gate.
    Verdict,
    /// A signal.
    Signal {
        /// Its name.
        signal: String,
    },
    /// A parked step is to be retried.
    Retry,
    /// The held run is to go on.
    Resume,
    /// A process that can execute the step.
    Executor {
        /// What the step uses.
        uses: String,
    },
}

/// Where the outputs of steps come from that did not run.
pub(crate) type Reused = BTreeMap<StepKey, ReusedFrom>;

/// Why following a run is over.
#[derive(Debug)]
pub(crate) enum End {
    /// The run has ended.
    Ended,
    /// Only people can move it on.
    Waiting(Vec<Need>),
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

/// What following waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// For what happens by itself.
    Moving,
    /// Also for a held run to be let go on.
    Held,
}

/// Ctrl-C, and what a service manager sends.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Listens from now on.
    pub(crate) fn listen() -> Result<Self> {
        let listen =
            |kind| signal(kind).map_err(|cause| Fault::said(format!("cannot listen for Ctrl-C: {cause}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// How a command judges the end of the run it carried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The command is the run: anything but completion is a failure.
    Run,
    /// The command did its own part: only a failed run is a failure.
    Operation,
    /// The run repeats this one: anything but the same is a failure.
    Replay(RunId),
}

/// Carries a run on, shows what happens after entry `seen`, and ends the session.
pub(crate) async fn carry_on(
    session: Session,
    out: &Out,
    (run, seen): (RunId, u64),
    verdict: Verdict,
) -> Result<()> {
    let mut interrupts = Interrupts::listen()?;
    let mut progress = Progress::new(out);
    let (state, end) =
        follow(&session, (run, seen), &mut interrupts, &mut progress, Patience::Moving).await?;
    progress.end();
    let completed = state.status() == orch::ledger::RunStatus::Completed;
    let failed = state.status() == orch::ledger::RunStatus::Failed;
    if let End::Interrupted = end {
        return interrupted(session, out, &state, &mut interrupts).await;
    }
    let needs = if let End::Waiting(needs) = end { needs } else { Vec::new() };
    let comparison = match verdict {
        Verdict::Replay(of) => Some(Comparison::of(&session, of, run).await?),
        Verdict::Run | Verdict::Operation => None,
    };
    show::result(out, &state, &reused(&session, run).await?, &needs, comparison.as_ref());
    finish(session, out, &mut interrupts).await;
    let good = match verdict {
        Verdict::Run => completed,
        Verdict::Operation => !failed,
        Verdict::Replay(_) => comparison.is_some_and(|comparison| comparison.same),
    };
    if good { Ok(()) } else { Err(Fault::Code(FAILED)) }
}

async fn interrupted(
    session: Session,
    out: &Out,
    state: &RunState,
    interrupts: &mut Interrupts,
) -> Result<()> {
    let (token, run) = (&state.created.run_token, words::short(state.key.run));
    if session.is_served() {
        return left_to_the_service(session, out, state).await;
    }
    finish(session, out, interrupts).await;
    // Why it exits with 1 is said to the quiet as well.
    if out.json {
        let message = "the run was left unfinished; it goes on with `orch work`";
        let run = state.key.run;
        let error =
            serde_json::json!({ "kind": "interrupted", "message": message, "run": run, "runToken": token });
        out.error_document(&serde_json::json!({ "error": error }));
    } else {
        out.error(format_args!(
            "run {run} is not finished, and nothing is lost; it goes on with\n  orch work\n\
             or with the same `orch run` and\n  --run-token {token}"
        ));
    }
    Err(Fault::Code(FAILED))
}

/// Nobody follows the run any more; it goes on.
async fn left_to_the_service(session: Session, out: &Out, state: &RunState) -> Result<()> {
    session.close().await;
    let (run, short) = (state.key.run, words::short(state.key.run));
    if out.json {
        let message = "the run goes on at the service";
        let error = serde_json::json!({ "kind": "interrupted", "message": message, "run": run });
        out.error_document(&serde_json::json!({ "error": error }));
    } else {
        out.error(format_args!(
            "run {short} goes on at the service; to follow it again\n  orch runs watch {short}"
        ));
    }
    Err(Fault::Code(FAILED))
}

/// Shuts down: gracefully, until interrupted again.
pub(crate) async fn finish(session: Session, out: &Out, interrupts: &mut Interrupts) {
    let mut closing = std::pin::pin!(session.close());
    tokio::select! {
        () = &mut closing => return,
        () = tokio::time::sleep(PATIENCE) => {}
    }
    out.note(format_args!("waiting up to {} for running steps; Ctrl-C stops them now", words::span(DRAIN)));
    tokio::select! {
        () = &mut closing => {}
        () = interrupts.next() => out.note("stopped; what was running is taken up again when its lease is over"),
    }
}

/// Follows a run until it ends or only a person can move it on; shows what happens after entry `seen`.
pub(crate) async fn follow(
    session: &Session,
    (run, seen): (RunId, u64),
    interrupts: &mut Interrupts,
    progress: &mut Progress,
    patience: Patience,
) -> Result<(RunState, End)> {
    let mut held = false;
    let mut events = session.orch.events(&session.who, run, 0, true);
    let mut state = first(&mut events, run).await?;
    progress.begin(&state);
    let mut entries = read_ahead(events);
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look_at = Instant::now() + QUIET;
    // Since when the store does not answer.
    let mut away: Option<Instant> = None;
    loop {
        tokio::select! {
            next = entries.recv() => match next.unwrap_or_else(|| Err(Error::internal("nobody reads the run any more"))) {
                Ok(None) => return Ok((state, End::Ended)),
                Ok(Some((entry, line))) => {
                    apply(&mut state, &entry, &line)?;
                    if entry.seq > seen {
                        progress.observe(&state, &entry);
                    }
                    (look_at, away) = (Instant::now() + QUIET, None);
                }
                Err(error) => away = Some(still_away(away, error)?),
            },
            _ = frames.tick() => {
                let unread = away.map(|_| "the run cannot be read".to_owned());
                progress.draw(&state, session.orch.stats().trouble.or(unread));
                if Instant::now() >= look_at && away.is_none() {
                    match needs(session, &state).await.or_else(moving)? {
                        Some(needs) if patience == Patience::Held && is_held(&needs) => {
                            if !std::mem::replace(&mut held, true) {
                                progress.say(&advice(&needs));
                            }
                        }
                        Some(needs) => return Ok((state, End::Waiting(needs))),
                        None => held = false,
                    }
                    look_at = Instant::now() + QUIET * 3;
                }
            }
            () = interrupts.next() => return Ok((state, End::Interrupted)),
        }
    }
}

/// Entries as they come, read in a task of its own so that no frame cuts a question to the store short; while the store is
/// away it is asked once in a while.
fn read_ahead(mut events: RunEvents) -> mpsc::Receiver<orch::Result<Option<(Entry, String)>>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        loop {
            let next = events.next().await;
            let (rests, over) = match &next {
                Ok(next) => (false, next.is_none()),
                Err(error) => (true, !error.is_retryable()),
            };
            if sender.send(next).await.is_err() || over {
                return;
            }
            if rests {
                tokio::time::sleep(AWAY_REST).await;
            }
        }
    });
    receiver
}

/// What a person has to do is not known while the store is away; until then a run counts as one that goes on.
fn moving(fault: Fault) -> Result<Option<Vec<Need>>> {
    match fault {
        Fault::Error { error, .. } if error.is_retryable() => Ok(None),
        fault => Err(fault),
    }
}

/// Since when the store does not answer, now that it has failed again; an error once that is too long, or will not pass.
fn still_away(since: Option<Instant>, error: Error) -> Result<Instant> {
    let since = since.unwrap_or_else(Instant::now);
    if error.is_retryable() && since.elapsed() < AWAY_MAX { Ok(since) } else { Err(error.into()) }
}

/// The steps of a run whose outputs come from other runs, and from which.
pub(crate) async fn reused(session: &Session, run: RunId) -> Result<Reused> {
    let mut events = session.orch.events(&session.who, run, 0, false);
    let mut reused = Reused::new();
    while let Some((entry, _)) = events.next().await? {
        if let Event::StepSucceeded(event) = entry.event
            && let Some(from) = event.reused
        {
            reused.insert(event.step, from);
        }
    }
    Ok(reused)
}

/// Whether a run waits for nothing but to be let go on.
fn is_held(needs: &[Need]) -> bool {
    needs.iter().all(|need| need.what == What::Resume)
}

fn advice(needs: &[Need]) -> String {
    let lines: Vec<String> = needs.iter().map(show::advice).collect();
    lines.join("\n")
}

async fn first(events: &mut RunEvents, run: RunId) -> Result<RunState> {
    let (entry, line) =
        events.next().await?.ok_or_else(|| Error::not_found("no such run").with("run", run))?;
    let head = Head { hash: Digest::of(&line), seq: entry.seq };
    Ok(RunState::open(&entry, head, unshared_plan)?)
}

fn apply(state: &mut RunState, entry: &Entry, line: &str) -> Result<()> {
    state.apply(entry.at, &entry.actor, &entry.event)?;
    state.head = Head { hash: Digest::of(line), seq: entry.seq };
    Ok(())
}

/// What people have to do before a run can go on, or nothing while something happens by itself.
pub(crate) async fn needs(session: &Session, state: &RunState) -> Result<Option<Vec<Need>>> {
    let mut needs = Vec::new();
    let Some(mut open) = local_needs(session, state, &mut needs) else { return Ok(None) };
    // Runs of sub-DAGs may be what waits. Their depth is bounded by the limits.
    while let Some(run) = open.pop() {
        match session.orch.inspect(&session.who, run).await {
            Ok(state) => match local_needs(session, &state, &mut needs) {
                Some(below) => open.extend(below),
                None => return Ok(None),
            },
            // Not submitted yet.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(needs).filter(|needs| !needs.is_empty()))
}

/// Adds what the steps of one run wait for and answers its sub-runs; nothing while something happens by itself.
fn local_needs(session: &Session, state: &RunState, needs: &mut Vec<Need>) -> Option<Vec<RunId>> {
    if state.ended.is_some() {
        return None;
    }
    let run = state.key.run;
    if state.paused && state.running().next().is_none() {
        needs.push(Need { run, step: None, what: What::Resume });
        return Some(Vec::new());
    }
    let mut below = Vec::new();
    let mut look = |at: StepRef, step: &StepState| match step.status {
        StepStatus::Running => {
            below.push(step.child_run?);
            Some(())
        }
        _ => {
            let what = step_needs(session, state, at, step)?;
            needs.extend(what.map(|what| Need { run, step: Some(state.key_of(at)), what }));
            Some(())
        }
    };
    for (at, step) in (0..).map(StepRef::top).zip(state.steps()) {
        match &step.map {
            Some(map) if !step.status.is_settled() => {
                for (child, place) in map.children.iter().zip(0..) {
                    look(StepRef { child: Some(place), ..at }, child)?;
                }
            }
            _ => look(at, step)?,
        }
    }
    Some(below)
}

/// What a step that does not run waits for, if it is a person; nothing at all when it goes on by itself.
fn step_needs(session: &Session, state: &RunState, at: StepRef, step: &StepState) -> Option<Option<What>> {
    Some(Some(match step.status {
        StepStatus::Queued => match &state.spec(at).uses {
            uses if session.cannot_execute(uses) => What::Executor { uses: uses.to_string() },
            _ => return None,
        },
        StepStatus::Waiting => match step.wait.as_deref()? {
            wait if wait.signal.is_some() => What::Signal { signal: wait.signal.clone()? },
            wait if wait.asked.is_some() && wait.verdict.is_none() => What::Verdict,
            _ => return None,
        },
        StepStatus::Parked => What::Retry,
        _ => return Some(None),
    }))
}
