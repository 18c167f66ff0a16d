//! The state of a run as JSON: everything that its fold says, in a form that does not change with the code.

use orch::planner::{MapState, RunState, StepState, Wait};
use serde_json::{Value, json};

pub(crate) fn of(state: &RunState) -> Value {
    let steps = state.plan.steps().iter().zip(state.steps());
    let steps: serde_json::Map<String, Value> =
        steps.map(|(spec, step)| (spec.id.to_string(), step_view(step))).collect();
    json!({
        "key": state.key,
        "actor": state.actor,
        "createdAt": state.created_at,
        "head": state.head,
        "lastAt": state.last_at,
        "startedAt": state.started_at,
        "paused": state.paused,
        "roundAt": state.round_at,
        "ending": state.ending.as_ref().map(|e| json!({ "code": e.code, "reason": e.reason })),
        "ended": state.ended.as_ref().map(|e| {
            json!({ "status": e.status, "at": e.at, "outputsHash": e.outputs_hash, "error": e.error })
        }),
        "status": state.status(),
        "counts": state.counts(),
        "planHash": state.plan.hash(),
        "queued": state.queued().map(|at| state.key_of(at)).collect::<Vec<_>>(),
        "running": state.running().map(|at| state.key_of(at)).collect::<Vec<_>>(),
        "subRuns": state.sub_runs().map(|(at, _, run)| json!([state.key_of(at), run])).collect::<Vec<_>>(),
        "deadline": state.deadline(),
        "wakeAt": state.wake_at(),
        "outputsHash": state.outputs_hash(),
        "steps": steps,
    })
}

fn step_view(step: &StepState) -> Value {
    let mut view = json!({
        "status": step.status,
        "attempt": step.attempt,
        "failures": step.failures,
        "losses": step.losses,
        "input": step.input.as_ref().map(orch::Payload::to_value),
        "inputHash": step.input_hash,
        "output": step.output.as_ref().map(|output| output.payload().to_value()),
        "outputHash": step.output_hash,
        "reused": step.reused,
        "error": step.error.as_ref().map(|e| json!({ "code": e.code, "message": e.message })),
        "worker": step.worker,
        "leaseUntil": step.lease_until,
        "childRun": step.child_run,
        "notBefore": step.not_before,
        "scheduledAt": step.scheduled_at,
        "startedAt": step.started_at,
        "endedAt": step.ended_at,
        "logs": step.logs,
        "wait": step.wait.as_deref().map(wait_view),
        "children": step.map.as_deref().map(map_view),
    });
    let said = view.as_object_mut().unwrap();
    said.retain(|_, value| !value.is_null());
    view
}

fn wait_view(wait: &Wait) -> Value {
    let verdict = wait.verdict.as_ref();
    json!({
        "until": wait.until,
        "expiresAt": wait.expires_at,
        "signal": wait.signal,
        "asked": wait.asked.as_ref().map(orch::Payload::to_value),
        "verdict": verdict.map(|v| json!([v.approved, v.actor, v.at, v.reason])),
    })
}

fn map_view(map: &MapState) -> Value {
    json!({
        "items": map.items.iter().map(|item| item.payload().to_value()).collect::<Vec<_>>(),
        "each": map.children.iter().map(step_view).collect::<Vec<_>>(),
        "next": map.next,
        "active": map.active,
        "settled": map.settled,
        "failed": map.failed,
    })
}
