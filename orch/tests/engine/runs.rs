//! Runs from submission to end.

use orch::StepKey;
use orch::ledger::{RunStatus, StepStatus};
use serde_json::json;

use crate::kit::{builder, dag, document, run, run_with, who};

#[tokio::test]
async fn a_diamond_runs_to_its_end_and_passes_outputs_along() {
    let orchestrator = builder().start().unwrap();
    let row = run(
        &orchestrator,
        dag(r#"
  - { id: a, uses: fn/echo, with: { n: 20 } }
  - { id: b, uses: fn/add, needs: [a], with: ["${{ steps.a.output.n }}", 1] }
  - { id: c, uses: fn/add, needs: [a], with: ["${{ steps.a.output.n }}", 2] }
  - { id: d, uses: fn/add, needs: [b, c], with: ["${{ steps.b.output }}", "${{ steps.c.output }}"] }
"#),
    )
    .await;
    assert_eq!(row.status, RunStatus::Completed);
    let state = orchestrator.inspect(&who(), row.run).await.unwrap();
    assert_eq!(state.outputs()["d"].get(), &json!(43));
    assert_eq!(state.row(), row);
    orchestrator.shutdown().await;
}

#[tokio::test]
async fn for_each_collects_its_children_in_order() {
    let orchestrator = builder().start().unwrap();
    let document = document(
        r#"
inputs: { type: object, properties: { list: { type: array, default: [3, 1, 2] } } }
steps:
  - { id: each, uses: fn/add, forEach: { items: inputs.list, maxParallel: 2 }, with: ["${{ item }}", "${{ index }}"] }
  - { id: all, uses: fn/echo, needs: [each], with: "${{ steps.each.output }}" }
"#,
    );
    let row = run_with(&orchestrator, document.clone(), json!({})).await;
    assert_eq!(row.status, RunStatus::Completed, "{row:?}");
    let state = orchestrator.inspect(&who(), row.run).await.unwrap();
    assert_eq!(state.outputs()["all"].get(), &json!([3, 2, 4]));
    let row = run_with(&orchestrator, document, json!({ "list": [] })).await;
    let state = orchestrator.inspect(&who(), row.run).await.unwrap();
    assert_eq!(state.outputs()["all"].get(), &json!([]));
}

#[tokio::test]
async fn a_failure_skips_what_needs_it_and_runs_what_waits_for_it() {
    let orchestrator = builder().start().unwrap();
    let row = run(
        &orchestrator,
        dag(r#"
  - { id: a, uses: fn/boom }
  - { id: b, uses: fn/echo, needs: [a] }
  - { id: c, uses: fn/echo, needs: [a], when: "steps.a.status == 'failed'", with: "${{ steps.a.error.code }}" }
"#),
    )
    .await;
    assert_eq!(row.status, RunStatus::Failed);
    let state = orchestrator.inspect(&who(), row.run).await.unwrap();
    let status = |id: &str| state.get(state.find(&id.parse::<StepKey>().unwrap()).unwrap()).unwrap().status;
    assert_eq!(status("b"), StepStatus::Skipped);
    assert_eq!(status("c"), StepStatus::Succeeded);
    assert_eq!(state.outputs()["c"].get(), &json!("boom"));
}

#[tokio::test]
async fn a_failing_step_is_tried_again_until_it_succeeds() {
    let orchestrator = builder().start().unwrap();
    let row = run(
        &orchestrator,
        dag("  - { id: a, uses: fn/flaky, with: 2, retry: { maxAttempts: 3, backoff: 20ms } }\n"),
    )
    .await;
    assert_eq!(row.status, RunStatus::Completed);
    let state = orchestrator.inspect(&who(), row.run).await.unwrap();
    assert_eq!(state.outputs()["a"].get(), &json!(3));
}
