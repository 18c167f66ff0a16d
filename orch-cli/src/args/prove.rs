//! The words for proof: verifying, signing, exporting.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `orch ledger`.
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Compute every hash again and fold every run again; name the first bad entry of each stream
    ///
    /// Looks at every stream of the tenant, the rows beside them, the checkpoints, and the whole database file (of all
    /// tenants). Not at published plans and artifacts: they are held to their hashes whenever they are used.
    Verify(VerifyArgs),
    /// Record the heads of what has ended, in a file to be kept where the store's owner cannot reach it
    Checkpoint {
        /// Where to [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Only what no checkpoint names yet
        #[arg(long)]
        since_last: bool,
        /// Sign it with the Ed25519 key in this file: its seed, 64 hex digits
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
}

/// `orch ledger verify`.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Hold the record to what `orch ledger checkpoint` wrote earlier; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: Vec<PathBuf>,
    /// Verify an exported file, and its manifest if that lies beside it, instead of the store
    #[arg(long, value_name = "FILE")]
    pub(crate) export: Option<PathBuf>,
    /// The key that checkpoints must be signed with, 64 hex digits
    #[arg(long, value_name = "HEX")]
    pub(crate) public_key: Option<String>,
}

/// `orch export`.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Only this run
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
    /// Where to [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}
