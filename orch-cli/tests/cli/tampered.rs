//! Evidence: a database that somebody has changed by hand, and one that may not be written.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use sqlx::{Connection as _, Executor as _, SqliteConnection};

use crate::kit::{Ended, Lab};

const VERIFY: [&str; 4] = ["ledger", "verify", "--checkpoint", "heads.json"];

/// Two runs that ended, and their heads in a file.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.dag("one", "steps:\n  - { id: a, uses: fn/noop }\n");
    for token in ["x", "y"] {
        assert_eq!(lab.orch(&["run", "one.yaml", "--run-token", token]).code, 0);
    }
    assert_eq!(lab.orch(&["ledger", "checkpoint", "-o", "heads.json"]).code, 0);
    assert_eq!(lab.orch(&VERIFY).code, 0);
    lab
}

fn change(lab: &Lab, sql: &str) {
    let path = lab.path(".orch/orch.db");
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let mut file = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
        file.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))).await.unwrap();
        file.close().await.unwrap();
    });
}

const FIRST: &str = "(SELECT min(id) FROM streams WHERE name LIKE 'run/%')";

#[test]
fn a_run_whose_entries_or_row_are_gone_is_found_whatever_is_deleted() {
    for sql in [
        "DELETE FROM streams WHERE id = FIRST",
        "DELETE FROM appends WHERE stream = FIRST; DELETE FROM streams WHERE id = FIRST",
        "DELETE FROM appends WHERE stream = FIRST",
        "DELETE FROM runs WHERE stream = FIRST",
        "DELETE FROM runs",
        "DELETE FROM runs WHERE stream = FIRST; DELETE FROM appends WHERE stream = FIRST; DELETE FROM streams WHERE id = FIRST",
        "UPDATE streams SET name = 'run/' || printf('%064d', 7) WHERE id = FIRST",
        "UPDATE streams SET name = 'else' WHERE id = FIRST",
        "UPDATE streams SET tenant = 'other' WHERE id = FIRST",
        "UPDATE streams SET id = 1000 WHERE id = FIRST",
        "UPDATE streams SET seq = seq - 1 WHERE id = FIRST",
    ] {
        let lab = lab();
        change(&lab, &sql.replace("FIRST", FIRST));
        let ended = lab.orch(&VERIFY);
        assert!(ended.code == 1 && !ended.stdout.contains('✓'), "{sql}: {ended:?}");
        let without = lab.orch(&VERIFY[..2]);
        if sql.matches("DELETE").count() < 3 {
            assert!(without.code == 1 && !without.stdout.contains('✓'), "{sql}: {without:?}");
        }
        let doctor = lab.orch(&["doctor"]);
        if sql.matches("DELETE").count() < 3 {
            assert!(doctor.stdout.contains("run"), "{sql}: {doctor:?}");
            assert_ne!(doctor.code, 0, "{sql}: {doctor:?}");
        }
    }
}

#[test]
fn a_stream_without_its_entries_is_named_as_deleted_by_what_its_checkpoint_says() {
    let lab = lab();
    change(&lab, &format!("DELETE FROM streams WHERE id = {FIRST}"));
    let ended = lab.orch(&VERIFY);
    assert!(ended.stdout.contains("✗ failed  run/") && ended.stdout.contains(": deleted: "), "{ended:?}");
    assert!(ended.stdout.contains(" (L1)"), "{ended:?}");
}

#[test]
fn columns_that_differ_from_their_body_are_found_and_never_listed() {
    for column in
        ["status = 'failed'", "dag = 'two'", "newest = newest - 1", "wake_at = 5", "tenant = 'other'"]
    {
        let lab = lab();
        change(&lab, &format!("UPDATE runs SET {column} WHERE stream = {FIRST}"));
        let ended = lab.orch(&VERIFY);
        assert!(ended.code == 1 && ended.stdout.contains("differ from its body"), "{column}: {ended:?}");
        if !column.starts_with("tenant") {
            let listed = lab.orch(&["runs", "list"]);
            assert!(
                listed.code != 0 && listed.stderr.contains("differ from its body"),
                "{column}: {listed:?}"
            );
        }
    }
}

#[test]
fn damaged_pages_do_not_end_verification() {
    let lab = lab();
    let long = "x".repeat(40_000);
    lab.dag("long", &format!("steps:\n  - {{ id: a, uses: fn/echo, with: {long} }}\n"));
    assert_eq!(lab.orch(&["run", "long.yaml"]).code, 0);
    let path = lab.path(".orch/orch.db");
    let mut bytes = std::fs::read(&path).unwrap();
    // Text that fills pages of its own: each names the next one in its first four bytes.
    let mut damaged = 0;
    for page in bytes.chunks_mut(4_096).filter(|page| page[4..].iter().all(|byte| *byte == b'x')) {
        page[..4].fill(0xff);
        damaged += 1;
    }
    assert!(damaged > 0);
    std::fs::write(&path, bytes).unwrap();
    let ended = lab.orch(&VERIFY);
    let named = ended.stdout.lines().filter(|line| line.contains("✗ failed  run/")).count();
    assert!(ended.code == 1 && named == 1 && ended.stdout.contains("unreadable"), "{ended:?}");
    assert!(ended.stdout.contains("streams"), "the others were looked at: {ended:?}");
}

/// Runs a command as somebody whom permissions bind.
fn bound(lab: &Lab, args: &[&str]) -> Ended {
    let mut command = lab.command(args);
    if std::fs::metadata(lab.path("")).unwrap().uid() == 0 {
        command.uid(65_534).gid(65_534);
    }
    Ended::of(command.output().unwrap())
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn evidence_that_may_not_be_written_can_be_looked_at_and_nothing_else() {
    let lab = lab();
    mode(&lab.path(""), 0o755);
    mode(&lab.path("heads.json"), 0o444);
    mode(&lab.path(".orch/orch.db"), 0o444);
    mode(&lab.path(".orch"), 0o555);
    let before = std::fs::read(lab.path(".orch/orch.db")).unwrap();
    let files = || std::fs::read_dir(lab.path(".orch")).unwrap().count();
    let count = files();
    for args in [&["runs", "list"][..], &VERIFY, &["export"], &["dag", "list"]] {
        let ended = bound(&lab, args);
        assert_eq!(ended.code, 0, "{args:?}: {ended:?}");
    }
    let ended = bound(&lab, &["ledger", "checkpoint"]);
    assert_eq!(ended.code, 3, "{ended:?}");
    let ended = bound(&lab, &["--store", "sqlite:.orch/orch.db?mode=ro", "ledger", "checkpoint"]);
    assert!(ended.code == 3 && ended.stderr.contains("opened for reading only"), "{ended:?}");
    assert_eq!(std::fs::read(lab.path(".orch/orch.db")).unwrap(), before);
    assert_eq!(files(), count, "nothing was made beside it");
    // With a log nobody can tell whether the file alone is whole.
    mode(&lab.path(".orch"), 0o755);
    std::fs::write(lab.path(".orch/orch.db-wal"), b"log").unwrap();
    mode(&lab.path(".orch/orch.db-wal"), 0o444);
    mode(&lab.path(".orch"), 0o555);
    let ended = bound(&lab, &["runs", "list"]);
    assert!(ended.code == 3 && ended.stderr.contains("-wal"), "{ended:?}");
    mode(&lab.path(".orch"), 0o755);
}
