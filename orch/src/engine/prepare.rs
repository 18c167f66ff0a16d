//! From what is asked of a run to one append: ask the rules, decide what follows, encode.

use std::sync::Arc;

use super::change::{
    Answer, Change, Cleared, OutsideWorker, Permit, Request, Start, Starter, Wanted, evaluate, start,
};
use super::core::Core;
use super::effects::{Effects, Hints, Launch, SubRun};
use super::lease::Leased;
use super::observe::Seen;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RunId, RunKey, StepKey};
use crate::ledger::{Chain, Event, Head, ReusedFrom, StepFailed, StepParked, Stream};
use crate::payload::Payload;
use crate::planner::{HINT_CHECK, RunState, StepRef, advance_some, attempt, decide};
use crate::store::Append;
use crate::time::Timestamp;

/// The actor of what orch decides by itself.
const ORCH: &str = "orch";

/// Bytes of lines that are kept for the next append to be written into.
const SCRATCH_MAX: usize = 4 << 20;

/// What one append says and what follows once it is durable.
pub(super) struct Prepared {
    pub(super) key: RunKey,
    /// The state after the append.
    pub(super) state: Option<Box<RunState>>,
    /// The state before it, where it may be needed again.
    pub(super) before: Option<Box<RunState>>,
    /// What was asked, each with the answer that holds once the append is durable.
    pub(super) answers: Vec<(Request, Result<Answer>)>,
    pub(super) append: Option<Append>,
    pub(super) effects: Effects,
    /// The state cannot be used any more.
    pub(super) broken: bool,
}

/// The append under construction.
struct Draft<'a> {
    core: &'a Arc<Core>,
    state: Option<Box<RunState>>,
    chain: Chain,
    expected: Head,
    effects: Effects,
    /// What orch has decided by itself, and whether more is to be decided than one append may hold.
    decided: Vec<Event>,
    more: bool,
    /// The sub-DAGs that were running before.
    sub_runs: Vec<(StepRef, u32, RunId)>,
    /// Places that finished attempts gave free, for what they made runnable.
    places: Vec<Permit>,
    now: Timestamp,
    looked_at: bool,
    /// The store lists the run as due.
    due: bool,
}

/// Asks the rules for everything that is asked of a run, in order.
pub(super) fn prepare(
    core: &Arc<Core>,
    key: &RunKey,
    state: Option<Box<RunState>>,
    requests: Vec<Request>,
    scratch: &mut Vec<u8>,
) -> Prepared {
    let expected = state.as_ref().map_or(Head::EMPTY, |state| state.head);
    let chain = Chain::new(&key.tenant, Stream::Run(key.run), expected).writing_into(std::mem::take(scratch));
    let (effects, now) = (Effects::default(), core.now());
    let mut draft = Draft {
        core,
        state,
        chain,
        expected,
        effects,
        decided: Vec::new(),
        more: false,
        sub_runs: Vec::new(),
        places: Vec::new(),
        now,
        looked_at: false,
        due: false,
    };
    let mut answers = Vec::with_capacity(requests.len());
    let mut broken = None;
    for request in requests {
        let answer = match &broken {
            None => draft.ask(&request),
            Some(()) => Err(defect()),
        };
        if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Corrupt) {
            broken = Some(());
        }
        answers.push((request, answer));
    }
    if broken.is_none()
        && let Err(error) = draft.follow_up()
    {
        tracing::error!(run = %key, %error, "a decision cannot be applied");
        broken = Some(());
    }
    draft.finish(key, answers, broken.is_some(), scratch)
}

fn defect() -> Error {
    Error::corrupt("the run's entries do not fold; verify the ledger")
}

impl Draft<'_> {
    fn ask(&mut self, request: &Request) -> Result<Answer> {
        match (&mut self.state, &request.change) {
            (None, Change::Create(_)) => self.create(request),
            (None, _) => Err(Error::not_found("no such run").with("run", request.key.run)),
            (Some(_), _) => self.change(request),
        }
    }

    fn create(&mut self, request: &Request) -> Result<Answer> {
        let Change::Create(create) = &request.change else { return Err(defect()) };
        let event = Event::from(create.created.clone());
        self.chain.push(&request.actor, self.now, &event)?;
        let first = crate::ledger::Entry {
            actor: request.actor.to_string(),
            at: self.now,
            event,
            prev: self.expected.hash,
            seq: 1,
            stream: Stream::Run(request.key.run),
            tenant: request.key.tenant.clone(),
        };
        let plan = Arc::clone(&create.plan);
        self.state = Some(Box::new(RunState::open(&first, self.chain.head(), |_| Ok(plan))?));
        self.take_over(&request.actor, &create.reused)?;
        let state = self.state.as_deref().ok_or_else(defect)?;
        Ok(Answer::Created { row: Box::new(state.row()), new: true })
    }

    /// Takes outputs over from another run: each as soon as its step's turn has come. Where that waits for a step to be
    /// skipped again, one wave is decided and no more, so that nothing is started that is to be taken over.
    fn take_over(&mut self, actor: &str, reused: &[(StepKey, Payload, ReusedFrom)]) -> Result<()> {
        let mut open: Vec<_> = reused.iter().collect();
        while !open.is_empty() {
            let mut later = Vec::with_capacity(open.len());
            let before = open.len();
            for taken in open {
                let (step, output, from) = taken;
                let state = self.state.as_deref().ok_or_else(defect)?;
                let at =
                    state.find(step).ok_or_else(|| Error::not_found("no such step").with("step", step))?;
                match attempt::reuse(state, at, output.clone(), from.clone()) {
                    Ok(events) => self.apply(actor, &events)?,
                    Err(error) if error.kind() == ErrorKind::Conflict => later.push(taken),
                    Err(error) => return Err(error),
                }
            }
            if later.len() == before {
                let state = self.state.as_deref().ok_or_else(defect)?;
                let wave = decide(state, self.now, self.core.limits());
                if wave.is_empty() {
                    // What is left waits for a step that has to run again, such as one that had failed.
                    return Ok(());
                }
                self.apply(ORCH, &wave)?;
                self.decided.extend(wave);
            }
            open = later;
        }
        Ok(())
    }

    fn change(&mut self, request: &Request) -> Result<Answer> {
        let core = self.core;
        match &request.change {
            // What has come to pass meanwhile goes first: a verdict on an expired gate is refused, not recorded.
            Change::Operate { .. } => self.decide()?,
            Change::Start { wanted, cleared } => {
                let starts = wanted.iter().map(|wanted| self.start(&request.actor, wanted, *cleared));
                return Ok(Answer::Starts(starts.collect::<Result<_>>()?));
            }
            Change::Lease { step, attempt, by, cleared } => {
                let start = self.lease(&request.actor, (step, *attempt), by, *cleared)?;
                return Ok(Answer::Starts(vec![start]));
            }
            _ => {}
        }
        let state = self.state.as_deref().ok_or_else(defect)?;
        let (events, answer) = evaluate(state, &request.change, &core.worker, self.now, core.limits())?;
        self.note_before(&request.change, &events);
        self.apply(&request.actor, &events)?;
        self.note_after(request);
        let state = self.state.as_deref().ok_or_else(defect)?;
        Ok(answer.refreshed(state))
    }

    fn apply(&mut self, actor: &str, events: &[Event]) -> Result<()> {
        let state = self.state.as_deref_mut().ok_or_else(defect)?;
        for event in events {
            state.apply(self.now, actor, event)?;
            self.chain.push(actor, self.now, event)?;
        }
        self.see(events);
        Ok(())
    }

    /// Takes down what is to be told of events that have been applied.
    fn see(&mut self, events: &[Event]) {
        if let (false, Some(state)) = (self.core.observers.is_empty(), self.state.as_deref()) {
            let seen = events.iter().filter_map(|event| Seen::of(state, event, self.now));
            self.effects.seen.extend(seen);
        }
    }

    /// What can only be seen before the events are applied.
    fn note_before(&mut self, change: &Change, events: &[Event]) {
        let Some(state) = self.state.as_deref() else { return };
        if let (Change::Finish { end, .. }, [Event::StepSucceeded(success)]) = (change, events)
            && let Some(at) = state.find(&success.step)
            && state.spec(at).cache
            && let inside = self.core.executors.lookup(&state.spec(at).uses).map(|(_, version)| version)
            && let Some(version) = end.version.as_deref().or(inside)
            && let Ok(key) = state.result_key(at, version)
        {
            self.effects.results.push((key, success.clone()));
        }
    }

    fn note_after(&mut self, request: &Request) {
        match &request.change {
            Change::Finish { permit: Some(permit), .. } | Change::Release { permit: Some(permit), .. } => {
                self.places.push(Arc::clone(permit));
            }
            Change::Look { due } => {
                self.looked_at = true;
                self.due |= *due;
            }
            Change::Operate { operation: crate::planner::Operation::Resume, .. } => self.looked_at = true,
            _ => {}
        }
    }

    /// Starts an attempt, to be launched once that is durable, or says what keeps it from starting.
    fn start(&mut self, actor: &str, wanted: &Wanted, cleared: Cleared) -> Result<Start> {
        let core = self.core;
        let state = self.state.as_deref().ok_or_else(defect)?;
        let attempt = (&wanted.step, wanted.attempt);
        let starter = Starter::Inside(&core.worker, &core.executors);
        let (events, answer) = start(state, attempt, cleared, starter, self.now, core.limits())?;
        self.apply(actor, &events)?;
        if matches!(answer, Start::Started) {
            self.launch(wanted.step.clone(), Arc::clone(&wanted.permit))?;
        }
        Ok(answer)
    }

    /// Starts an attempt for an outside worker, or says what keeps it from starting.
    fn lease(
        &mut self,
        actor: &str,
        attempt: (&StepKey, u32),
        by: &OutsideWorker,
        cleared: Cleared,
    ) -> Result<Start> {
        let limits = self.core.limits();
        let state = self.state.as_deref().ok_or_else(defect)?;
        let (events, answer) = start(state, attempt, cleared, Starter::Outside(by), self.now, limits)?;
        self.apply(actor, &events)?;
        let state = self.state.as_deref().ok_or_else(defect)?;
        match (answer, state.find(attempt.0)) {
            (Start::Started, Some(at)) => Ok(Start::Leased(Box::new(Leased::of(state, at, limits)))),
            (answer, _) => Ok(answer),
        }
    }

    fn launch(&mut self, step: StepKey, permit: Permit) -> Result<()> {
        let state = self.state.as_deref().ok_or_else(defect)?;
        let at = state.find(&step).ok_or_else(defect)?;
        self.effects.launches.push(Launch::new(state, at, step, permit, self.core.limits())?);
        Ok(())
    }

    /// Decides what follows, as much as one append may hold.
    fn decide(&mut self) -> Result<()> {
        let Some(state) = self.state.as_deref_mut() else { return Ok(()) };
        if !self.more {
            self.sub_runs.extend(state.sub_runs());
            let (events, more) = advance_some(state, self.now, ORCH, self.core.limits())?;
            for event in &events {
                self.chain.push(ORCH, self.now, event)?;
            }
            self.more = more;
            self.see(&events);
            self.decided.extend(events);
        }
        Ok(())
    }

    /// Sees to what follows from what was decided, and starts at once what may be started at once.
    fn follow_up(&mut self) -> Result<()> {
        self.decide()?;
        let events = std::mem::take(&mut self.decided);
        let Some(state) = self.state.as_deref_mut() else { return Ok(()) };
        let mut runnable = Vec::new();
        for event in &events {
            match event {
                Event::StepScheduled(scheduled) => {
                    let at = state.find(&scheduled.step).ok_or_else(defect)?;
                    if state.is_task(at) {
                        runnable.push((at, scheduled.not_before));
                    }
                }
                Event::StepStarted(started) if started.child_run.is_some() => {
                    let at = state.find(&started.step).ok_or_else(defect)?;
                    self.effects.sub_runs.extend(SubRun::of(state, at, self.core.limits()));
                }
                // A sub-DAG out of time: its run is to stop too.
                Event::StepFailed(StepFailed { step, attempt, .. })
                | Event::StepParked(StepParked { step, attempt, .. }) => {
                    let at = state.find(step).ok_or_else(defect)?;
                    let gone = self.sub_runs.iter().filter(|(run_of, of, _)| (*run_of, of) == (at, attempt));
                    self.effects.orphans.extend(gone.map(|(.., run)| *run));
                }
                _ => {}
            }
        }
        let rest = self.claim_ahead(runnable)?;
        let state = self.state.as_deref().ok_or_else(defect)?;
        self.effects.hints = if self.looked_at && (state.paused || state.ending.is_some()) {
            Hints::default()
        } else if self.looked_at {
            let waiting = state.queued().filter(|at| state.is_task(*at));
            Hints::of(state, waiting.map(|at| (at, None)), &self.core.executors, self.now)
        } else {
            Hints::of(state, rest.into_iter(), &self.core.executors, self.now)
        };
        if self.looked_at || state.ending.is_some() {
            let limits = self.core.limits();
            self.effects.sub_runs =
                state.sub_runs().filter_map(|(at, ..)| SubRun::of(state, at, limits)).collect();
        }
        Ok(())
    }

    /// Starts successors in the places their predecessors gave free, in the same append: a chain then costs one
    /// durable commit per step. Only when nothing older waits in the queue.
    fn claim_ahead(
        &mut self,
        runnable: Vec<(StepRef, Option<Timestamp>)>,
    ) -> Result<Vec<(StepRef, Option<Timestamp>)>> {
        if self.places.is_empty() || self.core.backlog.is_there() || self.core.closing.is_cancelled() {
            return Ok(runnable);
        }
        let mut rest = Vec::new();
        for (at, not_before) in runnable {
            let state = self.state.as_deref().ok_or_else(defect)?;
            let spec = state.spec(at);
            let plain = not_before.is_none() && !spec.cache && spec.concurrency.is_empty();
            let mine = self.core.settings.queues.as_ref().is_none_or(|queues| queues.contains(&spec.queue));
            let (true, true, Some(permit)) = (plain, mine, self.places.pop()) else {
                rest.push((at, not_before));
                continue;
            };
            let attempt = state.get(at).map_or(0, |step| step.attempt);
            let wanted = Wanted { step: state.key_of(at), attempt, permit };
            match self.start(&self.core.actor, &wanted, Cleared::default())? {
                Start::Started => {}
                _ => {
                    self.places.push(wanted.permit);
                    rest.push((at, not_before));
                }
            }
        }
        Ok(rest)
    }

    fn finish(
        self,
        key: &RunKey,
        answers: Vec<(Request, Result<Answer>)>,
        broken: bool,
        scratch: &mut Vec<u8>,
    ) -> Prepared {
        let Self { core, mut state, chain, expected, mut effects, now, due, more, .. } = self;
        let key = key.clone();
        let head = chain.head();
        let written = if broken { None } else { chain.finish_with().ok() };
        let lines = written.map(|(lines, _, buffer)| {
            // One long append is no reason to hold on to its memory.
            *scratch = if buffer.capacity() <= SCRATCH_MAX { buffer } else { Vec::new() };
            lines
        });
        let Some(lines) = lines else {
            let refused =
                |(request, answer): (Request, Result<Answer>)| (request, answer.and_then(|_| Err(defect())));
            let answers = answers.into_iter().map(refused).collect();
            return Prepared {
                key,
                state: None,
                before: None,
                answers,
                append: None,
                effects: Effects::default(),
                broken: true,
            };
        };
        let append = state.as_deref_mut().and_then(|state| {
            state.head = head;
            let mut row = state.row();
            // A row that is due moves on even when there is nothing to say: the sweep does not come back at once,
            // and the store confirms that nothing was said elsewhere.
            row.wake_at = state.wake_to_write(now);
            if core.closing.is_cancelled() && !state.paused && state.queued().next().is_some() {
                // This process starts nothing more: the others need not wait until the run seems forgotten.
                row.wake_at = Some(now);
            }
            if more {
                // Who decides the rest if this process does not live to: whoever sweeps then.
                let check = now.plus(HINT_CHECK);
                row.wake_at = Some(row.wake_at.map_or(check, |at| at.min(check)));
            }
            if head == expected && !due {
                return None;
            }
            state.wake_written = row.wake_at;
            effects.wake_at = row.wake_at;
            Some(Append {
                tenant: key.tenant.clone(),
                stream: Stream::Run(key.run),
                expected,
                lines,
                head,
                row: Some(row),
            })
        });
        effects.more = more;
        effects.stop = state.as_deref().is_some_and(|state| state.ending.is_some());
        Prepared { key, state, before: None, answers, append, effects, broken: false }
    }
}
