//! How runs, documents and versions belong together.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value;

use crate::kit::{Ended, Lab};

const TWO: &str =
    "steps:\n  - { id: a, uses: fn/echo, with: 1 }\n  - { id: b, uses: fn/echo, needs: [a], with: 2 }\n";

#[test]
fn a_run_names_the_runs_of_its_sub_dags_and_they_name_it() {
    let lab = Lab::new();
    lab.dag("child", TWO).dag("parent", "steps: [{ id: sub, uses: dag/child@1 }]\n");
    lab.orch(&["dag", "publish", "child.yaml"]);
    let parent = lab.json(&["run", "parent.yaml"])["run"].as_str().unwrap().to_owned();
    let shown = lab.orch(&["runs", "show", "latest"]).stdout;
    assert!(shown.contains(&parent), "`latest` is the one that was submitted: {shown}");
    let runs = lab.json(&["runs", "list"]);
    let child = runs["runs"].as_array().unwrap().iter().find(|run| run["dag"] == "child").unwrap();
    let child = child["run"].as_str().unwrap();
    assert!(shown.contains(&format!("has part {child}, step sub")), "{shown}");
    let shown = lab.orch(&["runs", "show", child]).stdout;
    assert!(shown.contains(&format!("part of  {parent}, step sub")), "{shown}");
}

#[test]
fn a_token_that_names_a_run_of_another_document_is_refused() {
    let lab = Lab::new();
    lab.dag("two", TWO);
    lab.orch(&["run", "two.yaml", "--run-token", "t"]);
    lab.dag("two", "steps: [{ id: a, uses: fn/echo, with: other }]\n");
    let other = lab.orch(&["run", "two.yaml", "--run-token", "t"]);
    assert!(other.code == 1 && other.stdout.is_empty(), "{other:?}");
    assert!(other.stderr.contains("another document") && other.stderr.contains("--run-token"), "{other:?}");
    assert_eq!(lab.orch(&["run", "two.yaml", "--run-token", "u"]).code, 0);
}

#[test]
fn a_refused_submission_names_no_run() {
    let lab = Lab::new();
    lab.dag("two", TWO);
    lab.orch(&["dag", "publish", "two.yaml"]);
    lab.orch(&["dag", "disable", "two@1"]);
    let refused = lab.orch(&["run", "two.yaml", "--run-token", "t"]);
    assert!(refused.code == 3 && !refused.stderr.contains("run:"), "{refused:?}");
}

#[test]
fn a_step_that_was_reused_says_from_which_run() {
    let lab = Lab::new();
    lab.dag("two", TWO);
    let first = lab.json(&["run", "two.yaml"])["run"].as_str().unwrap().to_owned();
    let rerun = lab.orch(&["runs", "rerun", "latest", "--from", "b"]).stdout;
    let said = format!("reused from {}", &first[..12]);
    assert!(rerun.contains(&said) && lab.orch(&["runs", "show", "latest"]).stdout.contains(&said), "{rerun}");
    let shown = lab.json(&["runs", "show", "latest"]);
    assert_eq!(shown["stepStates"][0]["reused"]["run"], Value::from(first));
    assert!(shown["stepStates"][1].get("reused").is_none());
}

#[test]
fn a_version_is_shown_by_its_name() {
    let lab = Lab::new();
    lab.dag("two", TWO);
    lab.orch(&["dag", "publish", "two.yaml"]);
    lab.dag("two", "steps: [{ id: other, uses: fn/noop }]\n");
    lab.orch(&["dag", "publish", "two.yaml"]);
    let plan = |dag: &str| lab.json(&["dag", "show", dag])["plan"]["order"].as_array().unwrap().len();
    assert_eq!((plan("two@1"), plan("two@2"), plan("two")), (2, 1, 1));
    assert_eq!(lab.orch(&["dag", "show", "two@x"]).code, 1);
}

#[test]
fn a_function_that_is_not_built_in_is_warned_of_and_no_failure() {
    let lab = Lab::new();
    lab.dag("own", "steps: [{ id: a, uses: fn/ehco }]\n");
    for command in ["check", "plan"] {
        let ended = lab.orch(&[command, "own.yaml"]);
        assert!(ended.code == 0 && ended.stderr.contains("did you mean `fn/echo`?"), "{ended:?}");
    }
    let checked = lab.json(&["check", "own.yaml"]);
    assert_eq!(checked["files"][0]["warnings"].as_array().unwrap().len(), 1);
}

#[test]
fn a_document_is_read_from_standard_input() {
    let lab = Lab::new();
    let mut command = lab.command(&["check", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let text = format!("apiVersion: orch/v1\nkind: Dag\nid: two\n{TWO}");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let ended = Ended::of(child.wait_with_output().unwrap());
    assert!(ended.code == 0 && ended.stdout.contains("two, 2 steps"), "{ended:?}");
}

#[test]
fn watching_a_held_run_says_so_and_waits() {
    let lab = Lab::new();
    lab.dag("two", TWO);
    lab.orch(&["run", "two.yaml", "--no-work"]);
    lab.orch(&["runs", "pause", "latest"]);
    let mut watching = lab
        .command(&["runs", "watch", "latest"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    assert!(watching.try_wait().unwrap().is_none(), "it waits");
    assert_eq!(lab.orch(&["runs", "resume", "latest"]).code, 0);
    let ended = Ended::of(watching.wait_with_output().unwrap());
    assert!(ended.code == 0 && ended.stderr.contains("the run is held"), "{ended:?}");
}

#[test]
fn work_tells_how_far_the_runs_are() {
    let lab = Lab::new();
    lab.dag("slow", "steps:\n  - { id: a, uses: fn/noop }\n  - { id: b, uses: fn/sleep, needs: [a], with: { duration: 2s } }\n");
    lab.orch(&["run", "slow.yaml", "--no-work"]);
    let worked = lab.orch(&["work", "--until-idle"]);
    assert!(worked.code == 0 && worked.stderr.contains("1/2 steps"), "{worked:?}");
}
