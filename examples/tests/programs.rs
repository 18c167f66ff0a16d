//! Each program runs to its end and says what its text promises.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::Path;
use std::process::Command;

/// Runs a program in a directory and answers the lines it prints.
fn lines(program: &str, directory: &Path) -> Vec<String> {
    let ran = Command::new(program).current_dir(directory).output().unwrap();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{program}: {errors}");
    String::from_utf8(ran.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn says(program: &str, expected: &[&str]) {
    assert_eq!(lines(program, tempfile::tempdir().unwrap().path()), expected);
}

#[test]
fn embedding_adds_up_a_bill_and_finds_it_again_in_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_embedding");
    assert_eq!(lines(program, directory.path()), ["completed: total 15 (new)"]);
    assert_eq!(lines(program, directory.path()), ["completed: total 15 (known already)"]);
    assert!(directory.path().join(".orch/embedding.db").is_file());
}

#[test]
fn the_service_is_served_beside_the_routes_of_its_host() {
    says(
        env!("CARGO_BIN_EXE_serving"),
        &[
            "GET /: the host",
            "POST /flows/api/v1/orchestrator/runs: 201",
            "GET /flows/api/v1/orchestrator/runs: 1 run, completed",
        ],
    );
}

#[test]
fn approvals_ship_what_was_approved_and_nothing_else() {
    says(
        env!("CARGO_BIN_EXE_approvals"),
        &[
            "1.0 asks: \"Ship 1.0?\"",
            "1.0 completed: \"shipped 1.0\"",
            "2.0 failed: rejected: rejected by grace: not on a Friday",
            "3.0 failed: expired: nobody decided the gate in time",
        ],
    );
}

#[test]
fn a_parked_step_waits_for_a_person_and_then_goes_on() {
    says(
        env!("CARGO_BIN_EXE_retries-and-parking"),
        &[
            "fetch attempt 1: timeout",
            "fetch attempt 2: succeeded",
            "store attempt 1: disk_full",
            "store parked: disk_full",
            "store attempt 3: succeeded",
            "completed",
        ],
    );
}

#[test]
fn process_steps_pass_data_on_and_leave_their_logs() {
    let program = env!("CARGO_BIN_EXE_process-steps");
    let mut lines = lines(program, tempfile::tempdir().unwrap().path());
    // The two streams of one command are read side by side, so either may come first.
    lines[1..3].sort_unstable();
    assert_eq!(
        lines,
        [
            "measure succeeded: {\"unit\":\"ms\",\"values\":[3,1,2]}",
            "  Stderr: measuring in ms",
            "  Stdout: {\"unit\": \"ms\", \"values\": [3, 1, 2]}",
            "sort succeeded: {\"stdout\":\"1\\n2\\n3\\n\"}",
            "  Stdout: 1",
            "  Stdout: 2",
            "  Stdout: 3",
            "identify succeeded: {\"stdout\":\"identify, attempt 1\"}",
            "  Stdout: identify, attempt 1",
            "completed (sandbox: none)",
        ]
    );
}

#[test]
fn a_sub_dag_stays_at_its_version() {
    says(
        env!("CARGO_BIN_EXE_sub-dag"),
        &[
            "published scan@1",
            "published scan-all@1",
            "published scan@2",
            "completed: [\"checked a.txt\",\"checked b.txt\"]",
        ],
    );
}
