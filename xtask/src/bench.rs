//! `cargo xtask bench`: the program of `benches/`, built as what it measures is shipped.

use std::process::Command;

use crate::{cargo, root, target};

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

/// Everything once with tiny loads, to show that it works; built as the tests were.
pub(crate) fn quick() -> Result<(), String> {
    let all = ["--workspace", "--all-features", "--locked", "--bin", "orch-bench"];
    cargo("measurements", &[&["build"], &all[..]].concat(), &[])?;
    let program = target().join("debug/orch-bench");
    let status = Command::new(&program).arg("--quick").current_dir(root()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("measuring failed ({status})")),
        Err(error) => Err(format!("{}: {error}", program.display())),
    }
}
