//! The file itself: statements, schema versions, damage, permissions, full disks.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use orch::ErrorKind;
use orch::ledger::{Chain, Event, Head, RunPaused, Stream};
use orch::lock::{Acquire, Holder, Lock, Slot};
use orch::queue::{Claim, Item, Queue};
use orch::store::{Append, EntriesRequest, Store};
use sqlx::{Connection as _, Executor as _, Row as _, SqliteConnection};

use super::*;

fn config(directory: &tempfile::TempDir) -> SqliteConfig {
    SqliteConfig::new(directory.path().join("new").join("orch.db"))
}

async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap()
}

fn note(head: Head, text: &str) -> Append {
    let tenant = orch::TenantId::new("a").unwrap();
    let mut chain = Chain::new(&tenant, Stream::Audit, head);
    let event = Event::from(RunPaused { reason: Some(text.to_owned()) });
    chain.push("test", orch::Timestamp::EPOCH, &event).unwrap();
    let (lines, after) = chain.finish().unwrap();
    Append { tenant, stream: Stream::Audit, expected: head, lines, head: after, row: None }
}

async fn land(backend: &SqliteBackend, head: Head, text: &str) -> Result<Head> {
    let append = note(head, text);
    backend.store().append(std::slice::from_ref(&append)).await?.remove(0)?;
    Ok(append.head)
}

fn item(tenant: &str, queue: &str, number: usize) -> Item {
    let (tenant, dag) = (orch::TenantId::new(tenant).unwrap(), orch::DagId::new("dag").unwrap());
    Item {
        queue: orch::QueueName::new(queue).unwrap(),
        priority: 0,
        ready_at: orch::Timestamp::EPOCH,
        run: orch::RunId::derive(&tenant, &dag, &format!("{queue}/{number}"), &orch::Digest::ZERO),
        plan_index: 0,
        step: orch::StepId::new("step").unwrap().into(),
        attempt: 1,
        tenant,
        dag,
    }
}

/// A claim of ten items, of every tenant and of one queue or all.
fn claim(queue: Option<&str>) -> Claim {
    let queues = queue.map(|queue| vec![orch::QueueName::new(queue).unwrap()]);
    let (worker, lease) = (orch::WorkerId::new("worker"), Duration::from_secs(60));
    Claim { worker, queues, tenants: None, limit: 10, lease, now: orch::Timestamp::EPOCH }
}

async fn opening(config: &SqliteConfig) -> Option<ErrorKind> {
    SqliteBackend::open(config.clone()).await.err().map(|error| error.kind())
}

fn every_statement() -> Vec<&'static str> {
    let sets = store::sets().flat_map(store::Many::all);
    [store::ALL, queue::ALL, lock::ALL].concat().into_iter().chain(sets).collect()
}

#[tokio::test]
async fn every_statement_prepares() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = connect::open(&config(&directory)).await.unwrap().writer.unwrap();
    for sql in every_statement() {
        if let Err(error) = writer.prepare(sqlx::SqlStr::from_static(sql)).await {
            panic!("{error}\n{sql}");
        }
    }
}

#[tokio::test]
async fn no_statement_reads_a_whole_table() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = connect::open(&config(&directory)).await.unwrap().writer.unwrap();
    for sql in every_statement() {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        for row in sqlx::query(explain).fetch_all(&mut writer).await.unwrap() {
            let step: &str = row.get(3);
            let whole =
                step.starts_with("SCAN ") && !step.contains("VIRTUAL TABLE") && !step.contains(" USING ");
            let small = ["SCAN lanes", "SCAN fences", "SCAN e"].contains(&step)
                || step.starts_with("SCAN (")
                || step.contains("CONSTANT ROW")
                || step.contains("-ROW VALUES CLAUSE");
            assert!(!whole || small, "{step}\n{sql:.300}");
        }
    }
}

#[tokio::test]
async fn what_was_appended_is_there_after_closing_and_opening() {
    let directory = tempfile::tempdir().unwrap();
    let backend = SqliteBackend::open(config(&directory)).await.unwrap();
    let head = land(&backend, Head::EMPTY, "one").await.unwrap();
    backend.close().await;
    let closed = land(&backend, head, "two").await.unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Closed);
    let left: Vec<_> = std::fs::read_dir(config(&directory).path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "side files are gone after closing: {left:?}");
    let backend = SqliteBackend::open(config(&directory)).await.unwrap();
    land(&backend, head, "two").await.unwrap();
    backend.close().await;
}

#[tokio::test]
async fn file_and_directory_are_their_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    let backend = SqliteBackend::open(config.clone()).await.unwrap();
    land(&backend, Head::EMPTY, "one").await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(config.path.parent().unwrap()), 0o700);
    for entry in std::fs::read_dir(config.path.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn a_schema_of_the_future_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    SqliteBackend::open(config.clone()).await.unwrap().close().await;
    raw(&config.path).await.execute("PRAGMA user_version = 999").await.unwrap();
    assert_eq!(opening(&config).await, Some(ErrorKind::Unsupported));
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let config = SqliteConfig::new(directory.path().join("other.db"));
    std::fs::write(&config.path, "").unwrap();
    raw(&config.path).await.execute("CREATE TABLE theirs (x)").await.unwrap();
    assert_eq!(opening(&config).await, Some(ErrorKind::Refused));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_corrupt() {
    let directory = tempfile::tempdir().unwrap();
    let config = SqliteConfig::new(directory.path().join("letter.txt"));
    std::fs::write(&config.path, "Dear reader, ".repeat(1_000)).unwrap();
    assert_eq!(opening(&config).await, Some(ErrorKind::Corrupt));
}

#[tokio::test]
async fn a_damaged_file_is_corrupt() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    let backend = SqliteBackend::open(config.clone()).await.unwrap();
    land(&backend, Head::EMPTY, &"long ".repeat(10_000)).await.unwrap();
    backend.close().await;
    let mut bytes = std::fs::read(&config.path).unwrap();
    bytes[4_096..].fill(0xa5);
    std::fs::write(&config.path, bytes).unwrap();
    let backend = SqliteBackend::open(config).await.unwrap();
    let tenant = orch::TenantId::new("a").unwrap();
    let request = EntriesRequest { tenant, stream: Stream::Audit, after: 0, limit: 10 };
    let error = backend.store().entries(&[request]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

#[tokio::test]
async fn a_path_through_a_file_cannot_be_opened() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("new"), "").unwrap();
    assert_eq!(opening(&config(&directory)).await, Some(ErrorKind::Unavailable));
}

#[tokio::test]
async fn a_file_that_may_not_be_written_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    let backend = SqliteBackend::open(config.clone()).await.unwrap();
    let mut writer = connect::open(&config).await.unwrap().writer.unwrap();
    writer.execute("PRAGMA query_only = 1").await.unwrap();
    let error = writer.execute("DELETE FROM docs").await.unwrap_err();
    assert_eq!(error::mapped(error).kind(), ErrorKind::Refused);
    drop(backend);
}

#[tokio::test]
async fn a_connection_for_reading_is_refused_what_writes() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    let backend = SqliteBackend::open(config.clone()).await.unwrap();
    let mut reader = connect::reader(&config).await.unwrap();
    let error = reader.execute("DELETE FROM docs").await.unwrap_err();
    assert_eq!(error::mapped(error).kind(), ErrorKind::Refused);
    backend.close().await;
}

#[tokio::test]
async fn a_file_opened_for_reading_only_answers_and_refuses_changes() {
    let directory = tempfile::tempdir().unwrap();
    let look = SqliteConfig { read_only: true, ..config(&directory) };
    assert_eq!(opening(&look).await, Some(ErrorKind::NotFound), "nothing is made");
    assert!(!look.path.parent().unwrap().exists());
    let backend = SqliteBackend::open(config(&directory)).await.unwrap();
    let head = land(&backend, Head::EMPTY, "one").await.unwrap();
    let looking = SqliteBackend::open(look.clone()).await.unwrap();
    let tenant = orch::TenantId::new("a").unwrap();
    let request = EntriesRequest { tenant, stream: Stream::Audit, after: 0, limit: 1 };
    assert_eq!(looking.store().entries(std::slice::from_ref(&request)).await.unwrap()[0].head, head);
    let error = land(&looking, head, "two").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.message().contains("for reading only"), "{error}");
    let error = looking.queue().push(&[item("a", "x", 0)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let head = land(&backend, head, "two").await.unwrap();
    assert_eq!(looking.store().entries(&[request]).await.unwrap()[0].head, head, "what is committed is seen");
    looking.close().await;
    backend.close().await;
    // A file of the first schema is read as it is.
    raw(&look.path).await.execute("PRAGMA user_version = 1").await.unwrap();
    assert_eq!(opening(&look).await, None);
    raw(&look.path).await.execute("PRAGMA user_version = 999").await.unwrap();
    assert_eq!(opening(&look).await, Some(ErrorKind::Unsupported));
}

#[tokio::test]
async fn integrity_names_gaps_and_what_belongs_to_nothing() {
    for (sql, finding) in [
        ("DELETE FROM appends WHERE first_seq = 2", "entries are missing between others: a audit"),
        ("DELETE FROM appends WHERE first_seq = 1", "entries are missing between others: a audit"),
        ("DELETE FROM appends WHERE first_seq = 3", "entries are missing before the head: a audit"),
        ("DELETE FROM streams", "entries of no stream: stream 1"),
        ("UPDATE streams SET name = 'run/x'", "entries without the row of their run: a run/x"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let backend = SqliteBackend::open(config(&directory)).await.unwrap();
        let mut head = Head::EMPTY;
        for text in ["one", "two", "three"] {
            head = land(&backend, head, text).await.unwrap();
        }
        assert_eq!(backend.integrity().await.unwrap(), Vec::<String>::new());
        raw(&config(&directory).path).await.execute(sql).await.unwrap();
        assert_eq!(backend.integrity().await.unwrap(), [finding], "{sql}");
        backend.close().await;
    }
}

#[tokio::test]
async fn nothing_of_a_pruned_run_is_left_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    let backend = SqliteBackend::open(config.clone()).await.unwrap();
    let mut head = Head::EMPTY;
    for text in ["a short secret", &"a long secret ".repeat(2_000), "another secret"] {
        head = land(&backend, head, text).await.unwrap();
    }
    let mut run = note(Head::EMPTY, &"kept ".repeat(100));
    run.stream = Stream::Checkpoint;
    backend.store().append(&[run]).await.unwrap().remove(0).unwrap();
    // The audit stream has no row, so it may be pruned as a run may; the other stays.
    let mut other = raw(&config.path).await;
    other
        .execute("UPDATE streams SET name = 'run/' || printf('%032d', 7) WHERE name = 'audit'")
        .await
        .unwrap();
    let run = "00000000000000000000000000000007".parse().unwrap();
    let prune = orch::store::Prune { tenant: orch::TenantId::new("a").unwrap(), runs: vec![(run, head)] };
    assert_eq!(backend.store().prune(&prune).await.unwrap(), 1);
    other.close().await.unwrap();
    backend.close().await;
    let bytes = std::fs::read(&config.path).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("kept") && !holds("secret"));
}

#[tokio::test]
async fn a_full_disk_changes_nothing_and_passes() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    let connections = connect::open(&config).await.unwrap();
    let mut writer = connections.writer.unwrap();
    // SQLite answers a file at its page limit as it answers a full disk.
    writer.execute("PRAGMA max_page_count = 60").await.unwrap();
    let database = Arc::new(Database {
        writer: Some(Writer::start(writer)),
        readers: connections.readers,
        config: config.clone(),
    });
    let full = SqliteBackend { queue: SqliteQueue::new(Arc::clone(&database)), database };
    let head = land(&full, Head::EMPTY, "small").await.unwrap();
    let error = land(&full, head, &"big".repeat(500_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    land(&full, head, "small").await.expect("the head has not moved, and small things still fit");
}

#[tokio::test]
async fn an_idle_claim_does_not_wait_for_who_writes() {
    let directory = tempfile::tempdir().unwrap();
    let config = SqliteConfig { busy_timeout: Duration::from_millis(50), readers: 1, ..config(&directory) };
    let backend = SqliteBackend::open(config.clone()).await.unwrap();
    let claim = claim(None);
    assert!(backend.queue().claim(&claim).await.unwrap().deliveries.is_empty());
    let mut other = raw(&config.path).await;
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    assert!(backend.queue().claim(&claim).await.unwrap().deliveries.is_empty());
    other.execute("ROLLBACK").await.unwrap();
    backend.queue().push(&[item("a", "x", 0)]).await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let error = backend.queue().claim(&claim).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "a claim that finds something writes: {error:?}");
}

#[tokio::test]
async fn who_waits_takes_no_reader_away() {
    let directory = tempfile::tempdir().unwrap();
    let config = SqliteConfig { readers: 1, ..config(&directory) };
    let backend = SqliteBackend::open(config.clone()).await.unwrap();
    let queue = backend.queue();
    let waiters: Vec<_> = (0..5)
        .map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.wait(Duration::from_secs(60)).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let tenant = orch::TenantId::new("a").unwrap();
    let depth =
        tokio::time::timeout(Duration::from_secs(5), queue.depth(&tenant, orch::Timestamp::EPOCH)).await;
    assert!(depth.expect("the one reader is free").unwrap().is_empty());
    let other = SqliteBackend::open(config).await.unwrap();
    other.queue().push(&[item("a", "x", 0)]).await.unwrap();
    for waiter in waiters {
        let waited = tokio::time::timeout(Duration::from_secs(5), waiter).await;
        waited.expect("a push by another process is seen").unwrap().unwrap();
    }
    backend.close().await;
    assert_eq!(queue.wait(Duration::from_secs(5)).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn slots_of_holders_that_never_came_back_are_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    let backend = SqliteBackend::open(config.clone()).await.unwrap();
    let mut other = raw(&config.path).await;
    let acquire = |holder: String, seconds: i64| Acquire {
        slots: ["k", "l"].map(|key| Slot { key: format!("{key}/{holder}"), capacity: 1 }).to_vec(),
        holder: Holder { tenant: orch::TenantId::new("a").unwrap(), name: holder },
        lease: Duration::from_secs(1),
        now: orch::Timestamp::from_micros(seconds * 1_000_000),
    };
    for dead in 0..40 {
        backend.lock().acquire(&acquire(format!("dead-{dead}"), dead)).await.unwrap().unwrap();
    }
    for (turn, left) in [(1, 64 + 2), (2, 48 + 4), (3, 32 + 6), (4, 16 + 8), (5, 10), (6, 12)] {
        backend.lock().acquire(&acquire(format!("live-{turn}"), 3_700)).await.unwrap().unwrap();
        let count: i64 =
            other.fetch_one("SELECT count(*) FROM slots").await.and_then(|row| row.try_get(0)).unwrap();
        assert_eq!(count, left, "turn {turn}");
    }
}

#[tokio::test]
async fn a_claim_among_thousands_of_lanes_reads_a_few() {
    let directory = tempfile::tempdir().unwrap();
    let backend = SqliteBackend::open(config(&directory)).await.unwrap();
    let items: Vec<_> = (0..3_000)
        .map(|n| item(&format!("t{n:04}"), ["x", "y"][n % 2], n % 7))
        .chain([item("t2999", "rare", 0), item("t1000", "rare", 1)])
        .collect();
    backend.queue().push(&items).await.unwrap();
    let rare = backend.queue().claim(&claim(Some("rare"))).await.unwrap().deliveries;
    assert_eq!(rare.iter().map(|one| one.item.tenant.as_str()).collect::<Vec<_>>(), ["t1000", "t2999"]);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..300 {
        let taken = backend.queue().claim(&claim(None)).await.unwrap().deliveries;
        assert_eq!(taken.len(), 10);
        seen.extend(taken.into_iter().map(|one| one.item.tenant));
    }
    assert_eq!(seen.len(), 3_000, "every tenant had its turn once");
}

#[tokio::test]
async fn a_file_locked_by_another_process_is_unavailable() {
    let directory = tempfile::tempdir().unwrap();
    let config = SqliteConfig { busy_timeout: Duration::from_millis(50), ..config(&directory) };
    let backend = SqliteBackend::open(config.clone()).await.unwrap();
    let mut other = raw(&config.path).await;
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let error = land(&backend, Head::EMPTY, "one").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    other.execute("ROLLBACK").await.unwrap();
    land(&backend, Head::EMPTY, "one").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_may_open_a_new_file_at_once() {
    for _ in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let opening: Vec<_> = (0..4).map(|_| tokio::spawn(SqliteBackend::open(config(&directory)))).collect();
        for opened in opening {
            opened.await.unwrap().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_backends_race_a_thousand_appends_into_one_chain() {
    let directory = tempfile::tempdir().unwrap();
    let racer = |name: &'static str, backend: SqliteBackend| async move {
        let tenant = orch::TenantId::new("a").unwrap();
        let (mut landed, mut after) = (0, 0);
        while landed < 500 {
            let request = EntriesRequest { tenant: tenant.clone(), stream: Stream::Audit, after, limit: 1 };
            let head = backend.store().entries(&[request]).await.unwrap()[0].head;
            after = head.seq;
            match land(&backend, head, name).await {
                Ok(_) => landed += 1,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}"),
            }
        }
    };
    let one = SqliteBackend::open(config(&directory)).await.unwrap();
    let two = SqliteBackend::open(config(&directory)).await.unwrap();
    let racers = [tokio::spawn(racer("one", one.clone())), tokio::spawn(racer("two", two))];
    for racer in racers {
        racer.await.unwrap();
    }
    let tenant = orch::TenantId::new("a").unwrap();
    let request = EntriesRequest { tenant, stream: Stream::Audit, after: 0, limit: 2_000 };
    let page = one.store().entries(&[request]).await.unwrap().remove(0);
    assert_eq!(page.head.seq, 1_000);
    let end = orch::ledger::read_chain(Head::EMPTY, &page.lines).map(|entry| entry.unwrap().2).last();
    assert_eq!(end, Some(page.head));
}

#[tokio::test]
async fn a_backend_whose_queue_was_waited_on_closes() {
    let directory = tempfile::tempdir().unwrap();
    let backend = SqliteBackend::open(SqliteConfig::new(directory.path().join("orch.db"))).await.unwrap();
    backend.queue().wait(Duration::from_millis(300)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), backend.close()).await.expect("it closes");
}
