//! Steps: order, places, priorities, time, inputs and outputs.

use std::sync::Arc;
use std::time::Duration;

use orch::engine::{DagRef, Settings, Submit};
use orch::executor::{Failure, Secret, StepContext};
use orch::ledger::{Event, RunStatus, StepStatus, Stream};
use orch::store::EntriesRequest;
use orch::{ErrorKind, Limits};
use serde_json::{Value, json};

use crate::kit::*;

#[tokio::test(start_paused = true)]
async fn r5_one_token_is_one_run_however_often_it_is_submitted() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let submit = |inputs: Value| {
        let orchestrator = orchestrator.clone();
        async move {
            let document = dag("  - { id: a, uses: fn/act, with: { millis: 5 } }\n");
            let mut submit = Submit::new(DagRef::Unpublished(Box::new(document)), inputs);
            submit.run_token = Some("one".to_owned());
            orchestrator.submit(&who(), submit).await.unwrap()
        }
    };
    let tasks: Vec<_> = (0..50).map(|_| tokio::spawn(submit(json!({})))).collect();
    let mut submitted = Vec::new();
    for task in tasks {
        submitted.push(task.await.unwrap());
    }
    assert_eq!(submitted.iter().filter(|submitted| submitted.new).count(), 1);
    assert!(submitted.iter().all(|s| s.run.run == submitted[0].run.run));
    ended(&orchestrator, submitted[0].run.run).await;
    let late = submit(json!({})).await;
    assert!(!late.new && late.run.status == RunStatus::Completed, "{late:?}");
    let other = submit(json!({ "n": 1 })).await;
    assert!(other.new && other.run.run != late.run.run);
    ended(&orchestrator, other.run.run).await;
    assert_eq!(witness.total(), 2);
}

#[tokio::test(start_paused = true)]
async fn all_problems_of_inputs_are_told_at_once_and_nothing_is_created() {
    let orchestrator = builder().start().unwrap();
    let document = document(
        r#"
inputs:
  type: object
  properties: { n: { type: integer }, name: { type: string, minLength: 3 } }
  required: [n, missing]
steps:
  - { id: a, uses: fn/echo }
"#,
    );
    let submit = Submit::new(DagRef::Unpublished(Box::new(document)), json!({ "n": "x", "name": "ab" }));
    let error = orchestrator.submit(&who(), submit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    assert!(text.contains("/n") && text.contains("/name") && text.contains("missing"), "{text}");
    let runs = orchestrator.runs(&who(), orch::store::RunsQuery::all(who().tenant)).await.unwrap();
    assert!(runs.runs.is_empty());
}

#[tokio::test(start_paused = true)]
async fn inputs_too_large_for_the_ledger_are_refused() {
    let orchestrator = builder().start().unwrap();
    let big = json!({ "text": "x".repeat(Limits::default().payload_bytes) });
    let document = dag("  - { id: a, uses: fn/echo }\n");
    let submit = Submit::new(DagRef::Unpublished(Box::new(document)), big);
    let error = orchestrator.submit(&who(), submit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
}

#[tokio::test(start_paused = true)]
async fn steps_nothing_here_can_execute_are_named() {
    let orchestrator = builder().start().unwrap();
    let document = dag("  - { id: a, uses: fn/nowhere }\n  - { id: b, uses: wasm/none }\n");
    let submit = Submit::new(DagRef::Unpublished(Box::new(document)), json!({}));
    let error = orchestrator.submit(&who(), submit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("fn/nowhere (a)") && text.contains("wasm/none (b)"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn r3_with_one_place_steps_start_in_plan_order_every_time() {
    let steps = r#"
  - { id: d, uses: fn/sleep, with: SPAN }
  - { id: b, uses: fn/sleep, with: SPAN }
  - { id: a, uses: fn/sleep, with: SPAN, needs: [d] }
  - { id: c, uses: fn/sleep, with: SPAN }
  - { id: e, uses: fn/sleep, with: SPAN, needs: [b, c] }
  - { id: each, uses: fn/sleep, with: SPAN, forEach: { items: [1, 2, 3] } }
"#;
    // Where no time passes all are ready at the same instant; where it does, what is ready first goes first.
    let tied = ["b", "c", "d", "a", "e", "each[0]", "each[1]", "each[2]"];
    let timed = ["b", "c", "d", "each[0]", "each[1]", "each[2]", "e", "a"];
    start_order(&steps.replace("SPAN", "0"), &tied).await;
    start_order(&steps.replace("SPAN", "7"), &timed).await;
}

async fn start_order(steps: &str, expected: &[&str]) {
    for _ in 0..20 {
        let orchestrator = builder().settings(Settings { slots: 1, ..quick() }).start().unwrap();
        let row = run(&orchestrator, dag(steps)).await;
        let entries = entries(&orchestrator, row.run).await;
        let started = entries.iter().filter_map(|entry| match &entry.event {
            Event::StepStarted(started) => Some(started.step.to_string()),
            _ => None,
        });
        assert_eq!(started.collect::<Vec<_>>(), expected);
        orchestrator.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn higher_priorities_start_first() {
    let witness = Witness::default();
    let settings = Settings { slots: 1, ..quick() };
    let orchestrator = witness.watch(builder()).settings(settings).start().unwrap();
    let steps = r#"
  - { id: a, uses: fn/act, with: { millis: 10 } }
  - { id: low, uses: fn/act, needs: [a], priority: -5 }
  - { id: mid, uses: fn/act, needs: [a] }
  - { id: top, uses: fn/act, needs: [a], priority: 5 }
"#;
    run(&orchestrator, dag(steps)).await;
    assert_eq!(witness.order(), ["a", "top", "mid", "low"]);
}

#[tokio::test(start_paused = true)]
async fn a_for_each_keeps_to_max_parallel_and_uses_it() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let steps = r#"
  - { id: each, uses: fn/act, forEach: { items: [1, 2, 3, 4, 5, 6, 7, 8, 9], maxParallel: 3 }, with: { millis: 50, group: g, fails: 1 }, retry: { maxAttempts: 3, backoff: 10ms } }
"#;
    assert_eq!(run(&orchestrator, dag(steps)).await.status, RunStatus::Completed);
    assert_eq!((witness.most("g"), witness.total()), (3, 18));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_out_of_time_is_stopped_and_tried_again() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let steps = r#"
  - { id: a, uses: fn/act, with: { millis: 5000 }, timeout: 1s, retry: { maxAttempts: 2, backoff: 10ms } }
"#;
    let begun = tokio::time::Instant::now();
    let row = run(&orchestrator, dag(steps)).await;
    assert_eq!(row.status, RunStatus::Failed);
    assert_eq!((witness.total(), witness.stopped()), (2, 2));
    assert_eq!(step(&state(&orchestrator, row.run).await, "a").error.as_ref().unwrap().code, "timeout");
    assert!(begun.elapsed().as_millis() < 3_000);
}

#[tokio::test(start_paused = true)]
async fn all_attempts_of_a_step_together_keep_to_its_total_time() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let steps = r#"
  - { id: a, uses: fn/act, with: { fails: 1000 }, totalTimeout: 3s, retry: { maxAttempts: 50, backoff: 500ms, maxBackoff: 500ms } }
"#;
    let begun = tokio::time::Instant::now();
    assert_eq!(run(&orchestrator, dag(steps)).await.status, RunStatus::Failed);
    assert!((2_000..3_600).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    assert!((5..12).contains(&witness.total()), "{}", witness.total());
}

#[tokio::test(start_paused = true)]
async fn a_run_out_of_time_fails_and_stops_what_runs() {
    let witness = Witness::default();
    let orchestrator = witness.watch(builder()).start().unwrap();
    let text = "timeout: 2s\nsteps:\n  - { id: a, uses: fn/act, with: { millis: 60000 } }\n  - { id: b, uses: fn/act, needs: [a] }\n";
    let begun = tokio::time::Instant::now();
    let row = run(&orchestrator, document(text)).await;
    assert!(begun.elapsed().as_millis() < 2_500, "{:?}", begun.elapsed());
    assert!(row.status == RunStatus::Failed && row.error.unwrap().starts_with("run_timeout"));
    assert_eq!((witness.stopped(), witness.executions("b")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_large_output_becomes_an_artifact() {
    let size = Limits::default().payload_bytes + 1;
    let orchestrator = builder()
        .task("big", move |_, _: Value| async move { Ok::<_, Failure>("x".repeat(size)) })
        .start()
        .unwrap();
    let steps = "  - { id: a, uses: fn/big }\n  - { id: b, uses: fn/echo, needs: [a], with: \"${{ steps.a.output.artifact.size }}\" }\n";
    let row = run(&orchestrator, dag(steps)).await;
    assert_eq!(row.status, RunStatus::Completed, "{row:?}");
    let state = state(&orchestrator, row.run).await;
    assert_eq!(state.outputs()["b"].get(), &json!(size + 2));
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_found_nowhere_in_the_ledger() {
    let orchestrator = builder()
        .secrets(|_, name| (name == "KEY").then(|| Secret::new("hunter22").unwrap()))
        .task("leak", |context: StepContext, fails: bool| async move {
            let text = format!("it is {}", context.secrets["KEY"].expose());
            context.progress.note(&text);
            tokio::time::sleep(Duration::from_secs(2)).await;
            if fails { Err(Failure::fatal("leak", text)) } else { Ok(text) }
        })
        .start()
        .unwrap();
    let steps = "  - { id: a, uses: fn/leak, with: false, secrets: [KEY] }\n  - { id: b, uses: fn/leak, with: true, secrets: [KEY] }\n";
    let row = run(&orchestrator, dag(steps)).await;
    let mut events = orchestrator.events(&who(), row.run, 0, false);
    let mut all = String::new();
    while let Some((_, line)) = events.next().await.unwrap() {
        all.push_str(&line);
    }
    assert!(!all.contains("hunter22") && all.matches("[redacted]").count() >= 3, "{all}");
    assert!(all.contains("attempt.progress"));
}

#[tokio::test(start_paused = true)]
async fn a_missing_secret_fails_the_step_and_gives_its_slots_back() {
    let orchestrator =
        builder().settings(Settings { lease: Duration::from_secs(300), ..quick() }).start().unwrap();
    let steps = r#"
  - { id: a, uses: fn/echo, secrets: [NONE], concurrency: [{ key: k, limit: 1 }] }
  - { id: b, uses: fn/echo, needs: [a], when: "true", concurrency: [{ key: k, limit: 1 }] }
"#;
    let begun = tokio::time::Instant::now();
    let row = run(&orchestrator, dag(steps)).await;
    let state = state(&orchestrator, row.run).await;
    assert_eq!(step(&state, "a").error.as_ref().unwrap().code, "secret_missing");
    assert_eq!(step(&state, "b").status, StepStatus::Succeeded);
    assert!(begun.elapsed().as_secs() < 2, "the slot came back only with its lease: {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_fails_and_leaves_its_place_free() {
    let orchestrator = builder()
        .settings(Settings { slots: 1, ..quick() })
        .task("panic", |_, _: Value| async move {
            if true {
                panic!("on purpose");
            }
            Ok::<_, Failure>(())
        })
        .start()
        .unwrap();
    let row = run(&orchestrator, dag("  - { id: a, uses: fn/panic }\n")).await;
    let state = state(&orchestrator, row.run).await;
    assert_eq!(step(&state, "a").error.as_ref().unwrap().code, "panic");
    assert_eq!(run(&orchestrator, dag("  - { id: a, uses: fn/echo }\n")).await.status, RunStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_calls_itself_cancelled_fails_its_run() {
    let orchestrator = builder()
        .task("quit", |context: StepContext, _: Value| async move {
            context.cancellation.cancel();
            std::future::pending::<()>().await;
            Ok::<_, Failure>(())
        })
        .start()
        .unwrap();
    let row = run(&orchestrator, dag("  - { id: a, uses: fn/quit }\n")).await;
    assert_eq!(row.status, RunStatus::Failed, "{row:?}");
}

#[tokio::test(start_paused = true)]
async fn r4_a_timer_is_not_put_off_by_checks_for_lost_hints() {
    // `b` waits in the queue for hours; every 30 s the run is looked at because of it. `nap` ends on time.
    let settings = Settings { slots: 1, ..quick() };
    let orchestrator = builder().settings(settings).clock(Arc::new(TokioClock::new())).start().unwrap();
    let blocker = submit(&orchestrator, dag("  - { id: x, uses: fn/sleep, with: 200000 }\n")).await;
    millis(100).await;
    let steps = "  - { id: b, uses: fn/echo }\n  - { id: nap, uses: wait/sleep, with: { duration: 65s } }\n";
    let begun = tokio::time::Instant::now();
    let waiting = submit(&orchestrator, dag(steps)).await;
    until(&orchestrator, waiting, "nap", StepStatus::Succeeded).await;
    assert!((65_000..66_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    ended(&orchestrator, blocker).await;
    assert_eq!(ended(&orchestrator, waiting).await.status, RunStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_wide_run_is_written_in_appends_of_bounded_length_and_ends() {
    let mut settings = quick();
    settings.limits.append_entries = 20;
    let orchestrator = builder().settings(settings).start().unwrap();
    let steps = format!(
        "  - {{ id: each, uses: fn/echo, forEach: {{ items: {:?} }}, with: \"${{{{ item }}}}\" }}\n",
        (0..300).collect::<Vec<_>>()
    );
    let row = run(&orchestrator, dag(&steps)).await;
    assert_eq!(row.status, RunStatus::Completed);
    check(&orchestrator, row.run).await;
    // A page of one entry holds the rest of its append.
    let (mut after, mut longest) = (0, 0);
    loop {
        let stream = Stream::Run(row.run);
        let request = EntriesRequest { tenant: who().tenant, stream, after, limit: 1 };
        let page = orchestrator.store().entries(&[request]).await.unwrap().remove(0);
        longest = longest.max(page.last - after);
        after = page.last;
        if !page.more() {
            break;
        }
    }
    assert!((20..60).contains(&longest), "{longest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_that_block_their_threads_do_not_hold_up_those_behind_them() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let receiver = Arc::new(std::sync::Mutex::new(receiver));
    let blocks = move |_: StepContext, _: Value| {
        let receiver = Arc::clone(&receiver);
        async move {
            let freed = || receiver.lock().unwrap().recv_timeout(Duration::from_secs(60)).is_ok();
            let freed = tokio::task::block_in_place(freed);
            if freed { Ok(()) } else { Err(Failure::fatal("held_up", "nobody else came to run")) }
        }
    };
    let frees = move |_: StepContext, _: Value| {
        let sender = sender.clone();
        async move { (0..8).try_for_each(|_| sender.send(())).map_err(|e| Failure::from_error("gone", &e)) }
    };
    let orchestrator =
        orch::engine::Orchestrator::builder().task("block", blocks).task("free", frees).start().unwrap();
    let steps: Vec<String> = (0..8).map(|n| format!("  - {{ id: a{n}, uses: fn/block }}\n")).collect();
    let row = run(&orchestrator, dag(&format!("{}  - {{ id: z, uses: fn/free }}\n", steps.concat()))).await;
    assert_eq!(row.status, RunStatus::Completed, "{row:?}");
    orchestrator.shutdown().await;
}
