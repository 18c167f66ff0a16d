//! What an engine tells of itself.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use orch::engine::{AttemptEnded, AttemptOutcome, Observer, RunEnded};
use orch::ledger::RunStatus;

use crate::kit::*;

/// Takes down everything that it hears.
#[derive(Debug, Default)]
struct Ear {
    attempts: Mutex<Vec<AttemptEnded>>,
    runs: Mutex<Vec<RunEnded>>,
    commits: Mutex<usize>,
}

impl Observer for Ear {
    fn attempt_ended(&self, ended: &AttemptEnded) {
        self.attempts.lock().unwrap().push(ended.clone());
    }

    fn run_ended(&self, ended: &RunEnded) {
        self.runs.lock().unwrap().push(ended.clone());
    }

    fn committed(&self, appends: usize, _: Duration) {
        *self.commits.lock().unwrap() += appends;
    }
}

#[tokio::test(start_paused = true)]
async fn every_end_is_told_once_with_its_times_and_what_follows() {
    let ear = Arc::new(Ear::default());
    let orchestrator = builder().observe(Arc::clone(&ear) as _).start().unwrap();
    let steps = "  - { id: a, uses: fn/flaky, with: 1, retry: { maxAttempts: 3, backoff: 1s } }\n  - { id: nap, uses: wait/sleep, with: { duration: 1s } }\n  - { id: b, uses: fn/boom, needs: [a] }\n  - { id: c, uses: fn/sleep, with: 500, needs: [a] }\n";
    let run = run(&orchestrator, dag(steps)).await;
    assert_eq!(run.status, RunStatus::Failed);
    let mut told: Vec<_> = ear
        .attempts
        .lock()
        .unwrap()
        .iter()
        .map(|ended| (ended.step.to_string(), ended.attempt, ended.outcome, ended.again))
        .collect();
    told.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
    use AttemptOutcome::{Failed, Succeeded};
    let expected = [
        ("a", 1, Failed, true),
        ("a", 2, Succeeded, false),
        ("b", 1, Failed, false),
        ("c", 1, Succeeded, false),
    ];
    assert_eq!(
        told,
        expected.map(|(step, attempt, outcome, again)| (step.to_owned(), attempt, outcome, again))
    );
    let attempts = ear.attempts.lock().unwrap();
    let slept = attempts.iter().find(|ended| ended.step.to_string() == "c").unwrap();
    assert!(slept.ended_at.since(slept.started_at) >= Duration::from_millis(500));
    assert_eq!((&slept.run.run, slept.dag.as_str()), (&run.run, "test"));
    let runs = ear.runs.lock().unwrap();
    assert_eq!((runs.len(), runs[0].status, runs[0].created_at), (1, RunStatus::Failed, run.created_at));
    assert_eq!(Some(runs[0].ended_at), run.ended_at);
    assert!(*ear.commits.lock().unwrap() as u64 >= orchestrator.stats().appends);
}

#[tokio::test(start_paused = true)]
async fn two_processes_that_race_tell_each_end_once_between_them() {
    let (world, ear) = (World::new(), Arc::new(Ear::default()));
    let processes: Vec<_> = (0..3)
        .map(|_| {
            let builder = world.member().observe(Arc::clone(&ear) as _);
            builder.start().unwrap()
        })
        .collect();
    let steps = "  - { id: a, uses: fn/add, forEach: { items: [1, 2, 3, 4, 5, 6, 7, 8] }, with: [1, 2] }\n";
    let mut runs = Vec::new();
    for number in 0..9 {
        runs.push(submit(&processes[number % 3], dag(steps)).await);
    }
    for run in &runs {
        ended(&processes[0], *run).await;
    }
    for process in &processes {
        process.shutdown().await;
    }
    let told = ear.runs.lock().unwrap();
    let mut ids: Vec<_> = told.iter().map(|ended| ended.run.run).collect();
    ids.sort();
    runs.sort();
    assert_eq!(ids, runs);
    let attempts = ear.attempts.lock().unwrap();
    let good = attempts.iter().filter(|ended| ended.outcome == AttemptOutcome::Succeeded).count();
    assert_eq!(good, 9 * 8);
}
