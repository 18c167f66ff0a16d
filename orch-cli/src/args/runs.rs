//! The words of `orch runs`.

use std::time::Duration;

use clap::Subcommand;
use orch::ledger::RunStatus;
use orch::{DagId, StepId, StepKey};

use super::WorkArgs;

/// `orch runs`.
#[derive(Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// List runs, newest first
    List {
        /// Only runs of this DAG
        #[arg(long, value_name = "DAG")]
        dag: Option<DagId>,
        /// Only runs that stand like this
        #[arg(long, value_name = "STATUS")]
        status: Option<RunStatus>,
        /// How many
        #[arg(long, default_value_t = 20, value_name = "N")]
        limit: usize,
    },
    /// Show where a run and its steps stand
    Show {
        /// The run
        run: String,
    },
    /// Print the entries of a run
    Events {
        /// The run
        run: String,
        /// Only entries after this number
        #[arg(long, default_value_t = 0, value_name = "SEQ")]
        after: u64,
        /// Go on with those to come, until the run has ended
        #[arg(long, short)]
        follow: bool,
    },
    /// Print what the attempts of a run wrote to their logs, once they have ended
    ///
    /// With --json exactly the lines that were kept, as NDJSON.
    Logs {
        /// The run
        run: String,
        /// Only this step, `id` or `id[index]`
        step: Option<StepKey>,
    },
    /// Follow a run that another process carries on, until it has ended
    Watch {
        /// The run
        run: String,
    },
    /// End a run early
    Cancel {
        /// The run
        run: String,
        #[command(flatten)]
        work: WorkArgs,
    },
    /// Hold a run: nothing new starts
    Pause {
        /// The run
        run: String,
    },
    /// Let a held run go on
    Resume {
        /// The run
        run: String,
        #[command(flatten)]
        work: WorkArgs,
    },
    /// Give failed and parked steps another round of attempts
    Retry {
        /// The run
        run: String,
        /// Which steps [default: all that failed or are parked]
        #[arg(value_name = "STEP")]
        steps: Vec<StepKey>,
        #[command(flatten)]
        work: WorkArgs,
    },
    /// Run the same plan with the same inputs again and compare
    Replay {
        /// The run
        run: String,
        #[command(flatten)]
        work: WorkArgs,
    },
    /// Run again from one step on; everything before it keeps its output
    Rerun {
        /// The run
        run: String,
        /// The step to begin at
        #[arg(long, value_name = "STEP")]
        from: StepId,
        #[command(flatten)]
        work: WorkArgs,
    },
    /// Compare two runs step by step
    Compare {
        /// One run
        #[arg(value_name = "RUN")]
        left: String,
        /// The other
        #[arg(value_name = "OTHER")]
        right: String,
    },
    /// Delete what ended long ago; the checkpoint stream keeps the heads
    Prune {
        /// Runs that ended longer ago than this
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
        older_than: Duration,
    },
}
