//! `cargo xtask bench`: everything that is claimed of orch's speed and size, measured beside the raw limits of the same
//! machine.
//!
//! Every measurement of every round runs in a process of its own, so that none inherits another's memory, and rounds
//! go over all measurements in turn, so that a machine that drifts drifts in all of them.

mod bound;
mod engine;
mod figure;
mod footprint;
mod machine;
mod pure;
mod raw;
mod rounds;
mod servers;
mod stats;
mod table;
mod timed;
mod workflow;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use figure::Size;
use workflow::{Place, Shape};

/// Why something cannot be measured.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Measures orch beside the raw limits of this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
    /// Measure only these (all of: raw plan decide encode memory sqlite chain-memory chain-sqlite redis chain-redis mongo processes executing queued finished open idle)
    #[arg(long, num_args = 1.., value_name = "NAME", conflicts_with = "workflows")]
    only: Vec<String>,
    /// How often each is measured; the table shows medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Tiny loads, one round: shows that everything works; the figures mean nothing
    #[arg(long, conflicts_with = "workflows")]
    quick: bool,
    /// Where databases go; without it, the folder of this program
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Run this DAG instead, with steps that do nothing or sleep, and compare its makespan with the lower bound
    #[arg(long, value_name = "SPEC", group = "workflows")]
    workflow: Option<PathBuf>,
    /// The same with a made DAG: chain:STEPS, fan-out:ITEMS or layered:STEPSxWIDTH
    #[arg(long, group = "workflows")]
    shape: Option<Shape>,
    /// With --workflow or --shape: how long every step sleeps, such as 100ms; without it, steps do nothing
    #[arg(long, value_name = "DURATION", requires = "workflows")]
    sleep: Option<orch::Span>,
    /// With --workflow or --shape: how many runs of it are submitted at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000), conflicts_with = "sleep")]
    runs: u32,
    /// With --workflow or --shape: how many steps execute at once
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    slots: u32,
    /// With --workflow: how many items a `forEach` has whose items are an expression
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    items: u32,
    /// With --workflow or --shape: where the ledger lives
    #[arg(long, value_enum, default_value_t = Place::Memory)]
    store: Place,
    /// Works on the runs in these two places, a store's and a queue's, until standard input is closed
    #[arg(long, hide = true, num_args = 2)]
    work: Vec<String>,
    /// Measures one thing in this process and prints its figures
    #[arg(long, hide = true, requires = "dir")]
    measure: Option<String>,
}

impl Arguments {
    fn size(&self) -> Size {
        if self.quick { Size::Quick } else { Size::Full }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.measure {
        Some(name) => rounds::measure(name, &arguments),
        None if !arguments.work.is_empty() => servers::work(&arguments.work).map(|()| String::new()),
        None if arguments.workflow.is_some() || arguments.shape.is_some() => rounds::workflow(&arguments),
        None => rounds::run(&arguments),
    };
    match done {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(failed) => {
            tell(&format!("error: {failed}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "figures are printed")]
fn print(text: &str) {
    println!("{text}");
}

/// Says something to the person who waits.
#[expect(clippy::print_stderr, reason = "standard output holds the figures and nothing else")]
fn tell(text: &str) {
    eprintln!("{text}");
}

fn runtime() -> Result<tokio::runtime::Runtime, Failed> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}
