//! Appending, reading, pruning.

use orch::ErrorKind;
use orch::ledger::{Head, RunStatus, Stream, read_chain};
use orch::store::{Append, EntriesRequest, Prune, Store};

use crate::Pair;
use crate::fixture::*;

/// L1: what is read is exactly what was appended, by either process.
pub async fn l1_entries_come_back_byte_for_byte(pair: Pair<dyn Store>) {
    let a = tenant("a");
    for stream in [Stream::Audit, Stream::Checkpoint, Stream::Run(run_id(1))] {
        let (mut head, mut expected) = (Head::EMPTY, String::new());
        for turn in 0..6 {
            let append = append(&a, stream, head, &["one", "two"]);
            expected.push_str(&append.lines);
            head = land(&**pair.of(turn), append).await;
            for reader in [&pair.first, &pair.second] {
                let page = whole(&**reader, &a, stream).await;
                assert_eq!(page.lines, expected, "{stream} after turn {turn}");
                assert_eq!((page.last, page.head), (head.seq, head));
                assert!(!page.more());
            }
        }
        let chained = read_chain(Head::EMPTY, &expected).map(|entry| entry.unwrap().2).last();
        assert_eq!(chained, Some(head), "the entries are chained up to the head");
    }
}

/// L1: no text is altered, whatever a database or a text encoding thinks of it.
pub async fn l1_odd_text_comes_back_byte_for_byte(pair: Pair<dyn Store>) {
    let a = tenant("a");
    let long = "é".repeat(100_000);
    let notes = [
        "",
        "\u{0}",
        "\r\n\t\u{b}",
        "'\"\\`;--",
        "%_?:@$1",
        "{\"a\":[1,2]}",
        "e\u{301} é",
        "\u{2028}\u{2029}",
        "🦀👩‍👩‍👧",
        "\u{feff}",
        "\u{fffd}\u{ffff}\u{10ffff}",
        "\u{202e}abc",
        "null",
        "0",
        " lead and trail ",
        &long,
    ];
    let append = append(&a, Stream::Run(run_id(1)), Head::EMPTY, &notes);
    let lines = append.lines.clone();
    land(&*pair.first, append).await;
    assert!(whole(&*pair.second, &a, Stream::Run(run_id(1))).await.lines == *lines, "the bytes differ");
}

/// L1: however a stream was cut into appends, pages are gapless, in order and never empty before the end.
pub async fn l1_chunk_boundaries_do_not_show(pair: Pair<dyn Store>) {
    let (a, stream) = (tenant("a"), Stream::Run(run_id(1)));
    let (mut head, mut all) = (Head::EMPTY, String::new());
    for size in [1, 3, 2, 5, 1, 1, 7] {
        let append = append(&a, stream, head, &vec!["note"; size]);
        all.push_str(&append.lines);
        head = land(&*pair.first, append).await;
    }
    let lines: Vec<&str> = all.split_inclusive('\n').collect();
    for limit in [1, 2, 3, 4, 7, 100] {
        for after in 0..=head.seq {
            let page = page(&*pair.second, &a, stream, after, limit).await;
            let (from, to) = (usize::try_from(after).unwrap(), usize::try_from(page.last).unwrap());
            assert_eq!(page.lines, lines[from..to].concat(), "after {after}, limit {limit}");
            assert_eq!(page.head, head);
            assert!(to - from >= limit.min(lines.len() - from), "a page holds what was asked for");
            assert_eq!(page.more(), page.last < head.seq);
        }
    }
    let beyond = page(&*pair.second, &a, stream, head.seq + 5, 10).await;
    assert_eq!((beyond.lines.as_str(), beyond.last, beyond.head), ("", head.seq + 5, head));
}

/// L1: a stream nobody wrote to reads as empty.
pub async fn l1_unknown_streams_are_empty(pair: Pair<dyn Store>) {
    let page = page(&*pair.first, &tenant("a"), Stream::Audit, 7, 10).await;
    assert_eq!((page.lines.as_str(), page.last, page.head), ("", 7, Head::EMPTY));
    assert!(pair.first.entries(&[]).await.unwrap().is_empty());
    assert!(pair.first.append(&[]).await.unwrap().is_empty());
}

/// L1: pages come in the order of their requests, also for a stream asked for twice.
pub async fn l1_requests_are_answered_in_order(pair: Pair<dyn Store>) {
    let a = tenant("a");
    let appends: Vec<Append> =
        (0..20).map(|n| append(&a, Stream::Run(run_id(n)), Head::EMPTY, &["x", "y"])).collect();
    for answer in pair.first.append(&appends).await.unwrap() {
        answer.unwrap();
    }
    let order = [7, 3, 3, 19, 0, 99, 5];
    let request = |n: usize, after| {
        let stream = Stream::Run(run_id(n));
        EntriesRequest { tenant: a.clone(), stream, after, limit: 10 }
    };
    let requests: Vec<_> = order.iter().enumerate().map(|(at, n)| request(*n, at as u64 % 2)).collect();
    let pages = pair.second.entries(&requests).await.unwrap();
    assert_eq!(pages.len(), order.len());
    for ((at, n), page) in order.into_iter().enumerate().zip(pages) {
        let expected = appends.get(n).map_or("", |append| {
            if at % 2 == 0 { &append.lines } else { append.lines.split_once('\n').unwrap().1 }
        });
        assert_eq!(page.lines, expected, "request {at} for run {n}");
    }
}

/// L1: a call may carry many items, and every one lands.
pub async fn l1_a_batch_of_a_thousand_lands(pair: Pair<dyn Store>) {
    let a = tenant("a");
    let appends: Vec<_> = (0..1_000).map(|n| append_row(&a, n, Head::EMPTY, &["x"])).collect();
    let answers = pair.first.append(&appends).await.unwrap();
    assert_eq!(answers.len(), appends.len());
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    for append in appends.iter().step_by(97) {
        assert_eq!(whole(&*pair.second, &a, append.stream).await.lines, *append.lines);
        let key = append.row.as_ref().unwrap().key();
        assert_eq!(pair.second.run(&key).await.unwrap(), append.row);
    }
}

/// L2: whatever is wrong with the expected head, nothing changes: neither entries nor row.
pub async fn l2_append_with_stale_head_changes_nothing(pair: Pair<dyn Store>) {
    let (a, stream) = (tenant("a"), Stream::Run(run_id(1)));
    let one = land(&*pair.first, append_row(&a, 1, Head::EMPTY, &["1"])).await;
    let two = land(&*pair.second, append_row(&a, 1, one, &["2"])).await;
    let before =
        (whole(&*pair.first, &a, stream).await, pair.first.run(&row(&a, 1, two).key()).await.unwrap());
    let other_hash = Head { hash: one.hash, seq: two.seq };
    let ahead = Head { hash: two.hash, seq: two.seq + 1 };
    for stale in [Head::EMPTY, one, other_hash, ahead] {
        for notes in [&["new"][..], &[]] {
            let mut append = append_row(&a, 1, stale, notes);
            append.row.as_mut().unwrap().actor = "intruder".into();
            // A row needs entries, whatever the head.
            append.row.take_if(|row| row.head == Head::EMPTY);
            for store in [&pair.first, &pair.second] {
                assert_eq!(try_land(&**store, append.clone()).await, Some(ErrorKind::Conflict), "{stale:?}");
            }
        }
    }
    let ghost = append_row(&a, 2, one, &["a stream that is not there"]);
    assert_eq!(try_land(&*pair.first, ghost).await, Some(ErrorKind::Conflict));
    let after =
        (whole(&*pair.first, &a, stream).await, pair.first.run(&row(&a, 1, two).key()).await.unwrap());
    assert_eq!(before, after);
    assert_eq!(whole(&*pair.first, &a, Stream::Run(run_id(2))).await.head, Head::EMPTY);
    assert_eq!(pair.first.run(&row(&a, 2, one).key()).await.unwrap(), None);
}

/// L1: a fault between execution and answer. Whoever asked goes away before the answer, and asks again: by then all of
/// it has landed, entries and row, or nothing has.
pub async fn l1_an_append_whose_answer_was_lost_landed_wholly_or_not_at_all(pair: Pair<dyn Store>) {
    let a = tenant("a");
    for patience in 0..12 {
        let append = append_row(&a, patience, Head::EMPTY, &["x", "y"]);
        let asked = [append.clone()];
        let mut call = pair.first.append(&asked);
        for _ in 0..=patience {
            if futures::poll!(&mut call).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(call);
        let again = try_land(&*pair.first, append.clone()).await;
        assert!(matches!(again, None | Some(ErrorKind::Conflict)), "{again:?}");
        assert_eq!(whole(&*pair.second, &a, append.stream).await.lines, *append.lines);
        let row = pair.second.run(&row(&a, patience, append.head).key()).await.unwrap();
        assert_eq!(row, append.row, "asked again: {again:?}");
    }
}

/// L2: one item's conflict is its own.
pub async fn l2_items_of_one_call_are_independent(pair: Pair<dyn Store>) {
    let a = tenant("a");
    let taken = land(&*pair.second, append_row(&a, 3, Head::EMPTY, &["first"])).await;
    let appends: Vec<_> = (0..6).map(|n| append_row(&a, n, Head::EMPTY, &["x", "y"])).collect();
    let answers = pair.first.append(&appends).await.unwrap();
    for (n, (answer, append)) in answers.into_iter().zip(&appends).enumerate() {
        let head = whole(&*pair.second, &a, append.stream).await.head;
        if n == 3 {
            assert_eq!((kind(answer), head), (Some(ErrorKind::Conflict), taken));
        } else {
            assert_eq!((kind(answer), head), (None, append.head), "item {n}");
        }
    }
}

/// L2: several items on one stream are compared one after the other.
pub async fn l2_items_on_one_stream_apply_in_order(pair: Pair<dyn Store>) {
    let a = tenant("a");
    let one = append_row(&a, 1, Head::EMPTY, &["1"]);
    let two = append_row(&a, 1, one.head, &["2", "3"]);
    let stale = append_row(&a, 1, one.head, &["too late"]);
    let behind_stale = append_row(&a, 1, stale.head, &["after too late"]);
    let three = append_row(&a, 1, two.head, &["4"]);
    let elsewhere = append_row(&a, 2, Head::EMPTY, &["x"]);
    let expected = format!("{}{}{}", one.lines, two.lines, three.lines);
    let head = three.head;
    let answers = pair.first.append(&[one, two, stale, elsewhere, behind_stale, three]).await.unwrap();
    let kinds: Vec<_> = answers.into_iter().map(kind).collect();
    let conflict = Some(ErrorKind::Conflict);
    assert_eq!(kinds, [None, None, conflict, None, conflict, None]);
    let page = whole(&*pair.second, &a, Stream::Run(run_id(1))).await;
    assert_eq!((page.lines, page.head), (expected, head));
    assert_eq!(pair.second.run(&row(&a, 1, head).key()).await.unwrap(), Some(row(&a, 1, head)));
}

/// L2: of many appends on one head, by two processes at once, exactly one lands.
pub async fn l2_racing_appends_on_one_head_let_one_win(pair: Pair<dyn Store>) {
    let (a, mut head) = (tenant("a"), Head::EMPTY);
    for round in 0..10 {
        let appends: Vec<_> = (0..8)
            .map(|racer: usize| append_row(&a, 1, head, &[&format!("round {round} racer {racer}")]))
            .collect();
        let tasks = appends.iter().cloned().enumerate().map(|(racer, append)| {
            let store = pair.of(racer).clone();
            async move { try_land(&*store, append).await }
        });
        let answers = race(tasks).await;
        let won: Vec<_> = answers.iter().enumerate().filter(|(_, kind)| kind.is_none()).collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        assert!(answers.iter().flatten().all(|kind| *kind == ErrorKind::Conflict), "{answers:?}");
        head = appends[won[0].0].head;
        let page = whole(&*pair.first, &a, Stream::Run(run_id(1))).await;
        assert_eq!(page.head, head);
        assert!(page.lines.ends_with(&*appends[won[0].0].lines));
    }
}

/// L2: an append without lines compares the head all the same.
pub async fn l2_append_without_lines_replaces_the_row_only(pair: Pair<dyn Store>) {
    let a = tenant("a");
    let head = land(&*pair.first, append_row(&a, 1, Head::EMPTY, &["1"])).await;
    let mut repair = append_row(&a, 1, head, &[]);
    repair.row.as_mut().unwrap().status = RunStatus::Running;
    land(&*pair.second, repair.clone()).await;
    assert_eq!(pair.first.run(&row(&a, 1, head).key()).await.unwrap(), repair.row);
    assert_eq!(whole(&*pair.first, &a, repair.stream).await.head, head);
    let mut bare = repair;
    bare.row = None;
    land(&*pair.first, bare).await;
}

/// L2: an append whose parts do not belong together never reaches the stream.
pub async fn l2_malformed_appends_are_refused(pair: Pair<dyn Store>) {
    let a = tenant("a");
    let good = || append_row(&a, 1, Head::EMPTY, &["1", "2"]);
    let mut unended = good();
    unended.lines = unended.lines.trim_end().into();
    let mut short = good();
    short.head.seq = 1;
    let mut strange = good();
    strange.row.as_mut().unwrap().run = run_id(2);
    let mut foreign = good();
    foreign.row.as_mut().unwrap().tenant = tenant("b");
    let mut behind = good();
    behind.row.as_mut().unwrap().head = Head::EMPTY;
    let hollow = append_row(&a, 1, Head::EMPTY, &[]);
    assert_eq!(try_land(&*pair.first, hollow).await, Some(ErrorKind::Invalid), "a row without entries");
    for (what, append) in [
        ("unended", unended),
        ("short", short),
        ("strange", strange),
        ("foreign", foreign),
        ("behind", behind),
    ] {
        assert_eq!(try_land(&*pair.first, append).await, Some(ErrorKind::Invalid), "{what}");
    }
    assert_eq!(whole(&*pair.first, &a, good().stream).await.head, Head::EMPTY);
    let bytes = pair.first.capability().append_bytes;
    if bytes <= 64 << 20 {
        let long = append(&a, Stream::Audit, Head::EMPTY, &[&"x".repeat(bytes)]);
        assert_eq!(try_land(&*pair.first, long).await, Some(ErrorKind::LimitExceeded));
    }
}

/// P1: entries, row, listing and wake of a pruned run are gone, and its stream may begin again.
pub async fn p1_a_pruned_run_leaves_nothing(pair: Pair<dyn Store>) {
    let a = tenant("a");
    let mut heads = Vec::new();
    for n in 0..4 {
        let head = land(&*pair.first, append_row(&a, n, Head::EMPTY, &["1"])).await;
        let mut end = append_row(&a, n, head, &["2", "3"]);
        let row = end.row.as_mut().unwrap();
        (row.status, row.wake_at) = (RunStatus::Completed, Some(at(1)));
        heads.push((run_id(n), land(&*pair.first, end).await));
    }
    let runs = heads[..3].to_vec();
    let prune = Prune { tenant: a.clone(), runs };
    assert_eq!(pair.second.prune(&prune).await.unwrap(), 3);
    assert_eq!(pair.second.prune(&prune).await.unwrap(), 0, "nothing is left to prune");
    for n in 0..3 {
        let page = whole(&*pair.first, &a, Stream::Run(run_id(n))).await;
        assert_eq!((page.lines.as_str(), page.head), ("", Head::EMPTY));
        assert_eq!(pair.first.run(&row(&a, n, Head::EMPTY).key()).await.unwrap(), None);
    }
    assert_eq!(super::rows::listed(&*pair.first, &a).await, [run_id(3)]);
    assert_eq!(super::rows::due(&*pair.first, at(10)).await, [(at(1), a.clone(), run_id(3))]);
    assert_eq!(whole(&*pair.first, &a, Stream::Run(run_id(3))).await.head, heads[3].1);
    land(&*pair.first, append_row(&a, 0, Head::EMPTY, &["again"])).await;
}

/// P1: only the run that was named, as it was named, goes.
pub async fn p1_moved_unfinished_and_foreign_runs_are_left_alone(pair: Pair<dyn Store>) {
    let (a, b) = (tenant("a"), tenant("b"));
    let mut heads = Vec::new();
    for n in 0..3 {
        let mut append = append_row(&a, n, Head::EMPTY, &["1", "2"]);
        let status = if n == 0 { RunStatus::Running } else { RunStatus::Failed };
        append.row.as_mut().unwrap().status = status;
        heads.push(land(&*pair.first, append).await);
    }
    let moved = append(&a, Stream::Run(run_id(1)), heads[1], &["3"]);
    land(&*pair.first, moved).await;
    let all: Vec<_> = heads.iter().enumerate().map(|(n, head)| (run_id(n), *head)).collect();
    let foreign = Prune { tenant: b, runs: all.clone() };
    assert_eq!(pair.second.prune(&foreign).await.unwrap(), 0);
    let unfinished_and_moved = Prune { tenant: a.clone(), runs: all[..2].to_vec() };
    assert_eq!(pair.second.prune(&unfinished_and_moved).await.unwrap(), 0);
    assert_eq!(super::rows::listed(&*pair.first, &a).await.len(), 3);
    for n in 0..3 {
        assert!(whole(&*pair.first, &a, Stream::Run(run_id(n))).await.head.seq >= 2);
    }
}
