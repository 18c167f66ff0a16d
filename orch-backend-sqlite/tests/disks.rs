//! Disks that are full or may not be written: real ones, in memory. Mounting takes root; without it the tests say that
//! they were skipped, and fail where `ORCH_REQUIRE` names `tmpfs`.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a panic is a failed test; a skipped test says so"
)]

use std::path::Path;
use std::process::Command;

use orch::ledger::{Chain, Event, Head, RunPaused, Stream};
use orch::store::{Append, EntriesRequest, Store};
use orch::{ErrorKind, Result, TenantId, Timestamp};
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};

/// A small disk, unmounted when it goes.
struct Disk(tempfile::TempDir);

impl Disk {
    /// A disk of 2 MiB, or nothing where mounting is not permitted.
    fn new(test: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        if mount("size=2m", directory.path()) {
            return Some(Self(directory));
        }
        let required = std::env::var("ORCH_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "tmpfs"),
            "a tmpfs is required and cannot be mounted"
        );
        eprintln!("skipped: {test}: a tmpfs cannot be mounted here");
        None
    }

    fn config(&self) -> SqliteConfig {
        SqliteConfig::new(self.0.path().join("orch.db"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

fn mount(options: &str, at: &Path) -> bool {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at);
    mount.output().is_ok_and(|output| output.status.success())
}

fn note(head: Head, bytes: usize) -> Append {
    let (tenant, stream) = (TenantId::new("a").unwrap(), Stream::Audit);
    let mut chain = Chain::new(&tenant, stream, head);
    chain
        .push("test", Timestamp::EPOCH, &Event::from(RunPaused { reason: Some("x".repeat(bytes)) }))
        .unwrap();
    let (lines, after) = chain.finish().unwrap();
    Append { tenant, stream, expected: head, lines, head: after, row: None }
}

async fn land(backend: &SqliteBackend, append: &Append) -> Result<Head> {
    backend.store().append(std::slice::from_ref(append)).await?.remove(0)?;
    Ok(append.head)
}

async fn lines(backend: &SqliteBackend) -> (String, Head) {
    let (tenant, stream) = (TenantId::new("a").unwrap(), Stream::Audit);
    let request = EntriesRequest { tenant, stream, after: 0, limit: 1_000_000 };
    let page = backend.store().entries(&[request]).await.unwrap().remove(0);
    (page.lines, page.head)
}

#[tokio::test]
async fn a_full_disk_is_said_so_changes_nothing_and_passes() {
    let Some(disk) = Disk::new("a_full_disk_is_said_so_changes_nothing_and_passes") else { return };
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 600_000]).unwrap();
    let backend = SqliteBackend::open(disk.config()).await.unwrap();
    let (mut head, mut expected) = (Head::EMPTY, String::new());
    let error = loop {
        let append = note(head, 50_000);
        match land(&backend, &append).await {
            Ok(landed) => head = landed,
            Err(error) => break error,
        }
        expected.push_str(&append.lines);
    };
    assert!(head.seq > 3, "the disk was not full at once");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.to_string().contains("disk is full"), "{error}");
    let error = land(&backend, &note(head, 500_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(lines(&backend).await == (expected.clone(), head), "nothing was half written");
    std::fs::remove_file(ballast).unwrap();
    let append = note(head, 50_000);
    head = land(&backend, &append).await.expect("there is room again");
    expected.push_str(&append.lines);
    backend.close().await;
    let backend = SqliteBackend::open(disk.config()).await.unwrap();
    assert!(lines(&backend).await == (expected, head), "what was answered is there");
    backend.close().await;
}

#[tokio::test]
async fn a_disk_that_may_not_be_written_is_refused() {
    let Some(disk) = Disk::new("a_disk_that_may_not_be_written_is_refused") else { return };
    let backend = SqliteBackend::open(disk.config()).await.unwrap();
    land(&backend, &note(Head::EMPTY, 10)).await.unwrap();
    backend.close().await;
    assert!(mount("remount,ro", disk.0.path()));
    let new = SqliteConfig::new(disk.0.path().join("new/orch.db"));
    for config in [disk.config(), new] {
        let error = SqliteBackend::open(config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    }
}
