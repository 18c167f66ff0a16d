//! The rules alone: a whole run decided and folded without an engine.

use std::sync::Arc;
use std::time::Duration;

use orch::executor::Outcome;
use orch::ledger::{Entry, Event, Head, RunCreated, StepSucceeded, Stream};
use orch::planner::attempt::{Finish, Start};
use orch::planner::{Plan, RunState, advance, attempt};
use orch::{Digest, Limits, Payload, RunId, Timestamp, WorkerId};

use crate::who;

/// The default limits, with room for as many steps as a DAG can have.
#[must_use]
pub fn limits() -> Limits {
    Limits { steps: Limits::STEPS_CEILING, ..Limits::default() }
}

/// The state of a fresh run.
#[must_use]
pub fn created(plan: &Arc<Plan>) -> RunState {
    let inputs = Payload::parse("{}").expect("json");
    let created = RunCreated {
        baggage: None,
        dag_id: plan.dag().id.clone(),
        dag_version: None,
        inputs_hash: inputs.digest(),
        inputs,
        parent: None,
        plan: plan.document().clone(),
        plan_hash: plan.hash(),
        priority: 0,
        rationale: None,
        replay_of: None,
        run_token: "bench".to_owned(),
        sandbox: None,
        traceparent: None,
    };
    let who = who();
    let run = RunId::derive(&who.tenant, &plan.dag().id, "bench", &Digest::ZERO);
    let entry = Entry {
        actor: who.actor,
        at: Timestamp::EPOCH,
        event: Event::from(created),
        prev: Digest::ZERO,
        seq: 1,
        stream: Stream::Run(run),
        tenant: who.tenant,
    };
    RunState::open(&entry, Head::EMPTY, |_| Ok(Arc::clone(plan))).expect("valid")
}

/// Runs a whole run through the rules alone; answers how many events that took.
#[must_use]
pub fn decide_all(mut state: RunState, limits: &Limits) -> u64 {
    let worker = WorkerId::new("bench");
    let output = Payload::null();
    let mut now = Timestamp::EPOCH;
    let mut events = advance(&mut state, now, "orch", limits).expect("valid").len() as u64;
    while state.ended.is_none() {
        now = now.plus(Duration::from_micros(1));
        let queued: Vec<_> = state.queued().collect();
        for at in queued {
            let attempt = state.get(at).expect("queued").attempt;
            let start = Start {
                at,
                attempt,
                worker: worker.clone(),
                executor: "1".to_owned(),
                lease: Duration::from_secs(30),
            };
            let finish = Finish {
                at,
                attempt,
                worker: Some(worker.clone()),
                outcome: Outcome::Succeeded(output.clone()),
                logs: None,
            };
            for event in attempt::start(&state, &start, now).expect("queued") {
                state.apply(now, "bench", &event).expect("valid");
                events += 1;
            }
            let event = attempt::finish(&state, finish, now, limits).expect("running");
            state.apply(now, "bench", &event).expect("valid");
            events += 1 + advance(&mut state, now, "orch", limits).expect("valid").len() as u64;
        }
    }
    events
}

/// An event like most of those a ledger holds.
#[must_use]
pub fn succeeded() -> Event {
    let output = Payload::parse("{\"count\":3,\"name\":\"openssl\"}").expect("json");
    Event::from(StepSucceeded {
        attempt: 1,
        logs: None,
        output_hash: output.digest(),
        output: Some(output),
        reused: None,
        step: "normalize[17]".parse().expect("a step key"),
    })
}

/// A stream to write entries into.
#[must_use]
pub fn stream() -> Stream {
    let dag = crate::wide(1).id;
    Stream::Run(RunId::derive(&who().tenant, &dag, "bench", &Digest::ZERO))
}
