//! `orch`: check, run and inspect DAGs, on this machine or at a service.

mod args;
mod carry;
mod commands;
mod connect;
mod desk;
mod fault;
mod functions;
mod inputs;
mod output;
mod select;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::output::Out;

/// Entries are many small pieces of memory, made by one thread and freed by another, at which this allocator is twice as
/// quick as that of most C libraries. The library leaves the choice to the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let printed = error.print().and_then(|()| std::io::stdout().flush());
            // Help that nobody reads any more is no failure.
            let lost = printed.is_err_and(|cause| cause.kind() != std::io::ErrorKind::BrokenPipe);
            return ExitCode::from(u8::from(error.use_stderr() || lost));
        }
    };
    output::set_color(cli.globals.color);
    let out = Out::new(cli.globals.json, cli.globals.quiet);
    if let Command::Serve { words } = &cli.command {
        return commands::serve(&cli.globals, &out, words);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => return fault::Fault::said(format!("cannot start: {cause}")).report(&out),
    };
    let result = runtime.block_on(commands::execute(cli, &out));
    // What was not asked to end gracefully is dropped: child processes are killed with their attempts.
    runtime.shutdown_timeout(Duration::from_secs(2));
    let written = out.finish().map_err(|fault| fault.report(&out));
    match result {
        Ok(()) => written.err().unwrap_or(ExitCode::SUCCESS),
        Err(fault) => fault.report(&out),
    }
}
