//! The commands that the examples name.

use crate::kit::Lab;

/// How many of the commands end otherwise than with a completed run: one is made to fail, one waits for a person.
const NOT_COMPLETED: [&str; 2] = ["run examples/dags/approval.yaml", "run examples/dags/on-failure.yaml"];

#[test]
fn every_run_in_the_head_of_an_example_does_what_it_says() {
    let lab = Lab::new();
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    std::fs::create_dir_all(lab.path("examples")).unwrap();
    std::fs::create_dir_all(lab.path("path/to")).unwrap();
    std::os::unix::fs::symlink(format!("{workspace}/examples/dags"), lab.path("examples/dags")).unwrap();
    for lock in ["Cargo.lock", "path/to/Cargo.lock"] {
        lab.write(lock, "version = 4\n\n[[package]]\nname = \"alone\"\nversion = \"1.0.0\"\n");
    }
    let mut count = 0;
    for file in std::fs::read_dir(format!("{workspace}/examples/dags")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("#   orch ")) {
            if line.starts_with("run ") {
                count += 1;
                let script = format!("exec \"$0\" {line}");
                let words = ["-c", &script, env!("CARGO_BIN_EXE_orch")];
                let output =
                    std::process::Command::new("sh").args(words).current_dir(lab.path("")).output().unwrap();
                let expected = i32::from(NOT_COMPLETED.contains(&line));
                assert_eq!(output.status.code(), Some(expected), "{line}: {output:?}");
            }
        }
    }
    assert!(count >= 10, "{count} commands");
}
