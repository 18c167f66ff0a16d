//! Workers outside the process: leases that the ledger holds.

use std::sync::Arc;
use std::time::Duration;

use orch::ErrorKind;
use orch::engine::{Lease, LeaseToken, Leased, Orchestrator};
use orch::executor::{Failure, Outcome};
use orch::ledger::{Event, RunStatus, StepStatus};
use orch::{Payload, QueueName};
use serde_json::json;

use crate::kit::*;

const SCAN: &str = "  - { id: a, uses: worker/scan, with: { file: x } }\n";

fn asked(max: usize, wait: u64) -> Lease {
    Lease { max, wait: Duration::from_secs(wait), ..Lease::of("py", ["scan"]) }
}

async fn lease(orchestrator: &Orchestrator, wait: u64) -> Option<Leased> {
    orchestrator.lease(&who(), asked(1, wait)).await.unwrap().pop()
}

fn good(value: serde_json::Value) -> Outcome {
    Outcome::Succeeded(Payload::new(&value).unwrap())
}

async fn finish(orchestrator: &Orchestrator, leased: &Leased) -> orch::Result<()> {
    orchestrator.finish_lease(&who(), &leased.token, good(json!("done")), None).await
}

#[tokio::test(start_paused = true)]
async fn a_worker_outside_gets_what_it_needs_and_its_result_counts() {
    let orchestrator = builder().start().unwrap();
    let run = submit(&orchestrator, dag("  - { id: a, uses: worker/scan, with: { file: x }, secrets: [KEY] }\n  - { id: b, uses: fn/echo, needs: [a], with: \"${{ steps.a.output }}\" }\n")).await;
    let leased = lease(&orchestrator, 0).await.unwrap();
    assert_eq!((leased.run, &*leased.step.to_string(), leased.attempt), (run, "a", 1));
    assert_eq!((&*leased.job_type, leased.input.as_str()), ("scan", r#"{"file":"x"}"#));
    assert_eq!((leased.idempotency_key.len(), &leased.secrets), (64, &vec!["KEY".to_owned()]));
    assert_eq!((leased.max_attempts, leased.failures, &*leased.actor), (1, 0, "tester"));
    assert!(leased.lease_until > orchestrator.now() && leased.deadline.is_none());
    let state = until(&orchestrator, run, "a", StepStatus::Running).await;
    let worker = step(&state, "a").worker.clone().unwrap().to_string();
    assert!(worker.starts_with("outside/py/"), "{worker}");
    finish(&orchestrator, &leased).await.unwrap();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
    let state = check(&orchestrator, run).await;
    assert_eq!(state.outputs()["b"].get(), &json!("done"));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_waits_is_given_a_step_as_soon_as_there_is_one() {
    let orchestrator = builder().start().unwrap();
    assert!(lease(&orchestrator, 0).await.is_none(), "who does not wait is told at once");
    let (worker, begun) = (orchestrator.clone(), orchestrator.now());
    let waiting = tokio::spawn(async move { lease(&worker, 60).await });
    millis(1_000).await;
    assert_eq!(orchestrator.stats().waiting_workers, 1);
    submit(&orchestrator, dag(SCAN)).await;
    let leased = waiting.await.unwrap().unwrap();
    finish(&orchestrator, &leased).await.unwrap();
    assert!(orchestrator.now().since(begun) < Duration::from_millis(1_100));
    let begun = orchestrator.now();
    assert!(lease(&orchestrator, 60).await.is_none());
    assert_eq!(orchestrator.now().since(begun).as_secs(), 60, "no longer than asked");
    assert_eq!(orchestrator.stats().waiting_workers, 0);
}

#[tokio::test(start_paused = true)]
async fn r1_of_two_hundred_waiting_workers_each_step_goes_to_one() {
    let world = World::new();
    let (one, other) = (world.member().start().unwrap(), world.member().start().unwrap());
    let mut waiting = Vec::new();
    for number in 0..200 {
        let worker = if number % 2 == 0 { one.clone() } else { other.clone() };
        waiting.push(tokio::spawn(async move { lease(&worker, 20).await }));
    }
    millis(50).await;
    let steps = "  - { id: a, uses: worker/scan, forEach: { items: [1, 2, 3, 4, 5, 6, 7, 8, 9] } }\n";
    let run = submit(&one, dag(steps)).await;
    let mut given = Vec::new();
    for worker in waiting {
        given.extend(worker.await.unwrap());
    }
    let mut steps: Vec<_> = given.iter().map(|leased| leased.step.to_string()).collect();
    steps.sort();
    steps.dedup();
    assert_eq!((given.len(), steps.len()), (9, 9));
    for leased in &given {
        finish(&other, leased).await.unwrap();
    }
    assert_eq!(ended(&one, run).await.status, RunStatus::Completed);
    world.check(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_comes_in_order_and_holds_what_was_asked_for() {
    let orchestrator = builder().start().unwrap();
    let steps = "  - { id: a, uses: worker/scan, forEach: { items: [1, 2, 3, 4, 5] } }\n  - { id: b, uses: worker/other }\n  - { id: c, uses: worker/scan, queue: gpu }\n";
    submit(&orchestrator, dag(steps)).await;
    let names = |leased: Vec<Leased>| leased.iter().map(|leased| leased.step.to_string()).collect::<Vec<_>>();
    assert_eq!(names(orchestrator.lease(&who(), asked(2, 0)).await.unwrap()), ["a[0]", "a[1]"]);
    assert_eq!(names(orchestrator.lease(&who(), asked(100, 0)).await.unwrap()), ["a[2]", "a[3]", "a[4]"]);
    let depths = orchestrator.depth(&who()).await.unwrap();
    let waiting: Vec<_> = depths.iter().map(|depth| (depth.queue.as_str(), depth.ready)).collect();
    assert_eq!(waiting, [("worker.other", 1), ("worker.scan.gpu", 1)]);
    let gpu = Lease { queues: vec![QueueName::new("gpu").unwrap()], ..asked(9, 0) };
    assert_eq!(names(orchestrator.lease(&who(), gpu).await.unwrap()), ["c"]);
}

#[tokio::test(start_paused = true)]
async fn r2_a_worker_that_comes_back_late_changes_nothing() {
    let orchestrator = builder().start().unwrap();
    let run = submit(&orchestrator, dag(SCAN)).await;
    let late = lease(&orchestrator, 0).await.unwrap();
    millis(31_000).await;
    let next = lease(&orchestrator, 5).await.unwrap();
    assert_eq!((next.attempt, &next.idempotency_key), (2, &late.idempotency_key));
    let lost = |result: orch::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::LeaseLost);
    lost(finish(&orchestrator, &late).await);
    lost(orchestrator.release_lease(&who(), &late.token).await);
    lost(orchestrator.renew_lease(&who(), &late.token, Duration::from_secs(9), None).await.map(drop));
    orchestrator.finish_lease(&who(), &next.token, good(json!(2)), None).await.unwrap();
    lost(orchestrator.finish_lease(&who(), &next.token, good(json!(3)), None).await);
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
    let state = check(&orchestrator, run).await;
    assert_eq!((state.outputs()["a"].get(), step(&state, "a").losses), (&json!(2), 1));
}

#[tokio::test(start_paused = true)]
async fn nobody_acts_for_a_worker_who_has_read_the_ledger_or_is_of_another_tenant() {
    let orchestrator = builder().start().unwrap();
    let run = submit(&orchestrator, dag(SCAN)).await;
    let leased = lease(&orchestrator, 0).await.unwrap();
    let text = format!("{:?} {leased:?}", entries(&orchestrator, run).await);
    assert!(!text.contains(leased.token.as_str()), "a token is shown to nobody");
    // Every part of the token but the nonce stands in the ledger.
    let mut claims: serde_json::Value = serde_json::from_slice(&base64url(leased.token.as_str())).unwrap();
    claims["nonce"] = json!("0198");
    let forged = LeaseToken::new(to_base64url(&claims.to_string())).unwrap();
    let refused = orchestrator.finish_lease(&who(), &forged, good(json!(1)), None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
    let foreign = orchestrator.finish_lease(&stranger(), &leased.token, good(json!(1)), None).await;
    assert_eq!(foreign.unwrap_err().kind(), ErrorKind::NotFound, "t1: as if there were no such run");
    assert!(orchestrator.lease(&stranger(), asked(1, 0)).await.unwrap().is_empty(), "t1");
    for garbled in ["", "x", "{}", "eyJ9", &"A".repeat(2_000)] {
        assert_eq!(LeaseToken::new(garbled).unwrap_err().kind(), ErrorKind::Invalid, "{garbled}");
    }
    finish(&orchestrator, &leased).await.unwrap();
}

fn base64url(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
}

fn to_base64url(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

#[tokio::test(start_paused = true)]
async fn a_lease_outlives_the_process_that_gave_it() {
    let world = World::new();
    let first = world.process().start().unwrap();
    let run = submit(&first, dag(SCAN)).await;
    let leased = lease(&first, 0).await.unwrap();
    first.shutdown().await;
    let second = world.process().start().unwrap();
    let renewed =
        second.renew_lease(&who(), &leased.token, Duration::from_secs(60), Some("half of it")).await.unwrap();
    assert!(!renewed.cancel && renewed.lease_until.since(second.now()).as_secs() >= 59);
    millis(50_000).await;
    finish(&second, &leased).await.unwrap();
    assert_eq!(ended(&second, run).await.status, RunStatus::Completed);
    let noted = entries(&second, run).await.into_iter().any(|entry| match entry.event {
        Event::AttemptProgress(progress) => progress.notes.iter().any(|note| note.note == "half of it"),
        _ => false,
    });
    assert!(noted);
    world.check(true).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_worker_is_found_after_a_restart() {
    let world = World::new();
    let first = world.process().start().unwrap();
    submit(&first, dag(SCAN)).await;
    first.shutdown().await;
    let second = world.process().start().unwrap();
    assert!(lease(&second, 5).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_run_tells_its_worker_to_stop() {
    let orchestrator = builder().start().unwrap();
    let run = submit(&orchestrator, dag(SCAN)).await;
    let leased = lease(&orchestrator, 0).await.unwrap();
    orchestrator.cancel(&who(), run).await.unwrap();
    let renewed =
        orchestrator.renew_lease(&who(), &leased.token, Duration::from_secs(9), None).await.unwrap();
    assert!(renewed.cancel);
    orchestrator.finish_lease(&who(), &leased.token, Outcome::Cancelled, None).await.unwrap();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Cancelled);
    check(&orchestrator, run).await;
    // One that says nothing more holds its run up for no longer than its lease.
    let run = submit(&orchestrator, dag(SCAN)).await;
    lease(&orchestrator, 0).await.unwrap();
    orchestrator.cancel(&who(), run).await.unwrap();
    let begun = orchestrator.now();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Cancelled);
    assert!(orchestrator.now().since(begun) < Duration::from_secs(31));
}

#[tokio::test(start_paused = true)]
async fn no_renewal_carries_an_attempt_beyond_its_time() {
    let orchestrator = builder().start().unwrap();
    let steps = "  - { id: a, uses: worker/scan, timeout: 40s, retry: { maxAttempts: 2, backoff: 1s } }\n";
    let run = submit(&orchestrator, dag(steps)).await;
    let leased = lease(&orchestrator, 0).await.unwrap();
    let deadline = leased.deadline.unwrap();
    millis(20_000).await;
    let hour = Duration::from_secs(3_600);
    let renewed = orchestrator.renew_lease(&who(), &leased.token, hour, None).await.unwrap();
    assert_eq!(renewed.lease_until, deadline);
    millis(20_500).await;
    assert_eq!(finish(&orchestrator, &leased).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    let state = state(&orchestrator, run).await;
    let failed = step(&state, "a");
    assert_eq!((failed.failures, failed.losses), (1, 0), "it counts as a failure: it was too slow");
    assert_eq!(failed.error.as_ref().unwrap().code, "timeout");
    let again = lease(&orchestrator, 10).await.unwrap();
    assert_eq!((again.attempt, again.failures), (2, 1));
    finish(&orchestrator, &again).await.unwrap();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
    check(&orchestrator, run).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again_as_the_step_says_and_a_released_attempt_at_once() {
    let orchestrator = builder().start().unwrap();
    let steps = "  - { id: a, uses: worker/scan, retry: { maxAttempts: 2, backoff: 10s } }\n";
    let run = submit(&orchestrator, dag(steps)).await;
    let leased = lease(&orchestrator, 0).await.unwrap();
    orchestrator.release_lease(&who(), &leased.token).await.unwrap();
    let leased = lease(&orchestrator, 1).await.unwrap();
    assert_eq!((leased.attempt, leased.failures), (2, 0));
    let failure = Failure::retryable("busy", "try later");
    orchestrator.finish_lease(&who(), &leased.token, failure.into(), None).await.unwrap();
    let begun = orchestrator.now();
    let leased = lease(&orchestrator, 30).await.unwrap();
    assert!(orchestrator.now().since(begun) >= Duration::from_secs(5), "not before its backoff is over");
    let failure = Failure::fatal("broken", "no use");
    orchestrator.finish_lease(&who(), &leased.token, failure.into(), None).await.unwrap();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Failed);
    assert_eq!(step(&check(&orchestrator, run).await, "a").error.as_ref().unwrap().code, "broken");
}

#[tokio::test(start_paused = true)]
async fn a1_slots_are_held_for_as_long_as_the_lease() {
    let world = World::new();
    let orchestrator = world.member().start().unwrap();
    let steps = "  - { id: a, uses: worker/scan, forEach: { items: [1, 2, 3] }, concurrency: [{ key: db, limit: 1 }] }\n";
    let run = submit(&orchestrator, dag(steps)).await;
    let first = orchestrator.lease(&who(), asked(3, 0)).await.unwrap();
    assert_eq!(first.len(), 1, "one slot, one attempt");
    for _ in 0..4 {
        millis(20_000).await;
        let third = Duration::from_secs(30);
        orchestrator.renew_lease(&who(), &first[0].token, third, None).await.unwrap();
        assert!(lease(&orchestrator, 0).await.is_none(), "the slot is taken");
    }
    finish(&orchestrator, &first[0]).await.unwrap();
    let second = lease(&orchestrator, 5).await.unwrap();
    orchestrator.release_lease(&who(), &second.token).await.unwrap();
    for _ in 0..2 {
        let next = lease(&orchestrator, 5).await.unwrap();
        finish(&orchestrator, &next).await.unwrap();
    }
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
    millis(1_000).await;
    world.check(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_result_of_a_worker_is_used_again_by_runs_that_ask_for_the_same_version() {
    let orchestrator = builder().start().unwrap();
    let steps = "  - { id: a, uses: worker/scan, cache: true, with: { file: x } }\n";
    let run = submit(&orchestrator, dag(steps)).await;
    let leased = lease(&orchestrator, 0).await.unwrap();
    finish(&orchestrator, &leased).await.unwrap();
    ended(&orchestrator, run).await;
    millis(100).await;
    let again = submit(&orchestrator, dag(steps)).await;
    assert!(lease(&orchestrator, 1).await.is_none(), "nothing is left to do");
    assert_eq!(ended(&orchestrator, again).await.status, RunStatus::Completed);
    assert!(step(&check(&orchestrator, again).await, "a").reused.is_some());
    submit(&orchestrator, dag(steps)).await;
    let newer = Lease { version: "2".to_owned(), ..asked(1, 1) };
    assert_eq!(orchestrator.lease(&who(), newer).await.unwrap().len(), 1, "another version works anew");
}

#[tokio::test(start_paused = true)]
async fn a_held_run_gives_nothing_out_until_it_goes_on() {
    let orchestrator = builder().start().unwrap();
    let run = submit(&orchestrator, dag(SCAN)).await;
    orchestrator.pause(&who(), run).await.unwrap();
    assert!(lease(&orchestrator, 1).await.is_none());
    orchestrator.resume(&who(), run).await.unwrap();
    let leased = lease(&orchestrator, 5).await.unwrap();
    finish(&orchestrator, &leased).await.unwrap();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_whose_caller_went_away_before_it_was_given_is_given_to_the_next() {
    let orchestrator = builder().start().unwrap();
    for wait in [0, 1, 5, 20, 60] {
        let worker = orchestrator.clone();
        let gone = tokio::spawn(async move { lease(&worker, 60).await });
        millis(wait).await;
        submit(&orchestrator, dag(SCAN)).await;
        gone.abort();
        let leased = lease(&orchestrator, 40).await.unwrap();
        finish(&orchestrator, &leased).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn steps_that_a_process_can_execute_itself_stay_inside() {
    let task = |_, input: serde_json::Value| async move { Ok::<_, Failure>(input) };
    let executors = orch::executor::Executors::new().task("any", task);
    let (inside, _) = executors.lookup(&"fn/any".parse().unwrap()).unwrap();
    let inside = orch::executor::Executors::new().executor("worker/*", "1", Arc::clone(inside));
    let orchestrator = builder().executors(inside).start().unwrap();
    assert_eq!(run(&orchestrator, dag(SCAN)).await.status, RunStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn everything_that_is_wrong_with_a_lease_is_said_at_once() {
    let orchestrator = builder().start().unwrap();
    let wrong = Lease {
        worker: "a/b".to_owned(),
        version: String::new(),
        types: vec!["Scan".to_owned()],
        queues: Vec::new(),
        max: 0,
        lease: Duration::from_millis(10),
        wait: Duration::from_secs(61),
    };
    let error = orchestrator.lease(&who(), wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    for word in ["worker", "version", "types", "queues", "max", "lease lies", "wait"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
