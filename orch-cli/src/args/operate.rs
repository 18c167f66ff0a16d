//! The words for DAGs, gates and signals, and for how this process works.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use orch::{Digest, StepKey};

/// How this process carries runs on.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Work")]
pub(crate) struct WorkArgs {
    /// Record the change only; another process carries the run on
    #[arg(long)]
    pub(crate) no_work: bool,
    /// Allow process steps; `none`: as ordinary child processes of orch, without any isolation
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) sandbox: Option<Sandbox>,
    /// Steps executed at once
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub(crate) slots: usize,
    /// How long a step counts as alive without a word from its process
    #[arg(long, default_value = "15s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(crate) lease: Duration,
    /// Give steps that declare it the secret in the environment variable NAME
    #[arg(long = "secret", value_name = "NAME")]
    pub(crate) secrets: Vec<String>,
    /// Give steps that declare it the secret in a file
    #[arg(long = "secret-file", value_name = "NAME=PATH")]
    pub(crate) secret_files: Vec<String>,
}

/// How process steps are isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sandbox {
    /// Not at all.
    None,
}

/// `orch dag`.
#[derive(Debug, Subcommand)]
pub(crate) enum DagCommand {
    /// List published DAGs
    List,
    /// Show a DAG with its versions and its plan
    Show {
        /// The DAG, or one version of it as DAG@N [default: the newest]
        #[arg(value_name = "DAG")]
        dag: String,
        /// Which version's plan
        #[arg(long, value_name = "N")]
        release: Option<u32>,
    },
    /// Publish a document as a new version; the same document again changes nothing
    Publish {
        /// The document, YAML or JSON
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Refuse new runs of a version; runs under way go on
    Disable {
        /// The version, as DAG@N
        #[arg(value_name = "DAG@N")]
        release: String,
    },
    /// Accept new runs of a version again
    Enable {
        /// The version, as DAG@N
        #[arg(value_name = "DAG@N")]
        release: String,
    },
}

/// `orch artifact`.
#[derive(Debug, Subcommand)]
pub(crate) enum ArtifactCommand {
    /// Write an artifact whose bytes were verified
    Get {
        /// Its SHA-256, 64 hex digits
        hash: Digest,
        /// Where to [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// `orch gate`.
#[derive(Debug, Subcommand)]
pub(crate) enum GateCommand {
    /// List the gates that wait for a verdict
    List,
    /// Record a verdict and carry the run on
    Decide {
        /// The run: its id, the beginning of it, or `latest`
        run: String,
        /// The gate's step
        step: StepKey,
        #[command(flatten)]
        verdict: Said,
        #[command(flatten)]
        work: WorkArgs,
    },
}

/// A verdict as it is said: as a word or as an option.
#[derive(Args, Clone, Copy, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Said {
    /// The verdict
    #[arg(value_enum)]
    verdict: Option<Verdict>,
    /// The same as the verdict `approve`
    #[arg(long)]
    approve: bool,
    /// The same as the verdict `reject`
    #[arg(long)]
    reject: bool,
}

impl Said {
    /// Whether the gate opens.
    pub(crate) fn approves(self) -> bool {
        self.approve || self.verdict == Some(Verdict::Approve)
    }
}

/// A verdict on a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Verdict {
    /// It opens.
    Approve,
    /// It does not.
    Reject,
}

/// `orch signal`.
#[derive(Debug, Subcommand)]
pub(crate) enum SignalCommand {
    /// Send a run a signal and carry the run on
    Send {
        /// The run: its id, the beginning of it, or `latest`
        run: String,
        /// The name of the signal
        name: String,
        /// What it carries, as JSON
        #[arg(default_value = "null", value_name = "JSON")]
        payload: String,
        #[command(flatten)]
        work: WorkArgs,
    },
}
