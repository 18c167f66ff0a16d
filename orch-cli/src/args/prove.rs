//! The words for proof: verifying, signing, exporting.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `orch ledger`.
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Compute every hash again and fold every run again
    Verify {
        /// Hold the record to a checkpoint that was written earlier
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
        /// Verify an exported file instead of the store
        #[arg(long, value_name = "FILE")]
        export: Option<PathBuf>,
    },
    /// Record the heads of all streams, to be kept elsewhere
    Checkpoint {
        /// Where to [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// `orch export`.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Only this run
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
    /// Where to, with the manifest beside it as FILE.manifest.json [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}
