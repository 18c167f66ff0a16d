//! Random operations on the backend and on the model, side by side.

use std::sync::Arc;

use orch::TenantId;
use orch::ledger::{Head, RunStatus, Stream};
use orch::store::{DocKey, DocsQuery, Expect, MemoryStore, Prune, PutDoc, RunsQuery, Store};
use proptest::prelude::*;
use proptest::sample::select;

use crate::Pair;
use crate::fixture::*;

#[derive(Clone, Debug)]
enum Operation {
    /// Appends to a run, from its head `back` appends ago.
    Append {
        run: usize,
        lines: usize,
        back: usize,
        status: RunStatus,
        wake: Option<i64>,
    },
    Put {
        key: &'static str,
        expect: u64,
        body: bool,
    },
    Prune {
        run: usize,
        back: usize,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let back = || prop_oneof![6 => Just(0usize), 1 => Just(1usize), 1 => Just(2usize)];
    let append = (0..3usize, 0..4usize, back(), select(RunStatus::ALL), prop::option::of(0..4i64))
        .prop_map(|(run, lines, back, status, wake)| Operation::Append { run, lines, back, status, wake });
    let put = (select(vec!["k", "l"]), 0..5u64, any::<bool>())
        .prop_map(|(key, expect, body)| Operation::Put { key, expect, body });
    let prune = (0..3usize, back()).prop_map(|(run, back)| Operation::Prune { run, back });
    prop_oneof![5 => append, 2 => put, 1 => prune]
}

/// The heads that each run has had, so that both stores are asked the same.
type Heads = [Vec<Head>; 3];

fn head(heads: &Heads, run: usize, back: usize) -> Head {
    heads[run].iter().rev().nth(back).copied().unwrap_or(Head::EMPTY)
}

async fn apply(store: &dyn Store, tenant: &TenantId, operation: &Operation, heads: &mut Heads) -> String {
    match operation {
        Operation::Append { run, lines, back, status, wake } => {
            let mut append = append_row(tenant, *run, head(heads, *run, *back), &vec!["note"; *lines]);
            let row = append.row.as_mut().unwrap();
            (row.status, row.wake_at) = (*status, wake.map(at));
            let after = append.head;
            let error = try_land(store, append).await;
            if error.is_none() && head(heads, *run, 0) != after {
                heads[*run].push(after);
            }
            format!("{error:?}")
        }
        Operation::Put { key, expect, body } => {
            let expect = match expect {
                0 => Expect::Any,
                1 => Expect::Absent,
                version => Expect::Version(version - 1),
            };
            let key = DocKey { tenant: tenant.clone(), kind: "dag", key: (*key).into() };
            let put = PutDoc { key, expect, body: body.then(|| "{}".into()) };
            format!("{:?}", store.put_doc(&put).await.map_err(|error| error.kind()))
        }
        Operation::Prune { run, back } => {
            let runs = vec![(run_id(*run), head(heads, *run, *back))];
            let pruned = store.prune(&Prune { tenant: tenant.clone(), runs }).await.unwrap();
            if pruned > 0 {
                heads[*run].clear();
            }
            format!("{pruned}")
        }
    }
}

async fn observe(store: &dyn Store, tenant: &TenantId) -> String {
    let mut seen = Vec::new();
    for run in 0..3 {
        seen.push(format!("{:?}", whole(store, tenant, Stream::Run(run_id(run))).await));
        seen.push(format!("{:?}", store.run(&row(tenant, run, Head::EMPTY).key()).await.unwrap()));
    }
    for status in [None, Some(RunStatus::Running)] {
        let query = RunsQuery { status, limit: 2, ..RunsQuery::all(tenant.clone()) };
        seen.push(format!("{:?}", super::rows::listed_by(store, query).await));
    }
    let due = super::rows::due(store, at(2)).await;
    seen.push(format!("{:?}", due.into_iter().filter(|due| due.1 == *tenant).collect::<Vec<_>>()));
    let docs = DocsQuery { tenant: tenant.clone(), kind: "dag", after: None, limit: 5 };
    seen.push(format!("{:?}", store.docs(&docs).await.unwrap()));
    seen.join("\n")
}

/// The same operations have the same answers and leave the same behind as on [`MemoryStore`], whichever process
/// carries them out.
pub async fn differs_nowhere_from_the_model(pair: Pair<dyn Store>) {
    let pair = Arc::new(pair);
    let operations = prop::collection::vec((operation(), 0..2usize), 1..24);
    hold(40, operations, move |tenant, operations| {
        let pair = Arc::clone(&pair);
        async move {
            let (model, mut heads, mut model_heads) =
                (MemoryStore::new(), Heads::default(), Heads::default());
            for (operation, turn) in operations {
                let answer = apply(&**pair.of(turn), &tenant, &operation, &mut heads).await;
                let expected = apply(&model, &tenant, &operation, &mut model_heads).await;
                prop_assert_eq!(answer, expected, "{:?}", operation);
            }
            prop_assert_eq!(observe(&*pair.first, &tenant).await, observe(&model, &tenant).await);
            Ok(())
        }
    })
    .await;
}
