//! Bad input gets a clear error and loses nothing.

use std::path::Path;

use crate::kit::{Ended, Lab, assert_looks, command_in};

const GOOD: &str = "steps: [{ id: a, uses: fn/noop }]\n";

/// Checks a document that must be refused with exactly these words somewhere.
fn refused(lab: &Lab, file: &str, words: &[&str]) {
    let ended = lab.orch(&["check", file]);
    assert_eq!(ended.code, 1, "{file}: {ended:?}");
    for word in words {
        assert!(
            ended.stderr.contains(word),
            "{file}: {word}: {}",
            &ended.stderr[..ended.stderr.len().min(2_000)]
        );
    }
    assert!(ended.stderr.len() < 100_000, "{file}: a report is short");
    assert!(!ended.stderr.contains("panicked"), "{file}");
}

#[test]
fn every_problem_is_shown_in_its_line_with_what_to_do() {
    let lab = Lab::new();
    lab.dag("wrong", "steps:\n  - { id: fetch, uses: fn/noop }\n  - { id: b, uses: fn/noop, needs: [fecth], frobnicate: 1 }\n  - { id: fetch, uses: fn/noop }\n");
    assert_looks!("problems", lab.orch(&["check", "wrong.yaml"]).all(), (r" +$", ""));
}

#[test]
fn a_cycle_is_shown_as_its_whole_path() {
    let lab = Lab::new();
    lab.dag("round", "steps:\n  - { id: a, uses: fn/noop, needs: [c] }\n  - { id: b, uses: fn/noop, needs: [a] }\n  - { id: c, uses: fn/noop, needs: [b] }\n");
    assert_looks!("cycle", lab.orch(&["check", "round.yaml"]).all(), (r" +$", ""));
}

#[test]
fn malformed_and_hostile_documents_are_refused_with_their_place() {
    let lab = Lab::new();
    lab.write("malformed.yaml", "steps: [\n  - x: }\n");
    lab.write("empty.yaml", "");
    lab.write("deep.yaml", &format!("a: {}", "[".repeat(200_000)));
    lab.dag("twice", "id: again\nsteps: []\n");
    lab.dag("nan", "steps: [{ id: a, uses: fn/echo, with: { x: .nan } }]\n");
    lab.dag("path", "steps: [{ id: ../../etc/passwd, uses: fn/noop }]\n");
    lab.write("id.yaml", "apiVersion: orch/v1\nkind: Dag\nid: ../x\nsteps: [{ id: a, uses: fn/noop }]\n");
    lab.write("big.yaml", &"# filler\n".repeat(1_200_000));
    std::fs::write(lab.path("bytes.yaml"), [b'a', b'\n', 0xff, 0xfe]).unwrap();
    std::fs::create_dir(lab.path("directory")).unwrap();
    for (file, words) in [
        ("malformed.yaml", &["malformed.yaml:2:", "error["][..]),
        ("empty.yaml", &["empty.yaml:1:1: error["]),
        ("deep.yaml", &["nested too deep"]),
        ("twice.yaml", &["twice.yaml:4:1: error[", "line 3"]),
        ("nan.yaml", &["nan.yaml:4:"]),
        ("path.yaml", &["path.yaml:4:"]),
        ("id.yaml", &["id.yaml:3:"]),
        ("big.yaml", &["limit"]),
        ("bytes.yaml", &["bytes.yaml:2", "UTF-8"]),
        ("directory", &["is a directory"]),
        ("missing.yaml", &["cannot be read"]),
    ] {
        refused(&lab, file, words);
    }
}

#[test]
fn bad_inputs_are_all_named_at_once() {
    let lab = Lab::new();
    lab.dag("typed", "inputs: { type: object, required: [name], properties: { count: { type: integer } } }\nsteps: [{ id: a, uses: fn/noop }]\n");
    assert_looks!("inputs", lab.orch(&["run", "typed.yaml", "count=many"]).all());
    lab.write("list.json", "[1]");
    assert!(lab.orch(&["run", "typed.yaml", "--inputs", "list.json"]).stderr.contains("object of inputs"));
    assert!(lab.orch(&["run", "typed.yaml", "name"]).stderr.contains("key=value"));
    assert_eq!(lab.json(&["runs", "list"])["runs"].as_array().unwrap().len(), 0, "nothing was submitted");
}

#[test]
fn a_file_that_is_no_database_is_left_as_it_is() {
    let lab = Lab::new();
    lab.dag("good", GOOD);
    let junk = vec![7u8; 20_000];
    std::fs::write(lab.path("junk.db"), &junk).unwrap();
    let ended = lab.orch(&["run", "good.yaml", "--store", "sqlite:junk.db"]);
    assert!(ended.code == 1 && ended.stderr.contains("not a database"), "{ended:?}");
    assert_eq!(std::fs::read(lab.path("junk.db")).unwrap(), junk);
}

#[test]
fn a_damaged_database_is_an_error_and_never_a_crash() {
    let lab = Lab::new();
    lab.dag("good", GOOD);
    for _ in 0..5 {
        lab.orch(&["run", "good.yaml"]);
    }
    let path = lab.path(".orch/orch.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let length = bytes.len();
    assert!(length > 8_192, "there is something to damage");
    bytes[4_096..].iter_mut().for_each(|byte| *byte = 0x5a);
    std::fs::write(&path, bytes).unwrap();
    for args in [&["runs", "list"][..], &["ledger", "verify"], &["doctor"], &["run", "good.yaml"]] {
        let ended = lab.orch(args);
        assert_eq!(ended.code, 1, "{args:?}: {ended:?}");
        assert!(!ended.stderr.contains("panicked"), "{args:?}: {ended:?}");
    }
}

#[test]
fn a_directory_that_cannot_be_written_to_is_named() {
    let lab = Lab::new();
    lab.dag("good", GOOD);
    let file = lab.path("good.yaml");
    // Nobody can make files there, not even root.
    let ended = Ended::of(command_in(Path::new("/proc"), &["run", file.to_str().unwrap()]).output().unwrap());
    assert_ne!(ended.code, 0);
    assert!(ended.stderr.contains(".orch") && ended.stderr.contains("--store"), "{ended:?}");
    let check = command_in(Path::new("/proc"), &["check", file.to_str().unwrap()]).output().unwrap();
    assert!(check.status.success(), "checking needs no store");
}

#[test]
fn an_address_of_a_store_that_is_not_understood_teaches() {
    let ended = Lab::new().orch(&["runs", "list", "--store", "postgres://x"]);
    assert!(ended.code == 1 && ended.stderr.contains("sqlite:PATH"), "{ended:?}");
}

#[test]
fn what_does_not_name_a_run_or_a_step_says_what_would() {
    let lab = Lab::new();
    lab.dag("good", GOOD).orch(&["run", "good.yaml"]);
    for (args, words) in [
        (&["runs", "show", "xyz"][..], "first 4 digits"),
        (&["runs", "show", "abc"], "first 4 digits"),
        (&["runs", "show", "00000000000000000000000000000000"], "orch runs list"),
        (&["explain", "latest", "b"], "its steps are a"),
        (&["dag", "disable", "good"], "DAG@N"),
        (&["signal", "send", "latest", "go", "{"], "JSON"),
    ] {
        let ended = lab.orch(args);
        assert!(ended.code == 1 && ended.stderr.contains(words), "{args:?}: {ended:?}");
    }
}
