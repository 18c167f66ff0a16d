//! Plays many seeds at once and tells which of them break an invariant.

use std::io::{IsTerminal as _, Write as _};
use std::panic;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use orch::Digest;
use orch_simulation::{Bug, FAULTS, Fired, Outcome, simulate};

const HELP: &str = "\
orch-simulation [--seeds N] [--from SEED] [--bug NAME]    plays N seeds (10000) from SEED (1) on
orch-simulation --seed SEED [--trace] [--bug NAME]        plays one seed; --trace prints every call of a seam

Ends with 1 when a seed breaks an invariant, or a fault never struck.
";

struct Args {
    seeds: u64,
    from: u64,
    one: bool,
    trace: bool,
    bug: Option<Bug>,
}

fn args() -> Result<Args, String> {
    let mut parsed = Args { seeds: 10_000, from: 1, one: false, trace: false, bug: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("`{text}` is no number"));
        match arg.as_str() {
            "--seeds" => parsed.seeds = number(value()?)?,
            "--from" => parsed.from = number(value()?)?,
            "--seed" => {
                parsed.from = number(value()?)?;
                parsed.seeds = 1;
                parsed.one = true;
            }
            "--trace" => parsed.trace = true,
            "--bug" => {
                let name = value()?;
                let found = Bug::ALL.iter().find(|bug| bug.name() == name);
                let names = || Bug::ALL.iter().map(|bug| bug.name()).collect::<Vec<_>>().join(", ");
                parsed.bug = Some(*found.ok_or_else(|| format!("`{name}` is none of {}", names()))?);
            }
            _ => return Err(HELP.to_owned()),
        }
    }
    Ok(parsed)
}

/// What came of all seeds so far.
#[derive(Default)]
struct Sum {
    played: u64,
    entries: u64,
    bad: u64,
    fired: Fired,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a program")]
fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let (next, sum) = (AtomicU64::new(args.from), Mutex::new(Sum::default()));
    let end = args.from.saturating_add(args.seeds);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let outcome = panic::catch_unwind(|| simulate(seed, args.bug))
                        .unwrap_or_else(|_| Outcome::panicked(seed));
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    add(&mut sum, &outcome, &args);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    let missed: Vec<&str> = FAULTS.iter().copied().filter(|fault| !sum.fired.contains_key(fault)).collect();
    let all = args.one || missed.is_empty();
    for (what, count) in &sum.fired {
        println!("{count:>10}  {what}");
    }
    println!("{} seeds, {} entries verified, {} seeds broke an invariant", sum.played, sum.entries, sum.bad);
    if !all {
        println!("never struck: {}", missed.join(", "));
    }
    if sum.bad == 0 && all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a program")]
fn add(sum: &mut Sum, outcome: &Outcome, args: &Args) {
    sum.played += 1;
    sum.entries += outcome.entries;
    for (what, count) in &outcome.fired {
        *sum.fired.entry(what).or_default() += count;
    }
    if args.trace {
        print!("{}", outcome.trace);
    }
    if args.one {
        println!("trace {}, ledger {}", Digest::of(outcome.trace.as_bytes()), outcome.ledger);
    }
    if !outcome.is_good() {
        sum.bad += 1;
        let found = outcome.problems.first().map_or_else(
            || outcome.odd.first().cloned().unwrap_or_default(),
            |problem| {
                format!("{} {} {}: {}", problem.invariant, problem.stream, problem.code, problem.message)
            },
        );
        let bug = args.bug.map_or_else(String::new, |bug| format!(" --bug {}", bug.name()));
        println!("cargo run --release -p orch-simulation -- --seed {}{bug}   # {found}", outcome.seed);
        if args.one {
            outcome.problems.iter().for_each(|problem| println!("{problem:?}"));
            outcome.odd.iter().for_each(|odd| println!("{odd}"));
        }
    } else if std::io::stderr().is_terminal() && sum.played.is_multiple_of(100) {
        eprint!("\r{} of {} seeds", sum.played, args.seeds);
        // Progress that cannot be shown is no matter.
        let _ = std::io::stderr().flush();
    }
}
