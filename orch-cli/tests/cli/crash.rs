//! A process that dies loses nothing.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kit::Lab;

/// Long enough to be killed in, and a step before and after it.
pub(crate) fn long(duration: &str) -> String {
    format!(
        "steps:
  - {{ id: a, uses: fn/echo, with: 1 }}
  - {{ id: long, uses: fn/sleep, needs: [a], with: {{ duration: {duration} }} }}
  - {{ id: z, uses: fn/echo, needs: [long], with: 2 }}
"
    )
}

fn start(lab: &Lab, args: &[&str]) -> Child {
    lab.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until the long step is in this attempt or a later one.
pub(crate) fn wait_for_long(lab: &Lab, attempt: u64) {
    #[expect(clippy::disallowed_methods, reason = "a real process is waited for in real time")]
    let (start, patience) = (Instant::now(), Duration::from_secs(20));
    loop {
        let ended = lab.orch(&["runs", "show", "latest", "--json"]);
        let run: Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
        let step = &run["stepStates"][1];
        if step["status"] == "running"
            && step["attempts"].as_u64().is_some_and(|attempts| attempts >= attempt)
        {
            return;
        }
        assert!(start.elapsed() < patience, "{ended:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Holds the only run to every step having succeeded once; answers the attempts of the long one.
pub(crate) fn attempts_of_a_run_finished_once(lab: &Lab) -> u64 {
    let runs = lab.json(&["runs", "list"]);
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1, "{runs}");
    let entries = lab.lines(&["runs", "events", "latest"]);
    for step in ["a", "long", "z"] {
        let succeeded = entries.iter().filter(|e| e["type"] == "step.succeeded" && e["data"]["step"] == step);
        assert_eq!(succeeded.count(), 1, "{step}");
    }
    let run = lab.json(&["runs", "show", "latest"]);
    assert_eq!(run["status"], "completed");
    assert_eq!(lab.orch(&["ledger", "verify"]).code, 0);
    run["stepStates"][1]["attempts"].as_u64().unwrap()
}

#[test]
fn r1_a_killed_run_is_finished_exactly_once_by_work() {
    let lab = Lab::new();
    lab.dag("long", &long("2s"));
    let mut child = start(&lab, &["run", "long.yaml", "--lease", "1s"]);
    wait_for_long(&lab, 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let work = lab.orch(&["work", "--until-idle", "--lease", "1s"]);
    assert!(work.code == 0 && work.stdout.contains("✓ completed long run"), "{work:?}");
    // More than two when the machine is too busy to prolong a lease in time.
    assert!(attempts_of_a_run_finished_once(&lab) >= 2, "the killed attempt counts");
}

#[test]
fn r5_a_killed_run_is_finished_exactly_once_by_the_same_command() {
    let lab = Lab::new();
    lab.dag("long", &long("2s"));
    let args = ["run", "long.yaml", "--lease", "1s", "--run-token", "nightly"];
    let mut child = start(&lab, &args);
    wait_for_long(&lab, 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let again = lab.orch(&args);
    assert!(again.code == 0 && again.stderr.contains("is there already"), "{again:?}");
    // More than two when the machine is too busy to prolong a lease in time.
    assert!(attempts_of_a_run_finished_once(&lab) >= 2, "the killed attempt counts");
}

#[test]
fn two_processes_share_the_work_and_every_step_succeeds_once() {
    let lab = Lab::new();
    lab.dag("long", &long("2s"));
    lab.orch(&["run", "long.yaml", "--no-work"]);
    let mut others = [start(&lab, &["work", "--until-idle"]), start(&lab, &["work", "--until-idle"])];
    for other in &mut others {
        assert!(other.wait().unwrap().success());
    }
    assert_eq!(attempts_of_a_run_finished_once(&lab), 1);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_lets_its_step_end_and_says_how_to_go_on() {
    let lab = Lab::new();
    lab.dag("long", &long("2s"));
    let child =
        lab.command(&["run", "long.yaml"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_long(&lab, 1);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
        .unwrap();
    let ended = crate::kit::Ended::of(child.wait_with_output().unwrap());
    assert!(ended.code == 1 && ended.stderr.contains("orch work"), "{ended:?}");
    assert_eq!(lab.orch(&["work", "--until-idle"]).code, 0);
    assert_eq!(attempts_of_a_run_finished_once(&lab), 1);
}
