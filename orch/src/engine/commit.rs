//! The committers: the tasks through which every change of a run becomes an append, one for each thread of the runtime.
//! A run belongs to one of them.
//!
//! Requests that arrive while an append is under way are merged: one append per run, one call of the store for all
//! runs. Nothing is answered, started or announced before its append is durable. Who loses a race reads what is new and
//! asks the rules again; who wins where others append too leaves them the next turn.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use hashbrown::HashMap;
use tokio::sync::mpsc;

use super::change::{Answer, Change, Request};
use super::core::Core;
use super::effects::{self, Hints};
use super::health::{Call, is_away, rest};
use super::known::{Known, Residency};
use super::land::{echo, land};
use super::prepare::{Prepared, prepare};
use super::{execute, load};
use crate::error::{Error, ErrorKind, Result};
use crate::id::RunKey;
use crate::planner::RunState;

/// Requests taken in at once.
const INTAKE: usize = 4_096;
/// Runs in one call of the store.
const BATCH: usize = 2_048;
/// Calls of the store under way at once: while one is durable, the next is filled.
const APPENDS: usize = 2;
/// Runs that another call is worth while one is under way: fewer wait for it and share a call.
const FILL: usize = 64;
/// Hints that wait for those before them to be pushed, from which on appends wait too.
const HINTS: usize = 4_096;
/// Tries of a request that meets a store that cannot be reached, before its caller is told; and of one that loses every race.
const TRIES: u32 = 8;
const RACES: u32 = 64;
/// The first rest after a lost race, and the longest.
const RACE_RESTS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(16));
/// The first rest after the store could not be reached, and the longest. Runs that failed together rest together: they
/// come back in one call.
const AWAY_RESTS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// The longest way given. It is twice as long as the append took: time to read what is new, and to append to it.
const WAY_MAX: Duration = Duration::from_millis(100);

enum Done {
    Loaded(Vec<(RunKey, Result<Option<RunState>>)>),
    /// With how long the call of the store took.
    Landed(Vec<(Prepared, Result<()>)>, Duration),
    /// The queue has the hints, or they are late.
    Hinted,
    /// The rest is over; with a state that may be old.
    Rested(RunKey, Option<Box<RunState>>),
}

pub(super) struct Committer {
    core: Arc<Core>,
    /// Which of the committers it is.
    number: usize,
    inbox: mpsc::Receiver<Request>,
    runs: HashMap<RunKey, Known>,
    listed: VecDeque<RunKey>,
    /// Pictures of runs that may be old, to be brought up to date.
    stale: Vec<RunState>,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    appends: usize,
    /// Hints at what landed appends made runnable, in their order: pushed once those before them are.
    hints: Hints,
    hinting: bool,
    clock: u64,
    /// Where lines are written before it is known how long they are.
    scratch: Vec<u8>,
}

impl Committer {
    pub(super) fn new(core: Arc<Core>, number: usize, inbox: mpsc::Receiver<Request>) -> Self {
        let (runs, listed, stale, under_way, hints) = Default::default();
        Self {
            core,
            number,
            inbox,
            runs,
            listed,
            stale,
            under_way,
            appends: 0,
            hints,
            hinting: false,
            clock: 0,
            scratch: Vec::new(),
        }
    }

    /// Runs until the engine is closed and everything asked for has been answered.
    pub(super) async fn run(mut self) {
        let mut intake = Vec::with_capacity(INTAKE);
        let core = Arc::clone(&self.core);
        let mut open = true;
        while open || !self.under_way.is_empty() || !self.listed.is_empty() {
            tokio::select! {
                biased;
                Some(done) = self.under_way.next(), if !self.under_way.is_empty() => self.done(done),
                taken = self.inbox.recv_many(&mut intake, INTAKE), if open => open = taken > 0,
                () = core.closed.cancelled(), if open => {
                    self.inbox.close();
                    while let Ok(request) = self.inbox.try_recv() {
                        intake.push(request);
                    }
                    open = false;
                }
            }
            for request in intake.drain(..) {
                self.accept(request);
            }
            self.load();
            self.append();
            self.refresh_stale();
            core.loaded[self.number].store(self.runs.len(), Ordering::Relaxed);
        }
    }

    fn accept(&mut self, mut request: Request) {
        self.clock += 1;
        request.asked = self.clock;
        let known = self.runs.entry(request.key.clone()).or_default();
        known.touched = self.clock;
        if matches!(request.change, Change::Create(_)) && matches!(known.residency, Residency::Unknown) {
            // Most runs are new: the append says so if this one is not.
            known.residency = Residency::Missing;
        }
        if !std::mem::replace(&mut known.listed, true) {
            self.listed.push_back(request.key.clone());
        }
        known.pending.push(request);
    }

    fn list(&mut self, key: RunKey) {
        if let Some(known) = self.runs.get_mut(&key)
            && !known.pending.is_empty()
            && !std::mem::replace(&mut known.listed, true)
        {
            self.listed.push_back(key);
        }
    }

    /// Sends for the states that requests wait for.
    fn load(&mut self) {
        let mut keys = Vec::new();
        for key in &self.listed {
            if let Some(known) = self.runs.get_mut(key)
                && matches!(known.residency, Residency::Unknown)
            {
                known.residency = Residency::Away;
                known.reading_from = self.clock;
                keys.push(key.clone());
            }
        }
        for keys in keys.chunks(BATCH) {
            let (core, keys) = (Arc::clone(&self.core), keys.to_vec());
            self.under_way.push(Box::pin(async move { Done::Loaded(load::states(&core, keys).await) }));
        }
    }

    /// Turns what is asked of the runs at hand into one call of the store.
    fn append(&mut self) {
        while self.hints.len() < HINTS
            && (self.appends == 0 || (self.appends < APPENDS && self.listed.len() >= FILL))
        {
            let mut batch = Vec::new();
            let mut later = VecDeque::new();
            while let Some(key) = self.listed.pop_front() {
                if batch.len() >= BATCH {
                    later.push_back(key);
                    continue;
                }
                match self.take(&key) {
                    Take::Ready { state, requests, read_from } => {
                        batch.extend(self.settle_or_keep(&key, state, requests, read_from));
                    }
                    Take::Away => {
                        // It is listed again when it comes back.
                        if let Some(known) = self.runs.get_mut(&key) {
                            known.listed = false;
                        }
                    }
                }
            }
            self.listed = later;
            if batch.is_empty() {
                return;
            }
            self.appends += 1;
            let core = Arc::clone(&self.core);
            self.under_way.push(Box::pin(async move {
                let (landed, took) = land(&core, batch).await;
                Done::Landed(landed, took)
            }));
        }
    }

    fn take(&mut self, key: &RunKey) -> Take {
        let Some(known) = self.runs.get_mut(key) else { return Take::Away };
        let state = match std::mem::replace(&mut known.residency, Residency::Away) {
            Residency::Here(state) => Some(state),
            Residency::Missing => None,
            away @ (Residency::Away | Residency::Unknown) => {
                known.residency = away;
                return Take::Away;
            }
        };
        known.listed = false;
        let read_from = known.read_from.take();
        Take::Ready { state, requests: std::mem::take(&mut known.pending), read_from }
    }

    /// Asks the rules. What needs no append is answered at once and the state stays, unless the answer may be owed
    /// to an old picture of the run: then the picture is brought up to date first. A picture that was read after a request
    /// had come is good enough for that one, and not for those that came meanwhile.
    fn settle_or_keep(
        &mut self,
        key: &RunKey,
        state: Option<Box<RunState>>,
        requests: Vec<Request>,
        read_from: Option<u64>,
    ) -> Option<Prepared> {
        let shared = self.runs.get(key).is_some_and(|known| known.shared);
        let before = state.as_ref().filter(|_| shared).cloned();
        let mut prepared = prepare(&self.core, key, state, requests, &mut self.scratch);
        if prepared.append.is_some() {
            prepared.before = before;
            return Some(prepared);
        }
        let settled = |request: &Request| read_from.is_some_and(|from| request.asked <= from);
        let doubtful = |(request, answer): &(Request, Result<Answer>)| {
            !settled(request) && request.change.is_doubtful(answer)
        };
        if !prepared.broken && prepared.answers.iter().any(doubtful) {
            self.read_again(key, prepared, settled);
            return None;
        }
        if prepared.broken {
            self.put_back(key, Residency::Unknown);
        } else {
            let state = prepared.state.take();
            if !prepared.effects.is_empty() {
                effects::run(&self.core, state.as_deref(), &mut prepared.effects);
            }
            self.keep(key, state);
        }
        prepared.answer(&self.core);
        None
    }

    /// Answers what is settled, and sets the state aside until what has been appended since is read, to ask the rules again.
    fn read_again(&mut self, key: &RunKey, mut prepared: Prepared, settled: impl Fn(&Request) -> bool) {
        let (answers, again): (Vec<_>, Vec<_>) =
            prepared.answers.into_iter().partition(|(request, _)| settled(request));
        let state = prepared.state.take();
        if !answers.is_empty() {
            effects::run(&self.core, state.as_deref(), &mut prepared.effects);
        }
        answers.into_iter().for_each(|(request, answer)| request.answer(&self.core, answer));
        if let Some(known) = self.runs.get_mut(key) {
            let mut requests: Vec<_> = again.into_iter().map(|(request, _)| request).collect();
            requests.append(&mut known.pending);
            known.pending = requests;
        }
        match state {
            Some(state) => self.stale.push(*state),
            None => self.put_back(key, Residency::Unknown),
        }
    }

    /// Reads what has been appended to the runs set aside: in one call, as where several processes share many runs there are
    /// many.
    fn refresh_stale(&mut self) {
        while !self.stale.is_empty() {
            let rest = self.stale.split_off(self.stale.len().min(BATCH));
            let (core, states) = (Arc::clone(&self.core), std::mem::replace(&mut self.stale, rest));
            for state in &states {
                if let Some(known) = self.runs.get_mut(&state.key) {
                    (known.reading_from, known.read_to) = (self.clock, state.head.seq);
                }
            }
            self.under_way.push(Box::pin(async move { Done::Loaded(load::refreshed(&core, states).await) }));
        }
    }

    fn put_back(&mut self, key: &RunKey, residency: Residency) {
        if let Some(known) = self.runs.get_mut(key) {
            known.residency = residency;
        }
        self.list(key.clone());
    }

    /// Keeps a state for the next request, unless the run has ended.
    fn keep(&mut self, key: &RunKey, state: Option<Box<RunState>>) {
        let residency = match state {
            Some(state) if state.ended.is_none() => Residency::Here(state),
            _ => Residency::Unknown,
        };
        let gone = matches!(residency, Residency::Unknown);
        self.put_back(key, residency);
        if gone && self.runs.get(key).is_some_and(|known| known.pending.is_empty()) {
            self.runs.remove(key);
        } else if self.runs.len() > self.cached_max() {
            self.evict();
        }
    }

    /// How many runs it may keep: its share.
    fn cached_max(&self) -> usize {
        self.core.settings.cached_runs.div_ceil(self.core.inboxes.len())
    }

    /// Drops the states that were not touched for longest: a tenth at once, so that it costs little per run.
    fn evict(&mut self) {
        let idle = |known: &Known| known.pending.is_empty() && !matches!(known.residency, Residency::Away);
        let mut ages: Vec<u64> =
            self.runs.values().filter(|known| idle(known)).map(|known| known.touched).collect();
        let count = (self.cached_max() / 10).clamp(1, ages.len().max(1));
        if ages.len() < count {
            return;
        }
        let (_, border, _) = ages.select_nth_unstable(count - 1);
        let border = *border;
        self.runs.retain(|_, known| !(idle(known) && known.touched <= border));
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Loaded(loaded) => {
                self.note(Call::Read, loaded.iter().filter_map(|(_, state)| state.as_ref().err()));
                loaded.into_iter().for_each(|(key, state)| self.loaded(&key, state));
            }
            Done::Landed(landed, took) => {
                self.appends -= 1;
                let count = landed.iter().filter(|(_, outcome)| outcome.is_ok()).count();
                self.core.landed.fetch_add(count as u64, Ordering::Relaxed);
                self.note(Call::Append, landed.iter().filter_map(|(_, outcome)| outcome.as_ref().err()));
                landed.into_iter().for_each(|(prepared, outcome)| self.landed(prepared, outcome, took));
                self.hint();
            }
            Done::Hinted => {
                self.hinting = false;
                self.hint();
            }
            Done::Rested(key, None) => self.put_back(&key, Residency::Unknown),
            Done::Rested(key, Some(state)) => match self.runs.get(&key) {
                Some(known) if known.pending.is_empty() => self.keep(&key, Some(state)),
                _ => self.stale.push(*state),
            },
        }
    }

    /// Has hints pushed while the next append is under way, one push after the other.
    fn hint(&mut self) {
        if !self.hinting && !self.hints.is_empty() {
            self.hinting = true;
            let (core, hints) = (Arc::clone(&self.core), std::mem::take(&mut self.hints));
            self.under_way.push(Box::pin(async move {
                effects::hint(&core, hints).await;
                Done::Hinted
            }));
        }
    }

    /// How a call of the store went by what failed in it: lost races are no failures. What is wrong with one run alone
    /// is told with the run.
    fn note<'a>(&self, call: Call, failures: impl Iterator<Item = &'a Error>) {
        let mut failures = failures.filter(|error| error.kind() != ErrorKind::Conflict);
        match failures.next() {
            Some(error) => self.core.health.failed(call, error, self.core.now()),
            None => self.core.health.works(call),
        }
    }

    fn loaded(&mut self, key: &RunKey, state: Result<Option<RunState>>) {
        if let Some(known) = self.runs.get_mut(key) {
            known.read_from = state.is_ok().then_some(known.reading_from);
            if let Ok(Some(state)) = &state
                && state.head.seq > known.read_to
            {
                known.meet();
            }
        }
        match state {
            Ok(Some(state)) => self.put_back(key, Residency::Here(Box::new(state))),
            Ok(None) => self.put_back(key, Residency::Missing),
            Err(error) => {
                if !is_away(&error) {
                    tracing::warn!(run = %key, %error, "a run cannot be read");
                }
                let requests = self.runs.get_mut(key).map(|known| std::mem::take(&mut known.pending));
                self.again_or_refuse(key, requests.unwrap_or_default(), &error, None);
            }
        }
    }

    fn landed(&mut self, mut prepared: Prepared, outcome: Result<()>, took: Duration) {
        let key = prepared.key.clone();
        match outcome {
            Ok(()) => {
                let state = prepared.state.take();
                self.hints.extend(std::mem::take(&mut prepared.effects.hints));
                effects::run(&self.core, state.as_deref(), &mut prepared.effects);
                let ended = state.as_ref().is_none_or(|state| state.ended.is_some());
                self.core.watchers.notify(&key, ended);
                match state {
                    Some(state)
                        if !ended && self.runs.get_mut(&key).is_some_and(|known| known.gives_way(took)) =>
                    {
                        self.rest(&key, (took * 2).min(WAY_MAX), Some(state));
                    }
                    state => self.keep(&key, state),
                }
                if prepared.effects.more {
                    let actor = Arc::clone(&self.core.actor);
                    self.accept(Request {
                        key,
                        actor,
                        change: Change::GoOn,
                        reply: None,
                        tries: 0,
                        asked: 0,
                    });
                }
                prepared.answer(&self.core);
            }
            Err(error) => {
                let lost_race = error.kind() == ErrorKind::Conflict;
                let before = prepared.before.take().filter(|_| lost_race);
                if let Some(known) = self.runs.get_mut(&key).filter(|_| lost_race) {
                    known.meet();
                }
                let requests = prepared.into_requests();
                if !lost_race && !is_away(&error) {
                    tracing::warn!(run = %key, %error, kind = error.kind().as_str(), "an append failed");
                }
                self.again_or_refuse(&key, requests, &error, before);
            }
        }
    }

    /// Asks again what may succeed after reading again, from `before` on; tells the callers of the rest.
    fn again_or_refuse(
        &mut self,
        key: &RunKey,
        requests: Vec<Request>,
        error: &Error,
        before: Option<Box<RunState>>,
    ) {
        let mut again = Vec::new();
        let mut tries = 0;
        let most = if error.kind() == ErrorKind::Conflict { RACES } else { TRIES };
        for mut request in requests {
            request.tries += 1;
            let worth_it =
                request.tries < most || (request.ends_attempt() && !self.core.closed.is_cancelled());
            if error.is_retryable() && worth_it && request.may_repeat(error.kind()) {
                tries = tries.max(request.tries);
                again.push(request);
            } else {
                request.answer(&self.core, Err(echo(error)));
            }
        }
        let Some(known) = self.runs.get_mut(key) else { return };
        again.append(&mut known.pending);
        known.pending = again;
        if known.pending.is_empty() {
            self.runs.remove(key);
            return;
        }
        // A lost race is tried again at once, an unreachable store after a while; either while doubles.
        let worker = &self.core.worker.id;
        let rest = match (error.kind(), tries) {
            (ErrorKind::Conflict, ..=1) => Duration::ZERO,
            (ErrorKind::Conflict, _) => rest(worker, tries, RACE_RESTS.0, RACE_RESTS.1),
            _ => rest(worker, tries, AWAY_RESTS.0, AWAY_RESTS.1),
        };
        self.rest(key, rest, before);
    }

    /// Leaves a run alone for a while; a state of it may be old by then.
    fn rest(&mut self, key: &RunKey, span: Duration, state: Option<Box<RunState>>) {
        if let Some(known) = self.runs.get_mut(key) {
            known.residency = Residency::Away;
        }
        let key = key.clone();
        self.under_way.push(Box::pin(async move {
            tokio::time::sleep(span).await;
            Done::Rested(key, state)
        }));
    }
}

enum Take {
    Ready { state: Option<Box<RunState>>, requests: Vec<Request>, read_from: Option<u64> },
    Away,
}

impl Request {
    /// Tells whoever waits for it; of the end of an attempt, the worker.
    fn answer(self, core: &Core, answer: Result<Answer>) {
        match self.reply {
            // A caller that has gone away does not change what happened.
            Some(reply) => drop(reply.send(answer)),
            None => execute::recorded(core, &self.key, &self.change, answer.err()),
        }
    }

    /// Whether it records how an attempt of this worker ended: tried for as long as that is the worker's to record.
    fn ends_attempt(&self) -> bool {
        self.reply.is_none() && matches!(self.change, Change::Finish { .. } | Change::Release { .. })
    }

    /// Whether it may be asked again although it may have been granted already.
    fn may_repeat(&self, kind: ErrorKind) -> bool {
        use crate::planner::Operation;
        let once = matches!(
            &self.change,
            Change::Operate {
                operation: Operation::Signal { .. } | Operation::Retry(_) | Operation::Decide { .. },
                ..
            }
        );
        kind != ErrorKind::Indeterminate || !once
    }
}

impl Prepared {
    /// Tells the callers.
    fn answer(self, core: &Core) {
        self.answers.into_iter().for_each(|(request, answer)| request.answer(core, answer));
    }

    /// The requests, to be asked again.
    fn into_requests(self) -> Vec<Request> {
        self.answers.into_iter().map(|(request, _)| request).collect()
    }
}
