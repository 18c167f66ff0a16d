//! The one suite that every backend of orch passes.
//!
//! A backend says how to open a fresh namespace twice, as two processes would, and adds one line per seam; every
//! case becomes a test of its own, whose name carries the invariant it holds (`docs/guarantees.md`):
//!
//! ```
//! use std::sync::Arc;
//! use orch::store::{MemoryStore, Store};
//! use orch_conformance::Pair;
//!
//! async fn store() -> Pair<dyn Store> {
//!     let store = MemoryStore::new();
//!     Pair::new(Arc::new(store.clone()), Arc::new(store))
//! }
//!
//! orch_conformance::store_suite!(store);
//! ```
//!
//! A trio of them, of one backend or of several, is proven by whole engines on it ([`engine_suite!`], which takes
//! [`engine::Backends`]).
//!
//! The cases are functions too ([`store`], [`queue`], [`lock`], [`engine`]), so that a harness can hold a deliberately wrong
//! backend against one of them; [`Counted`] tells what an engine asks of its backends. Time is data in every request,
//! so no case of a seam waits. This crate is not semver-stable: a new release may find a defect that the one before did not look
//! for.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "every case is a test: it panics to fail")]

use std::any::Any;
use std::fmt;
use std::sync::Arc;

mod counted;
pub mod engine;
mod fixture;
pub mod lock;
pub mod queue;
pub mod store;

pub use counted::{Counted, Counts};

/// Two handles on one fresh namespace, opened as two processes would open it.
pub struct Pair<S: ?Sized> {
    /// One process's handle.
    pub first: Arc<S>,
    /// The other's.
    pub second: Arc<S>,
    kept: Vec<Box<dyn Any + Send + Sync>>,
}

impl<S: ?Sized> Pair<S> {
    /// A pair of handles.
    #[must_use]
    pub fn new(first: Arc<S>, second: Arc<S>) -> Self {
        Self { first, second, kept: Vec::new() }
    }

    /// Keeps `guard`, such as a temporary directory, for as long as the pair lives.
    #[must_use]
    pub fn keeping(mut self, guard: impl Any + Send + Sync) -> Self {
        self.kept.push(Box::new(guard));
        self
    }

    /// The handle that comes by turns.
    fn of(&self, turn: usize) -> &Arc<S> {
        if turn.is_multiple_of(2) { &self.first } else { &self.second }
    }
}

impl<S: ?Sized> fmt::Debug for Pair<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// Runs one case on a runtime of its own.
pub fn run(case: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts")
        .block_on(case);
}

/// Expands to one test per case of a suite.
#[doc(hidden)]
#[macro_export]
macro_rules! tests_of {
    ($open:path, $seam:ident, $opened:ty: $($case:ident)*) => {
        $(#[test]
        fn $case() {
            $crate::run(async {
                // Nothing when there is no server to open it on, which has been told then.
                let opened: Option<$opened> = $open().await.into();
                if let Some(opened) = opened {
                    $crate::$seam::$case(opened).await;
                }
            });
        })*
    };
}

/// One test per case of the store suite. Takes the path of an `async fn() -> Pair<dyn Store>`, or of one that
/// answers an `Option` of it: nothing where there is no server to open it on.
#[macro_export]
macro_rules! store_suite {
    ($open:path) => {
        $crate::tests_of! { $open, store, $crate::Pair<_>:
            l1_entries_come_back_byte_for_byte
            l1_odd_text_comes_back_byte_for_byte
            l1_chunk_boundaries_do_not_show
            l1_unknown_streams_are_empty
            l1_requests_are_answered_in_order
            l1_a_batch_of_a_thousand_lands
            l1_an_append_whose_answer_was_lost_landed_wholly_or_not_at_all
            l2_append_with_stale_head_changes_nothing
            l2_items_of_one_call_are_independent
            l2_items_on_one_stream_apply_in_order
            l2_racing_appends_on_one_head_let_one_win
            l2_append_without_lines_replaces_the_row_only
            l2_malformed_appends_are_refused
            l3_rows_come_back_with_every_field
            l3_rows_are_listed_newest_first
            l3_rows_are_filtered
            l3_pages_of_rows_neither_skip_nor_repeat
            l3_pages_over_the_limit_and_foreign_cursors_are_refused
            r4_due_runs_are_listed_by_time_tenant_and_run
            r4_a_new_row_moves_its_wake
            t1_tenants_do_not_see_each_other
            t1_a_feed_tells_everything_of_its_tenant_once_in_order
            a_feed_read_along_with_racing_appends_has_no_gap
            p1_a_feed_never_hides_a_gap_where_runs_were_pruned
            p1_a_pruned_run_leaves_nothing
            p1_moved_unfinished_and_foreign_runs_are_left_alone
            a_stamp_that_stays_says_that_nobody_wrote
            documents_are_compared_and_swapped
            documents_put_in_a_race_let_one_win
            documents_are_listed_in_byte_order_page_by_page
            differs_nowhere_from_the_model
        }
    };
}

/// One test per case of the queue suite. Takes the path of an `async fn() -> Pair<dyn Queue>`, or of one that
/// answers an `Option` of it.
#[macro_export]
macro_rules! queue_suite {
    ($open:path) => {
        $crate::tests_of! { $open, queue, $crate::Pair<_>:
            q1_unsettled_items_come_back_when_their_lease_ends
            q1_settled_items_are_gone_and_may_be_pushed_again
            q1_released_items_come_back_at_their_instant
            q1_pushing_again_changes_nothing
            q1_racing_claims_are_exclusive
            q1_settling_after_the_lease_is_refused
            q1_settling_by_an_old_token_is_refused
            q1_renewing_prolongs_and_after_the_lease_is_refused
            q1_a_worker_id_is_no_identity
            q1_batches_answer_each_delivery_in_order
            r3_items_come_in_their_order_however_they_were_pushed
            r3_items_are_not_ready_a_microsecond_early
            a_claim_takes_what_it_asks_for
            a_claim_says_when_to_come_again
            depth_counts_what_waits
            waiting_ends
            t1_a_backlog_does_not_hide_another_tenant
            t1_tenants_do_not_share_items
            differs_nowhere_from_the_model
        }
    };
}

/// One test per case of the lock suite. Takes the path of an `async fn() -> Pair<dyn Lock>`, or of one that
/// answers an `Option` of it.
#[macro_export]
macro_rules! lock_suite {
    ($open:path) => {
        $crate::tests_of! { $open, lock, $crate::Pair<_>:
            a1_no_more_slots_than_capacity
            a1_all_keys_or_none
            a1_a_dead_holders_slot_comes_back
            a1_asking_again_keeps_slot_and_fence
            a1_racing_acquires_share_the_capacity
            a1_a_smaller_capacity_counts_what_is_held
            a1_renewing_prolongs
            a1_renewing_after_any_loss_is_refused
            a1_releasing_frees_everything
            fences_increase_over_release_and_expiry
            t1_tenants_do_not_share_keys
            buckets_grant_burst_and_inflow_only
            buckets_hold_in_a_race
            buckets_say_when_to_come_again
            buckets_refuse_what_cannot_be
            differs_nowhere_from_the_model
        }
    };
}

/// One test per case of the engine suite. Takes the path of an `async fn() -> Backends`, or of one that answers an
/// `Option` of it. The backends may be of any mixture. Some cases take real time: half a minute at most each.
#[macro_export]
macro_rules! engine_suite {
    ($open:path) => {
        $crate::tests_of! { $open, engine, $crate::engine::Backends:
            r3_a_chain_runs_in_declared_order
            r3_a_diamond_runs_in_declared_order
            r1_a_fan_out_runs_every_child_once
            r1_a_failing_step_is_tried_again
            r3_conditions_decide_what_runs
            gates_and_signals_reach_a_run_through_either_engine
            r1_a_sub_dag_is_a_run_of_its_own
            r4_cancelling_ends_what_runs_in_either_engine
            r1_two_engines_share_forty_runs
            r5_one_token_is_one_run_from_both_engines
            a1_a_key_limits_steps_over_both_engines
            r4_lost_hints_are_made_again
            r4_what_a_killed_engine_left_is_finished_by_the_other
            an_idle_engine_asks_six_times_a_minute
        }
    };
}
