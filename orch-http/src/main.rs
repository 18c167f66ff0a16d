//! `orch-server`: the HTTP service of orch as a program.

use std::process::ExitCode;

/// Entries are many small pieces of memory, made by one thread and freed by another, at which this allocator is twice as
/// quick as that of most C libraries. The library leaves the choice to the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    orch_http::server::program(std::env::args_os())
}
