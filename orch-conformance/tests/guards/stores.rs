//! Stores that are wrong on purpose.

use std::sync::Arc;

use async_trait::async_trait;
use orch::ledger::Head;
use orch::store::*;
use orch::{Result, RunKey, TenantId, Timestamp};
use orch_conformance::Pair;

/// What a [`Wrong`] store does wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The two processes share nothing.
    Apart,
    /// Text is normalised on the way.
    AltersText,
    /// A page begins with the chunk that holds its first entry, or with the first of all.
    IgnoresAfter,
    /// Pages come in another order than their requests.
    ReversesPages,
    /// The end of a long batch is dropped.
    LosesTheEndOfABatch,
    /// The row follows the entries in a second step, which nobody takes when the caller has gone.
    WritesInTwoSteps,
    /// A stale append is answered as one that landed, and a document is written whatever is expected.
    NeverConflicts,
    /// A conflict of one item is told to all.
    AllOrNothing,
    /// Items of one call are applied last first.
    ReversesItems,
    /// An append without lines is not looked at.
    DropsRowOnly,
    /// What is malformed is answered as if it had landed.
    AcceptsAnything,
    /// Times are kept in milliseconds.
    RoundsTimes,
    /// Rows, due runs and documents are listed the other way round.
    ReversesListings,
    /// Filters are not looked at.
    IgnoresFilters,
    /// A cursor counts rows, and may say anything; pages are as long as they are.
    CountsRows,
    /// A run that need not be looked at is due all the same.
    KeepsWaking,
    /// All tenants are one.
    MixesTenants,
    /// A feed leaves out every seventh append.
    FeedsWithGaps,
    /// Pruning is counted and forgotten.
    NeverPrunes,
    /// It says that nobody wrote, whoever wrote.
    SleepsOn,
}

#[derive(Debug)]
struct Wrong(MemoryStore, Fault);

fn wrong(fault: Fault) -> Pair<dyn Store> {
    let store = MemoryStore::new();
    let second = if fault == Fault::Apart { MemoryStore::new() } else { store.clone() };
    Pair::new(Arc::new(Wrong(store, fault)), Arc::new(Wrong(second, fault)))
}

crate::guards! { store, wrong, "store_suite":
    Apart => l1_entries_come_back_byte_for_byte l2_items_of_one_call_are_independent;
    AltersText => l1_odd_text_comes_back_byte_for_byte;
    IgnoresAfter => l1_chunk_boundaries_do_not_show l1_unknown_streams_are_empty;
    ReversesPages => l1_requests_are_answered_in_order;
    LosesTheEndOfABatch => l1_a_batch_of_a_thousand_lands;
    WritesInTwoSteps => l1_an_append_whose_answer_was_lost_landed_wholly_or_not_at_all;
    NeverConflicts =>
        l2_append_with_stale_head_changes_nothing
        l2_racing_appends_on_one_head_let_one_win
        documents_are_compared_and_swapped
        documents_put_in_a_race_let_one_win
        differs_nowhere_from_the_model;
    AllOrNothing => l2_items_of_one_call_are_independent;
    ReversesItems => l2_items_on_one_stream_apply_in_order;
    DropsRowOnly => l2_append_without_lines_replaces_the_row_only;
    AcceptsAnything => l2_malformed_appends_are_refused;
    RoundsTimes => l3_rows_come_back_with_every_field;
    ReversesListings =>
        l3_rows_are_listed_newest_first
        r4_due_runs_are_listed_by_time_tenant_and_run
        documents_are_listed_in_byte_order_page_by_page;
    IgnoresFilters => l3_rows_are_filtered;
    CountsRows =>
        l3_pages_of_rows_neither_skip_nor_repeat
        l3_pages_over_the_limit_and_foreign_cursors_are_refused;
    KeepsWaking => r4_a_new_row_moves_its_wake;
    MixesTenants => t1_tenants_do_not_see_each_other;
    FeedsWithGaps =>
        t1_a_feed_tells_everything_of_its_tenant_once_in_order
        a_feed_read_along_with_racing_appends_has_no_gap
        p1_a_feed_never_hides_a_gap_where_runs_were_pruned;
    SleepsOn => a_stamp_that_stays_says_that_nobody_wrote;
    NeverPrunes =>
        p1_a_pruned_run_leaves_nothing
        p1_moved_unfinished_and_foreign_runs_are_left_alone;
}

impl Wrong {
    fn is(&self, fault: Fault) -> bool {
        self.1 == fault
    }

    fn tenant(&self, tenant: &TenantId) -> TenantId {
        if self.is(Fault::MixesTenants) { TenantId::new("all").unwrap() } else { tenant.clone() }
    }

    fn key(&self, key: &DocKey) -> DocKey {
        DocKey { tenant: self.tenant(&key.tenant), ..key.clone() }
    }

    fn rounded(&self, row: RunRow) -> RunRow {
        let round = |at: Timestamp| Timestamp::from_micros(at.as_micros() / 1_000 * 1_000);
        if self.is(Fault::RoundsTimes) { RunRow { created_at: round(row.created_at), ..row } } else { row }
    }

    fn written(&self, append: &Append) -> Append {
        let mut append = Append { tenant: self.tenant(&append.tenant), ..append.clone() };
        if self.is(Fault::AltersText) {
            append.lines = append.lines.replace("e\u{301}", "é").into();
        }
        if let Some(row) = append.row.as_mut() {
            row.tenant = self.tenant(&row.tenant);
            if self.is(Fault::KeepsWaking) {
                row.wake_at = row.wake_at.or(Some(row.created_at));
            }
        }
        append
    }

    /// How many items of a call are looked at.
    fn kept(&self, appends: &[Append]) -> usize {
        if self.is(Fault::LosesTheEndOfABatch) { appends.len().min(500) } else { appends.len() }
    }
}

fn reversed<T>(mut list: Vec<T>, yes: bool) -> Vec<T> {
    if yes {
        list.reverse();
    }
    list
}

#[async_trait]
impl Store for Wrong {
    fn capability(&self) -> Capability {
        self.0.capability()
    }

    fn stamp(&self) -> Option<u64> {
        if self.is(Fault::SleepsOn) { Some(0) } else { self.0.stamp() }
    }

    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>> {
        let backwards = self.is(Fault::ReversesItems);
        let mut written: Vec<_> =
            appends[..self.kept(appends)].iter().map(|append| self.written(append)).collect();
        if self.is(Fault::WritesInTwoSteps) {
            let without = |append: &Append| Append { row: None, ..append.clone() };
            let answers = self.0.append(&written.iter().map(without).collect::<Vec<_>>()).await?;
            tokio::task::yield_now().await;
            let landed = written.into_iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
            let rows = landed.map(|(append, _)| Append { expected: append.head, lines: "".into(), ..append });
            self.0.append(&rows.collect::<Vec<_>>()).await?;
            return Ok(answers);
        }
        if self.is(Fault::DropsRowOnly) {
            written.retain(|append| !append.lines.is_empty());
        }
        let mut answers = reversed(self.0.append(&reversed(written, backwards)).await?, backwards);
        answers.resize_with(appends.len(), || Ok(()));
        if self.is(Fault::AllOrNothing) && answers.iter().any(Result::is_err) {
            answers = appends.iter().map(|append| Err(stale_head(append, Head::EMPTY))).collect();
        }
        if self.is(Fault::NeverConflicts) || self.is(Fault::AcceptsAnything) {
            answers.fill_with(|| Ok(()));
        }
        Ok(answers)
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        let mut asked = requests.to_vec();
        for request in &mut asked {
            request.tenant = self.tenant(&request.tenant);
            if self.is(Fault::IgnoresAfter) {
                request.after = 0;
            }
        }
        Ok(reversed(self.0.entries(&asked).await?, self.is(Fault::ReversesPages)))
    }

    async fn feed(&self, query: &FeedQuery) -> Result<FeedPage> {
        let mut page =
            self.0.feed(&FeedQuery { tenant: self.tenant(&query.tenant), ..query.clone() }).await?;
        if self.is(Fault::FeedsWithGaps) {
            page.items.retain(|item| !item.cursor.ends_with('7'));
        }
        Ok(page)
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        let row = self.0.run(&RunKey { tenant: self.tenant(&key.tenant), ..key.clone() }).await?;
        Ok(row.map(|row| self.rounded(row)))
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        let mut asked = RunsQuery { tenant: self.tenant(&query.tenant), ..query.clone() };
        if self.is(Fault::IgnoresFilters) {
            asked = RunsQuery {
                limit: query.limit,
                cursor: query.cursor.clone(),
                ..RunsQuery::all(asked.tenant)
            };
        }
        if self.is(Fault::CountsRows) {
            let skipped = query.cursor.as_deref().map_or(0, |cursor| cursor.parse().unwrap_or_default());
            let all = self.0.runs(&RunsQuery { limit: PAGE_MAX, cursor: None, ..asked }).await?.runs;
            let end = skipped + query.limit.min(PAGE_MAX);
            let next = (end < all.len()).then(|| end.to_string());
            return Ok(RunsPage { runs: all.into_iter().skip(skipped).take(end - skipped).collect(), next });
        }
        let page = self.0.runs(&asked).await?;
        let runs = page.runs.into_iter().map(|row| self.rounded(row)).collect();
        Ok(RunsPage { runs: reversed(runs, self.is(Fault::ReversesListings)), ..page })
    }

    async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        let page = self.0.due(query).await?;
        Ok(DuePage { runs: reversed(page.runs, self.is(Fault::ReversesListings)), ..page })
    }

    async fn put_doc(&self, put: &PutDoc) -> Result<u64> {
        let expect = if self.is(Fault::NeverConflicts) { Expect::Any } else { put.expect };
        self.0.put_doc(&PutDoc { key: self.key(&put.key), expect, body: put.body.clone() }).await
    }

    async fn doc(&self, key: &DocKey) -> Result<Option<Doc>> {
        self.0.doc(&self.key(key)).await
    }

    async fn docs(&self, query: &DocsQuery) -> Result<DocsPage> {
        let page = self.0.docs(&DocsQuery { tenant: self.tenant(&query.tenant), ..query.clone() }).await?;
        Ok(DocsPage { docs: reversed(page.docs, self.is(Fault::ReversesListings)), ..page })
    }

    async fn prune(&self, prune: &Prune) -> Result<usize> {
        if self.is(Fault::NeverPrunes) {
            return Ok(prune.runs.len());
        }
        self.0.prune(&Prune { tenant: self.tenant(&prune.tenant), ..prune.clone() }).await
    }
}
