//! What a run gives, what its steps said, and that no answer is lost unnoticed.

use std::fs::File;
use std::process::Stdio;

use serde_json::json;

use crate::kit::Lab;

const TALKS: &str = r#"steps:
  - { id: a, uses: process, with: { command: sh, args: [-c, "echo one >&2; echo two >&2; echo done"] } }
  - { id: b, uses: fn/echo, needs: [a], with: "it is ${{ steps.a.output.stdout }}" }
"#;

fn lab() -> Lab {
    let lab = Lab::new();
    lab.dag("talks", TALKS);
    lab.orch(&["run", "talks.yaml", "--sandbox", "none"]);
    lab
}

#[test]
fn a_run_ends_with_what_it_gives() {
    let lab = lab();
    for args in [&["run", "talks.yaml", "--sandbox", "none"][..], &["runs", "show", "latest"]] {
        let shown = lab.orch(args).stdout;
        assert!(shown.contains("\nb: it is done\n") && !shown.contains("\na:"), "{shown}");
    }
    assert_eq!(lab.json(&["runs", "show", "latest"])["outputs"], json!({ "b": "it is done\n" }));
}

#[test]
fn a_long_output_is_cut_and_it_is_said_how_to_see_all() {
    let lab = Lab::new();
    lab.dag("long", "steps: [{ id: a, uses: fn/echo, with: \"${{ range(100) }}\" }]\n");
    let shown = lab.orch(&["run", "long.yaml"]).stdout;
    assert!(shown.contains("--json") && shown.lines().count() < 35, "{shown}");
}

#[test]
fn logs_are_lines_of_time_stream_and_text() {
    let lab = lab();
    for args in [&["runs", "logs", "latest"][..], &["runs", "logs", "latest", "a"]] {
        let said = lab.orch(args).stdout;
        let mut lines: Vec<Vec<&str>> =
            said.lines().map(|line| line.split_whitespace().skip(1).collect()).collect();
        // How the two streams lie between each other is up to the machine.
        lines.sort();
        let expected = [["attempt", "1"], ["stderr", "one"], ["stderr", "two"], ["stdout", "done"]];
        assert_eq!(lines, expected, "{said}");
    }
    let records = lab.lines(&["runs", "logs", "latest", "a"]);
    let two = records.iter().find(|record| record["line"] == "two").unwrap();
    assert_eq!((records.len(), &two["stream"]), (3, &json!("stderr")));
    assert!(lab.orch(&["runs", "logs", "latest", "b"]).stdout.is_empty());
    assert_eq!(lab.orch(&["runs", "logs", "latest", "nobody"]).code, 1);
}

#[test]
fn an_artifact_is_written_as_it_is_and_a_damaged_one_is_not() {
    let lab = lab();
    let run = lab.json(&["runs", "show", "latest"]);
    let hash = run["stepStates"][0]["logs"]["hash"].as_str().unwrap();
    let got = lab.orch(&["artifact", "get", hash]);
    assert_eq!(got.stdout, lab.orch(&["runs", "logs", "latest", "--json"]).stdout);
    assert_eq!(lab.orch(&["artifact", "get", hash, "-o", "log"]).code, 0);
    assert_eq!(std::fs::read_to_string(lab.path("log")).unwrap(), got.stdout);
    let kept = lab.path(&format!(".orch/artifacts/default/{}/{hash}", &hash[..2]));
    std::fs::write(kept, "something else").unwrap();
    let damaged = lab.orch(&["artifact", "get", hash]);
    assert!(damaged.code == 1 && damaged.stdout.is_empty(), "{damaged:?}");
    assert_eq!(lab.orch(&["artifact", "get", &"0".repeat(64)]).code, 1);
    assert_eq!(lab.orch(&["artifact", "get", hash, "--tenant", "other"]).code, 1);
}

#[test]
fn an_answer_that_cannot_be_written_fails_the_command() {
    let lab = lab();
    for args in [
        &["export"][..],
        &["ledger", "checkpoint"],
        &["graph", "talks.yaml"],
        &["runs", "events", "latest", "--json"],
        &["runs", "logs", "latest"],
        &["check", "talks.yaml", "--json"],
        &["run", "talks.yaml", "--sandbox", "none"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = lab.command(args).stdout(Stdio::from(full)).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(args == ["--help"] || said.contains("cannot be written"), "{args:?}: {said}");
    }
}

#[test]
fn a_reader_that_has_gone_away_is_no_failure() {
    let lab = lab();
    for args in [&["export"][..], &["runs", "show", "latest"], &["check", "talks.yaml", "--json"]] {
        let mut child = lab.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}
