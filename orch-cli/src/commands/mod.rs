//! What each command does.

mod check;
mod dag;
mod doctor;
mod document;
mod gate;
mod look;
mod outside;
mod prove;
mod run;
mod runs;
mod serve;
mod work;

pub(crate) use prove::Comparison;
pub(crate) use serve::serve;

use clap::CommandFactory as _;

use crate::args::{Cli, Command};
use crate::fault::Result;
use crate::output::Out;

/// Does what the command line says.
pub(crate) async fn execute(cli: Cli, out: &Out) -> Result<()> {
    let globals = &cli.globals;
    match cli.command {
        Command::Check { files } => check::check(out, &files),
        Command::Plan { file } => document::plan(out, &file),
        Command::Graph { file, format, output } => document::graph(out, &file, format, output.as_deref()),
        Command::Run(args) => run::run(globals, out, &args).await,
        Command::Work(args) => match &globals.server {
            None => work::work(globals, out, args.until_idle, &args.work).await,
            Some(server) => outside::work(globals, out, server, &args).await,
        },
        Command::Dag(command) => dag::execute(globals, out, command).await,
        Command::Runs(command) => runs::execute(globals, out, command).await,
        Command::Artifact(command) => look::artifact(globals, out, command).await,
        Command::Gate(command) => gate::gate(globals, out, command).await,
        Command::Signal(command) => gate::signal(globals, out, command).await,
        Command::Doctor => doctor::doctor(globals, out).await,
        // It brings a runtime of its own and never comes here.
        Command::Serve { .. } => Ok(()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "orch", &mut script);
            out.bytes(&script);
            Ok(())
        }
        Command::Ledger(command) => prove::ledger(globals, out, command).await,
        Command::Export(args) => prove::export(globals, out, &args).await,
        Command::Explain { run, step } => prove::explain_step(globals, out, &run, &step).await,
    }
}
