//! Sub-DAGs: a step that a run of another DAG of the same tenant carries out.
//!
//! The parent's entry names the child's run before it exists, so whoever looks at the parent later can submit the
//! child (again) or learn how it ended. Looking is idempotent; the sweep does it for as long as the child runs.

use std::sync::Arc;

use super::change::{Answer, AttemptEnd, Change, Create};
use super::core::Core;
use super::effects::SubRun;
use super::{dags, execute, load, submit};
use crate::error::{Error, ErrorKind, Result};
use crate::executor::{Failure, Outcome};
use crate::id::{RunId, RunKey, StepKey, TenantId};
use crate::ledger::RunStatus;
use crate::payload::Payload;
use crate::planner::{Operation, RunState};
use crate::spec::Uses;
use crate::store::ParentStep;
use crate::trace::{TraceParent, run_span};

/// Looks after the run of a sub-DAG: submits it, cancels it, or reports its end.
pub(super) fn carry(core: &Arc<Core>, sub_run: SubRun) {
    let owner = Arc::clone(core);
    core.tasks.spawn(async move {
        let child = RunKey { tenant: sub_run.parent.tenant.clone(), run: sub_run.child };
        match look(&owner, &child, &sub_run).await {
            Ok(None) => {}
            Ok(Some(outcome)) => {
                report_now(&owner, sub_run.parent, sub_run.step, sub_run.attempt, outcome).await;
            }
            Err(error) if error.is_retryable() => {
                tracing::debug!(run = %child, %error, "a sub-dag cannot be looked after now; the sweep tries again");
            }
            Err(error) => {
                let outcome = Failure::fatal("sub_dag", error.sentence()).into();
                report_now(&owner, sub_run.parent, sub_run.step, sub_run.attempt, outcome).await;
            }
        }
    });
}

/// The child's outcome if it has ended; otherwise sees to it that it runs, or ends.
async fn look(core: &Arc<Core>, child: &RunKey, sub_run: &SubRun) -> Result<Option<Outcome>> {
    match core.store.run(child).await? {
        Some(row) if row.status.is_terminal() => {
            let state = load::state(core, child).await?;
            Ok(Some(outcome(&state)))
        }
        Some(_) if sub_run.cancel => {
            cancel(core, child.tenant.clone(), child.run);
            Ok(None)
        }
        Some(_) => Ok(None),
        None => {
            submit_child(core, child, sub_run).await?;
            if sub_run.cancel {
                // Created only to be cancelled: somebody else may be about to create it, and it would run for nobody.
                cancel(core, child.tenant.clone(), child.run);
            }
            Ok(None)
        }
    }
}

async fn submit_child(core: &Arc<Core>, child: &RunKey, sub_run: &SubRun) -> Result<()> {
    let Uses::Dag { id, version } = &sub_run.uses else {
        return Err(Error::internal("only a sub-dag has a run of its own"));
    };
    let depth = sub_run.parent_depth + 1;
    if depth > core.limits().dag_depth {
        return Err(
            Error::limit_exceeded("sub-dags are nested too deeply").with("limit", core.limits().dag_depth)
        );
    }
    let (_, plan) = dags::version(core, &child.tenant, id, *version).await?;
    let input = match &sub_run.input {
        Ok(input) if input.is_null() => serde_json::json!({}),
        Ok(input) => input.to_value(),
        Err(error) => return Err(Error::invalid(error.sentence())),
    };
    let inputs = submit::check_inputs(&plan, &input, core.limits())?;
    let parent =
        ParentStep { attempt: sub_run.attempt, depth, run: sub_run.parent.run, step: sub_run.step.clone() };
    let created = crate::ledger::RunCreated {
        baggage: sub_run.baggage.clone(),
        dag_id: id.clone(),
        dag_version: Some(*version),
        inputs_hash: inputs.digest(),
        inputs,
        parent: Some(parent),
        plan: plan.document().clone(),
        plan_hash: plan.hash(),
        priority: sub_run.priority,
        rationale: sub_run.rationale.clone(),
        replay_of: None,
        run_token: sub_run.token.clone(),
        sandbox: sub_run.sandbox.clone(),
        // A span below the parent's.
        traceparent: sub_run
            .traceparent
            .as_deref()
            .and_then(|text| text.parse::<TraceParent>().ok())
            .map(|trace| trace.below(run_span(sub_run.parent.run)).to_string()),
    };
    let create = Change::Create(Box::new(Create { created, plan, reused: Vec::new() }));
    match core.request(child.clone(), sub_run.actor.as_str().into(), create).await? {
        Answer::Created { .. } => Ok(()),
        _ => Err(Error::internal("a run is answered by its row")),
    }
}

/// How the end of a child's run looks to its parent.
pub(super) fn outcome(state: &RunState) -> Outcome {
    let Some(ended) = &state.ended else {
        return Failure::retryable("sub_dag", "its run has not ended").into();
    };
    match ended.status {
        RunStatus::Completed => {
            let outputs: serde_json::Map<String, serde_json::Value> = state
                .outputs()
                .into_iter()
                .map(|(id, output)| (id.to_owned(), output.get().clone()))
                .collect();
            match Payload::of(&outputs) {
                Ok(output) => Outcome::Succeeded(output),
                Err(error) => Failure::fatal("output", error.sentence()).into(),
            }
        }
        RunStatus::Cancelled => Outcome::Cancelled,
        _ => {
            let why = ended.error.as_deref().unwrap_or("no reason recorded");
            Failure::retryable("sub_dag_failed", format!("run {}: {why}", state.key.run)).into()
        }
    }
}

/// Tells the parent how its child ended, in a task of its own.
pub(super) fn report(core: &Arc<Core>, parent: RunKey, step: StepKey, attempt: u32, outcome: Outcome) {
    let owner = Arc::clone(core);
    core.tasks.spawn(async move { report_now(&owner, parent, step, attempt, outcome).await });
}

async fn report_now(core: &Arc<Core>, parent: RunKey, step: StepKey, attempt: u32, outcome: Outcome) {
    let outcome = match execute::shrink(core, &parent.tenant, &step, outcome, None).await {
        Ok(outcome) => outcome,
        Err(error) if error.is_retryable() => {
            tracing::warn!(run = %parent, %error, "a child's output cannot be kept; the sweep tries again");
            return;
        }
        Err(error) => Failure::from_error("artifact", &error).into(),
    };
    let end = AttemptEnd { step, attempt, worker: None, outcome, logs: None, version: None };
    let change = Change::Finish { end: Box::new(end), permit: None };
    if let Err(error) = core.request(parent.clone(), Arc::clone(&core.actor), change).await
        && error.kind() != ErrorKind::LeaseLost
    {
        tracing::warn!(run = %parent, %error, "a parent cannot be told of its child; the sweep will");
    }
}

/// Cancels a child's run, in a task of its own.
pub(super) fn cancel(core: &Arc<Core>, tenant: TenantId, run: RunId) {
    let owner = Arc::clone(core);
    core.tasks.spawn(async move {
        let key = RunKey { tenant, run };
        let reason = Some("the run it belongs to does not wait for it any more".to_owned());
        let change = Change::Operate { operation: Operation::Cancel, reason };
        if let Err(error) = owner.request(key.clone(), Arc::clone(&owner.actor), change).await
            && !matches!(error.kind(), ErrorKind::Refused | ErrorKind::NotFound)
        {
            tracing::warn!(run = %key, %error, "the run of a sub-dag cannot be cancelled; the sweep tries again");
        }
    });
}
