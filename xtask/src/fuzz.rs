//! `cargo xtask fuzz`: builds the fuzz targets on the pinned toolchain and runs each for a while on a copy of its corpus.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::{cargo_path, say};

/// How long a target runs unless it is said.
pub(crate) const SECONDS: u32 = 10;
/// Targets that run at once.
const AT_ONCE: usize = 2;
/// No input takes longer, in seconds (the longest takes some milliseconds; a machine may be busy), or more memory, in
/// MiB.
const INPUT_SECONDS: u32 = 60;
const INPUT_MEMORY: u32 = 2_048;
/// The longest input, in bytes.
const INPUT_BYTES: u32 = 16_000;

/// Coverage counters for libFuzzer, as `cargo fuzz run --sanitizer none` has them.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "--cfg=fuzzing",
];

/// What is to be fuzzed.
#[derive(Debug, Default)]
pub(crate) struct Fuzz {
    /// How long, in seconds.
    seconds: Option<u32>,
    /// Whether the targets are built to run fast rather than soon.
    release: bool,
    /// Only this input, once.
    input: Option<PathBuf>,
    /// Which targets; all of them when none is named.
    targets: Vec<String>,
}

impl Fuzz {
    /// Reads `[--seconds N] [--release] [--input FILE] [TARGET…]`.
    pub(crate) fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut fuzz = Self::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match &*word {
                "--seconds" => {
                    let seconds = value()?.parse().ok().filter(|seconds| *seconds > 0);
                    fuzz.seconds = Some(seconds.ok_or("--seconds is a number from 1")?);
                }
                "--release" => fuzz.release = true,
                "--input" => fuzz.input = Some(PathBuf::from(value()?)),
                _ if word.starts_with('-') => return Err(format!("{word} is not known")),
                _ => fuzz.targets.push(word),
            }
        }
        match &fuzz.input {
            Some(_) if fuzz.targets.len() != 1 => Err("--input needs one TARGET".to_owned()),
            _ => Ok(fuzz),
        }
    }

    /// Fuzzes. Without a C++ compiler nothing can be fuzzed: that is said, and is a failure where `ORCH_REQUIRE` names
    /// `fuzz`.
    pub(crate) fn run(self, root: &Path) -> Result<(), String> {
        let known = targets(root)?;
        if let Some(strange) = self.targets.iter().find(|target| !known.contains(target)) {
            return Err(format!("{strange} is no target; there are {}", known.join(", ")));
        }
        if !has_compiler() {
            let missing = "no C++ compiler (`c++`, or what CXX names), and libFuzzer is built by one";
            let required = std::env::var("ORCH_REQUIRE").unwrap_or_default();
            if required.split(',').any(|name| name == "fuzz") {
                return Err(format!("fuzzing is required, and there is {missing}"));
            }
            say(&format!("skipped: fuzzing: there is {missing}"));
            return Ok(());
        }
        let folder = build(root, self.release)?;
        if let (Some(input), [target]) = (&self.input, &*self.targets) {
            return once(&folder.join(target), input);
        }
        let queue = if self.targets.is_empty() { known } else { self.targets };
        let (queue, problems) = (Mutex::new(VecDeque::from(queue)), Mutex::new(Vec::new()));
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some(target) = next() {
                        if let Err(problem) = fuzz(root, &folder, &target, self.seconds.unwrap_or(SECONDS)) {
                            problems.lock().unwrap_or_else(PoisonError::into_inner).push(problem);
                        }
                    }
                });
            }
        });
        let problems = problems.into_inner().unwrap_or_else(PoisonError::into_inner);
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
    }
}

/// The names of the targets, in order.
fn targets(root: &Path) -> Result<Vec<String>, String> {
    let folder = root.join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for file in files(&folder)? {
        names.extend(file.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    Ok(names)
}

/// What lies in a folder, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error| format!("{}: {error}", folder.display());
    let entries = fs::read_dir(folder).map_err(failed)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    paths.sort();
    Ok(paths)
}

fn has_compiler() -> bool {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let mut probe = Command::new(compiler);
    probe.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// Builds every target; answers where they are.
fn build(root: &Path, release: bool) -> Result<PathBuf, String> {
    let (host, folder) = (host()?, root.join("target/fuzz"));
    let mut flags = FLAGS.join(" ");
    if host.contains("linux") {
        flags.push_str(" -Cllvm-args=-sanitizer-coverage-stack-depth");
    }
    let (profile, place) = if release { ("release", "release") } else { ("dev", "debug") };
    say(&format!(
        "── fuzz targets: RUSTFLAGS='{flags}' cargo build --profile {profile} --target {host}, in fuzz/"
    ));
    let mut command = Command::new(cargo_path());
    // With a target of its own, flags are for what is fuzzed and not for what builds it.
    command
        .args(["build", "--profile", profile, "--locked", "--bins", "--target", &host, "--target-dir"])
        .arg(&folder);
    command.current_dir(root.join("fuzz")).env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", flags);
    match command.status() {
        Ok(status) if status.success() => Ok(folder.join(host).join(place)),
        Ok(status) => Err(format!("fuzz targets cannot be built ({status})")),
        Err(error) => Err(format!("fuzz targets cannot be built: {error}")),
    }
}

/// The triple of this machine.
fn host() -> Result<String, String> {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(compiler).arg("-vV").output().map_err(|error| format!("rustc: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc does not name its host".to_owned())
}

/// What every input is held to.
fn limits() -> [String; 2] {
    [format!("-timeout={INPUT_SECONDS}"), format!("-rss_limit_mb={INPUT_MEMORY}")]
}

/// Runs one input and shows what comes of it.
fn once(program: &Path, input: &Path) -> Result<(), String> {
    if !input.is_file() {
        return Err(format!("{} is no file", input.display()));
    }
    match Command::new(program).args(limits()).arg(input).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} does not hold ({status})", input.display())),
        Err(error) => Err(format!("{}: {error}", program.display())),
    }
}

/// Runs a target for a while on a copy of its corpus; its words go to a file.
fn fuzz(root: &Path, folder: &Path, target: &str, seconds: u32) -> Result<(), String> {
    let failed = |what: &Path, error| format!("{target}: {}: {error}", what.display());
    let room = root.join("target/fuzz/run").join(target);
    let (corpus, log) = (room.join("corpus"), room.join("log"));
    let found = root.join("fuzz/artifacts").join(target);
    if room.exists() {
        fs::remove_dir_all(&room).map_err(|error| failed(&room, error))?;
    }
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    }
    for file in files(&root.join("fuzz/corpus").join(target))? {
        let copy = corpus.join(file.file_name().unwrap_or_default());
        fs::copy(&file, copy).map_err(|error| failed(&file, error))?;
    }
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(found.join(""));
    let mut dictionary = OsString::from("-dict=");
    dictionary.push(root.join("fuzz/dict").join(target).with_extension("dict"));
    let words = fs::File::create(&log).map_err(|error| failed(&log, error))?;
    let mut command = Command::new(folder.join(target));
    command.args([prefix, dictionary]).args(limits()).arg("-print_final_stats=1");
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={INPUT_BYTES}")).arg(&corpus);
    let status = command.stdout(Stdio::null()).stderr(words).status();
    let status = status.map_err(|error| failed(&folder.join(target), error))?;
    let said = fs::read(&log).map_err(|error| failed(&log, error))?;
    let said = String::from_utf8_lossy(&said);
    if !status.success() {
        return Err(finding(target, &said, &log));
    }
    let inputs = executed(&said).filter(|inputs| *inputs > 0);
    let inputs = inputs.ok_or_else(|| format!("{target}: no input was tried; see {}", log.display()))?;
    say(&format!("fuzzed {target}: {inputs} inputs in {seconds} s hold"));
    Ok(())
}

/// How many inputs were tried.
fn executed(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    line.trim().parse().ok()
}

/// What was found, where it lies, and how to see it again.
fn finding(target: &str, said: &str, log: &Path) -> String {
    let mut lines =
        said.lines().skip_while(|line| !line.contains("panicked at") && !line.contains("ERROR: libFuzzer"));
    // A panic says where in one line and why in the next.
    let why = match lines.next() {
        Some(line) if line.contains("panicked at") => format!("{line} {}", lines.next().unwrap_or_default()),
        line => line.unwrap_or("it did not end well").to_owned(),
    };
    let why = why.trim();
    let input =
        said.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path.trim());
    match input {
        Some(input) => format!(
            "{target}: {why}\n  the input is {input}\n  see it again: cargo xtask fuzz {target} --input {input}"
        ),
        None => format!("{target}: {why}\n  the whole story is in {}", log.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<Fuzz, String> {
        Fuzz::read(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_words_of_the_command_line_are_understood_or_refused() {
        let fuzz = read("spec --seconds 900 ledger --release").unwrap();
        assert_eq!((fuzz.seconds, fuzz.targets.join(" ")), (Some(900), "spec ledger".to_owned()));
        assert!(fuzz.release);
        let fuzz = read("spec --input x").unwrap();
        assert!(fuzz.input == Some(PathBuf::from("x")) && !fuzz.release);
        for words in ["--seconds", "--seconds 0", "--seconds x", "--input x", "--input x a b", "--forever"] {
            assert!(read(words).is_err(), "{words}");
        }
    }

    #[test]
    fn every_target_has_a_corpus_and_a_dictionary() {
        let root = crate::root();
        let targets = targets(&root).unwrap();
        assert!(targets.contains(&"spec".to_owned()), "{targets:?}");
        for target in targets {
            let seeds = files(&root.join("fuzz/corpus").join(&target)).unwrap();
            assert!((1..=60).contains(&seeds.len()), "{target}: {} files", seeds.len());
            let too_long = |file: &&PathBuf| file.metadata().unwrap().len() > u64::from(INPUT_BYTES);
            assert_eq!(seeds.iter().find(too_long), None, "{target}");
            assert!(root.join("fuzz/dict").join(&target).with_extension("dict").is_file(), "{target}");
        }
    }

    #[test]
    fn a_finding_is_told_with_its_input_and_how_to_see_it_again() {
        let said = "thread panicked at src/lib.rs:1:2:\nit broke\nartifact_prefix='a/'; Test unit written to a/crash-1\nBase64: x\n";
        let told = finding("spec", said, Path::new("log"));
        assert!(told.contains("panicked at src/lib.rs:1:2: it broke\n"), "{told}");
        assert!(told.ends_with("cargo xtask fuzz spec --input a/crash-1"), "{told}");
        assert!(finding("spec", "", Path::new("log")).contains("log"));
        assert_eq!(executed("x\nstat::number_of_executed_units: 12\n"), Some(12));
        assert_eq!(executed("nothing"), None);
    }
}
