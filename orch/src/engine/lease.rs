//! Attempts leased to workers outside the process, in whatever language: leased, prolonged, ended, given back.
//!
//! Such a lease is the same thing as that of a worker inside: `step.started` names a worker and until when it is
//! believed, `attempt.progress` prolongs that, and an attempt whose lease has ended is lost. So any process on the same
//! store may take the next word of the worker, whichever one it leased from. The worker of each attempt is named by the
//! digest of a nonce that only the lease's token holds: nobody can act for it who has read the ledger.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::change::{Answer, AttemptEnd, Change, Cleared, OutsideWorker, Start, Worker};
use super::core::Core;
use super::handle::{Identity, Orchestrator};
use super::work::{Whose, clear, refused, settle};
use super::{desk, execute, slots};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::executor::{Failure, Outcome, ProgressSink, idempotency_key};
use crate::id::{DagId, QueueName, RunId, RunKey, StepId, StepKey, TenantId, WorkerId};
use crate::ledger::ArtifactRef;
use crate::limits::Limits;
use crate::lock::Holder;
use crate::payload::Payload;
use crate::planner::{RunState, StepRef};
use crate::queue::{Delivery, Settle};
use crate::time::Timestamp;
use crate::trace;

/// What an outside worker asks for.
#[derive(Clone, Debug)]
pub struct Lease {
    /// A name for people, 1 to 64 bytes without control characters or `/`.
    pub worker: String,
    /// Its version, 1 to 64 bytes: part of the key under which results of steps with `cache: true` are used again.
    pub version: String,
    /// The job types it executes (the `TYPE` of `worker/TYPE`), 1 to 64.
    pub types: Vec<String>,
    /// The queues it takes steps from, 1 to 16; steps that name none are in `default`.
    pub queues: Vec<QueueName>,
    /// How many attempts at most, 1 to 100.
    pub max: usize,
    /// How long it is believed without a further word, 1 s to 1 h; a step's own time may cut it.
    pub lease: Duration,
    /// How long to wait for the first attempt, up to 60 s.
    pub wait: Duration,
}

impl Lease {
    /// The longest wait for work.
    pub const WAIT_MAX: Duration = Duration::from_secs(60);
    /// The shortest and the longest lease.
    pub const SPANS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));
    /// The most attempts at once, job types and queues.
    pub const MOST: (usize, usize, usize) = (100, 64, 16);

    /// One attempt of these job types, for half a minute, without waiting.
    pub fn of(worker: impl Into<String>, types: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            worker: worker.into(),
            version: "1".to_owned(),
            types: types.into_iter().map(Into::into).collect(),
            queues: vec![QueueName::default_queue()],
            max: 1,
            lease: Duration::from_secs(30),
            wait: Duration::ZERO,
        }
    }

    fn check(&self) -> Result<()> {
        let mut problems = Vec::new();
        let is_label = |text: &str| (1..=64).contains(&text.len()) && !text.chars().any(char::is_control);
        let (attempts, types, queues) = Self::MOST;
        if !is_label(&self.worker) || self.worker.contains('/') {
            problems.push("worker holds 1 to 64 bytes, no control characters and no `/`".to_owned());
        }
        if !is_label(&self.version) {
            problems.push("version holds 1 to 64 bytes and no control characters".to_owned());
        }
        if !(1..=types).contains(&self.types.len()) {
            problems.push(format!("types name 1 to {types} job types"));
        }
        problems.extend(
            self.types
                .iter()
                .filter_map(|name| Some(format!("types: {}", StepId::new(name).err()?.sentence()))),
        );
        if !(1..=queues).contains(&self.queues.len()) {
            problems.push(format!("queues name 1 to {queues} queues"));
        }
        if !(1..=attempts).contains(&self.max) {
            problems.push(format!("max lies between 1 and {attempts}"));
        }
        check_span(self.lease).err().into_iter().for_each(|problem| problems.push(problem));
        if self.wait > Self::WAIT_MAX {
            problems.push("wait is at most 60 s".to_owned());
        }
        match problems.is_empty() {
            true => Ok(()),
            false => {
                Err(Error::invalid("not a lease that can be given").with("problems", problems.join("; ")))
            }
        }
    }
}

fn check_span(lease: Duration) -> Result<(), String> {
    let (shortest, longest) = Lease::SPANS;
    match (shortest..=longest).contains(&lease) {
        true => Ok(()),
        false => Err("lease lies between 1 s and 1 h".to_owned()),
    }
}

/// Names one lease and proves that its bearer is the worker. To be kept to itself: whoever has it may end the attempt.
#[derive(Clone, PartialEq, Eq)]
pub struct LeaseToken(String);

/// What a token holds.
#[derive(Serialize, Deserialize)]
struct Claims {
    run: RunId,
    step: StepKey,
    attempt: u32,
    worker: String,
    version: String,
    /// It has taken slots.
    slots: bool,
    nonce: String,
}

impl LeaseToken {
    /// No token is longer, in bytes.
    pub const BYTES_MAX: usize = 1_024;

    /// Takes a token from a worker.
    ///
    /// # Errors
    /// `Invalid` for text that is no token.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let token = Self(text.into());
        token.read()?;
        Ok(token)
    }

    /// The token as text: base64url, for the worker.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The run that it is about, if it is a token.
    #[must_use]
    pub fn run(&self) -> Option<RunId> {
        Some(self.read().ok()?.run)
    }

    fn of(claims: &Claims) -> Result<Self> {
        let json = serde_json::to_vec(claims)
            .map_err(|cause| Error::internal("a token cannot be written").caused_by(cause))?;
        Ok(Self(URL_SAFE_NO_PAD.encode(json)))
    }

    fn read(&self) -> Result<Claims> {
        let garbled = || Error::invalid("not a lease token");
        if self.0.len() > Self::BYTES_MAX {
            return Err(garbled());
        }
        let json = URL_SAFE_NO_PAD.decode(&self.0).map_err(|_| garbled())?;
        serde_json::from_slice(&json).map_err(|_| garbled())
    }
}

impl std::str::FromStr for LeaseToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl std::fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeaseToken(…)")
    }
}

impl Claims {
    fn worker(&self) -> WorkerId {
        worker_id(&self.worker, &self.nonce)
    }

    fn holder(&self, tenant: &TenantId) -> Holder {
        let run = RunKey { tenant: tenant.clone(), run: self.run };
        let name = slots::holder(&self.worker(), &run, &self.step, self.attempt);
        Holder { tenant: tenant.clone(), name }
    }
}

fn worker_id(label: &str, nonce: &str) -> WorkerId {
    let digest = Digest::of_parts(&[b"orch/lease/v1", nonce.as_bytes()]);
    WorkerId::new(format!("outside/{label}/{digest}"))
}

/// An attempt that is an outside worker's for a while.
#[derive(Clone, Debug)]
pub struct Leased {
    /// What every further word about it needs.
    pub token: LeaseToken,
    /// The run.
    pub run: RunId,
    /// Its DAG.
    pub dag: DagId,
    /// The step.
    pub step: StepKey,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// The job type.
    pub job_type: String,
    /// What it works on.
    pub input: Payload,
    /// The same for all attempts of this step in this run and for no other.
    pub idempotency_key: String,
    /// The trace that the attempt is a span of (W3C Trace Context): to be handed on to whatever the worker calls.
    pub traceparent: Option<String>,
    /// What goes along to whatever works for the run (W3C Baggage).
    pub baggage: Option<String>,
    /// Until when it is believed without a further word.
    pub lease_until: Timestamp,
    /// When the attempt is out of time, whatever is said.
    pub deadline: Option<Timestamp>,
    /// How many failed attempts the step may have, this one included.
    pub max_attempts: u32,
    /// How many have failed.
    pub failures: u32,
    /// Who submitted the run.
    pub actor: String,
    /// Why.
    pub rationale: Option<String>,
    /// The names of the secrets that the step declares; their values are the worker's to have.
    pub secrets: Vec<String>,
}

impl Leased {
    /// The attempt at `at`, and why it has no input if it has none.
    pub(super) fn of(state: &RunState, at: StepRef, limits: &Limits) -> (Self, Option<String>) {
        let (step, spec, key) = (state.get(at), state.spec(at), state.key_of(at));
        let input = state.attempt_input(at, limits);
        let broken = input.as_ref().err().map(ToString::to_string);
        let leased = Self {
            token: LeaseToken(String::new()),
            run: state.key.run,
            dag: state.created.dag_id.clone(),
            attempt: step.map_or(0, |step| step.attempt),
            job_type: spec
                .uses
                .to_string()
                .split_once('/')
                .map(|(_, name)| name.to_owned())
                .unwrap_or_default(),
            input: input.unwrap_or_else(|_| Payload::null()),
            idempotency_key: idempotency_key(&state.key, &key),
            traceparent: state.created.traceparent.as_deref().and_then(|text| {
                trace::of_attempt(text, state.key.run, &key, step.map_or(0, |step| step.attempt))
            }),
            baggage: state.created.baggage.clone(),
            step: key,
            lease_until: step.and_then(|step| step.lease_until).unwrap_or(Timestamp::MAX),
            deadline: state.attempt_deadline(at),
            max_attempts: spec.retry.max_attempts,
            failures: step.map_or(0, |step| step.failures),
            actor: state.actor.clone(),
            rationale: state.created.rationale.clone(),
            secrets: spec.secrets.clone(),
        };
        (leased, broken)
    }
}

/// A lease that was prolonged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// Until when the worker is believed without a further word.
    pub lease_until: Timestamp,
    /// The run is to end: the worker should stop and say so, as [`Outcome::Cancelled`] or with what it has achieved.
    pub cancel: bool,
}

impl Orchestrator {
    /// The longest code of a failure that an outside worker may report, in bytes.
    pub const FAILURE_CODE_MAX: usize = 64;

    /// Leases attempts of `worker/TYPE` steps to an outside worker: those that wait, first come first, or the first that
    /// come within [`Lease::wait`]; none is an answer. Only types that this process has no executor of its own for.
    ///
    /// An attempt that was leased and whose answer did not arrive is taken up again when its lease ends; a caller that
    /// went away before is given none.
    ///
    /// # Errors
    /// `Invalid` with everything that is wrong; nothing else: a backend that is away gives nothing out.
    pub async fn lease(&self, who: &Identity, lease: Lease) -> Result<Vec<Leased>> {
        who.check()?;
        lease.check()?;
        let queues = lease
            .types
            .iter()
            .flat_map(|job_type| lease.queues.iter().map(move |queue| desk::queue_of(job_type, queue)));
        let queues = Arc::new(queues.collect::<BTreeSet<_>>());
        let until = Instant::now() + lease.wait;
        let asked = Arc::new(Asked {
            actor: who.actor.as_str().into(),
            label: lease.worker,
            types: Arc::new(lease.types.into_iter().collect()),
            version: lease.version.into(),
            lease: lease.lease,
        });
        loop {
            let patience = until.saturating_duration_since(Instant::now());
            let deliveries = desk::ask(&self.core, &who.tenant, &queues, lease.max, patience).await;
            if deliveries.is_empty() {
                return Ok(Vec::new());
            }
            let leased = start_all(&self.core, &asked, deliveries).await;
            if !leased.is_empty() || Instant::now() >= until {
                return Ok(leased);
            }
        }
    }

    /// Prolongs a lease from now on, for no longer than the attempt may take, and takes down how far the worker is (the
    /// first [`ProgressSink::NOTE_BYTES_MAX`] bytes).
    ///
    /// # Errors
    /// `LeaseLost` when the attempt is not this worker's any more: it should stop, nothing it says counts. `NotFound`,
    /// `Invalid`, `Unavailable`.
    pub async fn renew_lease(
        &self,
        who: &Identity,
        token: &LeaseToken,
        lease: Duration,
        note: Option<&str>,
    ) -> Result<Renewed> {
        who.check()?;
        check_span(lease).map_err(Error::invalid)?;
        let claims = token.read()?;
        let note = note.map(|note| note[..note.floor_char_boundary(ProgressSink::NOTE_BYTES_MAX)].to_owned());
        let worker = Worker { id: claims.worker(), lease };
        let change = Change::Renew { step: claims.step.clone(), attempt: claims.attempt, worker, note };
        match self.of_lease(who, &claims, change).await? {
            Answer::Renewed(renewed) => {
                if claims.slots {
                    slots::renew(&self.core, &[claims.holder(&who.tenant)], renewed.lease_until).await;
                }
                Ok(renewed)
            }
            _ => Err(Error::internal("a renewal is answered by its lease")),
        }
    }

    /// Ends a leased attempt: durable once answered. An output too large for the ledger becomes an artifact, as for
    /// attempts inside; `logs` is what it wrote to its log, kept as an artifact before
    /// (lines of [`LogSink`](crate::executor::LogSink)).
    ///
    /// # Errors
    /// `LeaseLost` when the attempt is not this worker's any more, which is also what the second of two equal answers
    /// meets; nothing is recorded then. `NotFound`, `Invalid`, `Unavailable`.
    pub async fn finish_lease(
        &self,
        who: &Identity,
        token: &LeaseToken,
        outcome: Outcome,
        logs: Option<ArtifactRef>,
    ) -> Result<()> {
        who.check()?;
        let claims = token.read()?;
        if let Outcome::Failed(failure) = &outcome
            && !(1..=Self::FAILURE_CODE_MAX).contains(&failure.code.len())
        {
            return Err(Error::invalid("the code of a failure holds 1 to 64 bytes"));
        }
        let outcome = execute::shrink(&self.core, &who.tenant, &claims.step, outcome, None).await?;
        let end = AttemptEnd {
            step: claims.step.clone(),
            attempt: claims.attempt,
            worker: Some(claims.worker()),
            outcome,
            logs,
            version: Some(claims.version.clone()),
        };
        let change = Change::Finish { end: Box::new(end), permit: None };
        self.of_lease(who, &claims, change).await.map(drop)
    }

    /// Gives a leased attempt back: as if it had been lost, only sooner.
    ///
    /// # Errors
    /// As [`Orchestrator::finish_lease`].
    pub async fn release_lease(&self, who: &Identity, token: &LeaseToken) -> Result<()> {
        who.check()?;
        let claims = token.read()?;
        let (step, attempt, worker) = (claims.step.clone(), claims.attempt, claims.worker());
        let change = Change::Release { step, attempt, worker, permit: None };
        self.of_lease(who, &claims, change).await.map(drop)
    }

    /// Has a change made that ends or prolongs a lease, and gives its slots back once it has none any more.
    async fn of_lease(&self, who: &Identity, claims: &Claims, change: Change) -> Result<Answer> {
        let run = RunKey { tenant: who.tenant.clone(), run: claims.run };
        let prolongs = matches!(change, Change::Renew { .. });
        let answer = self.core.request(run, who.actor.as_str().into(), change).await;
        let over = match &answer {
            Ok(_) => !prolongs,
            Err(error) => error.kind() == crate::error::ErrorKind::LeaseLost,
        };
        if claims.slots && over {
            slots::release(&self.core, &who.tenant, claims.holder(&who.tenant).name);
        }
        answer
    }
}

/// What a lease was asked for with.
struct Asked {
    actor: Arc<str>,
    label: String,
    types: Arc<BTreeSet<String>>,
    version: Arc<str>,
    lease: Duration,
}

/// Starts what the hints name, in a task of its own: a caller that goes away meanwhile must not leave attempts behind
/// that nobody executes.
async fn start_all(core: &Arc<Core>, asked: &Arc<Asked>, deliveries: Vec<Delivery>) -> Vec<Leased> {
    let (reply, leased) = oneshot::channel::<Vec<Leased>>();
    let (owner, asked) = (Arc::clone(core), Arc::clone(asked));
    core.tasks.spawn(async move {
        let (tenant, starts) = (deliveries.first().map(|first| first.item.tenant.clone()), deliveries);
        let started = join_all(starts.into_iter().map(|delivery| start(&owner, &asked, delivery))).await;
        let (settles, leased): (Vec<Settle>, Vec<Option<Leased>>) = started.into_iter().unzip();
        desk::settle(&owner, &settles).await;
        let (Err(leased), Some(tenant)) = (reply.send(leased.into_iter().flatten().collect()), tenant) else {
            return;
        };
        let orchestrator = Orchestrator { core: owner };
        let who = Identity::new(tenant, &*asked.actor);
        join_all(leased.iter().map(|leased| orchestrator.release_lease(&who, &leased.token))).await;
    });
    leased.await.unwrap_or_default()
}

/// Starts what a hint names. Answers how its delivery ends, and the attempt if it was started.
async fn start(core: &Arc<Core>, asked: &Asked, delivery: Delivery) -> (Settle, Option<Leased>) {
    let (run, nonce) = (delivery.item.key(), (core.tokens)());
    let worker = Worker { id: worker_id(&asked.label, &nonce), lease: asked.lease };
    let (types, version) = (Arc::clone(&asked.types), Arc::clone(&asked.version));
    let by = Arc::new(OutsideWorker { worker, types, version });
    let whose = Whose::Outside(Arc::clone(&by), Arc::clone(&asked.actor));
    let first = match whose.start(core, &delivery.item, Cleared::default()).await {
        Ok(first) => first,
        Err(error) => return (refused(core, delivery.token.clone(), &error), None),
    };
    let (ended, slots) = clear(core, &whose, &delivery, first).await;
    let leased = match ended {
        Ok(Start::Leased(started)) => {
            let (mut leased, broken) = *started;
            let claims = Claims {
                run: run.run,
                step: leased.step.clone(),
                attempt: leased.attempt,
                worker: asked.label.clone(),
                version: asked.version.to_string(),
                slots,
                nonce,
            };
            let done = Settle::done(delivery.token);
            if let Some(why) = broken {
                fail(core, asked, &run, &claims, why).await;
                return (done, None);
            }
            let token = LeaseToken::of(&claims).map(|token| leased.token = token);
            return (done, token.ok().map(|()| leased));
        }
        ended => ended,
    };
    if slots {
        let name = slots::holder(&by.worker.id, &run, &delivery.item.step, delivery.item.attempt);
        slots::release(core, &run.tenant, name);
    }
    match leased {
        Ok(Start::Paused) => {
            // A run that was resumed meanwhile made its hints while this delivery still stood in their way.
            let owner = Arc::clone(core);
            core.tasks.spawn(async move { owner.look(run, false).await });
            (Settle::done(delivery.token), None)
        }
        Ok(answer) => (settle(core, &run, &delivery, &answer), None),
        Err(settle) => (settle, None),
    }
}

/// An attempt that has no input fails at once.
async fn fail(core: &Arc<Core>, asked: &Asked, run: &RunKey, claims: &Claims, why: String) {
    let end = AttemptEnd {
        step: claims.step.clone(),
        attempt: claims.attempt,
        worker: Some(claims.worker()),
        outcome: Failure::fatal("input", why).into(),
        logs: None,
        version: None,
    };
    let change = Change::Finish { end: Box::new(end), permit: None };
    if let Err(error) = core.request(run.clone(), Arc::clone(&asked.actor), change).await {
        tracing::warn!(%run, step = %claims.step, %error, "the end of an attempt was not recorded");
    }
    if claims.slots {
        slots::release(core, &run.tenant, claims.holder(&run.tenant).name);
    }
}
