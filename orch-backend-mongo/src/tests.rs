//! The database itself: what a dead process left, pruning against appending, what a call costs, who is let in.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::event::EventHandler;
use mongodb::event::command::CommandEvent;
use orch::ledger::{Chain, Event, Head, RunPaused, Stream};
use orch::lock::{Acquire, Holder, Lock, Slot, Take};
use orch::queue::{Claim, Item, Queue, Settle};
use orch::store::*;
use orch::{DagId, Digest, ErrorKind, RunId, RunStatus, TenantId, Timestamp};
use orch_servers::{Kind, Server, Shared, address, namespace, skipped};

use super::*;
use crate::indexes::{APPENDS, QUEUE, RUNS};

fn config(shared: Shared) -> Option<MongoConfig> {
    let mut config = MongoConfig::new(address(shared)?).unwrap();
    config.namespace = namespace();
    Some(config)
}

async fn open() -> Option<MongoBackend> {
    Some(MongoBackend::open(config(Shared::Mongo)?).await.unwrap())
}

fn tenant() -> TenantId {
    TenantId::new("a").unwrap()
}

fn run_id(number: usize) -> RunId {
    RunId::derive(&tenant(), &DagId::new("dag").unwrap(), &number.to_string(), &Digest::ZERO)
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_000_000 + micros)
}

fn row(number: usize, head: Head, status: RunStatus, wake: Option<i64>) -> RunRow {
    RunRow {
        tenant: tenant(),
        run: run_id(number),
        dag: DagId::new("dag").unwrap(),
        dag_version: None,
        status,
        steps: orch::ledger::StepCounts::default(),
        priority: 0,
        actor: "test".into(),
        run_token: number.to_string(),
        plan_hash: Digest::ZERO,
        inputs_hash: Digest::ZERO,
        outputs_hash: None,
        error: None,
        traceparent: None,
        replay_of: None,
        parent: None,
        created_at: at(0),
        started_at: None,
        ended_at: None,
        wake_at: wake.map(at),
        head,
    }
}

/// One entry that says `note`, with a row that says `status` and `wake`.
fn entry(number: usize, expected: Head, note: &str, status: RunStatus, wake: Option<i64>) -> Append {
    let stream = Stream::Run(run_id(number));
    let mut chain = Chain::new(&tenant(), stream, expected);
    chain.push("test", at(0), &Event::from(RunPaused { reason: Some(note.to_owned()) })).unwrap();
    let (lines, head) = chain.finish().unwrap();
    let row = Some(row(number, head, status, wake));
    Append { tenant: tenant(), stream, expected, lines, head, row }
}

async fn append(store: &MongoStore, append: &Append) -> Result<Head> {
    store.append(std::slice::from_ref(append)).await?.remove(0)?;
    Ok(append.head)
}

/// A run that is running and wakes at `wake`.
async fn begin(store: &MongoStore, number: usize, wake: Option<i64>) -> Head {
    append(store, &entry(number, Head::EMPTY, "begun", RunStatus::Running, wake)).await.unwrap()
}

async fn page(store: &MongoStore, number: usize) -> EntriesPage {
    let request =
        EntriesRequest { tenant: tenant(), stream: Stream::Run(run_id(number)), after: 0, limit: 1_000 };
    store.entries(&[request]).await.unwrap().remove(0)
}

async fn due(store: &MongoStore, until: i64) -> Vec<(i64, RunId)> {
    let page = store.due(&DueQuery { until: at(until), after: None, limit: 100 }).await.unwrap();
    page.runs.into_iter().map(|(wake, key)| (wake.as_micros() - at(0).as_micros(), key.run)).collect()
}

async fn listed(store: &MongoStore, status: RunStatus) -> Vec<RunId> {
    let query = RunsQuery { status: Some(status), ..RunsQuery::all(tenant()) };
    store.runs(&query).await.unwrap().runs.into_iter().map(|row| row.run).collect()
}

async fn prune(store: &MongoStore, number: usize, head: Head) -> usize {
    store.prune(&Prune { tenant: tenant(), runs: vec![(run_id(number), head)] }).await.unwrap()
}

fn documents(backend: &MongoBackend, collection: &str) -> mongodb::Collection<Document> {
    backend.connection.collection(collection)
}

fn listing_of(number: usize) -> Document {
    doc! {"_id": format!("a/{}", run_id(number))}
}

async fn listing(backend: &MongoBackend, number: usize) -> Option<Document> {
    documents(backend, RUNS).find_one(listing_of(number)).await.unwrap()
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// Puts the listings back to `before`, as if the process had died after the append and before it told them.
async fn forget_what_was_told(backend: &MongoBackend, number: usize, before: Document) {
    documents(backend, RUNS).replace_one(listing_of(number), before).await.unwrap();
}

#[tokio::test]
async fn r4_a_run_that_began_before_its_process_died_is_found() {
    let Some(backend) = open().await else { return };
    let store = backend.store();
    begin(&store, 1, Some(5)).await;
    let told = doc! {"tenant": "a", "runId": run_id(1).to_string(), "open": 0_i64, "since": DateTime::now()};
    for step in 0..2 {
        forget_what_was_told(&backend, 1, told.clone()).await;
        match step {
            0 => assert_eq!(due(&store, 5).await, [(5, run_id(1))]),
            _ => assert_eq!(listed(&store, RunStatus::Running).await, [run_id(1)]),
        }
        let corrected = listing(&backend, 1).await.unwrap();
        assert!(!corrected.contains_key("open") && corrected.contains_key("seq"), "{corrected}");
    }
}

#[tokio::test]
async fn r4_a_wake_that_came_earlier_before_its_process_died_is_found() {
    let Some(backend) = open().await else { return };
    let store = backend.store();
    let head = begin(&store, 1, Some(50)).await;
    let mut before = listing(&backend, 1).await.unwrap();
    append(&store, &entry(1, head, "sooner", RunStatus::Running, Some(7))).await.unwrap();
    // This is what is told before an append that moves the wake ahead.
    before.insert("open", head.seq.cast_signed());
    forget_what_was_told(&backend, 1, before).await;
    assert_eq!(due(&store, 10).await, [(7, run_id(1))]);
}

#[tokio::test]
async fn r4_a_wake_is_told_before_the_append_only_where_it_comes_earlier() {
    let Some(backend) = open().await else { return };
    let store = backend.store();
    let winner = MongoBackend::open(backend.connection.config.clone()).await.unwrap().store();
    for (number, wake, told) in [(1, Some(60), false), (2, None, false), (3, Some(40), true)] {
        let head = begin(&store, number, Some(50)).await;
        append(&winner, &entry(number, head, "won", RunStatus::Running, Some(50))).await.unwrap();
        // This handle believes in the old head: it tells the listings, and then the append is refused.
        let stale = entry(number, head, "lost the race", RunStatus::Running, wake);
        assert_eq!(kind(append(&store, &stale).await), Some(ErrorKind::Conflict));
        assert_eq!(listing(&backend, number).await.unwrap().contains_key("open"), told, "{wake:?}");
    }
    assert!(due(&store, 45).await.is_empty());
    assert_eq!(due(&store, 50).await.len(), 3);
    assert!(!listing(&backend, 3).await.unwrap().contains_key("open"), "reading corrects it");
}

#[tokio::test]
async fn a_listing_that_lags_behind_is_corrected_when_it_is_read() {
    let Some(backend) = open().await else { return };
    let store = backend.store();
    let head = begin(&store, 1, Some(5)).await;
    let before = listing(&backend, 1).await.unwrap();
    let head = append(&store, &entry(1, head, "later", RunStatus::Running, Some(9))).await.unwrap();
    forget_what_was_told(&backend, 1, before.clone()).await;
    assert!(due(&store, 6).await.is_empty(), "the wake has moved");
    assert_eq!(due(&store, 9).await, [(9, run_id(1))]);
    append(&store, &entry(1, head, "ended", RunStatus::Completed, None)).await.unwrap();
    forget_what_was_told(&backend, 1, before.clone()).await;
    assert!(listed(&store, RunStatus::Running).await.is_empty());
    assert_eq!(listed(&store, RunStatus::Completed).await, [run_id(1)]);
    forget_what_was_told(&backend, 1, before).await;
    assert!(due(&store, 100).await.is_empty(), "it has ended");
    assert_eq!(listed(&store, RunStatus::Completed).await, [run_id(1)]);
}

#[tokio::test]
async fn a_run_that_never_began_is_forgotten_after_an_hour() {
    let Some(backend) = open().await else { return };
    let store = backend.store();
    let two_hours_ago = DateTime::from_millis(DateTime::now().timestamp_millis() - 7_200_000);
    for (number, since) in [(1, DateTime::now()), (2, two_hours_ago)] {
        let mut intention = listing_of(number);
        intention
            .extend(doc! {"tenant": "a", "runId": run_id(number).to_string(), "open": 0_i64, "since": since});
        documents(&backend, RUNS).insert_one(intention).await.unwrap();
    }
    assert!(due(&store, 100).await.is_empty());
    assert!(store.runs(&RunsQuery::all(tenant())).await.unwrap().runs.is_empty());
    assert!(listing(&backend, 1).await.is_some(), "it may yet begin");
    assert!(listing(&backend, 2).await.is_none());
    begin(&store, 1, Some(3)).await;
    assert_eq!(due(&store, 3).await, [(3, run_id(1))]);
}

#[tokio::test]
async fn a_row_that_another_process_replaced_does_not_mislead_the_listings() {
    let Some(backend) = open().await else { return };
    let (store, other) =
        (backend.store(), MongoBackend::open(backend.connection.config.clone()).await.unwrap());
    let head = begin(&store, 1, Some(5)).await;
    let mut later = entry(1, head, "", RunStatus::Running, None);
    (later.lines, later.head, later.row) =
        ("".into(), head, Some(row(1, head, RunStatus::Running, Some(50))));
    append(&other.store(), &later).await.unwrap();
    assert!(due(&store, 10).await.is_empty());
    // To this handle the wake stays where it was; to the listings it comes back.
    append(&store, &entry(1, head, "next", RunStatus::Running, Some(5))).await.unwrap();
    assert_eq!(due(&other.store(), 10).await, [(5, run_id(1))]);
}

#[tokio::test]
async fn l2_an_append_to_a_pruned_stream_conflicts_and_leaves_nothing() {
    let Some(backend) = open().await else { return };
    let (store, other) =
        (backend.store(), MongoBackend::open(backend.connection.config.clone()).await.unwrap());
    let head = append(&store, &entry(1, Head::EMPTY, "ended", RunStatus::Completed, None)).await.unwrap();
    // Read, so that the handle knows the head.
    assert_eq!(page(&store, 1).await.head, head);
    assert_eq!(prune(&other.store(), 1, head).await, 1);
    let late = entry(1, head, "too late", RunStatus::Running, Some(5));
    assert_eq!(kind(append(&store, &late).await), Some(ErrorKind::Conflict));
    for collection in [APPENDS, RUNS] {
        assert_eq!(
            documents(&backend, collection).count_documents(doc! {}).await.unwrap(),
            0,
            "{collection}"
        );
    }
    // The same when the stream has begun anew.
    assert_eq!(page(&store, 1).await.head, Head::EMPTY);
    let old = append(&store, &entry(1, Head::EMPTY, "ended", RunStatus::Completed, None)).await.unwrap();
    assert_eq!(page(&store, 1).await.head, old);
    assert_eq!(prune(&other.store(), 1, old).await, 1);
    let new =
        append(&other.store(), &entry(1, Head::EMPTY, "begun anew", RunStatus::Running, None)).await.unwrap();
    assert_eq!(kind(append(&store, &late).await), Some(ErrorKind::Conflict));
    assert_eq!(page(&store, 1).await.head, new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_pruning_and_appending_at_once_leave_all_or_nothing() {
    let Some(backend) = open().await else { return };
    let other = MongoBackend::open(backend.connection.config.clone()).await.unwrap();
    let (mut pruned, mut appended) = (0, 0);
    for number in 0..60 {
        let store = backend.store();
        let head =
            append(&store, &entry(number, Head::EMPTY, "ended", RunStatus::Completed, None)).await.unwrap();
        assert_eq!(page(&store, number).await.head, head);
        let next = entry(number, head, "more", RunStatus::Completed, None);
        let pruner = other.store();
        let gone = tokio::spawn(async move { prune(&pruner, number, head).await });
        // Sooner or later, so that every step of the one meets every step of the other.
        tokio::time::sleep(Duration::from_micros(150) * (number as u32 % 30)).await;
        let landed = append(&store, &next).await;
        let found = page(&store, number).await;
        match gone.await.unwrap() {
            1 => {
                assert_eq!(kind(landed), Some(ErrorKind::Conflict));
                assert_eq!((found.lines.as_str(), found.head), ("", Head::EMPTY));
                pruned += 1;
            }
            _ => {
                assert_eq!((landed.unwrap(), found.head), (next.head, next.head));
                assert!(found.lines.ends_with(&*next.lines));
                appended += 1;
            }
        }
    }
    assert!(pruned > 0 && appended > 0, "both happen: {pruned} pruned, {appended} appended");
    assert_eq!(documents(&backend, RUNS).count_documents(doc! {}).await.unwrap(), appended);
}

#[tokio::test]
async fn p1_a_pruning_that_was_not_decided_does_not_stop_an_append() {
    let Some(backend) = open().await else { return };
    let store = backend.store();
    let head = append(&store, &entry(1, Head::EMPTY, "ended", RunStatus::Completed, None)).await.unwrap();
    let mark = doc! {"$set": {"prune": {"by": ObjectId::new()}}};
    documents(&backend, APPENDS).update_one(doc! {}, mark.clone()).await.unwrap();
    let next = append(&store, &entry(1, head, "more", RunStatus::Completed, None)).await.unwrap();
    assert_eq!(page(&store, 1).await.head, next);
    let first = documents(&backend, APPENDS).find_one(doc! {"prune": {"$exists": true}}).await.unwrap();
    assert!(first.is_none(), "the mark is gone");
    // A mark that nobody takes away does not stop the next pruning.
    documents(&backend, APPENDS).update_one(doc! {}, mark).await.unwrap();
    assert_eq!(prune(&store, 1, next).await, 1);
    assert_eq!(documents(&backend, APPENDS).count_documents(doc! {}).await.unwrap(), 0);
}

#[tokio::test]
async fn p1_a_pruning_whose_process_died_is_finished_by_whoever_meets_it() {
    let Some(backend) = open().await else { return };
    let store = backend.store();
    for meets in 0..4 {
        let head = begin(&store, 1, Some(5)).await;
        let end = entry(1, head, "ended", RunStatus::Completed, Some(5));
        append(&store, &end).await.unwrap();
        let decided = doc! {"$set": {"prune": {"by": ObjectId::new(), "decided": true}}};
        let first = documents(&backend, APPENDS).find_one(doc! {"last": 1_i64}).await.unwrap().unwrap();
        documents(&backend, APPENDS)
            .update_one(doc! {"_id": first.get_str("_id").unwrap()}, decided)
            .await
            .unwrap();
        // It had begun to delete.
        documents(&backend, APPENDS).delete_one(doc! {"last": 2_i64}).await.unwrap();
        match meets {
            0 => assert_eq!(page(&store, 1).await.head, Head::EMPTY),
            1 => assert!(due(&store, 10).await.is_empty()),
            2 => assert!(listed(&store, RunStatus::Completed).await.is_empty()),
            _ => {
                let late = entry(1, end.head, "late", RunStatus::Completed, None);
                assert_eq!(kind(append(&store, &late).await), Some(ErrorKind::Conflict));
                assert_eq!(store.run(&late.row.unwrap().key()).await.unwrap(), None);
            }
        }
        for collection in [APPENDS, RUNS] {
            let left = documents(&backend, collection).count_documents(doc! {}).await.unwrap();
            assert_eq!(left, 0, "{collection}, {meets}");
        }
    }
}

#[tokio::test]
async fn an_append_whose_process_died_before_it_took_itself_back_is_cleared_away() {
    let Some(backend) = open().await else { return };
    let store = backend.store();
    let head = append(&store, &entry(1, Head::EMPTY, "ended", RunStatus::Completed, None)).await.unwrap();
    append(&store, &entry(1, head, "more", RunStatus::Completed, None)).await.unwrap();
    for anew in [false, true] {
        // The stream is gone but for what came too late, and may have begun anew.
        let first = doc! {"last": 1_i64};
        documents(&backend, APPENDS).delete_one(first).await.unwrap();
        documents(&backend, RUNS).delete_many(doc! {}).await.unwrap();
        let expected = if anew {
            append(&store, &entry(1, Head::EMPTY, "anew", RunStatus::Running, None)).await.unwrap()
        } else {
            assert_eq!(store.run(&row(1, head, RunStatus::Running, None).key()).await.unwrap(), None);
            Head::EMPTY
        };
        assert_eq!(page(&store, 1).await.head, expected);
        let left = documents(&backend, APPENDS).count_documents(doc! {}).await.unwrap();
        assert_eq!(left, u64::from(anew));
        if !anew {
            let head =
                append(&store, &entry(1, Head::EMPTY, "ended", RunStatus::Completed, None)).await.unwrap();
            append(&store, &entry(1, head, "more", RunStatus::Completed, None)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn entries_that_are_missing_or_altered_are_corrupt() {
    let Some(backend) = open().await else { return };
    let store = backend.store();
    for (number, harm) in
        [(1, doc! {"$set": {"prev": Digest::of("x").to_string()}}), (2, doc! {"$set": {"hash": "x"}})]
    {
        let mut head = begin(&store, number, None).await;
        for _ in 0..2 {
            head = append(&store, &entry(number, head, "more", RunStatus::Running, None)).await.unwrap();
        }
        let last = doc! {"_id": {"$regex": run_id(number).to_string()}, "last": 3_i64};
        documents(&backend, APPENDS).update_one(last, harm).await.unwrap();
        let request =
            EntriesRequest { tenant: tenant(), stream: Stream::Run(run_id(number)), after: 0, limit: 10 };
        assert_eq!(kind(store.entries(&[request]).await), Some(ErrorKind::Corrupt), "{number}");
    }
    let mut head = begin(&store, 3, None).await;
    for _ in 0..2 {
        head = append(&store, &entry(3, head, "more", RunStatus::Running, None)).await.unwrap();
    }
    let middle = doc! {"_id": {"$regex": run_id(3).to_string()}, "last": 2_i64};
    documents(&backend, APPENDS).delete_one(middle).await.unwrap();
    let request = EntriesRequest { tenant: tenant(), stream: Stream::Run(run_id(3)), after: 0, limit: 10 };
    assert_eq!(kind(store.entries(&[request]).await), Some(ErrorKind::Corrupt));
}

/// Commands that were sent, by name.
type Commands = Arc<Mutex<Vec<String>>>;

async fn counted(shared: Shared) -> Option<(MongoBackend, Commands)> {
    let config = config(shared)?;
    let mut options = connect::options(&config).await.unwrap();
    let commands = Commands::default();
    let noted = Arc::clone(&commands);
    options.command_event_handler = Some(EventHandler::callback(move |event| {
        if let CommandEvent::Started(started) = event {
            noted.lock().unwrap().push(started.command_name);
        }
    }));
    Some((MongoBackend::on(Connection::open_with(config, options).await.unwrap()), commands))
}

fn take(commands: &Commands) -> Vec<String> {
    std::mem::take(&mut *commands.lock().unwrap())
}

#[tokio::test]
async fn every_call_of_the_store_costs_what_is_said() {
    for shared in [Shared::Mongo, Shared::MongoStandalone] {
        let Some((backend, commands)) = counted(shared).await else { return };
        let store = backend.store();
        take(&commands);
        let new: Vec<_> = (0..50).map(|n| entry(n, Head::EMPTY, "x", RunStatus::Running, Some(10))).collect();
        store.append(&new).await.unwrap();
        assert_eq!(take(&commands), ["update", "insert", "update"], "fifty runs begin");
        let next = |wake| -> Vec<_> {
            new.iter().enumerate().map(|(n, a)| entry(n, a.head, "y", RunStatus::Running, wake)).collect()
        };
        let same = next(Some(10));
        store.append(&same).await.unwrap();
        assert_eq!(take(&commands), ["insert", "find"], "fifty runs go on");
        let ends: Vec<_> =
            same.iter().enumerate().map(|(n, a)| entry(n, a.head, "z", RunStatus::Completed, None)).collect();
        store.append(&ends).await.unwrap();
        assert_eq!(take(&commands), ["insert", "find", "update"], "fifty runs end");
        let requests: Vec<_> = ends
            .iter()
            .map(|a| EntriesRequest { tenant: tenant(), stream: a.stream, after: 0, limit: 10 })
            .collect();
        store.entries(&requests[..30]).await.unwrap();
        assert_eq!(take(&commands), ["aggregate"]);
        store.run(&ends[0].row.as_ref().unwrap().key()).await.unwrap();
        assert_eq!(take(&commands), ["aggregate"]);
        store.runs(&RunsQuery::all(tenant())).await.unwrap();
        assert_eq!(take(&commands), ["aggregate", "aggregate"]);
        due(&store, 100).await;
        assert_eq!(take(&commands), ["aggregate"], "nothing is due");
        let key = DocKey { tenant: tenant(), kind: "dag", key: "k".into() };
        let put =
            |expect, body: Option<&str>| PutDoc { key: key.clone(), expect, body: body.map(Into::into) };
        store.put_doc(&put(Expect::Absent, Some("1"))).await.unwrap();
        store.put_doc(&put(Expect::Version(1), Some("2"))).await.unwrap();
        store.doc(&key).await.unwrap();
        store.docs(&DocsQuery { tenant: tenant(), kind: "dag", after: None, limit: 10 }).await.unwrap();
        store.put_doc(&put(Expect::Any, None)).await.unwrap();
        assert_eq!(take(&commands), ["insert", "findAndModify", "find", "find", "delete"]);
        let runs = ends.iter().map(|a| (a.row.as_ref().unwrap().run, a.head)).collect();
        assert_eq!(store.prune(&Prune { tenant: tenant(), runs }).await.unwrap(), 50);
        let pruning = ["aggregate", "update", "aggregate", "update", "find", "delete", "delete", "delete"];
        assert_eq!(take(&commands), pruning, "fifty runs are pruned");
    }
}

fn item(number: usize) -> Item {
    Item {
        tenant: tenant(),
        queue: orch::QueueName::default_queue(),
        priority: 0,
        ready_at: at(0),
        dag: DagId::new("dag").unwrap(),
        run: run_id(number),
        plan_index: 0,
        step: orch::StepId::new("step").unwrap().into(),
        attempt: 1,
    }
}

fn claim(limit: usize) -> Claim {
    let (worker, lease) = (orch::WorkerId::new("worker"), Duration::from_secs(60));
    Claim { worker, queues: None, tenants: None, limit, lease, now: at(0) }
}

#[tokio::test]
async fn every_call_of_the_queue_and_the_lock_costs_what_is_said() {
    for shared in [Shared::Mongo, Shared::MongoStandalone] {
        let Some((backend, commands)) = counted(shared).await else { return };
        let (queue, lock) = (backend.queue(), backend.lock());
        take(&commands);
        queue.claim(&claim(10)).await.unwrap();
        assert_eq!(take(&commands), ["aggregate", "aggregate"], "the first claim learns the segments");
        queue.claim(&claim(10)).await.unwrap();
        assert_eq!(take(&commands), ["aggregate"], "nothing waits");
        queue.push(&(0..60).map(item).collect::<Vec<_>>()).await.unwrap();
        assert_eq!(take(&commands), ["insert", "find"]);
        let mut deliveries = queue.claim(&claim(10)).await.unwrap().deliveries;
        assert_eq!(
            take(&commands),
            ["aggregate", "aggregate", "update", "find", "update"],
            "the first lease"
        );
        deliveries.extend(queue.claim(&claim(50)).await.unwrap().deliveries);
        assert_eq!(deliveries.len(), 60);
        assert_eq!(take(&commands), ["aggregate", "aggregate", "update", "find"]);
        let tokens: Vec<_> = deliveries.iter().map(|delivery| delivery.token.clone()).collect();
        queue.renew(&tokens, at(90_000_000), at(1)).await.unwrap();
        assert_eq!(take(&commands), ["update", "find"]);
        let mut settles: Vec<_> = tokens.iter().cloned().map(Settle::done).collect();
        let released = settles.split_off(25).into_iter().map(|settle| Settle::release(settle.token, at(0)));
        let released: Vec<_> = released.collect();
        queue.settle(&settles, at(2)).await.unwrap();
        assert_eq!(take(&commands), ["update", "delete"]);
        queue.settle(&released, at(2)).await.unwrap();
        assert_eq!(take(&commands), ["update", "find"]);
        queue.depth(&tenant(), at(2)).await.unwrap();
        assert_eq!(take(&commands), ["find", "aggregate"]);

        let holder = Holder { tenant: tenant(), name: "h".into() };
        let slots = vec![Slot { key: "k".into(), capacity: 1 }];
        let acquire = Acquire { holder: holder.clone(), slots, lease: Duration::from_secs(1), now: at(0) };
        lock.acquire(&acquire).await.unwrap().unwrap();
        assert_eq!(take(&commands), ["find", "insert"]);
        lock.renew(std::slice::from_ref(&holder), at(2_000_000), at(1)).await.unwrap().remove(0).unwrap();
        assert_eq!(take(&commands), ["find", "update"]);
        lock.release(&[holder]).await.unwrap();
        assert_eq!(take(&commands), ["find", "update"]);
        let tokens = Take { tenant: tenant(), key: "k".into(), tokens: 1, rate: 1.0, burst: 2, now: at(0) };
        lock.take(&tokens).await.unwrap();
        lock.take(&tokens).await.unwrap();
        assert_eq!(take(&commands), ["find", "insert", "find", "update"]);
    }
}

/// What the server did for a query, and how many keys and documents it looked at.
async fn explained(backend: &MongoBackend, collection: &str, pipeline: Vec<Document>) -> (String, i64) {
    let query = doc! {"aggregate": collection, "pipeline": pipeline, "cursor": {}};
    let explain = doc! {"explain": query, "verbosity": "executionStats"};
    let plan = backend.connection.database.run_command(explain).await.unwrap();
    let stats = plan.get_document("executionStats").cloned().unwrap_or_else(|_| {
        let first = plan.get_array("stages").unwrap()[0].as_document().unwrap();
        first.get_document("$cursor").unwrap().get_document("executionStats").unwrap().clone()
    });
    let count = |name: &str| i64::from(stats.get_i32(name).unwrap());
    (plan.to_string(), count("totalKeysExamined") + count("totalDocsExamined"))
}

#[tokio::test]
async fn a_claim_looks_at_no_more_than_it_asks_for_however_much_waits() {
    let Some(backend) = open().await else { return };
    let queue = backend.queue();
    let late = |number: usize| {
        let mut late = item(number);
        (late.priority, late.ready_at) = (9, at(i64::try_from(number).unwrap() + 1));
        late
    };
    queue.push(&(0..3_000).map(item).collect::<Vec<_>>()).await.unwrap();
    queue.push(&(3_000..6_000).map(late).collect::<Vec<_>>()).await.unwrap();
    let leased = queue.claim(&claim(500)).await.unwrap().deliveries;
    assert_eq!(leased.len(), 500);
    let (plan, seen) = explained(&backend, QUEUE, queue::take::waiting_lanes(1)).await;
    assert!(plan.contains("DISTINCT_SCAN") && seen <= 4, "{seen} looked at: {plan}");
    let (plan, seen) =
        explained(&backend, QUEUE, queue::take::ready_in(1, "a/default/7fffffff", "", at(0), 10)).await;
    assert!(!plan.contains("\"SORT\"") && seen <= 30, "{seen} looked at: {plan}");
}

#[tokio::test]
async fn waiting_asks_nothing_while_changes_are_told() {
    let Some((backend, commands)) = counted(Shared::Mongo).await else { return };
    let queue = backend.queue();
    take(&commands);
    // The first wait opens the stream, and ends when it is open.
    queue.wait(Duration::from_secs(20)).await.unwrap();
    queue.wait(Duration::from_millis(1)).await.unwrap();
    let asked = take(&commands);
    assert_eq!(asked.iter().filter(|command| *command == "aggregate").count(), 1, "{asked:?}");
    for _ in 0..20 {
        queue.wait(Duration::from_millis(50)).await.unwrap();
    }
    let asked = take(&commands);
    assert!(asked.iter().all(|command| command == "getMore") && asked.len() <= 1, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_costs_what_its_engine_asks_for() {
    use orch::engine::{DagRef, Identity, Orchestrator, Submit};
    let Some((backend, commands)) = counted(Shared::Mongo).await else { return };
    let orchestrator = Orchestrator::builder()
        .store(Arc::new(backend.store()))
        .queue(Arc::new(backend.queue()))
        .lock(Arc::new(backend.lock()))
        .task("noop", |_, _: serde_json::Value| async { Ok::<_, orch::Failure>(()) })
        .start()
        .unwrap();
    let text = "apiVersion: orch/v1\nkind: Dag\nid: idle\nsteps: [{id: one, uses: fn/noop}, {id: two, uses: fn/noop, needs: [one]}]\n";
    let dag = orch::spec::parse("idle.yaml", text, &orch::Limits::default()).unwrap();
    let who = Identity::new(tenant(), "test");
    let version = orchestrator.publish(&who, dag.clone()).await.unwrap().version;
    for number in 0..5 {
        let submit =
            Submit::new(DagRef::Version(dag.id.clone(), version), serde_json::json!({ "number": number }));
        let run = orchestrator.submit(&who, submit).await.unwrap().run.run;
        assert_eq!(orchestrator.wait(&who, run).await.unwrap().status, RunStatus::Completed);
    }
    // What the runs left to do is done then: settles, and a sweep that found nothing.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(take(&commands).len() > 20, "the commands are counted");
    tokio::time::sleep(Duration::from_secs(21)).await;
    let asked = take(&commands);
    orchestrator.shutdown().await;
    let others = asked.iter().filter(|command| !["aggregate", "getMore"].contains(&command.as_str())).count();
    assert_eq!(others, 0, "nothing is written: {asked:?}");
    assert!(asked.len() <= 6, "one command for each claim and each sweep: {asked:?}");
}

#[tokio::test]
async fn a_push_of_another_process_wakes_who_waits() {
    for (shared, told) in [(Shared::Mongo, true), (Shared::MongoStandalone, false)] {
        let Some(mut config) = config(shared) else { return };
        config.poll_every = Duration::from_millis(100);
        let (backend, other) =
            (MongoBackend::open(config.clone()).await.unwrap(), MongoBackend::open(config).await.unwrap());
        assert_eq!(backend.connection.tells, told);
        let queue = backend.queue();
        queue.wait(Duration::from_secs(5)).await.unwrap();
        for number in 0..3 {
            let waiting = queue.clone();
            let waiter = tokio::spawn(async move { waiting.wait(Duration::from_secs(3_600)).await });
            tokio::time::sleep(Duration::from_millis(50)).await;
            other.queue().push(&[item(number)]).await.unwrap();
            let woken = tokio::time::timeout(Duration::from_secs(20), waiter).await;
            woken.expect("somebody pushed").unwrap().unwrap();
        }
        let waiting = queue.clone();
        let waiter = tokio::spawn(async move { waiting.wait(Duration::from_secs(3_600)).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        backend.close().await;
        let woken =
            tokio::time::timeout(Duration::from_secs(20), waiter).await.expect("it was closed").unwrap();
        assert!(woken.is_ok() || kind(woken) == Some(ErrorKind::Closed));
        assert_eq!(kind(queue.wait(Duration::from_secs(3_600)).await), Some(ErrorKind::Closed));
        assert_eq!(kind(queue.claim(&claim(1)).await), Some(ErrorKind::Closed));
    }
}

#[tokio::test]
async fn q1_what_was_settled_but_for_its_deletion_is_not_delivered_again() {
    let Some(backend) = open().await else { return };
    let queue = backend.queue();
    queue.push(&[item(1), item(2)]).await.unwrap();
    let deliveries = queue.claim(&claim(2)).await.unwrap().deliveries;
    // The process died between settling the first and deleting it.
    let mark = doc! {"$set": {"end": ObjectId::new()}};
    let id = format!("a/{}", deliveries[0].item.id());
    documents(&backend, QUEUE).update_one(doc! {"_id": id}, mark).await.unwrap();
    let depth = queue.depth(&tenant(), at(0)).await.unwrap();
    assert_eq!((depth[0].ready, depth[0].leased), (0, 1));
    assert_eq!(
        kind(queue.settle(&[Settle::done(deliveries[0].token.clone())], at(1)).await.unwrap().remove(0)),
        Some(ErrorKind::LeaseLost)
    );
    let later = |seconds: i64| Claim { now: at(seconds * 1_000_000), ..claim(9) };
    let again = queue.claim(&later(60)).await.unwrap().deliveries;
    assert_eq!(
        again.iter().map(|delivery| delivery.item.id()).collect::<Vec<_>>(),
        [deliveries[1].item.id()]
    );
    let again = queue.claim(&later(4_000)).await.unwrap().deliveries;
    assert_eq!(again.len(), 1);
    assert_eq!(
        documents(&backend, QUEUE).count_documents(doc! {}).await.unwrap(),
        1,
        "long afterwards it is deleted"
    );
}

async fn segments(backend: &MongoBackend) -> (i64, Vec<i64>) {
    let found = documents(backend, "meta").find_one(doc! {"_id": "queue"}).await.unwrap().unwrap();
    let live = found.get_array("live").unwrap().iter().map(|segment| segment.as_i64().unwrap());
    (found.get_i64("current").unwrap(), live.collect())
}

async fn claimed(queue: &MongoQueue, limit: usize) -> Vec<orch::queue::Delivery> {
    queue.claim(&claim(limit)).await.unwrap().deliveries
}

async fn done(queue: &MongoQueue, deliveries: Vec<orch::queue::Delivery>) {
    let settles: Vec<_> = deliveries.into_iter().map(|delivery| Settle::done(delivery.token)).collect();
    assert!(queue.settle(&settles, at(0)).await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn r3_the_order_holds_over_segments() {
    let Some(backend) = open().await else { return };
    let other = MongoBackend::open(backend.connection.config.clone()).await.unwrap();
    let queues = [backend.queue(), other.queue()];
    let (mut waiting, mut taken) = (std::collections::BTreeSet::new(), 0);
    for round in 0..20_usize {
        // Later rounds push what comes before as well as after what still waits.
        let of = |n: usize| Item {
            priority: (n % 3) as i32,
            ready_at: at(-((n * 7 % 100) as i64)),
            ..item(round * 1_000 + n)
        };
        let items: Vec<_> = (0..350).map(of).collect();
        waiting.extend(items.iter().cloned());
        queues[round % 2].push(&items).await.unwrap();
        let deliveries = claimed(&queues[(round + 1) % 2], 300).await;
        let expected: Vec<_> = waiting.iter().take(300).cloned().collect();
        assert!(deliveries.iter().map(|delivery| &delivery.item).eq(&expected), "round {round}");
        waiting.retain(|item| *item > expected[299]);
        taken += deliveries.len();
        done(&queues[round % 2], deliveries).await;
    }
    let (current, live) = segments(&backend).await;
    assert!(current > 2, "segments were closed after {taken} items");
    while !waiting.is_empty() {
        let deliveries = claimed(&queues[0], 400).await;
        assert!(deliveries.iter().all(|delivery| waiting.remove(&delivery.item)));
        assert!(!deliveries.is_empty(), "everything that was pushed is found: {live:?}");
        done(&queues[1], deliveries).await;
    }
    assert!(claimed(&queues[0], 1).await.is_empty());
    let (current, live) = segments(&backend).await;
    assert_eq!(live, [current], "empty ones are looked at no more");
    assert_eq!(documents(&backend, QUEUE).count_documents(doc! {}).await.unwrap(), 0);
}

/// Takes so many items that segments are closed and forgotten.
async fn move_on(backend: &MongoBackend) {
    let queue = backend.queue();
    let (before, _) = segments(backend).await;
    for round in 0..3 {
        queue.push(&(0..600).map(|n| item(100_000 + round * 600 + n)).collect::<Vec<_>>()).await.unwrap();
        let deliveries = claimed(&queue, 600).await;
        assert_eq!(deliveries.len(), 600);
        done(&queue, deliveries).await;
    }
    claimed(&queue, 1).await;
    let (current, live) = segments(backend).await;
    assert!(current > before && !live.contains(&before), "{current} {live:?}");
}

#[tokio::test]
async fn q1_what_a_slow_process_puts_into_a_closed_segment_is_found() {
    let Some(backend) = open().await else { return };
    let slow = MongoBackend::open(backend.connection.config.clone()).await.unwrap();
    slow.queue().push(&[item(1), item(2)]).await.unwrap();
    let leased = claimed(&slow.queue(), 2).await;
    assert_eq!(leased.len(), 2);
    move_on(&backend).await;
    // It pushes and releases where it believes the current segment to be.
    slow.queue().push(&[item(3)]).await.unwrap();
    assert_eq!(claimed(&backend.queue(), 5).await.len(), 1);
    let released =
        leased.into_iter().map(|delivery| Settle::release(delivery.token, at(0))).collect::<Vec<_>>();
    assert!(slow.queue().settle(&released, at(0)).await.unwrap().iter().all(Result::is_ok));
    assert_eq!(claimed(&backend.queue(), 5).await.len(), 2);
}

#[tokio::test]
async fn q1_a_lease_that_ended_comes_back_in_a_segment_that_is_looked_at() {
    let Some(backend) = open().await else { return };
    backend.queue().push(&[item(1)]).await.unwrap();
    assert_eq!(claimed(&backend.queue(), 1).await.len(), 1);
    move_on(&backend).await;
    let later = Claim { now: at(60_000_000), ..claim(9) };
    let again = backend.queue().claim(&later).await.unwrap().deliveries;
    assert_eq!((again.len(), again[0].count), (1, 2));
}

#[tokio::test]
async fn q1_an_item_whose_process_died_before_it_saw_where_it_lies_is_brought_back_by_the_next_push() {
    let Some(backend) = open().await else { return };
    backend.queue().push(&[item(1)]).await.unwrap();
    let nowhere = doc! {"$set": {"segment": 77_i64}};
    documents(&backend, QUEUE).update_one(doc! {}, nowhere).await.unwrap();
    assert!(claimed(&backend.queue(), 5).await.is_empty());
    backend.queue().push(&[item(1)]).await.unwrap();
    assert_eq!(claimed(&backend.queue(), 5).await.len(), 1);
}

#[tokio::test]
async fn segments_that_hold_little_are_emptied_when_there_are_many() {
    let Some(backend) = open().await else { return };
    let queue = backend.queue();
    for round in 0..20_usize {
        let mut items: Vec<_> = (0..1_000).map(|n| item(round * 2_000 + n)).collect();
        // One of each waits long, in a segment that has nothing else after a while.
        items.push(Item { ready_at: at(1_000_000), ..item(round * 2_000 + 1_999) });
        queue.push(&items).await.unwrap();
        let deliveries = claimed(&queue, 1_000).await;
        assert_eq!(deliveries.len(), 1_000, "round {round}");
        done(&queue, deliveries).await;
    }
    let (current, live) = segments(&backend).await;
    assert!(current >= 20 && live.len() <= 14, "{current} {live:?}");
    let later = Claim { now: at(1_000_000), ..claim(50) };
    assert_eq!(queue.claim(&later).await.unwrap().deliveries.len(), 20);
}

#[tokio::test]
async fn no_query_reads_a_whole_collection() {
    let Some(server) = Server::start(Kind::Mongo, &["--setParameter", "notablescan=1"]) else {
        return skipped(Kind::Mongo);
    };
    let backend = MongoBackend::open(MongoConfig::new(server.url()).unwrap()).await.unwrap();
    let (store, queue, lock) = (backend.store(), backend.queue(), backend.lock());
    let head = begin(&store, 1, Some(5)).await;
    assert_eq!(due(&store, 5).await.len(), 1);
    let after = Some((at(5), row(1, head, RunStatus::Running, None).key()));
    store.due(&DueQuery { until: at(9), after, limit: 5 }).await.unwrap();
    for (dag, status) in
        [(None, None), (Some(DagId::new("dag").unwrap()), None), (None, Some(RunStatus::Running))]
    {
        let query = RunsQuery {
            dag,
            status,
            limit: 1,
            from: Some(at(0)),
            to: Some(at(9)),
            ..RunsQuery::all(tenant())
        };
        store.runs(&query).await.unwrap();
        let cursor = RunsCursor { created_at: at(3), run: run_id(1) }.to_text();
        store.runs(&RunsQuery { cursor: Some(cursor), ..query }).await.unwrap();
    }
    let end = append(&store, &entry(1, head, "end", RunStatus::Completed, None)).await.unwrap();
    assert_eq!(page(&store, 1).await.head, end);
    assert_eq!(prune(&store, 1, end).await, 1);
    let docs = DocsQuery { tenant: tenant(), kind: "dag", after: None, limit: 5 };
    store.docs(&docs).await.unwrap();
    queue.push(&[item(1), item(2)]).await.unwrap();
    let delivery = queue.claim(&claim(1)).await.unwrap().deliveries.remove(0);
    queue.claim(&Claim { now: at(70_000_000), ..claim(2) }).await.unwrap();
    queue.renew(std::slice::from_ref(&delivery.token), at(9), at(1)).await.unwrap();
    queue.settle(&[Settle::done(delivery.token)], at(1)).await.unwrap();
    queue.depth(&tenant(), at(1)).await.unwrap();
    let take = Take { tenant: tenant(), key: "k".into(), tokens: 1, rate: 1.0, burst: 2, now: at(0) };
    lock.take(&take).await.unwrap();
    let scan = documents(&backend, APPENDS).find_one(doc! {"lines": "x"}).await;
    assert!(scan.is_err(), "the server refuses what reads a whole collection");
}

#[tokio::test]
async fn the_indexes_are_made_once() {
    let Some(backend) = open().await else { return };
    let names = async || {
        let mut names = documents(&backend, RUNS).list_index_names().await.unwrap();
        names.extend(documents(&backend, QUEUE).list_index_names().await.unwrap());
        names.sort();
        names
    };
    let before = names().await;
    for name in [
        "byDag",
        "byStart",
        "due",
        "newest",
        "newestOfDag",
        "newestOfStatus",
        "open",
        "order",
        "waits",
        "ends",
    ] {
        assert!(before.iter().any(|found| found == name), "{name}");
    }
    let again = MongoBackend::open(backend.connection.config.clone()).await.unwrap();
    assert_eq!(names().await, before);
    drop(again);
}

#[tokio::test]
async fn a_schema_of_the_future_is_left_alone() {
    let Some(backend) = open().await else { return };
    documents(&backend, "meta")
        .update_one(doc! {"_id": "schema"}, doc! {"$inc": {"version": 1}})
        .await
        .unwrap();
    let error = MongoBackend::open(backend.connection.config.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_refused_connection_is_unavailable_and_says_where() {
    let config = MongoConfig::new("mongodb://me:s3cret@127.0.0.1:1/?serverSelectionTimeoutMS=300").unwrap();
    let error = MongoBackend::open(config).await.unwrap_err();
    let text = format!("{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(text.contains("127.0.0.1:1") && !text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn weak_writes_promise_less() {
    let Some(url) = address(Shared::Mongo) else { return };
    let mut config = MongoConfig::new(format!("{url}&w=1&journal=false&allowWeakWrites=true")).unwrap();
    config.namespace = namespace();
    let weak = MongoBackend::open(config).await.unwrap();
    assert!(!weak.store().capability().survives_power_loss);
    let head = begin(&weak.store(), 1, None).await;
    append(&weak.store(), &entry(1, head, "more", RunStatus::Running, None)).await.unwrap();
    let strong = open().await.unwrap();
    assert!(strong.store().capability().survives_power_loss);
}

#[tokio::test]
async fn who_may_not_is_refused() {
    let Some(server) = Server::start(Kind::Mongo, &["--auth"]) else { return skipped(Kind::Mongo) };
    let host = server.url().replace("mongodb://", "");
    let client = mongodb::Client::with_uri_str(server.url()).await.unwrap();
    let admin = client.database("admin");
    let user = |name: &str, roles: Vec<Document>| doc! {"createUser": name, "pwd": "p@ss", "roles": roles};
    admin.run_command(user("root", vec![doc! {"role": "root", "db": "admin"}])).await.unwrap();
    let root = mongodb::Client::with_uri_str(format!("mongodb://root:p%40ss@{host}/admin")).await.unwrap();
    for (name, roles) in [
        ("worker", vec![doc! {"role": "readWrite", "db": "orch"}]),
        ("reader", vec![doc! {"role": "read", "db": "orch"}]),
    ] {
        root.database("admin").run_command(user(name, roles)).await.unwrap();
    }
    let opened = async |user: &str| {
        let url =
            format!("mongodb://{user}@{host}/?namespace=orch&authSource=admin&serverSelectionTimeoutMS=2000");
        MongoBackend::open(MongoConfig::new(url).unwrap()).await
    };
    let backend = opened("worker:p%40ss").await.unwrap();
    begin(&backend.store(), 1, None).await;
    for (user, says) in
        [("worker:wr0ng", "authSource"), ("reader:p%40ss", "readWrite"), ("nobody:p%40ss", "authSource")]
    {
        let error = opened(user).await.unwrap_err();
        let text = format!("{error:?}");
        assert_eq!(error.kind(), ErrorKind::Refused, "{text}");
        assert!(text.contains(says) && text.contains(&host), "{text}");
        assert!(!text.contains("p%40ss") && !text.contains("p@ss") && !text.contains("wr0ng"), "{text}");
    }
    let error =
        MongoBackend::open(MongoConfig::new(format!("mongodb://{host}/")).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}
