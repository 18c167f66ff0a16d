//! Each program runs to its end and says what its text promises.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::process::Command;

fn says(program: &str, lines: &[&str]) {
    let ran = Command::new(program).output().unwrap();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{program}: {errors}");
    assert_eq!(String::from_utf8(ran.stdout).unwrap().lines().collect::<Vec<_>>(), lines);
}

#[test]
fn embedding_adds_up_a_bill() {
    says(env!("CARGO_BIN_EXE_embedding"), &["completed: total 15"]);
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
    let ran = Command::new(program).output().unwrap();
    let mut lines: Vec<_> = std::str::from_utf8(&ran.stdout).unwrap().lines().collect();
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
