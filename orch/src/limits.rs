//! Every bound on size, count and depth in one place. Over a limit is an error, never a stall.

use serde::{Deserialize, Serialize};

/// The bounds an orchestrator works within. All are inclusive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Declared steps in a DAG; [`Limits::STEPS_CEILING`] at most.
    pub steps: usize,
    /// Bytes of a spec document.
    pub spec_bytes: usize,
    /// Nesting of a spec document.
    pub spec_depth: usize,
    /// Bytes of one payload kept in the ledger; larger outputs become artifacts.
    pub payload_bytes: usize,
    /// Items of one `forEach`.
    pub map_items: usize,
    /// Bytes of all items of one `forEach` together, and of one rendered `with`.
    pub map_bytes: usize,
    /// Entries in one append.
    pub append_entries: usize,
    /// Attempts of one step, whatever its retry policy says and however often it was retried by hand. Also the most that
    /// `maxAttempts` of a document may say, where it is less than 100.
    pub attempts: u32,
    /// Attempts of one step that may be lost with their worker before the step fails.
    pub lost_attempts: u32,
    /// Depth of sub-DAGs within sub-DAGs.
    pub dag_depth: u32,
    /// Signals kept for a run that nothing waits for yet.
    pub pending_signals: usize,
    /// Bytes of an error message kept in the ledger.
    pub message_bytes: usize,
    /// Bytes of the source of one expression.
    pub expression_bytes: usize,
    /// Operations one evaluation of an expression may take.
    pub expression_fuel: u64,
}

impl Limits {
    /// The most steps a DAG can have however [`Limits::steps`] is set.
    pub const STEPS_CEILING: usize = 1_000_000;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            steps: 10_000,
            spec_bytes: 4 << 20,
            spec_depth: 64,
            payload_bytes: 256 << 10,
            map_items: 100_000,
            map_bytes: 16 << 20,
            append_entries: 10_000,
            attempts: 100,
            lost_attempts: 10,
            dag_depth: 8,
            pending_signals: 1_000,
            message_bytes: 4 << 10,
            expression_bytes: 4 << 10,
            expression_fuel: 1_000_000,
        }
    }
}
