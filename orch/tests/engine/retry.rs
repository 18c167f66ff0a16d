//! Trying again: retry, replay, rerun.

use orch::ErrorKind;
use orch::engine::Resubmit;
use orch::executor::Failure;
use orch::ledger::{RunStatus, StepStatus};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::kit::*;

/// A builder whose `fn/switch` fails until the switch is on.
fn switched(witness: &Witness) -> (orch::engine::OrchestratorBuilder, Arc<AtomicBool>) {
    let on = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&on);
    let builder = witness.watch(builder()).task("switch", move |_, input: Value| {
        let on = switch.load(Ordering::SeqCst);
        async move { if on { Ok(input) } else { Err(Failure::retryable("off", "it is off")) } }
    });
    (builder, on)
}

#[tokio::test(start_paused = true)]
async fn failed_steps_are_retried_after_the_end_and_what_they_skipped_runs() {
    let witness = Witness::default();
    let (builder, on) = switched(&witness);
    let orchestrator = builder.start().unwrap();
    let steps = r#"
  - { id: a, uses: fn/act }
  - { id: b, uses: fn/switch, needs: [a] }
  - { id: c, uses: fn/act, needs: [b] }
"#;
    let row = run(&orchestrator, dag(steps)).await;
    assert_eq!((row.status, witness.executions("c")), (RunStatus::Failed, 0));
    on.store(true, Ordering::SeqCst);
    assert_eq!(orchestrator.retry(&who(), row.run, vec![]).await.unwrap().status, RunStatus::Running);
    assert_eq!(ended(&orchestrator, row.run).await.status, RunStatus::Completed);
    assert_eq!((witness.executions("a"), witness.executions("c")), (1, 1));
    check(&orchestrator, row.run).await;
    let refused = orchestrator.retry(&who(), row.run, vec![]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
}

#[tokio::test(start_paused = true)]
async fn parked_and_failed_steps_are_retried_while_the_run_goes_on() {
    let witness = Witness::default();
    let (builder, on) = switched(&witness);
    let orchestrator = builder.start().unwrap();
    let steps = r#"
  - { id: long, uses: fn/act, with: { millis: 50000 } }
  - { id: parked, uses: fn/switch, retry: { onExhausted: park } }
  - { id: failed, uses: fn/switch }
  - { id: each, uses: fn/switch, forEach: { items: [1, 2] } , retry: { onExhausted: park } }
"#;
    let run = submit(&orchestrator, dag(steps)).await;
    until(&orchestrator, run, "parked", StepStatus::Parked).await;
    until(&orchestrator, run, "each[1]", StepStatus::Parked).await;
    until(&orchestrator, run, "failed", StepStatus::Failed).await;
    on.store(true, Ordering::SeqCst);
    orchestrator.retry(&who(), run, vec![key("parked")]).await.unwrap();
    until(&orchestrator, run, "parked", StepStatus::Succeeded).await;
    orchestrator.retry(&who(), run, vec![]).await.unwrap();
    until(&orchestrator, run, "each", StepStatus::Succeeded).await;
    assert_eq!(ended(&orchestrator, run).await.status, RunStatus::Completed);
    check(&orchestrator, run).await;
    assert_eq!(witness.executions("long"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_replay_is_a_new_run_with_the_same_plan_inputs_and_outputs() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let steps = "  - { id: a, uses: fn/act, with: { value: 7 } }\n  - { id: b, uses: fn/act, needs: [a], with: { value: \"${{ steps.a.output }}\" } }\n";
    let first = run(&orchestrator, dag(steps)).await;
    let replay = orchestrator.replay(&who(), first.run, Resubmit::default()).await.unwrap();
    assert!(replay.new && replay.run.replay_of == Some(first.run));
    let second = ended(&orchestrator, replay.run.run).await;
    assert_eq!((second.plan_hash, second.inputs_hash), (first.plan_hash, first.inputs_hash));
    assert_eq!((second.outputs_hash, witness.total()), (first.outputs_hash, 4));
    let missing = orchestrator.replay(&stranger(), first.run, Resubmit::default()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_replay_with_a_token_is_one_run_in_the_trace_of_whoever_asked_first() {
    let orchestrator = builder().start().unwrap();
    let first = run(&orchestrator, dag("  - { id: a, uses: fn/echo }\n")).await.run;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let along = |token: &str| Resubmit {
        run_token: Some(token.to_owned()),
        traceparent: Some(traceparent.to_owned()),
        baggage: Some("user=alice".to_owned()),
    };
    let replay = orchestrator.replay(&who(), first, along("again")).await.unwrap();
    let created = orchestrator.inspect(&who(), replay.run.run).await.unwrap().created.clone();
    assert_eq!(
        (created.traceparent.as_deref(), created.baggage.as_deref()),
        (Some(traceparent), Some("user=alice"))
    );
    let twice = orchestrator.replay(&who(), first, along("again")).await.unwrap();
    assert_eq!((twice.new, twice.run.run), (false, replay.run.run));
    let rerun = orchestrator.rerun(&who(), first, &"a".parse().unwrap(), along("from a")).await.unwrap();
    assert!(rerun.new && rerun.run.run != replay.run.run);
    // The token names a replay of another run.
    let other = orchestrator.replay(&who(), replay.run.run, along("again")).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Conflict);
    let bad = Resubmit { baggage: Some("a=\n".to_owned()), ..Resubmit::default() };
    assert_eq!(orchestrator.replay(&who(), first, bad).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn a_rerun_executes_what_is_downstream_only() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let steps = r#"
  - { id: a, uses: fn/act, with: { value: 7 } }
  - { id: each, uses: fn/act, forEach: { items: [1, 2] }, with: { value: "${{ item }}" } }
  - { id: b, uses: fn/act, needs: [a, each], with: { value: "${{ [steps.a.output, steps.each.output] }}" } }
  - { id: c, uses: fn/act, needs: [b], with: { value: "${{ steps.b.output }}" } }
"#;
    let first = run(&orchestrator, dag(steps)).await;
    let rerun =
        orchestrator.rerun(&who(), first.run, &"b".parse().unwrap(), Resubmit::default()).await.unwrap();
    let second = ended(&orchestrator, rerun.run.run).await;
    assert_eq!(second.status, RunStatus::Completed, "{second:?}");
    let counts = ["a", "each[0]", "b", "c"].map(|step| witness.executions(step));
    assert_eq!(counts, [1, 1, 2, 2]);
    let state = check(&orchestrator, second.run).await;
    assert_eq!(state.outputs()["c"].get(), &json!([7, [1, 2]]));
    let missing = orchestrator
        .rerun(&who(), first.run, &"nope".parse().unwrap(), Resubmit::default())
        .await
        .unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_rerun_takes_over_what_ran_beside_a_skipped_step() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let steps = r#"
  - { id: a, uses: fn/act, with: { value: 1 } }
  - { id: b, uses: fn/act, needs: [a], when: "steps.a.output == 2", with: { value: 2 } }
  - { id: c, uses: fn/act, needs: [b], when: "steps.b.status == 'skipped'", with: { value: 3 } }
  - { id: d, uses: fn/act, needs: [c], with: { value: "${{ steps.c.output }}" } }
"#;
    let first = run(&orchestrator, dag(steps)).await;
    let rerun =
        orchestrator.rerun(&who(), first.run, &"d".parse().unwrap(), Resubmit::default()).await.unwrap();
    assert_eq!(ended(&orchestrator, rerun.run.run).await.status, RunStatus::Completed);
    let state = check(&orchestrator, rerun.run.run).await;
    assert_eq!(state.outputs()["d"].get(), &json!(3));
    assert_eq!(["a", "c", "d"].map(|step| witness.executions(step)), [1, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_rerun_asks_no_gate_again_that_it_takes_over() {
    let orchestrator = builder().start().unwrap();
    let steps = r#"
  - { id: a, uses: fn/echo, when: "false" }
  - { id: gate, uses: gate/approval, needs: [a], when: "steps.a.status == 'skipped'" }
  - { id: z, uses: fn/echo, needs: [gate], with: "${{ steps.gate.output.actor }}" }
"#;
    let first = submit(&orchestrator, dag(steps)).await;
    until(&orchestrator, first, "gate", StepStatus::Waiting).await;
    orchestrator.decide(&who(), first, key("gate"), true).await.unwrap();
    ended(&orchestrator, first).await;
    let rerun =
        orchestrator.rerun(&who(), first, &"z".parse().unwrap(), Resubmit::default()).await.unwrap().run.run;
    assert_eq!(ended(&orchestrator, rerun).await.status, RunStatus::Completed);
    let state = check(&orchestrator, rerun).await;
    assert_eq!(state.outputs()["z"].get(), &json!(who().actor));
    assert!(!types(&entries(&orchestrator, rerun).await).contains(&"gate.requested"));
}

#[tokio::test(start_paused = true)]
async fn a_rerun_runs_again_what_waited_for_a_failure() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let steps = r#"
  - { id: a, uses: fn/act }
  - { id: bad, uses: fn/boom, needs: [a] }
  - { id: after, uses: fn/act, needs: [bad], when: "steps.bad.status == 'failed'" }
  - { id: z, uses: fn/act }
"#;
    let first = run(&orchestrator, dag(steps)).await;
    let rerun = orchestrator
        .rerun(&who(), first.run, &"z".parse().unwrap(), Resubmit::default())
        .await
        .unwrap()
        .run
        .run;
    assert_eq!(ended(&orchestrator, rerun).await.status, RunStatus::Failed);
    check(&orchestrator, rerun).await;
    assert_eq!(["a", "after", "z"].map(|step| witness.executions(step)), [1, 2, 2]);
}
