//! The project's own chores. `cargo xtask` lists them.

mod api;
mod bench;
mod fuzz;
mod links;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use fuzz::Fuzz;
use orch_servers::SharedServers;

const HELP: &str = "\
cargo xtask <chore>

  test    everything that must hold: format, lints, tests, simulation, doc tests, examples, benchmarks once, docs,
          tidiness, and every fuzz target for a moment; on real servers, which it fetches, starts and stops
  servers fetch the servers that tests use into .cache/servers
  bench   measure orch beside the raw limits of this machine; `cargo xtask bench --help` tells how
  tidy    the rules no compiler checks: file lengths, leftovers, invariants and their tests, links
  sim     simulate: 10 000 seeds, or what the arguments say (`cargo xtask sim --seed 7 --trace`)
  bless   write generated files anew: docs/dag.schema.json, what recorded ledgers come to, the snapshots of the command
          line, what docs/ says of the service, fuzz/Cargo.lock
  api [SECONDS]
          hold a real service against its OpenAPI document with schemathesis, for four minutes unless it is said
  fuzz [--seconds N] [--release] [TARGET…]
          run fuzz targets for so long each; with --input FILE, one of them on that input alone
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let chore = arguments.next();
    let done = match chore.as_deref() {
        Some("bench") => bench::run(&arguments.collect::<Vec<_>>()),
        Some("test") => test(),
        Some("servers") => servers(),
        Some("tidy") => tidy::check(&root()),
        Some("sim") => sim(std::env::args().skip(2)),
        Some("bless") => bless(),
        Some("api") => api::run(&arguments.next().unwrap_or_else(|| "240".to_owned())),
        Some("fuzz") => Fuzz::read(std::env::args().skip(2)).and_then(|fuzz| fuzz.run(&root())),
        _ => Err(HELP.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&problem);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a chore talks to the person who runs it")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// The workspace's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into)
}

fn test() -> Result<(), String> {
    tidy::check(&root())?;
    cargo("format", &["fmt", "--all", "--", "--check"], &[])?;
    let deny = ["--all-targets", "--locked", "--", "--deny", "warnings"];
    cargo("lints", &[&["clippy", "--workspace", "--all-features"], &deny[..]].concat(), &[])?;
    // In one go, so that what both are made of is looked at once.
    let bare = ["clippy", "-p", "orch-cli", "-p", "orch-http", "--no-default-features"];
    cargo("lints of the command line and the router without servers", &[&bare[..], &deny[..]].concat(), &[])?;
    tests()?;
    // From here on with the features that the tests had, so that nothing is built twice.
    let all = ["--workspace", "--all-features", "--locked"];
    cargo("doc tests", &[&["test", "--doc"], &all[..]].concat(), &[])?;
    cargo("benchmarks, once each", &[&["test", "--bench", "*"], &all[..]].concat(), &[])?;
    bench::quick()?;
    let flags = [("RUSTDOCFLAGS", "--deny warnings")];
    cargo("documentation", &[&["doc", "--no-deps"], &all[..]].concat(), &flags)?;
    let bare = ["test", "-p", "orch-cli", "-p", "orch-connect", "--locked", "--", "a_server_that_this_build"];
    let bare = [&bare[..], &["a_build_without_the_service"]].concat();
    cargo("the command line without servers", &bare, &[])?;
    sim(std::iter::empty())?;
    if has("deny") {
        cargo("licences and bans", &["deny", "--offline", "check", "licenses", "bans", "sources"], &[])?;
    }
    Fuzz::default().run(&root())?;
    say("everything holds");
    Ok(())
}

/// The tests of all crates, on servers that live as long as they do.
fn tests() -> Result<(), String> {
    // What cannot be fetched is skipped, and counted below; `ORCH_REQUIRE` makes it a failure.
    orch_servers::fetch().iter().for_each(|problem| say(problem));
    let (servers, list) = (SharedServers::start(), root().join("target/skipped"));
    if list.exists() {
        std::fs::remove_file(&list).map_err(|error| format!("{}: {error}", list.display()))?;
    }
    let list_name = list.display().to_string();
    // Many tests wait for a clock or a server most of their time.
    let threads = (2 * std::thread::available_parallelism().map_or(1, usize::from)).to_string();
    let environment: Vec<_> = servers.environment().chain([("ORCH_SKIPPED", &*list_name)]).collect();
    let arguments: &[&str] = match has("nextest") {
        true => &[
            "nextest",
            "run",
            "--workspace",
            "--all-features",
            "--locked",
            "--no-fail-fast",
            "--test-threads",
            &threads,
        ],
        false => &[
            "test",
            "--workspace",
            "--all-features",
            "--locked",
            "--no-fail-fast",
            "--lib",
            "--bins",
            "--tests",
            "--examples",
        ],
    };
    cargo("tests", arguments, &environment)?;
    if let Ok(skipped) = std::fs::read_to_string(&list) {
        say(&format!("{} tests were skipped for want of a server:\n{skipped}", skipped.lines().count()));
    }
    Ok(())
}

fn servers() -> Result<(), String> {
    let problems = orch_servers::fetch();
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

/// Simulates: 10 000 seeds, or what the arguments say.
fn sim(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let program = ["--profile", "sim", "--package", "orch-simulation", "--locked"];
    cargo("simulator", &[&["build"], &program[..]].concat(), &[])?;
    let arguments: Vec<String> = arguments.collect();
    let mut run = [&["run", "--quiet"], &program[..], &["--"]].concat();
    run.extend(arguments.iter().map(String::as_str));
    cargo("simulation", &run, &[])
}

fn bless() -> Result<(), String> {
    let bless = [("ORCH_BLESS", "1"), ("TRYCMD", "overwrite"), ("INSTA_UPDATE", "always")];
    cargo("schema", &["test", "--package", "orch", "--test", "dag_schema"], &bless)?;
    cargo("recorded ledgers", &["test", "--package", "orch", "--test", "golden"], &bless)?;
    cargo("snapshots", &["test", "--package", "orch-cli"], &bless)?;
    cargo("descriptions of the service", &["test", "--package", "orch-http"], &bless)?;
    let lock = ["update", "--workspace", "--manifest-path", "fuzz/Cargo.toml"];
    cargo("the fuzz targets' lock file", &lock, &[])
}

fn has(subcommand: &str) -> bool {
    let mut probe = Command::new(cargo_path());
    probe.args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

fn cargo_path() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Runs cargo at the root, telling what for and how long it took.
#[expect(clippy::disallowed_methods, reason = "a time is told to whoever waits; nothing depends on it")]
fn cargo(what: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
    say(&format!("── {what}: cargo {}", arguments.join(" ")));
    let mut command = Command::new(cargo_path());
    command.args(arguments).current_dir(root()).envs(environment.iter().copied());
    let begun = std::time::Instant::now();
    match command.status() {
        Ok(status) if status.success() => {
            say(&format!("── {what}: {} s", begun.elapsed().as_secs()));
            Ok(())
        }
        Ok(status) => Err(format!("{what} failed ({status})")),
        Err(error) => Err(format!("{what} cannot be run: {error}")),
    }
}
