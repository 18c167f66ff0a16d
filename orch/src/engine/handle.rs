//! What a program holds in its hand: publish, submit, ask, steer, wait, shut down.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::builder::OrchestratorBuilder;
use super::change::{Answer, Change};
use super::core::Core;
use super::dags::{self, DagVersion, PublishedDag, VersionPlan};
use super::health::Failures;
use super::submit::{self, Resubmit, Submit, Submitted, TEXT_BYTES_MAX};
use super::watch::RunEvents;
use super::{audit, load};
use crate::artifact::Artifacts;
use crate::error::{Error, Result};
use crate::id::{DagId, RunId, RunKey, StepId, StepKey, TenantId};
use crate::payload::Payload;
use crate::planner::{Operation, RunState};
use crate::queue::Depth;
use crate::spec::Dag;
use crate::store::{RunRow, RunsPage, RunsQuery, Store};
use crate::time::Timestamp;

/// Who asks, for which tenant, and why. Every call of the handle needs one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The tenant whose data the call may touch, and no other's.
    pub tenant: TenantId,
    /// Who asks, for the record: a user, a service.
    pub actor: String,
    /// Why, for the record.
    pub reason: Option<String>,
    /// The ticket that tells more, for the record.
    pub ticket: Option<String>,
}

impl Identity {
    /// `actor` on behalf of `tenant`.
    pub fn new(tenant: TenantId, actor: impl Into<String>) -> Self {
        Self { tenant, actor: actor.into(), reason: None, ticket: None }
    }

    /// The same with a reason.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// The same with a ticket, which audit entries carry as `ticket` in their detail.
    #[must_use]
    pub fn with_ticket(mut self, ticket: impl Into<String>) -> Self {
        self.ticket = Some(ticket.into());
        self
    }

    fn key(&self, run: RunId) -> RunKey {
        RunKey { tenant: self.tenant.clone(), run }
    }

    pub(super) fn check(&self) -> Result<()> {
        let too_long = |text: &str| text.len() > TEXT_BYTES_MAX;
        let texts = [&self.reason, &self.ticket];
        if self.actor.is_empty()
            || too_long(&self.actor)
            || texts.into_iter().flatten().any(|text| too_long(text))
        {
            return Err(Error::invalid(
                "actor must hold 1 to 1024 bytes, and reason and ticket at most 1024",
            ));
        }
        Ok(())
    }
}

/// How busy a process is, and what keeps it from getting on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Runs kept in memory: unfinished ones it had to do with lately.
    pub loaded_runs: usize,
    /// Runs that somebody waits for or follows.
    pub watched_runs: usize,
    /// Attempts that execute here or whose end is being recorded.
    pub active_attempts: usize,
    /// Since when the oldest of them has been under way.
    pub oldest_attempt: Option<Timestamp>,
    /// Attempts that could execute besides.
    pub free_slots: usize,
    /// Outside workers that wait here for work.
    pub waiting_workers: usize,
    /// That the store did not take the last append, or the queue gave out no hints, or the artifacts kept nothing, and
    /// why, while that has not worked since: it is tried again all the while.
    pub trouble: Option<String>,
    /// Appends that have landed since the start. While it stays, this process has written nothing.
    pub appends: u64,
    /// Calls of the backends that have failed since the start.
    pub failures: Failures,
}

/// A running orchestrator. Cheap to clone; all clones are the same engine.
#[derive(Clone, Debug)]
pub struct Orchestrator {
    pub(super) core: Arc<Core>,
}

impl Orchestrator {
    /// Begins to build one.
    #[must_use]
    pub fn builder() -> OrchestratorBuilder {
        OrchestratorBuilder::default()
    }

    /// Publishes a DAG as a new version. Publishing what is published already answers the version it has.
    ///
    /// # Errors
    /// `Invalid` or `LimitExceeded` for a DAG that cannot be planned; `Unavailable`.
    pub async fn publish(&self, who: &Identity, dag: Dag) -> Result<DagVersion> {
        who.check()?;
        dags::publish(&self.core, who, dag).await
    }

    /// Lists published DAGs by id, after a given one.
    ///
    /// # Errors
    /// `LimitExceeded` for a page over the limit; `Unavailable`.
    pub async fn dags(
        &self,
        who: &Identity,
        after: Option<String>,
        limit: usize,
    ) -> Result<(Vec<PublishedDag>, bool)> {
        dags::list(&self.core, &who.tenant, after, limit).await
    }

    /// A published DAG with its versions.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn dag(&self, who: &Identity, dag: &DagId) -> Result<PublishedDag> {
        dags::get(&self.core, &who.tenant, dag).await
    }

    /// One version of a DAG with its plan; the newest one without a number.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Corrupt` when the stored plan was altered.
    pub async fn dag_version(
        &self,
        who: &Identity,
        dag: &DagId,
        version: Option<u32>,
    ) -> Result<VersionPlan> {
        dags::show(&self.core, &who.tenant, dag, version.unwrap_or(0)).await
    }

    /// Refuses new runs of a version, or accepts them again. Runs under way go on.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn set_disabled(
        &self,
        who: &Identity,
        dag: &DagId,
        version: u32,
        disabled: bool,
    ) -> Result<DagVersion> {
        who.check()?;
        dags::set_disabled(&self.core, who, dag, version, None, disabled).await
    }

    /// The same, unless somebody has changed the version since the caller saw it with `seen` for disabled: compared and
    /// changed at once.
    ///
    /// # Errors
    /// `Conflict` when it is not as the caller saw it, and as [`Orchestrator::set_disabled`].
    pub async fn set_disabled_if(
        &self,
        who: &Identity,
        dag: &DagId,
        version: u32,
        seen: bool,
        disabled: bool,
    ) -> Result<DagVersion> {
        who.check()?;
        dags::set_disabled(&self.core, who, dag, version, Some(seen), disabled).await
    }

    /// Submits a run. Durable once answered.
    ///
    /// # Errors
    /// `Invalid` for inputs that do not satisfy the DAG's schema (all problems at once), `NotFound` or `Refused` for
    /// an unknown or disabled DAG, `Unsupported` for a step that nothing here can execute, `Unavailable`,
    /// `LimitExceeded` for inputs too large for the ledger, `Indeterminate` (submit again with the same token: it is one run).
    pub async fn submit(&self, who: &Identity, submit: Submit) -> Result<Submitted> {
        who.check()?;
        submit::submit(&self.core, who, submit).await
    }

    /// The row of a run.
    ///
    /// # Errors
    /// `NotFound` (also for another tenant's run), `Unavailable`.
    pub async fn run(&self, who: &Identity, run: RunId) -> Result<RunRow> {
        let row = self.core.store.run(&who.key(run)).await?;
        row.ok_or_else(|| Error::not_found("no such run").with("run", run))
    }

    /// Everything there is to know of a run: the fold of its entries.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Unavailable`.
    pub async fn inspect(&self, who: &Identity, run: RunId) -> Result<RunState> {
        load::state(&self.core, &who.key(run)).await
    }

    /// Lists runs, newest first. The tenant of the query is replaced by the caller's.
    ///
    /// # Errors
    /// `Invalid` for a foreign cursor, `LimitExceeded` for a page over the limit, `Unavailable`.
    pub async fn runs(&self, who: &Identity, query: RunsQuery) -> Result<RunsPage> {
        self.core.store.runs(&RunsQuery { tenant: who.tenant.clone(), ..query }).await
    }

    /// The entries of a run after a sequence number, and with `follow` those to come, until it has ended.
    #[must_use]
    pub fn events(&self, who: &Identity, run: RunId, after: u64, follow: bool) -> RunEvents {
        RunEvents::new(&self.core, who.key(run), after, follow)
    }

    /// Waits until a run has ended.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Closed`.
    pub async fn wait(&self, who: &Identity, run: RunId) -> Result<RunRow> {
        super::watch::until_ended(&self.core, &who.key(run)).await
    }

    /// Ends a run early: nothing new starts, what runs is told to stop.
    ///
    /// # Errors
    /// `Refused` when it has ended otherwise, `NotFound`, `Unavailable`.
    pub async fn cancel(&self, who: &Identity, run: RunId) -> Result<RunRow> {
        self.operate(who, run, Operation::Cancel).await
    }

    /// Holds a run: what runs goes on, nothing new starts.
    ///
    /// # Errors
    /// As [`Orchestrator::cancel`].
    pub async fn pause(&self, who: &Identity, run: RunId) -> Result<RunRow> {
        self.operate(who, run, Operation::Pause).await
    }

    /// Lets a held run go on.
    ///
    /// # Errors
    /// As [`Orchestrator::cancel`].
    pub async fn resume(&self, who: &Identity, run: RunId) -> Result<RunRow> {
        self.operate(who, run, Operation::Resume).await
    }

    /// Gives failed and parked steps another round of attempts: these, or all of them. Also while the run goes on.
    ///
    /// # Errors
    /// `Refused` when there is nothing to retry, and as [`Orchestrator::cancel`].
    pub async fn retry(&self, who: &Identity, run: RunId, steps: Vec<StepKey>) -> Result<RunRow> {
        self.operate(who, run, Operation::Retry(steps)).await
    }

    /// Decides a gate.
    ///
    /// # Errors
    /// `Refused` when the gate waits for no decision, and as [`Orchestrator::cancel`].
    pub async fn decide(&self, who: &Identity, run: RunId, gate: StepKey, approved: bool) -> Result<RunRow> {
        self.operate(who, run, Operation::Decide { step: gate, approved }).await
    }

    /// Hands a run a signal. It is kept until a step waits for it.
    ///
    /// # Errors
    /// `LimitExceeded` for too many signals that nothing waits for; `Indeterminate` when it may have been recorded;
    /// and as [`Orchestrator::cancel`].
    pub async fn signal(&self, who: &Identity, run: RunId, name: &str, payload: Payload) -> Result<RunRow> {
        let name =
            StepId::new(name).map_err(|error| Error::invalid("not a name of a signal").caused_by(error))?;
        if payload.len() > self.core.limits().payload_bytes {
            return Err(
                Error::limit_exceeded("signal is too large").with("limit", self.core.limits().payload_bytes)
            );
        }
        self.operate(who, run, Operation::Signal { name: name.to_string(), payload }).await
    }

    async fn operate(&self, who: &Identity, run: RunId, operation: Operation) -> Result<RunRow> {
        who.check()?;
        let detail = match &operation {
            Operation::Retry(steps) => json!({ "steps": steps }),
            Operation::Decide { step, .. } => json!({ "step": step }),
            Operation::Signal { name, payload } => json!({ "name": name, "payloadHash": payload.digest() }),
            Operation::Cancel | Operation::Pause | Operation::Resume => json!({}),
        };
        // Asked of a run that is not there, nothing is recorded.
        self.run(who, run).await?;
        audit::record(&self.core, who, operation.word(), format!("run/{run}"), &detail).await?;
        let change = Change::Operate { operation, reason: who.reason.clone() };
        match self.core.request(who.key(run), who.actor.as_str().into(), change).await? {
            Answer::Row(row) => Ok(*row),
            _ => Err(Error::internal("a run is answered by its row")),
        }
    }

    /// Submits a new run of the same plan with the same inputs, whose `replayOf` names the first. Compare the output
    /// hashes of the two step by step to see whether they did the same.
    ///
    /// # Errors
    /// As [`Orchestrator::submit`]; `Conflict` for a run token that names a run which is no replay of this one.
    pub async fn replay(&self, who: &Identity, run: RunId, along: Resubmit) -> Result<Submitted> {
        self.run(who, run).await?;
        who.check()?;
        audit::record(&self.core, who, "run.replay", format!("run/{run}"), &json!({})).await?;
        submit::replay(&self.core, who, run, along).await
    }

    /// Submits a new run of the same plan with the same inputs that begins at `from`: what had succeeded and is not
    /// downstream of it keeps its earlier output. What had failed runs again, and so does what needs it.
    ///
    /// # Errors
    /// As [`Orchestrator::replay`], and `NotFound` for a step the run does not have.
    pub async fn rerun(
        &self,
        who: &Identity,
        run: RunId,
        from: &StepId,
        along: Resubmit,
    ) -> Result<Submitted> {
        self.run(who, run).await?;
        who.check()?;
        audit::record(&self.core, who, "run.rerun", format!("run/{run}"), &json!({ "from": from })).await?;
        submit::rerun(&self.core, who, run, from, along).await
    }

    /// Records an action of the host in the tenant's audit stream, before the host does it.
    ///
    /// # Errors
    /// `Invalid` for a detail that is no canonical JSON, `Unavailable`.
    pub async fn audit(
        &self,
        who: &Identity,
        action: &str,
        target: impl Into<String>,
        detail: &serde_json::Value,
    ) -> Result<()> {
        who.check()?;
        audit::record(&self.core, who, action, target.into(), detail).await
    }

    /// How much waits in each of the tenant's queues, by name. What waits for outside workers is in `worker.TYPE`, and in
    /// `worker.TYPE.QUEUE` where the step names a queue.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn depth(&self, who: &Identity) -> Result<Vec<Depth>> {
        let now = self.core.now();
        let mut depths = self.core.queue.depth(&who.tenant, now).await?;
        depths.extend(self.core.outside.depth(&who.tenant, now).await?);
        depths.sort_by(|one, other| one.queue.cmp(&other.queue));
        Ok(depths)
    }

    /// The store, for proof: verifying, exporting, checkpoints.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.core.store
    }

    /// The artifacts.
    #[must_use]
    pub fn artifacts(&self) -> &Artifacts {
        &self.core.artifacts
    }

    /// The time by its clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.core.now()
    }

    /// The settings it was built with.
    #[must_use]
    pub fn settings(&self) -> &super::Settings {
        &self.core.settings
    }

    /// How busy this process is at the moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            loaded_runs: self.core.loaded.iter().map(|loaded| loaded.load(Ordering::Relaxed)).sum(),
            watched_runs: self.core.watchers.len(),
            active_attempts: self.core.active.len(),
            oldest_attempt: self.core.active.oldest(),
            free_slots: self.core.places.available_permits(),
            waiting_workers: self.core.desk.len(),
            trouble: self.core.health.trouble(),
            appends: self.core.landed.load(Ordering::Relaxed),
            failures: self.core.health.failures(),
        }
    }

    /// Shuts down: claims nothing more, lets attempts end for as long as [`Settings::drain`](super::Settings::drain)
    /// says, gives the others back so that another process may start them at once, and answers when all of it is
    /// durable. Runs that have not ended go on wherever an orchestrator uses the same store, or at the next start.
    pub async fn shutdown(&self) {
        self.core.closing.cancel();
        let deadline = self.core.now().plus(self.core.settings.drain);
        self.until_idle(deadline).await;
        self.core.active.shut_down();
        self.until_idle(self.core.now().plus(self.core.settings.grace * 2)).await;
        self.core.closed.cancel();
        self.core.tasks.close();
        self.core.tasks.wait().await;
    }

    async fn until_idle(&self, deadline: Timestamp) {
        let all = u32::try_from(self.core.settings.slots).unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            // Every place is free again once its attempt is recorded.
            _ = self.core.places.acquire_many(all) => {}
            () = self.core.sleep_until(deadline) => {}
        }
    }
}
