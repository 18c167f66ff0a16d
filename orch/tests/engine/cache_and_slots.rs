//! Results used again, and places counted by key.

use std::sync::Arc;

use orch::engine::{DagRef, Identity, Orchestrator, Submit};
use orch::ledger::RunStatus;
use orch::store::RunRow;
use orch_simulation::faulty::{FaultyQueue, Rates};
use serde_json::{Value, json};

use crate::kit::*;

async fn run_as(
    orchestrator: &Orchestrator,
    who: &Identity,
    document: orch::spec::Dag,
    inputs: Value,
) -> RunRow {
    let submit = Submit::new(DagRef::Unpublished(Box::new(document)), inputs);
    let run = orchestrator.submit(who, submit).await.unwrap().run.run;
    orchestrator.wait(who, run).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn t1_a_cached_result_serves_later_runs_of_its_tenant_and_no_other() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let document = document(
        r#"
inputs: { type: object, properties: { n: { type: integer } } }
steps:
  - { id: a, uses: fn/act, cache: true, with: { value: "${{ inputs.n }}" } }
  - { id: b, uses: fn/echo, needs: [a], with: "${{ steps.a.output }}" }
"#,
    );
    for (who, n, executions) in [(who(), 1, 1), (who(), 1, 1), (who(), 2, 2), (stranger(), 1, 3)] {
        let row = run_as(&orchestrator, &who, document.clone(), json!({ "n": n })).await;
        assert_eq!(row.status, RunStatus::Completed);
        assert_eq!(witness.executions("a"), executions);
        let state = orchestrator.inspect(&who, row.run).await.unwrap();
        assert_eq!(state.outputs()["b"].get(), &json!(n));
        millis(10).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_not_cached() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let steps = "  - { id: a, uses: fn/act, cache: true, with: { fails: 1 } }\n";
    assert_eq!(run(&orchestrator, dag(steps)).await.status, RunStatus::Failed);
    assert_eq!(run(&orchestrator, dag(steps)).await.status, RunStatus::Failed);
    assert_eq!(witness.executions("a"), 2);
}

const KEYED: &str = r#"
  - { id: each, uses: fn/act, forEach: { items: [1, 2, 3, 4] }, with: { millis: 100, group: g }, concurrency: [{ key: db, limit: 2 }] }
"#;

#[tokio::test(start_paused = true)]
async fn a1_a_key_limits_steps_over_all_runs_of_a_tenant() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let mut runs = Vec::new();
    for _ in 0..4 {
        runs.push(submit(&orchestrator, dag(KEYED)).await);
    }
    for run in runs {
        assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
    }
    assert_eq!((witness.most("g"), witness.total()), (2, 16));
}

#[tokio::test(start_paused = true)]
async fn a1_a_key_limits_steps_over_processes_although_hints_come_twice() {
    let (world, witness) = (World::new(), Witness::default());
    let mut processes = Vec::new();
    let mut doubled = 0;
    for seed in 0..3 {
        let rates = Rates { twice: 70, ..Rates::default() };
        let queue = FaultyQueue::new(Arc::clone(&world.queue), seed + 1, rates);
        let process = witness.watch(world.process()).queue(Arc::new(queue.clone())).start().unwrap();
        processes.push((process, queue));
    }
    let mut runs = Vec::new();
    for n in 0..6 {
        runs.push(submit(&processes[n % 3].0, dag(KEYED)).await);
    }
    for run in runs {
        assert_eq!(ended(&processes[0].0, run).await.status, RunStatus::Completed);
        check(&processes[0].0, run).await;
    }
    world.check(true).await;
    for (_, queue) in &processes {
        doubled += queue.dice.fired("queue.twice");
    }
    assert!(doubled > 10, "{doubled}");
    assert_eq!((witness.most("g"), witness.total()), (2, 24));
}

#[tokio::test(start_paused = true)]
async fn a1_long_attempts_keep_their_slots() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let steps = r#"
  - { id: each, uses: fn/act, forEach: { items: [1, 2, 3] }, with: { millis: 3000, group: g }, concurrency: [{ key: "${{ inputs.k }}", limit: 1 }] }
"#;
    let text = format!(
        "inputs: {{ type: object, properties: {{ k: {{ type: string, default: one }} }} }}\nsteps:\n{steps}"
    );
    let begun = tokio::time::Instant::now();
    assert_eq!(run(&orchestrator, document(&text)).await.status, RunStatus::Completed);
    assert_eq!((witness.most("g"), witness.total()), (1, 3));
    assert!(begun.elapsed().as_millis() < 10_500, "{:?}", begun.elapsed());
}
