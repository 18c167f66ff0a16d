use super::*;
use crate::store::Prune;

fn options(checkpoint: &Checkpoint) -> VerifyOptions {
    let checkpoints = vec![checkpoint.clone()];
    VerifyOptions { checkpoints, key: Some(key().public()), ..VerifyOptions::default() }
}

#[tokio::test]
async fn a_cut_tail_and_a_deleted_run_are_found_with_an_exported_checkpoint() {
    let (one, two) = (mixed("t1"), small());
    let store = store_of(&[&one, &two]).await;
    audit(&store, "dag.publish").await;
    let taken = checkpoint(&store, Scope::All).await.unwrap();
    let exported = Checkpoint::from_json(&taken.to_json()).unwrap();
    assert_eq!(exported, taken);
    assert_eq!(verify(&store, &options(&exported)).await.problems, []);

    // A consistent shorter run: as it stood before its last append, with the row of then.
    let cut = {
        let mut cut = Sim::unopened(&one.state.plan, &json!({}), "t1");
        cut.settle();
        cut.run("a", good());
        cut
    };
    assert!(one.lines.starts_with(&cut.lines));
    let store = store_of(&[&cut, &two]).await;
    assert!(verify(&store, &VerifyOptions::default()).await.is_clean(), "the chain alone cannot show it");
    let report = verify(&store, &options(&exported)).await;
    let found: Vec<_> = report.problems.iter().map(|p| (p.stream, p.seq, p.code)).collect();
    assert!(
        found.contains(&(Stream::Run(cut.state.key.run), cut.state.head.seq + 1, "tail_cut")),
        "{found:?}"
    );
    assert!(found.contains(&(Stream::Audit, 1, "tail_cut")), "{found:?}");
    assert!(found.contains(&(Stream::Checkpoint, 1, "tail_cut")), "{found:?}");

    let store = store_of(&[&two]).await;
    let report = verify(&store, &options(&exported)).await;
    let gone = report.problems.iter().find(|p| p.stream == Stream::Run(one.state.key.run)).unwrap();
    assert_eq!((gone.seq, gone.code), (1, "deleted"));
}

#[tokio::test]
async fn a_run_rewritten_from_the_start_is_found() {
    let one = mixed("t1");
    let store = store_of(&[&one]).await;
    let taken = checkpoint(&store, Scope::All).await.unwrap();
    let mut other = Sim::unopened(&one.state.plan, &json!({}), "t1");
    other.now = Timestamp::from_micros(99);
    other.settle();
    other.run("a", good());
    other.run("m[1]", good());
    other.run("m[0]", good());
    other.run("z", fatal());
    let store = store_of(&[&other]).await;
    let report = verify(&store, &options(&taken)).await;
    let found = report.problems.iter().find(|p| matches!(p.stream, Stream::Run(_))).unwrap();
    assert_eq!((found.code, found.seq), ("rewritten", one.state.head.seq));
}

#[tokio::test]
async fn a_run_that_went_on_after_a_checkpoint_still_fits_it() {
    let mut one = mixed("t1");
    let before = store_of(&[&one]).await;
    let taken = checkpoint(&before, Scope::All).await.unwrap();
    one.operate(&crate::planner::Operation::Retry(vec![])).unwrap();
    let store = store_of(&[&one]).await;
    let report = verify(&store, &options(&taken)).await;
    assert!(report.problems.iter().all(|p| p.stream == Stream::Checkpoint), "{report:?}");
}

#[tokio::test]
async fn only_what_is_new_is_named_since_the_last_checkpoint() {
    let store = store_of(&[&mixed("t1")]).await;
    audit(&store, "one").await;
    assert_eq!(checkpoint(&store, Scope::SinceLast).await.unwrap().heads().count(), 3);
    assert_eq!(checkpoint(&store, Scope::SinceLast).await, None);
    put(&store, &kept(&mixed("t2"))).await;
    let next = checkpoint(&store, Scope::SinceLast).await.unwrap();
    assert_eq!(next.heads().count(), 2, "the run and the checkpoint itself");
    assert_eq!(verify(&store, &options(&next)).await.problems, []);
    let running = Sim::with_inputs(&plan_of(&[task("a", &[])]), &json!({"n": 1}));
    put(&store, &kept(&running)).await;
    assert_eq!(checkpoint(&store, Scope::SinceLast).await, None, "it has not ended");
}

#[tokio::test]
async fn a_checkpoint_proves_itself() {
    let store = store_of(&[&small()]).await;
    let taken = checkpoint(&store, Scope::All).await.unwrap();
    taken.verify(None).unwrap();
    taken.verify(Some(&key().public())).unwrap();
    let other = SigningKey::from_hex(&"17".repeat(32)).unwrap().public();
    assert!(taken.verify(Some(&other)).unwrap_err().to_string().contains("another key"));
    let report = verify(&store, &VerifyOptions { key: Some(other), ..VerifyOptions::default() }).await;
    assert_eq!(report.problems[0].code, "bad_signature");
    let json = taken.to_json();
    for (from, to) in
        [("\"seq\":6", "\"seq\":7"), ("00007Z", "00008Z"), ("\"tenant\":\"acme\"", "\"tenant\":\"evil\"")]
    {
        let forged = json.replacen(from, to, 1);
        assert_ne!(forged, json, "{from}");
        let refused = Checkpoint::from_json(&forged).and_then(|checkpoint| checkpoint.verify(None));
        assert!(refused.unwrap_err().to_string().contains("wrong"), "{from}");
    }
    for text in
        ["", "{}", r#"{"format":"other","entries":[]}"#, r#"{"format":"orch/checkpoint/v1","entries":[]}"#]
    {
        assert!(Checkpoint::from_json(text).is_err(), "{text}");
    }
}

#[tokio::test]
async fn no_byte_of_a_signed_checkpoint_can_be_changed() {
    let store = store_of(&[&small()]).await;
    let taken = checkpoint(&store, Scope::All).await.unwrap();
    let (json, public) = (taken.to_json(), key().public());
    for place in 0..json.len() {
        // Its last bit: digits stay digits, and letters letters.
        let mut bytes = json.clone().into_bytes();
        bytes[place] ^= 1;
        let altered = String::from_utf8(bytes).unwrap();
        let accepted = Checkpoint::from_json(&altered).and_then(|read| read.verify(Some(&public)));
        assert!(accepted.is_err(), "{altered}");
    }
    let spelled = json.replacen("\"v\":1}", "\"v\": 1}", 1);
    assert_ne!(spelled, json);
    assert!(Checkpoint::from_json(&spelled).is_err(), "an entry has one spelling");
    let framed = json.replacen("[\n", "[ \n", 1);
    assert_eq!(Checkpoint::from_json(&framed).unwrap(), taken, "what stands around entries says nothing");
}

#[tokio::test]
async fn an_unsigned_checkpoint_is_none_to_who_asks_for_a_signature() {
    let store = store_of(&[&small()]).await;
    let request = TakeCheckpoint {
        tenant: tenant(),
        actor: "alice".into(),
        now: Timestamp::EPOCH,
        scope: Scope::All,
        key: None,
    };
    let taken = take_checkpoint(&store, &request).await.unwrap().unwrap();
    taken.verify(None).unwrap();
    assert!(taken.verify(Some(&key().public())).is_err());
    assert!(verify(&store, &VerifyOptions::default()).await.is_clean());
    assert!(!verify(&store, &options(&taken)).await.is_clean());
}

#[test]
fn keys_have_one_spelling_and_are_not_shown() {
    let key = key();
    let public = key.public().to_string();
    assert_eq!(public.parse::<PublicKey>().unwrap(), key.public());
    assert!(!format!("{key:?}").contains("4242"), "{key:?}");
    for text in ["", "42", &"zz".repeat(32), &"AB".repeat(32)] {
        assert!(SigningKey::from_hex(text).is_err(), "{text}");
        assert!(text.parse::<PublicKey>().is_err(), "{text}");
    }
}

#[tokio::test]
async fn p1_a_pruned_run_leaves_nothing_but_its_head() {
    let (one, two) = (mixed("t1"), small());
    let running = Sim::with_inputs(&plan_of(&[task("a", &[])]), &json!({"n": 1}));
    let store = store_of(&[&one, &two, &running]).await;
    let taken = checkpoint(&store, Scope::All).await.unwrap();
    let (run, other) = (one.state.key.run, running.state.key.run);
    assert_eq!(prune_them(&store, vec![run, other, run]).await, 1, "one of them still runs");
    assert!(store.run(&one.state.key).await.unwrap().is_none());
    assert_eq!(read_page(&store, &tenant(), Stream::Run(run), 0, 10).await.unwrap().head, Head::EMPTY);
    let head = read_page(&store, &tenant(), Stream::Checkpoint, 0, 10).await.unwrap();
    assert!(head.lines.contains(&one.state.head.hash.to_string()));
    assert_eq!(verify(&store, &options(&taken)).await.problems, []);
    assert_eq!(prune_them(&store, vec![run]).await, 0);
    // The same run may be submitted again.
    put(&store, &kept(&mixed("t1"))).await;
    assert_eq!(verify(&store, &options(&taken)).await.problems, []);
}

#[tokio::test]
async fn p1_a_crash_before_the_deletion_is_repaired_by_pruning_again() {
    let one = mixed("t1");
    let store = store_of(&[&one]).await;
    let taken = checkpoint(&store, Scope::All).await.unwrap();
    // What a process that dies halfway leaves: the head is recorded, the run still there.
    let named = crate::ledger::StreamHead { head: one.state.head, stream: Stream::Run(one.state.key.run) };
    let event = crate::ledger::CheckpointPruned { heads: vec![named] };
    append(&store, &tenant(), Stream::Checkpoint, "x", Timestamp::EPOCH, &[event.into()]).await.unwrap();
    assert_eq!(verify(&store, &options(&taken)).await.problems, []);
    assert_eq!(prune_them(&store, vec![one.state.key.run]).await, 1);
    assert_eq!(verify(&store, &options(&taken)).await.problems, []);
}

#[tokio::test]
async fn a_run_deleted_without_a_word_is_found_by_the_checkpoints_in_the_store() {
    let one = mixed("t1");
    let store = store_of(&[&one]).await;
    checkpoint(&store, Scope::All).await.unwrap();
    store.prune(&Prune { tenant: tenant(), runs: vec![(one.state.key.run, one.state.head)] }).await.unwrap();
    let report = verify(&store, &VerifyOptions::default()).await;
    assert_eq!((report.problems[0].code, report.problems.len()), ("deleted", 1));
}
