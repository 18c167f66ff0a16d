//! The feed of a tenant, where a store has one.

use std::sync::Arc;

use orch::ErrorKind;
use orch::ledger::{Head, RunStatus, Stream};
use orch::store::{FeedItem, FeedPage, FeedQuery, Prune, Store};
use orch::{RunId, TenantId};

use crate::Pair;
use crate::fixture::*;

async fn page(
    store: &dyn Store,
    tenant: &TenantId,
    after: Option<&str>,
    limit: usize,
) -> orch::Result<FeedPage> {
    let (tenant, after) = (tenant.clone(), after.map(str::to_owned));
    store.feed(&FeedQuery { tenant, after, limit }).await
}

/// Where the feed ends at present; nothing where the store has none.
async fn end(store: &dyn Store, tenant: &TenantId) -> Option<String> {
    match page(store, tenant, None, 10).await {
        Ok(page) => {
            assert!(page.items.is_empty() && !page.more, "from now on there is nothing yet");
            Some(page.next)
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            None
        }
    }
}

/// Everything after a cursor.
async fn rest(store: &dyn Store, tenant: &TenantId, after: &str, limit: usize) -> Vec<FeedItem> {
    let (mut items, mut after) = (Vec::new(), after.to_owned());
    loop {
        let page = page(store, tenant, Some(&after), limit).await.unwrap();
        assert!(page.items.len() <= limit && page.next.len() <= 1_024);
        items.extend(page.items);
        after = page.next;
        if !page.more {
            return items;
        }
    }
}

fn told(items: &[FeedItem]) -> Vec<(RunId, u64, String)> {
    items.iter().map(|item| (item.run, item.first, item.lines.clone())).collect()
}

/// T1: a feed tells everything that was appended to the runs of its tenant once and in order, whoever appended it, and
/// nothing else; it goes on after any of it.
pub async fn t1_a_feed_tells_everything_of_its_tenant_once_in_order(pair: Pair<dyn Store>) {
    let (a, b) = (tenant("a"), tenant("b"));
    let early = append(&a, Stream::Run(run_id(9)), Head::EMPTY, &["before"]);
    land(&*pair.first, early).await;
    let Some(begin) = end(&*pair.second, &a).await else { return };
    let mut heads = [Head::EMPTY; 3];
    let mut expected = Vec::new();
    for turn in 0..24 {
        let number = turn % 3;
        let notes = &["one", "two", "three"][..=turn % 3];
        let append = append(&a, Stream::Run(run_id(number)), heads[number], notes);
        expected.push((run_id(number), heads[number].seq + 1, append.lines.to_string()));
        heads[number] = land(&**pair.of(turn), append).await;
        // What is none of its business.
        let other = self::append(&b, Stream::Run(run_id(100 + turn)), Head::EMPTY, &["theirs"]);
        land(&**pair.of(turn + 1), other).await;
        if turn == 5 {
            land(&*pair.first, self::append(&a, Stream::Audit, Head::EMPTY, &["audit"])).await;
        }
    }
    for (reader, limit) in [(&pair.first, 1), (&pair.second, 7), (&pair.first, 500)] {
        assert_eq!(told(&rest(&**reader, &a, &begin, limit).await), expected, "{limit}");
    }
    for (place, item) in rest(&*pair.first, &a, &begin, 5).await.iter().enumerate() {
        let after = rest(&*pair.second, &a, &item.cursor, 4).await;
        assert_eq!(told(&after), expected[place + 1..], "after {}", item.cursor);
    }
    for wrong in ["", "?", "~1", "1"] {
        let refused = page(&*pair.first, &a, Some(wrong), 10).await;
        assert_eq!(kind(refused), Some(ErrorKind::Invalid), "{wrong:?}");
    }
}

/// While two processes append, whoever reads along misses nothing and reads nothing twice.
pub async fn a_feed_read_along_with_racing_appends_has_no_gap(pair: Pair<dyn Store>) {
    const APPENDS: u64 = 60;
    let a = tenant("a");
    let Some(begin) = end(&*pair.first, &a).await else { return };
    let write = |store: Arc<dyn Store>, number: usize| {
        let a = a.clone();
        async move {
            let mut head = Head::EMPTY;
            for _ in 0..APPENDS {
                head = land(&*store, append(&a, Stream::Run(run_id(number)), head, &["note"])).await;
            }
        }
    };
    let writers = [write(pair.first.clone(), 0), write(pair.second.clone(), 1), write(pair.first.clone(), 2)];
    let writing = tokio::spawn(race(writers));
    let (mut after, mut seen) = (begin, [0; 3]);
    while seen != [APPENDS; 3] {
        let page = page(&*pair.second, &a, Some(&after), 10).await.unwrap();
        for item in &page.items {
            let number = (0..3).find(|number| run_id(*number) == item.run).unwrap();
            assert_eq!(item.first, seen[number] + 1, "nothing is missing and nothing comes twice");
            seen[number] += 1;
        }
        after = page.next;
        // A store in memory never waits, and the writers may share this thread.
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
    assert!(rest(&*pair.first, &a, &after, 10).await.is_empty());
}

/// P1: where runs were pruned, a feed goes on without a gap, or says that it does not know the place any more.
pub async fn p1_a_feed_never_hides_a_gap_where_runs_were_pruned(pair: Pair<dyn Store>) {
    let a = tenant("a");
    let Some(begin) = end(&*pair.first, &a).await else { return };
    let mut number = 0;
    for pruned in [1, 2, 3] {
        let mut runs = Vec::new();
        for _ in 0..3 {
            number += 1;
            let mut append = append_row(&a, number, Head::EMPTY, &["note"]);
            append.row.iter_mut().for_each(|row| row.status = RunStatus::Completed);
            runs.push((run_id(number), land(&*pair.first, append).await));
        }
        let cursor = rest(&*pair.second, &a, &end_of(&*pair.second, &a, &begin).await, 10).await;
        assert!(cursor.is_empty());
        let cursor = end(&*pair.second, &a).await.unwrap();
        let gone = runs.split_off(3 - pruned);
        assert_eq!(pair.second.prune(&Prune { tenant: a.clone(), runs: gone }).await.unwrap(), pruned);
        let mut expected = Vec::new();
        for _ in 0..5 {
            number += 1;
            let append = append(&a, Stream::Run(run_id(number)), Head::EMPTY, &["later"]);
            expected.push((run_id(number), 1, append.lines.to_string()));
            land(&*pair.first, append).await;
        }
        match page(&*pair.second, &a, Some(&cursor), 100).await {
            Ok(page) => assert_eq!(told(&page.items), expected, "{pruned} pruned"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{pruned} pruned"),
        }
    }
}

/// The end of the feed, and that everything up to it can be read.
async fn end_of(store: &dyn Store, tenant: &TenantId, begin: &str) -> String {
    let end = end(store, tenant).await.unwrap();
    if let Ok(page) = page(store, tenant, Some(begin), 500).await {
        assert!(page.items.iter().all(|item| item.lines.ends_with('\n')));
    }
    end
}
