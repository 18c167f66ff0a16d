//! Rows, listings and tenants.

use orch::ledger::{Head, RunStatus, StepCounts, Stream};
use orch::store::{DocKey, DocsQuery, DueQuery, Expect, PutDoc, RunsQuery, Store};
use orch::{Digest, ErrorKind, RunId, StepId, TenantId, Timestamp};

use crate::Pair;
use crate::fixture::*;

/// All runs of a tenant, page by page.
pub(super) async fn listed(store: &dyn Store, tenant: &TenantId) -> Vec<RunId> {
    listed_by(store, RunsQuery { limit: 3, ..RunsQuery::all(tenant.clone()) }).await
}

pub(super) async fn listed_by(store: &dyn Store, mut query: RunsQuery) -> Vec<RunId> {
    let mut runs = Vec::new();
    loop {
        let page = store.runs(&query).await.unwrap();
        assert!(page.runs.len() <= query.limit, "a page is no longer than asked for");
        assert!(page.runs.iter().all(|row| row.tenant == query.tenant), "a listing stays in its tenant");
        runs.extend(page.runs.iter().map(|row| row.run));
        match page.next {
            Some(_) if page.runs.len() < query.limit => panic!("a page before the last is full"),
            Some(next) => query.cursor = Some(next),
            None => return runs,
        }
    }
}

/// All due runs, page by page.
pub(super) async fn due(store: &dyn Store, until: Timestamp) -> Vec<(Timestamp, TenantId, RunId)> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.due(&DueQuery { until, after, limit: 2 }).await.unwrap();
        assert!(page.runs.len() <= 2, "a page is no longer than asked for");
        after = page.runs.last().cloned();
        all.extend(page.runs.into_iter().map(|(at, key)| (at, key.tenant, key.run)));
        if after.is_none() {
            return all;
        }
    }
}

/// L3: a row is the row that was written, to the last microsecond.
pub async fn l3_rows_come_back_with_every_field(pair: Pair<dyn Store>) {
    let a = tenant("a");
    let mut append = append_row(&a, 1, Head::EMPTY, &["1"]);
    let full = append.row.as_mut().unwrap();
    full.dag_version = Some(u32::MAX);
    full.status = RunStatus::Failed;
    full.steps =
        StepCounts { pending: 1, queued: 2, running: 3, waiting: 4, failed: 6, cancelled: 9, ..full.steps };
    full.priority = i32::MIN;
    full.actor = "o'hara \u{0} 🦀".into();
    full.outputs_hash = Some(Digest::of("out"));
    full.error = Some("it \"broke\"\n".into());
    full.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    full.replay_of = Some(run_id(7));
    let step = StepId::new("s").unwrap();
    full.parent = Some(orch::store::ParentStep { attempt: 2, depth: 1, run: run_id(8), step: step.into() });
    (full.started_at, full.ended_at) = (Some(at(1)), Some(Timestamp::MAX));
    full.wake_at = Some(at(999_999));
    let row = full.clone();
    land(&*pair.first, append).await;
    for store in [&pair.first, &pair.second] {
        assert_eq!(store.run(&row.key()).await.unwrap().as_ref(), Some(&row));
        let page = store.runs(&RunsQuery::all(a.clone())).await.unwrap();
        assert_eq!((page.runs, page.next), (vec![row.clone()], None));
    }
}

/// L3: newest first, and by run id among runs of the same microsecond.
pub async fn l3_rows_are_listed_newest_first(pair: Pair<dyn Store>) {
    let a = tenant("a");
    let mut expected = Vec::new();
    for n in 0..12 {
        let mut append = append_row(&a, n, Head::EMPTY, &["1"]);
        let created_at = at(i64::try_from(n / 4).unwrap());
        append.row.as_mut().unwrap().created_at = created_at;
        expected.push((std::cmp::Reverse(created_at), run_id(n)));
        land(&**pair.of(n), append).await;
    }
    expected.sort();
    let expected: Vec<_> = expected.into_iter().map(|(_, run)| run).collect();
    assert_eq!(listed(&*pair.first, &a).await, expected);
}

/// L3: every filter alone and all together.
pub async fn l3_rows_are_filtered(pair: Pair<dyn Store>) {
    let a = tenant("a");
    let mut rows = Vec::new();
    for n in 0..24 {
        let mut append = append_row(&a, n, Head::EMPTY, &["1"]);
        let row = append.row.as_mut().unwrap();
        row.dag = dag(["x", "y"][n % 2]);
        row.status = RunStatus::ALL[n % RunStatus::ALL.len()];
        rows.push(row.clone());
        land(&**pair.of(n), append).await;
    }
    rows.reverse();
    let all = || RunsQuery { limit: 2, ..RunsQuery::all(a.clone()) };
    let (from, to) = (Some(at(5)), Some(at(17)));
    for query in [
        RunsQuery { dag: Some(dag("x")), ..all() },
        RunsQuery { dag: Some(dag("unknown")), ..all() },
        RunsQuery { status: Some(RunStatus::Paused), ..all() },
        RunsQuery { from, ..all() },
        RunsQuery { to, ..all() },
        RunsQuery { from: to, to: from, ..all() },
        RunsQuery { dag: Some(dag("y")), status: Some(RunStatus::Running), from, to, ..all() },
    ] {
        let fits = |row: &&orch::store::RunRow| {
            query.dag.as_ref().is_none_or(|dag| row.dag == *dag)
                && query.status.is_none_or(|status| row.status == status)
                && query.from.is_none_or(|from| row.created_at >= from)
                && query.to.is_none_or(|to| row.created_at < to)
        };
        let expected: Vec<_> = rows.iter().filter(fits).map(|row| row.run).collect();
        assert_eq!(listed_by(&*pair.second, query.clone()).await, expected, "{query:?}");
    }
}

/// L3: rows that come and go between pages do not disturb those that stay.
pub async fn l3_pages_of_rows_neither_skip_nor_repeat(pair: Pair<dyn Store>) {
    let a = tenant("a");
    for n in 10..20 {
        land(&*pair.first, append_row(&a, n, Head::EMPTY, &["1"])).await;
    }
    let mut query = RunsQuery { limit: 4, ..RunsQuery::all(a.clone()) };
    let page = pair.first.runs(&query).await.unwrap();
    let mut seen: Vec<_> = page.runs.iter().map(|row| row.run).collect();
    query.cursor = page.next;
    // More come than go, so that counting rows is not enough.
    for n in [30, 31] {
        land(&*pair.second, append_row(&a, n, Head::EMPTY, &["newer than the cursor"])).await;
    }
    let last = whole(&*pair.first, &a, Stream::Run(run_id(16))).await.head;
    let mut end = append_row(&a, 16, last, &["2"]);
    end.row.as_mut().unwrap().status = RunStatus::Completed;
    let head = land(&*pair.first, end).await;
    let prune = orch::store::Prune { tenant: a.clone(), runs: vec![(run_id(16), head)] };
    assert_eq!(pair.second.prune(&prune).await.unwrap(), 1, "the row that the cursor names is gone");
    seen.extend(listed_by(&*pair.second, query).await);
    let expected: Vec<_> = (10..20).rev().map(run_id).collect();
    assert_eq!(seen, expected);
}

/// Listings are bounded, and a cursor is not a place to write into.
pub async fn l3_pages_over_the_limit_and_foreign_cursors_are_refused(pair: Pair<dyn Store>) {
    let a = tenant("a");
    let limited = Some(ErrorKind::LimitExceeded);
    for limit in [0, 501, usize::MAX] {
        let query = RunsQuery { limit, ..RunsQuery::all(a.clone()) };
        assert_eq!(kind(pair.first.runs(&query).await), limited);
        let docs = DocsQuery { tenant: a.clone(), kind: "dag", after: None, limit };
        assert_eq!(kind(pair.first.docs(&docs).await), limited);
    }
    let query = RunsQuery { limit: 500, ..RunsQuery::all(a.clone()) };
    assert!(pair.first.runs(&query).await.unwrap().runs.is_empty());
    for cursor in ["", "x", "' or 1=1", "1.2", "9999999999999999999999.0"] {
        let query = RunsQuery { cursor: Some(cursor.into()), ..RunsQuery::all(a.clone()) };
        assert_eq!(kind(pair.first.runs(&query).await), Some(ErrorKind::Invalid), "{cursor}");
    }
}

/// R4: what must be looked at is found, in one order over all tenants.
pub async fn r4_due_runs_are_listed_by_time_tenant_and_run(pair: Pair<dyn Store>) {
    let mut expected = Vec::new();
    for n in 0..18 {
        let tenant = tenant(["a", "b", "c-1"][n % 3]);
        let mut append = append_row(&tenant, n / 2, Head::EMPTY, &["1"]);
        let wake_at = (n % 5 != 0).then(|| at(i64::try_from(n % 4).unwrap()));
        append.row.as_mut().unwrap().wake_at = wake_at;
        expected.extend(wake_at.map(|at| (at, tenant, run_id(n / 2))));
        land(&**pair.of(n), append).await;
    }
    expected.sort();
    for store in [&pair.first, &pair.second] {
        for until in -1..5 {
            let due_then: Vec<_> = expected.iter().filter(|due| due.0 <= at(until)).cloned().collect();
            assert_eq!(due(&**store, at(until)).await, due_then, "until {until}");
            let page = store.due(&DueQuery { until: at(until), after: None, limit: 1 }).await.unwrap();
            let next = expected.iter().map(|due| due.0).find(|wake_at| *wake_at > at(until));
            assert_eq!(page.next_at, next, "until {until}");
        }
    }
}

/// R4: the wake of a run is that of its last row.
pub async fn r4_a_new_row_moves_its_wake(pair: Pair<dyn Store>) {
    let (a, mut head) = (tenant("a"), Head::EMPTY);
    for wake in [Some(5), Some(3), None, Some(8), Some(8)] {
        let mut append = append_row(&a, 1, head, &["x"]);
        append.row.as_mut().unwrap().wake_at = wake.map(at);
        head = land(&*pair.first, append).await;
        let expected: Vec<_> = wake.map(|wake| (at(wake), a.clone(), run_id(1))).into_iter().collect();
        assert_eq!(due(&*pair.second, at(100)).await, expected);
    }
}

/// T1: the same run id, stream and document of two tenants are two; every reading call stays in its tenant.
pub async fn t1_tenants_do_not_see_each_other(pair: Pair<dyn Store>) {
    let (a, b) = (tenant("a"), tenant("b"));
    let mut ours = append_row(&a, 1, Head::EMPTY, &["ours"]);
    ours.row.as_mut().unwrap().status = RunStatus::Completed;
    let (lines, row_of_a) = (ours.lines.clone(), ours.row.clone());
    let head = land(&*pair.first, ours).await;
    let key = DocKey { tenant: a.clone(), kind: "dag", key: "k".into() };
    let put = PutDoc { key: key.clone(), expect: Expect::Absent, body: Some("1".into()) };
    pair.first.put_doc(&put).await.unwrap();

    let row_of_b = row(&b, 1, Head::EMPTY).key();
    let key_of_b = DocKey { tenant: b.clone(), ..key.clone() };
    assert_eq!(whole(&*pair.second, &b, Stream::Run(run_id(1))).await.head, Head::EMPTY);
    assert_eq!(pair.second.run(&row_of_b).await.unwrap(), None);
    assert!(listed(&*pair.second, &b).await.is_empty());
    assert_eq!(pair.second.doc(&key_of_b).await.unwrap(), None);
    let docs = DocsQuery { tenant: b.clone(), kind: "dag", after: None, limit: 10 };
    assert!(pair.second.docs(&docs).await.unwrap().docs.is_empty());
    assert_eq!(try_land(&*pair.second, append_row(&b, 1, head, &["x"])).await, Some(ErrorKind::Conflict));

    land(&*pair.second, append_row(&b, 1, Head::EMPTY, &["theirs"])).await;
    let put_b = PutDoc { key: key_of_b.clone(), expect: Expect::Absent, body: Some("2".into()) };
    assert_eq!(pair.second.put_doc(&put_b).await.unwrap(), 1);
    let delete_b = PutDoc { key: key_of_b, expect: Expect::Any, body: None };
    pair.second.put_doc(&delete_b).await.unwrap();
    let theirs = whole(&*pair.second, &b, Stream::Run(run_id(1))).await.head;
    let prune = orch::store::Prune { tenant: b, runs: vec![(run_id(1), head), (run_id(1), theirs)] };
    pair.second.prune(&prune).await.unwrap();
    assert_eq!(whole(&*pair.first, &a, Stream::Run(run_id(1))).await.lines, *lines);
    assert_eq!(pair.first.run(&row(&a, 1, head).key()).await.unwrap(), row_of_a);
    assert_eq!(pair.first.doc(&key).await.unwrap().unwrap().body, "1");
}
