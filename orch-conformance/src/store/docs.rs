//! Documents.

use orch::ErrorKind;
use orch::ledger::Head;
use orch::store::{Append, DocKey, DocsQuery, Expect, PutDoc, Store};

use crate::Pair;
use crate::fixture::*;

fn put(kind: &'static str, key: &str, expect: Expect, body: Option<&str>) -> PutDoc {
    let key = DocKey { tenant: tenant("a"), kind, key: key.into() };
    PutDoc { key, expect, body: body.map(Into::into) }
}

/// A stamp is another once anything was written through either handle; a store that cannot tell says nothing.
pub async fn a_stamp_that_stays_says_that_nobody_wrote(pair: Pair<dyn Store>) {
    let changed = |before: Option<u64>| before.is_none() || pair.first.stamp() != before;
    for turn in 0..2 {
        let writer = pair.of(turn);
        let before = pair.first.stamp();
        let landed = append_row(&tenant("a"), turn, Head::EMPTY, &["one"]);
        writer.append(std::slice::from_ref(&landed)).await.unwrap().remove(0).unwrap();
        assert!(changed(before), "after an append");
        let before = pair.first.stamp();
        writer.put_doc(&put("dag", &turn.to_string(), Expect::Absent, Some("1"))).await.unwrap();
        assert!(changed(before), "after a document");
        let before = pair.first.stamp();
        let row_only = Append { expected: landed.head, lines: "".into(), ..landed };
        writer.append(&[row_only]).await.unwrap().remove(0).unwrap();
        assert!(changed(before), "after a row");
    }
}

/// A document is written only if what is expected holds, and its version counts its writes.
pub async fn documents_are_compared_and_swapped(pair: Pair<dyn Store>) {
    let conflict = Some(ErrorKind::Conflict);
    let write = |expect, body| put("dag", "k", expect, body);
    let key = write(Expect::Any, None).key;
    assert_eq!(pair.first.doc(&key).await.unwrap(), None);
    assert_eq!(kind(pair.first.put_doc(&write(Expect::Version(1), Some("0"))).await), conflict);
    assert_eq!(kind(pair.first.put_doc(&write(Expect::Version(0), Some("0"))).await), conflict);
    assert_eq!(pair.first.put_doc(&write(Expect::Absent, Some("1"))).await.unwrap(), 1);
    assert_eq!(kind(pair.second.put_doc(&write(Expect::Absent, Some("0"))).await), conflict);
    assert_eq!(
        pair.second.put_doc(&write(Expect::Version(1), Some("{\"é\":\"🦀\\u0000\"}"))).await.unwrap(),
        2
    );
    assert_eq!(kind(pair.first.put_doc(&write(Expect::Version(1), Some("0"))).await), conflict);
    assert_eq!(kind(pair.first.put_doc(&write(Expect::Version(1), None)).await), conflict);
    let doc = pair.first.doc(&key).await.unwrap().unwrap();
    assert_eq!((doc.key.as_str(), doc.version, doc.body.as_str()), ("k", 2, "{\"é\":\"🦀\\u0000\"}"));
    assert_eq!(pair.first.put_doc(&write(Expect::Any, Some("3"))).await.unwrap(), 3);
    assert_eq!(pair.first.put_doc(&write(Expect::Version(3), None)).await.unwrap(), 0);
    assert_eq!(pair.second.doc(&key).await.unwrap(), None);
    assert_eq!(pair.second.put_doc(&write(Expect::Any, None)).await.unwrap(), 0);
    assert_eq!(pair.second.put_doc(&write(Expect::Absent, Some("4"))).await.unwrap(), 1);
}

/// Of many writers that expect the same version, one wins.
pub async fn documents_put_in_a_race_let_one_win(pair: Pair<dyn Store>) {
    pair.first.put_doc(&put("dag", "k", Expect::Absent, Some("0"))).await.unwrap();
    for version in 1..8 {
        let answers = race((0..8).map(|racer| {
            let store = pair.of(racer).clone();
            let put = put("dag", "k", Expect::Version(version), Some(&racer.to_string()));
            async move { store.put_doc(&put).await.map_err(|error| error.kind()) }
        }))
        .await;
        let won: Vec<_> = (0..8).filter(|racer| answers[*racer] == Ok(version + 1)).collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        assert_eq!(answers.iter().filter(|answer| **answer == Err(ErrorKind::Conflict)).count(), 7);
        let key = put("dag", "k", Expect::Any, None).key;
        assert_eq!(pair.second.doc(&key).await.unwrap().unwrap().body, won[0].to_string());
    }
}

/// Keys are bytes: no collation, no wildcard, no kind that runs into the next.
pub async fn documents_are_listed_in_byte_order_page_by_page(pair: Pair<dyn Store>) {
    let mut keys = ["a", "B", "b", "a/b", "a%", "a_", "é", "e\u{301}", "🦀", "", "z'z", "A", "10", "9"];
    for (turn, key) in keys.iter().enumerate() {
        pair.of(turn).put_doc(&put("dag", key, Expect::Absent, Some("1"))).await.unwrap();
    }
    pair.first.put_doc(&put("dagger", "a", Expect::Absent, Some("2"))).await.unwrap();
    keys.sort_unstable();
    for limit in [1, 3, 14, 500] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let query = DocsQuery { tenant: tenant("a"), kind: "dag", after, limit };
            let page = pair.second.docs(&query).await.unwrap();
            assert!(page.docs.len() <= limit);
            seen.extend(page.docs.into_iter().map(|doc| doc.key));
            if !page.more {
                break;
            }
            after = seen.last().cloned();
        }
        assert_eq!(seen, keys, "limit {limit}");
    }
}
