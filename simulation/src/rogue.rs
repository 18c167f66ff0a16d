//! Somebody who writes into the ledger what the engine never would: with a valid chain, so that only the rules of runs
//! tell it from the truth.

use std::time::Duration;

use orch::ledger::{Chain, Entry, Event, Head, StepScheduled, StepStatus, StepSucceeded, Stream, read_chain};
use orch::planner::{RunState, StepRef, unshared_plan};
use orch::store::{Append, EntriesRequest, MemoryStore, RunRow, RunsQuery, Store};
use orch::{Clock, Digest, Payload, StepKey, TenantId};

use crate::bug::Bug;
use crate::world::{SimClock, World, tenants};

/// Waits for its chance and takes it once.
pub(crate) async fn act(world: World, bug: Bug, clock: SimClock) {
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        for tenant in tenants() {
            if attempt(&world.backend.store, &tenant, bug, &clock).await {
                world.dice.note("bug");
                return;
            }
        }
    }
}

async fn attempt(store: &MemoryStore, tenant: &TenantId, bug: Bug, clock: &SimClock) -> bool {
    let query = RunsQuery { limit: 500, ..RunsQuery::all(tenant.clone()) };
    let Ok(page) = store.runs(&query).await else { return false };
    for row in page.runs.into_iter().filter(|row| !row.status.is_terminal()) {
        if let Some((actor, event)) = forged(store, &row, bug).await
            && land(store, row, &actor, event, clock).await
        {
            return true;
        }
    }
    false
}

/// The event that must not be, and who is to have said it.
async fn forged(store: &MemoryStore, row: &RunRow, bug: Bug) -> Option<(String, Event)> {
    let (tenant, stream) = (row.tenant.clone(), Stream::Run(row.run));
    let request = EntriesRequest { tenant, stream, after: 0, limit: usize::MAX };
    let page = store.entries(&[request]).await.ok()?.pop()?;
    let state = RunState::fold([page.lines.as_str()], unshared_plan).ok()??;
    match bug {
        Bug::SucceedTwice => {
            let done = |at: &StepRef| {
                state.get(*at).is_some_and(|step| {
                    step.status == StepStatus::Succeeded && step.map.is_none() && step.reused.is_none()
                })
            };
            let at = tops(&state).find(done)?;
            Some(("rogue".to_owned(), success(state.key_of(at), state.get(at)?.attempt)))
        }
        Bug::SkipTheFence => {
            let lost =
                read_chain(Head::EMPTY, &page.lines).filter_map(Result::ok).find_map(|(entry, ..)| {
                    let Entry { event: Event::StepLost(lost), .. } = entry else { return None };
                    let step = state.get(state.find(&lost.step)?)?;
                    (!step.status.is_settled()).then_some(lost)
                })?;
            let worker = lost.worker.as_ref().map_or("rogue", |worker| worker.as_str());
            Some((worker.to_owned(), success(lost.step, lost.attempt)))
        }
        Bug::StartBeforeNeeds if !state.starts_nothing() => {
            let early = |at: &StepRef| {
                let waits =
                    |need: &u32| state.get(StepRef::top(*need)).is_some_and(|step| !step.status.is_settled());
                state.is_task(*at)
                    && state.spec(*at).for_each.is_none()
                    && state.get(*at).is_some_and(|step| step.status == StepStatus::Pending)
                    && state.plan.needs(at.step).iter().any(waits)
            };
            let step = state.key_of(tops(&state).find(early)?);
            let event =
                StepScheduled { attempt: 1, input: None, input_hash: Digest::ZERO, not_before: None, step };
            Some(("orch".to_owned(), event.into()))
        }
        _ => None,
    }
}

fn tops(state: &RunState) -> impl Iterator<Item = StepRef> {
    (0..u32::try_from(state.steps().len()).unwrap_or_default()).map(StepRef::top)
}

fn success(step: StepKey, attempt: u32) -> Event {
    let output = Payload::null();
    let output_hash = output.digest();
    StepSucceeded { attempt, logs: None, output: Some(output), output_hash, reused: None, step }.into()
}

async fn land(store: &MemoryStore, row: RunRow, actor: &str, event: Event, clock: &SimClock) -> bool {
    let (stream, expected) = (Stream::Run(row.run), row.head);
    let mut chain = Chain::new(&row.tenant, stream, expected);
    if chain.push(actor, clock.now(), &event).is_err() {
        return false;
    }
    let Ok((lines, head)) = chain.finish() else { return false };
    let tenant = row.tenant.clone();
    let row = Some(RunRow { head, ..row });
    let append = Append { tenant, stream, expected, lines, head, row };
    store.append(&[append]).await.is_ok_and(|answers| answers.iter().all(Result::is_ok))
}
