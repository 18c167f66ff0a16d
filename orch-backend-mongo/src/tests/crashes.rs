//! What processes that died, raced or pruned left behind, and who clears it up.

use super::*;

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
async fn a_wake_that_moved_a_little_is_told_once_somebody_looks_for_it() {
    let Some(backend) = open().await else { return };
    let store = backend.store();
    let head = begin(&store, 1, Some(5)).await;
    let before = listing(&backend, 1).await.unwrap();
    append(&store, &entry(1, head, "later", RunStatus::Running, Some(9))).await.unwrap();
    assert_eq!(listing(&backend, 1).await.unwrap(), before, "nothing is told of it");
    assert_eq!(due(&store, 8).await, [], "it is not due yet");
    assert_eq!(due(&store, 9).await, [(9, run_id(1))]);
    assert_ne!(listing(&backend, 1).await.unwrap(), before, "whoever looked has corrected it");
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
