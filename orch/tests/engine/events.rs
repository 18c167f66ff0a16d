//! Following runs and waiting for them.

use std::time::Duration;

use orch::ErrorKind;
use orch::digest::Digest;
use orch::engine::{Identity, Orchestrator};
use orch::id::RunId;
use orch::ledger::RunStatus;

use crate::kit::*;

const STEPS: &str = r#"
  - { id: a, uses: fn/act, with: { millis: 20 } }
  - { id: each, uses: fn/act, needs: [a], forEach: { items: [1, 2, 3, 4, 5, 6, 7, 8] }, with: { millis: 700 } }
"#;

fn unknown() -> RunId {
    RunId::derive(&who().tenant, &"test".parse().unwrap(), "unknown", &Digest::ZERO)
}

async fn followed(orchestrator: Orchestrator, who: Identity, run: RunId, after: u64) -> Vec<u64> {
    let mut events = orchestrator.events(&who, run, after, true);
    let mut seen = Vec::new();
    while let Some((entry, _)) = events.next().await.unwrap() {
        seen.push(entry.seq);
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn followers_see_every_entry_once_wherever_they_begin() {
    let (world, witness) = (World::new(), Witness::default());
    let here = witness.watch(world.member()).start().unwrap();
    let there = witness.watch(world.member()).start().unwrap();
    let run = submit(&here, dag(STEPS)).await;
    let mut followers = Vec::new();
    for (n, after) in [0, 0, 1, 3, 10, 1_000].into_iter().enumerate() {
        let orchestrator = if n % 2 == 0 { here.clone() } else { there.clone() };
        followers.push((after, tokio::spawn(followed(orchestrator, who(), run, after))));
        millis(15).await;
    }
    let last = ended(&here, run).await.head.seq;
    for (after, follower) in followers {
        let seen = follower.await.unwrap();
        assert_eq!(seen, (after + 1..=last).collect::<Vec<_>>(), "after {after}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_goes_on_after_a_retry() {
    let orchestrator = builder().start().unwrap();
    let row = run(&orchestrator, dag("  - { id: a, uses: fn/boom }\n")).await;
    let mut events = orchestrator.events(&who(), row.run, 0, true);
    let mut seen = Vec::new();
    for round in 1..=3 {
        while let Some((entry, _)) = events.next().await.unwrap() {
            seen.push(entry.seq);
        }
        let row = orchestrator.run(&who(), row.run).await.unwrap();
        assert_eq!(row.status, RunStatus::Failed);
        assert_eq!(seen, (1..=row.head.seq).collect::<Vec<_>>(), "round {round}");
        orchestrator.retry(&who(), row.run, vec![]).await.unwrap();
    }
    // From the middle, over several ends, to the last one.
    ended(&orchestrator, row.run).await;
    let last = orchestrator.run(&who(), row.run).await.unwrap().head.seq;
    let all = followed(orchestrator.clone(), who(), row.run, 2).await;
    assert_eq!(all, (3..=last).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_not_found_and_what_has_ended_is_answered_at_once() {
    let orchestrator = builder().start().unwrap();
    let missing = orchestrator.wait(&who(), unknown()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let missing = orchestrator.events(&who(), unknown(), 0, true).next().await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let row = run(&orchestrator, dag("  - { id: a, uses: fn/echo }\n")).await;
    assert_eq!(orchestrator.wait(&who(), row.run).await.unwrap(), row);
    assert_eq!(orchestrator.stats().watched_runs, 0);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_given_up_leaves_nothing_behind() {
    let orchestrator = builder().start().unwrap();
    let run = submit(&orchestrator, dag("  - { id: gate, uses: gate/approval }\n")).await;
    let me = who();
    for _ in 0..10 {
        let wait = orchestrator.wait(&me, run);
        assert!(tokio::time::timeout(Duration::from_millis(50), wait).await.is_err());
        assert_eq!(orchestrator.stats().watched_runs, 0);
        let mut events = orchestrator.events(&who(), run, 1_000, true);
        assert!(tokio::time::timeout(Duration::from_millis(50), events.next()).await.is_err());
    }
    assert_eq!(orchestrator.stats().watched_runs, 0);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_is_told_to_whoever_waits() {
    let orchestrator = builder().start().unwrap();
    let run = submit(&orchestrator, dag("  - { id: gate, uses: gate/approval }\n")).await;
    let waiter = tokio::spawn({
        let orchestrator = orchestrator.clone();
        async move { orchestrator.wait(&who(), run).await }
    });
    let follower = tokio::spawn({
        let orchestrator = orchestrator.clone();
        async move {
            let mut events = orchestrator.events(&who(), run, 0, true);
            loop {
                if let Err(error) = events.next().await {
                    return error;
                }
            }
        }
    });
    millis(100).await;
    orchestrator.shutdown().await;
    assert_eq!(waiter.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(follower.await.unwrap().kind(), ErrorKind::Closed);
    assert_eq!(orchestrator.cancel(&who(), run).await.unwrap_err().kind(), ErrorKind::Closed);
}
