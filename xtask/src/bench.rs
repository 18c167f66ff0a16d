//! `cargo xtask bench`: the program of `benches/`, built as what it measures is shipped.

use crate::cargo;

/// Hands `arguments` to the program.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let mut all = vec![
        "run",
        "--release",
        "--locked",
        "--quiet",
        "--package",
        "orch-benches",
        "--bin",
        "orch-bench",
        "--",
    ];
    all.extend(arguments.iter().map(String::as_str));
    cargo("benchmarks", &all, &[])
}

/// Everything once with tiny loads, to show that it works.
pub(crate) fn quick() -> Result<(), String> {
    let all = ["run", "--locked", "--package", "orch-benches", "--bin", "orch-bench", "--", "--quick"];
    cargo("measurements, tiny", &all, &[])
}
