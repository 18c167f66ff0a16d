//! Steps that runs of other DAGs carry out.

use std::sync::Arc;

use orch::engine::{Orchestrator, Settings};
use orch::ledger::{Event, RunStatus, StepStatus};
use orch::{Limits, RunId};
use orch_simulation::faulty::{FaultyStore, Rates};
use serde_json::json;

use crate::kit::*;

async fn publish(orchestrator: &Orchestrator, id: &str, rest: &str) {
    orchestrator.publish(&who(), named(id, rest)).await.unwrap();
}

/// The runs that carried out a step, in order.
async fn children(orchestrator: &Orchestrator, run: RunId) -> Vec<RunId> {
    let entries = entries(orchestrator, run).await;
    let child = |entry: &orch::ledger::Entry| match &entry.event {
        Event::StepStarted(started) => started.child_run,
        _ => None,
    };
    entries.iter().filter_map(child).collect()
}

const CHILD: &str = "inputs: { type: object, properties: { n: { type: integer, default: 1 } } }\nsteps:\n  - { id: out, uses: fn/act, with: { value: \"${{ inputs.n }}\" } }\n";

#[tokio::test(start_paused = true)]
async fn the_output_of_a_sub_dag_is_the_output_of_its_step() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    publish(&orchestrator, "child", CHILD).await;
    let steps = r#"
  - { id: sub, uses: dag/child@1, with: { n: 5 } }
  - { id: each, uses: dag/child@1, forEach: { items: [1, 2, 3], maxParallel: 2 }, with: { n: "${{ item }}" } }
  - { id: z, uses: fn/echo, needs: [sub, each], with: ["${{ steps.sub.output.out }}", "${{ steps.each.output.map(o, o.out) }}"] }
"#;
    let begun = tokio::time::Instant::now();
    let row = run(&orchestrator, dag(steps)).await;
    assert_eq!(row.status, RunStatus::Completed, "{row:?}");
    assert_eq!(check(&orchestrator, row.run).await.outputs()["z"].get(), &json!([5, [1, 2, 3]]));
    assert!(begun.elapsed().as_secs() < 2);
    for child in children(&orchestrator, row.run).await {
        let child = orchestrator.run(&who(), child).await.unwrap();
        let parent = child.parent.unwrap();
        assert_eq!((parent.run, parent.depth), (row.run, 1));
        assert_eq!(child.actor, who().actor, "whoever submitted the parent submitted the child");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_sub_dag_is_tried_again_as_a_new_run_after_its_backoff() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    publish(&orchestrator, "child", "steps:\n  - { id: x, uses: fn/boom }\n").await;
    let steps =
        "  - { id: sub, uses: dag/child@1, retry: { maxAttempts: 3, backoff: 10s, maxBackoff: 10s } }\n";
    let begun = tokio::time::Instant::now();
    let row = run(&orchestrator, dag(steps)).await;
    assert_eq!(row.status, RunStatus::Failed);
    let children = children(&orchestrator, row.run).await;
    assert_eq!(children.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
    assert!((10..22).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let state = check(&orchestrator, row.run).await;
    assert_eq!(step(&state, "sub").error.as_ref().unwrap().code, "sub_dag_failed");
}

#[tokio::test(start_paused = true)]
async fn a_held_run_with_a_sub_dag_to_be_tried_again_does_not_spin() {
    let store = FaultyStore::new(Arc::new(orch::store::MemoryStore::new()), 1, Rates::default());
    let orchestrator = builder().store(Arc::new(store.clone())).start().unwrap();
    publish(&orchestrator, "child", "steps:\n  - { id: x, uses: fn/boom }\n").await;
    let steps = "  - { id: sub, uses: dag/child@1, retry: { maxAttempts: 3, backoff: 10s } }\n";
    let run = submit(&orchestrator, dag(steps)).await;
    while step(&state(&orchestrator, run).await, "sub").failures == 0 {
        millis(10).await;
    }
    orchestrator.pause(&who(), run).await.unwrap();
    let before = store.calls("append");
    millis(300_000).await;
    assert!(store.calls("append") - before < 20, "{}", store.calls("append") - before);
    orchestrator.resume(&who(), run).await.unwrap();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Failed);
}

#[tokio::test(start_paused = true)]
async fn cancelling_reaches_the_runs_of_sub_dags_and_theirs() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    publish(&orchestrator, "leaf", "steps:\n  - { id: x, uses: fn/act, with: { millis: 60000 } }\n").await;
    publish(&orchestrator, "middle", "steps:\n  - { id: sub, uses: dag/leaf@1 }\n").await;
    let run = submit(&orchestrator, dag("  - { id: sub, uses: dag/middle@1 }\n")).await;
    while witness.running() == 0 {
        millis(10).await;
    }
    orchestrator.cancel(&who(), run).await.unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Cancelled);
    assert!(begun.elapsed().as_secs() < 2, "{:?}", begun.elapsed());
    assert_eq!((witness.stopped(), witness.running()), (1, 0));
    for child in children(&orchestrator, run).await {
        assert_eq!(orchestrator.run(&who(), child).await.unwrap().status, RunStatus::Cancelled);
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_cancelled_at_any_moment_leaves_no_child_running() {
    let witness = Witness::default();
    for turn in 0..60 {
        let rates = Rates { delay: 60, ..Rates::default() };
        let store = FaultyStore::new(Arc::new(orch::store::MemoryStore::new()), turn, rates);
        let orchestrator = witness.watch(builder()).store(Arc::new(store.clone())).start().unwrap();
        publish(&orchestrator, "child", "steps:\n  - { id: x, uses: fn/act, with: { millis: 90000 } }\n")
            .await;
        let run = submit(&orchestrator, dag("  - { id: sub, uses: dag/child@1 }\n")).await;
        millis(turn * 10).await;
        orchestrator.cancel(&who(), run).await.unwrap();
        assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Cancelled);
        millis(2_000).await;
        for child in children(&orchestrator, run).await {
            let row = orchestrator.run(&who(), child).await.unwrap();
            assert_eq!(row.status, RunStatus::Cancelled, "turn {turn}");
        }
        assert_eq!(witness.running(), 0, "turn {turn}");
        orchestrator.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sub_dag_out_of_time_is_cancelled_and_its_successor_is_not() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    publish(&orchestrator, "child", "steps:\n  - { id: x, uses: fn/act, with: { millis: 60000 } }\n").await;
    let steps = "  - { id: sub, uses: dag/child@1, timeout: 5s, retry: { maxAttempts: 2, backoff: 1ms } }\n";
    let run = submit(&orchestrator, dag(steps)).await;
    millis(7_500).await;
    let runs = children(&orchestrator, run).await;
    assert_eq!(runs.len(), 2);
    let status = async |run| orchestrator.run(&who(), run).await.unwrap().status;
    assert_eq!((status(runs[0]).await, status(runs[1]).await), (RunStatus::Cancelled, RunStatus::Running));
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Failed);
    millis(1_000).await;
    assert_eq!((witness.stopped(), witness.running()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_sub_dag_parked_when_out_of_time_is_cancelled_too() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    publish(&orchestrator, "child", "steps:\n  - { id: x, uses: fn/act, with: { millis: 600000 } }\n").await;
    let steps = "  - { id: sub, uses: dag/child@1, timeout: 5s, retry: { onExhausted: park } }\n";
    let run = submit(&orchestrator, dag(steps)).await;
    until(&orchestrator, run, "sub", StepStatus::Parked).await;
    millis(1_000).await;
    assert_eq!((witness.stopped(), witness.running()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_sub_dag_that_is_not_there_or_too_deep_fails_its_step() {
    let limits = Limits { dag_depth: 3, ..Limits::default() };
    let orchestrator = builder().settings(Settings { limits, ..quick() }).start().unwrap();
    publish(&orchestrator, "child", CHILD).await;
    for (uses, what) in [("dag/nowhere@1", "no such dag"), ("dag/child@9", "no such dag")] {
        let row = run(&orchestrator, dag(&format!("  - {{ id: sub, uses: {uses} }}\n"))).await;
        let state = state(&orchestrator, row.run).await;
        let error = step(&state, "sub").error.as_ref().unwrap();
        assert!(row.status == RunStatus::Failed && error.message.contains(what), "{error:?}");
    }
    publish(&orchestrator, "self", "steps:\n  - { id: sub, uses: dag/self@1 }\n").await;
    let row = run(&orchestrator, dag("  - { id: sub, uses: dag/self@1 }\n")).await;
    assert_eq!(row.status, RunStatus::Failed);
    let runs = orchestrator.runs(&who(), orch::store::RunsQuery::all(who().tenant)).await.unwrap().runs;
    assert_eq!(runs.iter().filter(|row| row.dag.as_str() == "self").count(), 3);
    assert!(runs.iter().all(|row| row.status == RunStatus::Failed));
}

#[tokio::test(start_paused = true)]
async fn t1_a_sub_dag_of_another_tenant_does_not_exist() {
    let orchestrator = builder().start().unwrap();
    orchestrator
        .publish(&stranger(), named("child", "steps:\n  - { id: x, uses: fn/echo }\n"))
        .await
        .unwrap();
    let row = run(&orchestrator, dag("  - { id: sub, uses: dag/child@1 }\n")).await;
    assert_eq!(row.status, RunStatus::Failed);
    let theirs = orch::store::RunsQuery::all(stranger().tenant);
    assert!(orchestrator.runs(&stranger(), theirs).await.unwrap().runs.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_child_cancelled_by_a_person_fails_its_parent() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    publish(&orchestrator, "child", "steps:\n  - { id: x, uses: fn/act, with: { millis: 60000 } }\n").await;
    let run = submit(&orchestrator, dag("  - { id: sub, uses: dag/child@1 }\n")).await;
    while witness.running() == 0 {
        millis(10).await;
    }
    orchestrator.cancel(&who(), children(&orchestrator, run).await[0]).await.unwrap();
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_large_output_of_a_sub_dag_becomes_an_artifact() {
    let size = Limits::default().payload_bytes / 2;
    let orchestrator = builder()
        .task("big", move |_, _: serde_json::Value| async move {
            Ok::<_, orch::executor::Failure>("x".repeat(size))
        })
        .start()
        .unwrap();
    let steps =
        "steps:\n  - { id: a, uses: fn/big }\n  - { id: b, uses: fn/big }\n  - { id: c, uses: fn/big }\n";
    publish(&orchestrator, "child", steps).await;
    let row = run(&orchestrator, dag("  - { id: sub, uses: dag/child@1 }\n")).await;
    assert_eq!(row.status, RunStatus::Completed);
    let state = state(&orchestrator, row.run).await;
    assert!(state.outputs()["sub"].get()["artifact"]["size"].as_u64().unwrap() > 3 * size as u64);
}
