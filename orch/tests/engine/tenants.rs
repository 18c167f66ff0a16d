//! T1: another tenant's data does not exist.

use orch::engine::{DagRef, Resubmit, Submit};
use orch::ledger::{RunStatus, StepStatus};
use orch::store::RunsQuery;
use orch::{Error, ErrorKind, Payload};
use serde_json::json;

use crate::kit::*;

#[tokio::test(start_paused = true)]
async fn t1_no_method_touches_or_reveals_another_tenants_run() {
    let orchestrator = builder().start().unwrap();
    let steps =
        "  - { id: gate, uses: gate/approval }\n  - { id: a, uses: fn/boom, retry: { onExhausted: park } }\n";
    let run = submit(&orchestrator, dag(steps)).await;
    until(&orchestrator, run, "a", StepStatus::Parked).await;
    let (o, them) = (&orchestrator, stranger());
    let refusals: Vec<Error> = vec![
        o.run(&them, run).await.unwrap_err(),
        o.inspect(&them, run).await.unwrap_err(),
        o.wait(&them, run).await.unwrap_err(),
        o.events(&them, run, 0, false).next().await.unwrap_err(),
        o.cancel(&them, run).await.unwrap_err(),
        o.pause(&them, run).await.unwrap_err(),
        o.resume(&them, run).await.unwrap_err(),
        o.retry(&them, run, vec![]).await.unwrap_err(),
        o.decide(&them, run, key("gate"), true).await.unwrap_err(),
        o.signal(&them, run, "go", Payload::null()).await.unwrap_err(),
        o.replay(&them, run, Resubmit::default()).await.unwrap_err(),
        o.rerun(&them, run, &"a".parse().unwrap(), Resubmit::default()).await.unwrap_err(),
    ];
    for error in refusals {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(!error.to_string().contains("acme"), "{error}");
    }
    assert!(o.runs(&them, RunsQuery::all(who().tenant)).await.unwrap().runs.is_empty());
    assert!(o.depth(&them).await.unwrap().is_empty());
    let page = orch::store::EntriesRequest {
        tenant: them.tenant.clone(),
        stream: orch::ledger::Stream::Audit,
        after: 0,
        limit: 10,
    };
    let audit = o.store().entries(&[page]).await.unwrap();
    assert!(audit[0].lines.is_empty(), "asking for what is not there leaves no record");
    let state = check(o, run).await;
    assert_eq!(step(&state, "gate").status, StepStatus::Waiting);
}

#[tokio::test(start_paused = true)]
async fn t1_the_same_token_of_two_tenants_is_two_runs() {
    let orchestrator = builder().start().unwrap();
    let submit = || {
        let document = dag("  - { id: a, uses: fn/echo }\n");
        let mut submit = Submit::new(DagRef::Unpublished(Box::new(document)), json!({}));
        submit.run_token = Some("one".to_owned());
        submit
    };
    let ours = orchestrator.submit(&who(), submit()).await.unwrap();
    let theirs = orchestrator.submit(&stranger(), submit()).await.unwrap();
    assert!(ours.new && theirs.new && ours.run.run != theirs.run.run);
    assert_eq!(orchestrator.wait(&stranger(), theirs.run.run).await.unwrap().status, RunStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn t1_published_dags_belong_to_their_tenant() {
    let orchestrator = builder().start().unwrap();
    let id = "test".parse().unwrap();
    orchestrator.publish(&who(), dag("  - { id: a, uses: fn/echo }\n")).await.unwrap();
    let them = stranger();
    let refusals = [
        orchestrator.dag(&them, &id).await.unwrap_err(),
        orchestrator.dag_version(&them, &id, Some(1)).await.unwrap_err(),
        orchestrator.set_disabled(&them, &id, 1, true).await.unwrap_err(),
        orchestrator.submit(&them, Submit::new(DagRef::Latest(id.clone()), json!({}))).await.unwrap_err(),
    ];
    assert!(refusals.iter().all(|error| error.kind() == ErrorKind::NotFound), "{refusals:?}");
    assert!(orchestrator.dags(&them, None, 10).await.unwrap().0.is_empty());
    orchestrator.set_disabled(&who(), &id, 1, true).await.unwrap();
    let submit = Submit::new(DagRef::Version(id.clone(), 1), json!({}));
    assert_eq!(orchestrator.submit(&who(), submit).await.unwrap_err().kind(), ErrorKind::Refused);
}

#[tokio::test(start_paused = true)]
async fn a_version_is_changed_only_if_it_is_still_as_its_caller_saw_it() {
    let orchestrator = builder().start().unwrap();
    let id = "test".parse().unwrap();
    orchestrator.publish(&who(), dag("  - { id: a, uses: fn/echo }\n")).await.unwrap();
    // Both have seen it enabled; the second comes too late, also for what would change nothing.
    assert!(orchestrator.set_disabled_if(&who(), &id, 1, false, true).await.unwrap().disabled);
    for disabled in [true, false] {
        let late = orchestrator.set_disabled_if(&who(), &id, 1, false, disabled).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Conflict);
    }
    assert!(orchestrator.dag(&who(), &id).await.unwrap().versions[0].disabled);
    assert!(!orchestrator.set_disabled_if(&who(), &id, 1, true, false).await.unwrap().disabled);
}
