//! The words of the command line.

mod operate;
mod prove;
mod runs;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use operate::{ArtifactCommand, DagCommand, GateCommand, Sandbox, SignalCommand, WorkArgs};
pub(crate) use prove::{ExportArgs, LedgerCommand, VerifyArgs};
pub(crate) use runs::RunsCommand;

/// Run DAGs in a deterministic order, with a record that proves what happened.
///
/// Everything lives in one SQLite file, `.orch/orch.db` below the working directory, unless --store says otherwise: it
/// may name a server, and --queue and --lock others. An address with a password belongs into ORCH_STORE, ORCH_QUEUE or
/// ORCH_LOCK, or into a file that is named as `@FILE`: arguments can be seen by every user of the machine.
///
/// No server is needed: the process that changes a run also carries it on, until the run has ended or waits for a
/// person; with --no-work it only records the change. A process that works takes part in every run of its tenant that
/// has not ended. Commands that look never work. `orch work` carries on whatever there is, for example after a crash.
///
/// Exit codes: 0 done; 1 something failed, or bad input; 2 not allowed for this tenant or actor; 3 refused in this
/// state.
#[derive(Debug, Parser)]
#[command(name = "orch", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where runs are kept unless it is said.
pub(crate) const STORE: &str = "sqlite:.orch/orch.db";

/// What every command understands.
#[derive(Args, Debug)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Globals {
    /// Whose runs
    #[arg(long, global = true, env = "ORCH_TENANT", default_value = "default", value_name = "ID")]
    pub(crate) tenant: String,
    /// Who acts, for the record [default: the name of the user]
    #[arg(long, global = true, env = "ORCH_ACTOR", value_name = "NAME")]
    pub(crate) actor: Option<String>,
    /// Why, for the record
    #[arg(long, global = true, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// The ticket that tells more, for the record
    #[arg(long, global = true, value_name = "TEXT")]
    pub(crate) ticket: Option<String>,
    /// The service that keeps the runs and carries them on, instead of this process: `https://…`, or `http://` on this machine
    #[arg(
        long,
        global = true,
        env = "ORCH_SERVER",
        value_name = "URL",
        conflicts_with_all = ["store", "queue", "lock", "artifacts", "actor"]
    )]
    pub(crate) server: Option<String>,
    /// The token for the service; `@FILE` names a file that holds it, since arguments can be seen by every user of the
    /// machine
    #[arg(long, global = true, env = "ORCH_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// The certificate authorities to trust for the service, as PEM [default: those of the system]
    #[arg(long, global = true, env = "ORCH_SERVER_CA", value_name = "FILE")]
    pub(crate) server_ca: Option<PathBuf>,
    /// Where runs are kept: `sqlite:PATH` (with `?mode=ro`: only look), `mongodb://…`, `redis://…`, or `memory:` for
    /// nowhere
    #[arg(
        long,
        global = true,
        env = "ORCH_STORE",
        hide_env_values = true,
        default_value = STORE,
        value_name = "URL"
    )]
    pub(crate) store: String,
    /// Where hints wait, also `nats://…` [default: in memory beside a file, otherwise with the store]
    #[arg(long, global = true, env = "ORCH_QUEUE", hide_env_values = true, value_name = "URL")]
    pub(crate) queue: Option<String>,
    /// Where slots are counted, also `nats://…` [default: with the store]
    #[arg(long, global = true, env = "ORCH_LOCK", hide_env_values = true, value_name = "URL")]
    pub(crate) lock: Option<String>,
    /// Where artifacts are kept; several hosts need one that they share [default: `artifacts` beside the database, or
    /// `.orch/artifacts`]
    #[arg(long, global = true, env = "ORCH_ARTIFACTS", value_name = "DIR")]
    pub(crate) artifacts: Option<PathBuf>,
    /// What steps may read below, and where process steps run [default: the working directory]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Answer in JSON: one document, or one line each for streams
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show no progress, only the result
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// When to use colour; `auto` honours NO_COLOR
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub(crate) color: Color,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check documents and report every problem with its place
    Check {
        /// The documents, YAML or JSON
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Show the order in which the steps of a document run, with their hashes
    Plan {
        /// The document, YAML or JSON
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Draw a document
    Graph {
        /// The document, YAML or JSON
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// What to draw
        #[arg(long, short, value_enum, default_value_t = GraphFormat::Svg)]
        format: GraphFormat,
        /// Where to [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Publish a document, submit a run of it and carry it on
    ///
    /// Exits with 0 when the run completed, and with 1 when it failed, was cancelled, or waits for a person. Ctrl-C
    /// lets running steps end and leaves the rest for later; a second one stops them too.
    Run(RunArgs),
    /// Carry on every run that has not ended
    ///
    /// Steps that were running when their process died start again when their lease is over.
    ///
    /// With --server, a worker of the service: it leases steps that use `worker/TYPE` and executes each by a command, which
    /// gets the step's input on standard input (a string as it is, anything else as JSON), and whose standard output becomes
    /// the step's output: `orch work --server URL --type scan -- ./scan --fast`.
    Work(JobArgs),
    /// Published DAGs
    #[command(subcommand)]
    Dag(DagCommand),
    /// Runs: list, show, steer, repeat, compare
    ///
    /// A RUN is named by its id, by the beginning of it (4 digits or more, as long as only one run fits), or by
    /// `latest`, the newest that is not part of another run. What changes a run exits with 1 when the run has failed.
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Artifacts: what steps made and logged
    #[command(subcommand)]
    Artifact(ArtifactCommand),
    /// Gates that wait for a verdict
    #[command(subcommand)]
    Gate(GateCommand),
    /// Signals
    #[command(subcommand)]
    Signal(SignalCommand),
    /// The record: verify it, take checkpoints of it
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Write the record as NDJSON, each line exactly the bytes that were hashed
    ///
    /// With --output a manifest of counts and hashes is written beside the file, as FILE.manifest.json.
    Export(ExportArgs),
    /// Say why a step is where it is
    Explain {
        /// The run: its id, the beginning of it, or `latest`
        run: String,
        /// The step, `id` or `id[index]`
        step: orch::StepKey,
    },
    /// Look whether everything orch needs is in order
    Doctor,
    /// Serve all of this over HTTP, as the program `orch-server` does
    ///
    /// Takes its words: `orch serve --listen 127.0.0.1:8470`, `orch serve config check`, `orch serve token new`; `orch serve --
    /// --help` tells them all.
    Serve {
        /// What the service is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORDS")]
        words: Vec<std::ffi::OsString>,
    },
    /// Print a completion script
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// How to draw.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum GraphFormat {
    /// A picture.
    Svg,
    /// Text for Graphviz.
    Dot,
    /// Text for Mermaid.
    Mermaid,
}

/// `orch work`.
#[derive(Args, Debug)]
pub(crate) struct JobArgs {
    /// Stop when nothing is left that could go on by itself
    #[arg(long)]
    pub(crate) until_idle: bool,
    /// With --server: the job types to take, the TYPE of `worker/TYPE`; may be repeated
    #[arg(long = "type", value_name = "TYPE", requires = "server")]
    pub(crate) types: Vec<orch::StepId>,
    /// With --server: the queues to take steps from; may be repeated [default: default]
    #[arg(long, value_name = "QUEUE", requires = "server")]
    pub(crate) from: Vec<orch::QueueName>,
    /// With --server: what executes a step, and its arguments
    #[arg(last = true, value_name = "COMMAND", requires = "server")]
    pub(crate) command: Vec<String>,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

/// `orch run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The document, YAML or JSON
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The same as --inputs
    #[arg(value_name = "INPUT")]
    pub(crate) more_inputs: Vec<String>,
    /// Inputs: `key=value`, a file that holds a JSON or YAML object, or the object itself, `{…}`; may be repeated
    ///
    /// A value is taken as JSON if it is JSON, unless the schema asks for a string. `key=value` goes before objects,
    /// and what comes later before what comes earlier.
    #[arg(long, value_name = "INPUT")]
    pub(crate) inputs: Vec<String>,
    /// Name the run: the same token, DAG id and inputs are one run, however often and from whatever document it is
    /// submitted; a run of another plan than the document's is left alone, and the command fails
    #[arg(long, value_name = "TOKEN")]
    pub(crate) run_token: Option<String>,
    /// Added to the priority of the steps, -1000 to 1000
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true)]
    pub(crate) priority: i32,
    /// Why the run is made, for the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) rationale: Option<String>,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn every_command_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// The words of a line as a shell would split it, as far as the examples go.
    fn split(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        for character in line.chars() {
            match quote {
                Some(end) if character == end => quote = None,
                None if matches!(character, '\'' | '"') => quote = Some(character),
                None if character == ' ' => {
                    words.extend(Some(std::mem::take(&mut word)).filter(|w| !w.is_empty()))
                }
                _ => word.push(character),
            }
        }
        words.extend(Some(word).filter(|word| !word.is_empty()));
        words
    }

    #[test]
    fn every_command_in_the_head_of_an_example_is_understood() {
        let dags = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/dags");
        let mut count = 0;
        for file in std::fs::read_dir(dags).unwrap().map(|file| file.unwrap().path()) {
            let text = std::fs::read_to_string(&file).unwrap();
            for line in text.lines().filter_map(|line| line.strip_prefix("#   ")) {
                if line.starts_with("orch ") {
                    count += 1;
                    let parsed = Cli::try_parse_from(split(line));
                    assert!(parsed.is_ok(), "{}: {line}: {:?}", file.display(), parsed.err());
                }
            }
        }
        assert!(count >= 10, "{count} commands");
    }

    #[test]
    fn a_verdict_is_said_in_one_of_two_ways_and_only_once() {
        let parse = |words: &str| Cli::try_parse_from(split(&format!("orch gate decide latest ok {words}")));
        for (words, expected) in [
            ("approve", true),
            ("--approve", true),
            ("reject", false),
            ("--reject --reason 'not now'", false),
        ] {
            let Command::Gate(GateCommand::Decide { verdict, .. }) = parse(words).unwrap().command else {
                panic!("{words}");
            };
            assert_eq!(verdict.approves(), expected, "{words}");
        }
        for words in ["", "--approve --reject", "approve --reject", "maybe"] {
            assert!(parse(words).is_err(), "{words}");
        }
    }
}
