//! Submitting runs: from a DAG and inputs to the first entry.

use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use super::change::{Answer, Change, Create};
use super::core::Core;
use super::handle::Identity;
use super::{dags, load};
use crate::error::{Error, Result};
use crate::id::{DagId, RunId, RunKey, StepId, StepKey};
use crate::ledger::{ReusedFrom, RunCreated, StepStatus};
use crate::limits::Limits;
use crate::payload::Payload;
use crate::planner::{Plan, RunState, SharedPlan};
use crate::spec::{Dag, InputProblems, InputSchema, Uses};
use crate::store::RunRow;
use crate::trace::{self, TraceParent};

/// The longest run token, rationale, actor and reason, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 1_024;

/// Which DAG to run.
#[derive(Clone, Debug)]
pub enum DagRef {
    /// The newest enabled version.
    Latest(DagId),
    /// This version.
    Version(DagId, u32),
    /// A document that is not published.
    Unpublished(Box<Dag>),
}

/// A run to submit.
#[derive(Clone, Debug)]
pub struct Submit {
    /// What to run.
    pub dag: DagRef,
    /// The inputs: a JSON object. What is left out is filled in from the defaults of the DAG's schema.
    pub inputs: Value,
    /// Names the run: the same token, DAG and inputs are one run however often they are submitted. Without one,
    /// every submission is a new run.
    pub run_token: Option<String>,
    /// Added to the priority of the steps, -1000 to 1000.
    pub priority: i32,
    /// Why, for the record.
    pub rationale: Option<String>,
    /// W3C trace context of the caller; one is derived from the run id without it.
    pub traceparent: Option<String>,
    /// What goes along with the run to whatever works for it (W3C Baggage), at most
    /// [`BAGGAGE_BYTES_MAX`](crate::trace::BAGGAGE_BYTES_MAX) bytes. It becomes part of the record: no secrets.
    pub baggage: Option<String>,
}

impl Submit {
    /// A run of `dag` with nothing else said.
    #[must_use]
    pub fn new(dag: DagRef, inputs: Value) -> Self {
        Self { dag, inputs, run_token: None, priority: 0, rationale: None, traceparent: None, baggage: None }
    }
}

/// What goes along with a run that is submitted again, as a replay or a rerun.
#[derive(Clone, Debug, Default)]
pub struct Resubmit {
    /// Names the new run: asked again with the same token, it is the same run, wherever that was to begin. Without one, every
    /// call makes another.
    pub run_token: Option<String>,
    /// As in [`Submit`]: the trace of the first run is not gone on with.
    pub traceparent: Option<String>,
    /// As in [`Submit`].
    pub baggage: Option<String>,
}

/// A submitted run.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The run.
    pub run: RunRow,
    /// Whether this submission created it; otherwise it was there already.
    pub new: bool,
}

/// What makes a run special.
#[derive(Debug, Default)]
struct Origin {
    replay_of: Option<RunId>,
    reused: Vec<(StepKey, Payload, ReusedFrom)>,
}

pub(super) async fn submit(core: &Arc<Core>, who: &Identity, submit: Submit) -> Result<Submitted> {
    let (plan, version) = match &submit.dag {
        DagRef::Latest(dag) => published(core, who, dag, 0).await?,
        DagRef::Version(dag, version) => published(core, who, dag, *version).await?,
        DagRef::Unpublished(dag) => {
            let plan: SharedPlan = Arc::new(Plan::new((**dag).clone(), core.limits())?);
            core.plans.put(&plan);
            (plan, None)
        }
    };
    create(core, who, plan, version, submit, Origin::default()).await
}

async fn published(
    core: &Core,
    who: &Identity,
    dag: &DagId,
    version: u32,
) -> Result<(SharedPlan, Option<u32>)> {
    let (version, plan) = dags::version(core, &who.tenant, dag, version).await?;
    Ok((plan, Some(version)))
}

/// A new run of the same plan with the same inputs.
pub(super) async fn replay(
    core: &Arc<Core>,
    who: &Identity,
    run: RunId,
    along: Resubmit,
) -> Result<Submitted> {
    let state = load::state(core, &RunKey { tenant: who.tenant.clone(), run }).await?;
    again(core, who, &state, along, Vec::new()).await
}

/// A new run of the same plan with the same inputs, in which everything that is not downstream of `from` keeps its
/// earlier output.
pub(super) async fn rerun(
    core: &Arc<Core>,
    who: &Identity,
    run: RunId,
    from: &StepId,
    along: Resubmit,
) -> Result<Submitted> {
    let state = load::state(core, &RunKey { tenant: who.tenant.clone(), run }).await?;
    let position = state.plan.position(from.as_str());
    let position = position.ok_or_else(|| Error::not_found("the run has no such step").with("step", from))?;
    let again_from = state.plan.downstream(&[position]);
    let reused = state
        .steps()
        .iter()
        .zip(state.plan.steps())
        .zip(&again_from)
        .filter(|((step, _), again)| step.status == StepStatus::Succeeded && !**again)
        .filter_map(|((step, spec), _)| {
            let output = step.output.as_ref()?.payload().clone();
            let key = StepKey::from(spec.id.clone());
            Some((key.clone(), output, ReusedFrom { run, step: key }))
        })
        .collect();
    again(core, who, &state, along, reused).await
}

async fn again(
    core: &Arc<Core>,
    who: &Identity,
    state: &RunState,
    along: Resubmit,
    reused: Vec<(StepKey, Payload, ReusedFrom)>,
) -> Result<Submitted> {
    let submit = Submit {
        dag: DagRef::Latest(state.created.dag_id.clone()),
        inputs: state.created.inputs.to_value(),
        run_token: along.run_token,
        priority: state.created.priority,
        rationale: who.reason.clone(),
        traceparent: along.traceparent,
        baggage: along.baggage,
    };
    let origin = Origin { replay_of: Some(state.key.run), reused };
    let plan = Arc::clone(&state.plan);
    let submitted = create(core, who, plan, state.created.dag_version, submit, origin).await?;
    if submitted.run.replay_of != Some(state.key.run) {
        return Err(Error::conflict("the run token names a run that is none of this one's replays")
            .with("run", submitted.run.run));
    }
    Ok(submitted)
}

async fn create(
    core: &Arc<Core>,
    who: &Identity,
    plan: SharedPlan,
    dag_version: Option<u32>,
    submit: Submit,
    origin: Origin,
) -> Result<Submitted> {
    if !core.settings.roles.submit {
        return Err(Error::refused("this process does not accept runs"));
    }
    check_texts(&submit)?;
    check_executors(core, &plan)?;
    let inputs = check_inputs(&plan, &submit.inputs, core.limits())?;
    let inputs_hash = inputs.digest();
    let run_token = submit.run_token.unwrap_or_else(|| (core.tokens)());
    let run = RunId::derive(&who.tenant, &plan.dag().id, &run_token, &inputs_hash);
    let created = RunCreated {
        baggage: submit.baggage,
        dag_id: plan.dag().id.clone(),
        dag_version,
        inputs,
        inputs_hash,
        parent: None,
        plan: plan.document().clone(),
        plan_hash: plan.hash(),
        priority: submit.priority,
        rationale: submit.rationale,
        replay_of: origin.replay_of,
        run_token,
        sandbox: core.settings.sandbox.clone(),
        traceparent: Some(submit.traceparent.unwrap_or_else(|| TraceParent::of_run(run).to_string())),
    };
    let create = Change::Create(Box::new(Create { created, plan, reused: origin.reused }));
    let key = RunKey { tenant: who.tenant.clone(), run };
    match core.request(key, who.actor.as_str().into(), create).await? {
        Answer::Created { row, new } => Ok(Submitted { run: *row, new }),
        _ => Err(Error::internal("a run is answered by its row")),
    }
}

fn check_texts(submit: &Submit) -> Result<()> {
    for (what, text) in [("runToken", &submit.run_token), ("rationale", &submit.rationale)] {
        if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > TEXT_BYTES_MAX) {
            return Err(Error::invalid("text must hold 1 to 1024 bytes").with("field", what));
        }
    }
    if !(-1000..=1000).contains(&submit.priority) {
        return Err(
            Error::invalid("priority must lie between -1000 and 1000").with("priority", submit.priority)
        );
    }
    trace::check(submit.traceparent.as_deref(), submit.baggage.as_deref())
}

/// A process that works must be able to execute what it accepts; otherwise the run would wait for ever. What workers do
/// outside of it may wait for one of them.
fn check_executors(core: &Core, plan: &Plan) -> Result<()> {
    let everything_here = core.settings.roles.work && core.settings.queues.is_none();
    if !everything_here {
        return Ok(());
    }
    let missing: std::collections::BTreeSet<String> = plan
        .steps()
        .iter()
        .filter(|step| step.uses.is_task() && !matches!(step.uses, Uses::Worker(_)))
        .filter(|step| core.executors.lookup(&step.uses).is_none())
        .map(|step| format!("{} ({})", step.uses, step.id))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = missing.iter().take(10).cloned().collect();
    Err(Error::unsupported("no executor is registered for some steps").with("steps", shown.join(", ")))
}

/// The inputs with defaults filled in, checked against the DAG's schema.
pub(super) fn check_inputs(plan: &Plan, inputs: &Value, limits: &Limits) -> Result<Payload> {
    if !inputs.is_object() {
        return Err(Error::invalid("inputs must be a json object"));
    }
    let inputs = match &plan.dag().inputs {
        None => Payload::new(inputs)?,
        Some(schema) => Payload::new(&fill_in(schema, inputs)?)?,
    };
    if inputs.len() > limits.payload_bytes {
        return Err(Error::limit_exceeded(
            "inputs are too large; pass a reference to an artifact or a file instead",
        )
        .with("bytes", inputs.len())
        .with("limit", limits.payload_bytes));
    }
    Ok(inputs)
}

fn fill_in(schema: &Value, inputs: &Value) -> Result<Value> {
    InputSchema::compile(schema)?.validate(inputs).map_err(|problems| {
        let problems = InputProblems(problems);
        Error::invalid("inputs do not satisfy the dag's schema")
            .with("problems", &problems)
            .caused_by(problems)
    })
}

/// A token that nothing else has (UUIDv7, RFC 9562).
#[expect(clippy::disallowed_methods, reason = "this is the one door to random identifiers")]
pub(super) fn draw_token() -> String {
    Uuid::now_v7().to_string()
}
