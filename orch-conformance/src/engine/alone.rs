//! What runs do: their steps may be executed by either engine, and whoever steers them may ask the other one.

use orch::engine::DagRef;
use orch::ledger::{RunStatus, StepStatus};
use orch::{ErrorKind, Payload, Submit};
use serde_json::json;

use super::Backends;
use super::kit::*;

/// R3: a chain of twelve steps, each with what the one before it made.
pub async fn r3_a_chain_runs_in_declared_order(backends: Backends) {
    let fleet = Fleet::start(backends);
    let link = |n: u32| match n {
        1 => "  - { id: s01, uses: fn/act, with: { value: [1] } }\n".to_owned(),
        n => format!(
            "  - {{ id: s{n:02}, uses: fn/act, needs: [s{:02}], with: {{ value: \"${{{{ steps.s{:02}.output + [{n}] }}}}\" }} }}\n",
            n - 1,
            n - 1
        ),
    };
    let chain = dag("chain", &(1..=12).map(link).collect::<String>());
    let run = fleet.submit(0, &chain).await;
    assert_eq!(fleet.ended(1, run).await.status, RunStatus::Completed);
    let all = entries(fleet.of(1), run).await;
    in_declared_order(&chain, &all);
    let names: Vec<String> = (1..=12).map(|n| format!("s{n:02}")).collect();
    assert_eq!(succeeded(&all), names);
    let made = fleet.state(run).await.outputs()["s12"].get().clone();
    assert_eq!(made, json!((1..=12).collect::<Vec<u32>>()));
    assert_eq!(fleet.witness.total(), 12);
    fleet.finish().await;
}

/// R3: the two sides of a diamond after its beginning, its end after both.
pub async fn r3_a_diamond_runs_in_declared_order(backends: Backends) {
    let fleet = Fleet::start(backends);
    let diamond = dag(
        "diamond",
        r#"
  - { id: end, uses: fn/act, needs: [left, right], with: { value: "${{ steps.left.output + steps.right.output }}" } }
  - { id: right, uses: fn/act, needs: [begin], with: { value: 20 } }
  - { id: left, uses: fn/act, needs: [begin], with: { value: 22, millis: 20 } }
  - { id: begin, uses: fn/act }
"#,
    );
    let run = fleet.submit(1, &diamond).await;
    assert_eq!(fleet.ended(0, run).await.status, RunStatus::Completed);
    in_declared_order(&diamond, &entries(fleet.of(0), run).await);
    assert_eq!(fleet.state(run).await.outputs()["end"].get(), &json!(42));
    fleet.finish().await;
}

/// R1: thirty-six children of one step, each executed once, and their outputs in their order.
pub async fn r1_a_fan_out_runs_every_child_once(backends: Backends) {
    let fleet = Fleet::start(backends);
    let items: Vec<u32> = (0..36).collect();
    let fan = dag(
        "fan",
        &format!(
            r#"
  - {{ id: each, uses: fn/act, forEach: {{ items: {items:?}, maxParallel: 12 }}, with: {{ millis: 5, value: "${{{{ item }}}}" }} }}
  - {{ id: all, uses: fn/act, needs: [each], with: {{ value: "${{{{ steps.each.output }}}}" }} }}
"#
        ),
    );
    let run = fleet.submit(0, &fan).await;
    assert_eq!(fleet.ended(1, run).await.status, RunStatus::Completed);
    assert_eq!(fleet.state(run).await.outputs()["all"].get(), &json!(items));
    let mut done = succeeded(&entries(fleet.of(0), run).await);
    done.sort();
    let count = done.len();
    done.dedup();
    assert_eq!((count, done.len(), fleet.witness.total()), (38, 38, 37), "the step itself is not executed");
    fleet.finish().await;
}

/// R1: what fails is tried again until its attempts are used up, each attempt executed once.
pub async fn r1_a_failing_step_is_tried_again(backends: Backends) {
    let fleet = Fleet::start(backends);
    let tries = |fails: u32| {
        let steps = format!(
            "  - {{ id: a, uses: fn/act, with: {{ fails: {fails} }}, retry: {{ maxAttempts: 3, backoff: 20ms }} }}\n"
        );
        dag("tries", &steps)
    };
    let (good, bad) = (fleet.submit(0, &tries(2)).await, fleet.submit(1, &tries(3)).await);
    assert_eq!(fleet.ended(1, good).await.status, RunStatus::Completed);
    assert_eq!(step(&fleet.state(good).await, "a").attempt, 3);
    assert_eq!(fleet.ended(0, bad).await.status, RunStatus::Failed);
    let state = fleet.state(bad).await;
    assert_eq!(step(&state, "a").error.as_ref().map(|error| error.code.as_str()), Some("flaky"));
    assert_eq!(fleet.witness.total(), 6);
    fleet.finish().await;
}

/// R3: a condition decides what runs, and a step that waits for a failure runs after one.
pub async fn r3_conditions_decide_what_runs(backends: Backends) {
    let fleet = Fleet::start(backends);
    let conditions = dag(
        "conditions",
        r#"
  - { id: a, uses: fn/act, with: { value: 3 } }
  - { id: big, uses: fn/act, needs: [a], when: "steps.a.output > 2" }
  - { id: small, uses: fn/act, needs: [a], when: "steps.a.output <= 2" }
  - { id: after, uses: fn/act, needs: [small] }
"#,
    );
    let run = fleet.submit(0, &conditions).await;
    assert_eq!(fleet.ended(1, run).await.status, RunStatus::Completed);
    let state = fleet.state(run).await;
    let status = |id| step(&state, id).status;
    assert_eq!((status("big"), status("small")), (StepStatus::Succeeded, StepStatus::Skipped));
    assert_eq!((status("after"), fleet.witness.total()), (StepStatus::Skipped, 2));
    fleet.finish().await;
}

/// A gate opens for a verdict given to the engine that did not submit the run, and a signal is kept until it is waited for.
pub async fn gates_and_signals_reach_a_run_through_either_engine(backends: Backends) {
    let fleet = Fleet::start(backends);
    let gated = dag(
        "gated",
        r#"
  - { id: gate, uses: gate/approval, with: { ask: "go?" }, timeout: 10m }
  - { id: go, uses: wait/signal, needs: [gate], with: { name: go }, timeout: 10m }
  - { id: a, uses: fn/act, needs: [go], with: { value: "${{ steps.go.output }}" } }
"#,
    );
    let run = fleet.submit(0, &gated).await;
    fleet.until(run, "gate", StepStatus::Waiting).await;
    fleet.of(0).signal(&who(), run, "go", Payload::new(&json!("now")).unwrap()).await.unwrap();
    fleet.of(1).decide(&who(), run, key("gate"), true).await.unwrap();
    assert_eq!(fleet.ended(0, run).await.status, RunStatus::Completed);
    assert_eq!(fleet.state(run).await.outputs()["a"].get(), &json!("now"));
    let again = fleet.of(0).decide(&who(), run, key("gate"), false).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Refused, "{again:?}");
    fleet.finish().await;
}

/// A step that another DAG's run carries out has that run's output; the DAG was published to the other engine.
pub async fn r1_a_sub_dag_is_a_run_of_its_own(backends: Backends) {
    let fleet = Fleet::start(backends);
    let child = dag("child", "  - { id: out, uses: fn/act, with: { value: 7 } }\n");
    assert_eq!(fleet.of(0).publish(&who(), child.clone()).await.unwrap().version, 1);
    assert_eq!(fleet.of(1).publish(&who(), child).await.unwrap().version, 1, "it is there already");
    let parent = dag(
        "parent",
        r#"
  - { id: sub, uses: dag/child@1 }
  - { id: a, uses: fn/act, needs: [sub], with: { value: "${{ steps.sub.output.out }}" } }
"#,
    );
    let run = fleet.submit(1, &parent).await;
    assert_eq!(fleet.ended(0, run).await.status, RunStatus::Completed);
    assert_eq!(fleet.state(run).await.outputs()["a"].get(), &json!(7));
    let submit = Submit::new(DagRef::Version("child".parse().unwrap(), 1), json!({}));
    let alone = fleet.of(0).submit(&who(), submit).await.unwrap().run.run;
    assert_eq!(fleet.ended(1, alone).await.status, RunStatus::Completed);
    assert_eq!(fleet.witness.total(), 3);
    fleet.finish().await;
}

/// Cancelling through one engine stops what executes in the other, and nothing starts afterwards.
pub async fn r4_cancelling_ends_what_runs_in_either_engine(backends: Backends) {
    let fleet = Fleet::start(backends);
    let long = dag(
        "long",
        r#"
  - { id: each, uses: fn/act, forEach: { items: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] }, with: { millis: 600000 } }
  - { id: after, uses: fn/act, needs: [each] }
"#,
    );
    let run = fleet.submit(0, &long).await;
    fleet.until_running(u32::try_from(SLOTS * 2).unwrap()).await;
    fleet.of(1).cancel(&who().because("enough"), run).await.unwrap();
    assert_eq!(fleet.ended(0, run).await.status, RunStatus::Cancelled);
    fleet.until_running(0).await;
    assert_eq!(fleet.witness.total(), u32::try_from(SLOTS * 2).unwrap());
    assert_eq!(step(&fleet.state(run).await, "after").status, StepStatus::Cancelled);
    fleet.finish().await;
}
