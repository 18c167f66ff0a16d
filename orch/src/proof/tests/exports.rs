use super::*;
use crate::ErrorKind;
use crate::digest::Digest;

async fn full() -> (MemoryStore, Vec<Sim>) {
    let mut sims = vec![mixed("t1"), mixed("t2"), small()];
    let plan = sims[0].state.plan.clone();
    let mut late = Sim::unopened(&plan, &json!({}), "t3");
    late.now = Timestamp::from_micros(50);
    late.settle();
    late.now = Timestamp::from_micros(20);
    late.run("a", good());
    sims.push(late);
    let store = store_of(&sims.iter().collect::<Vec<_>>()).await;
    audit(&store, "dag.publish").await;
    checkpoint(&store, Scope::All).await.unwrap();
    (store, sims)
}

fn stream_of(line: &str) -> Stream {
    crate::ledger::Entry::read(line).unwrap().stream
}

async fn exported(store: &MemoryStore, run: Option<RunId>) -> (String, Manifest) {
    let mut file = Vec::new();
    let manifest = export(store, &tenant(), run, Timestamp::from_micros(99), &mut file).await.unwrap();
    (String::from_utf8(file).unwrap(), manifest)
}

#[tokio::test]
async fn an_export_holds_every_line_as_it_was_hashed_in_order_of_time_dag_and_run() {
    let (store, sims) = full().await;
    let (file, manifest) = exported(&store, None).await;
    assert_eq!(manifest.sha256, Digest::of(&file));
    assert_eq!(manifest.counts.entries, file.lines().count() as u64);
    assert_eq!((manifest.counts.streams, manifest.counts.bytes), (6, file.len() as u64));
    for sim in &sims {
        let own = Stream::Run(sim.state.key.run);
        let lines: String =
            file.lines().filter(|line| stream_of(line) == own).map(|line| format!("{line}\n")).collect();
        assert_eq!(lines, sim.lines);
        let named = manifest.heads.iter().find(|named| named.stream == own).unwrap();
        assert_eq!(named.head, sim.state.head);
    }
    let report =
        verify_export(file.as_bytes(), &tenant(), Some(&manifest), &VerifyOptions::default()).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(report.entries, manifest.counts.entries);
    let text = serde_json::to_string(&manifest).unwrap();
    assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
}

#[tokio::test]
async fn an_export_can_be_written_again_as_long_as_nothing_of_it_is_gone() {
    let (store, sims) = full().await;
    let (file, manifest) = exported(&store, None).await;
    let again = async |manifest: &Manifest| {
        let mut file = Vec::new();
        let written = export_again(&store, manifest, &mut file).await;
        (String::from_utf8(file).unwrap(), written.map_err(|error| error.kind()))
    };
    for _ in 0..70 {
        audit(&store, "dag.publish").await;
    }
    checkpoint(&store, Scope::All).await.unwrap();
    assert_ne!(exported(&store, None).await.1.sha256, manifest.sha256);
    assert_eq!(again(&manifest).await, (file.clone(), Ok(())));
    let other = Manifest { sha256: Digest::of("other"), ..manifest.clone() };
    assert_eq!(again(&other).await, (file, Err(ErrorKind::Corrupt)));
    let one = exported(&store, Some(sims[0].state.key.run)).await.1;
    prune_them(&store, vec![sims[0].state.key.run]).await;
    assert_eq!(again(&manifest).await.1, Err(ErrorKind::NotFound));
    assert_eq!(again(&one).await.1, Err(ErrorKind::NotFound));
}

#[tokio::test]
async fn one_run_can_be_exported_alone() {
    let (store, sims) = full().await;
    let (file, manifest) = exported(&store, Some(sims[1].state.key.run)).await;
    assert_eq!(file, sims[1].lines);
    let report =
        verify_export(file.as_bytes(), &tenant(), Some(&manifest), &VerifyOptions::default()).unwrap();
    assert_eq!(report.problems, []);
    let nobody = RunId::MIN;
    assert!(export(&store, &tenant(), Some(nobody), Timestamp::EPOCH, &mut Vec::new()).await.is_err());
}

#[tokio::test]
async fn what_was_changed_in_an_export_is_found_with_its_line() {
    let (store, _) = full().await;
    let (file, manifest) = exported(&store, None).await;
    let lines: Vec<&str> = file.lines().collect();
    let check = |lines: &[String]| {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        verify_export(text.as_bytes(), &tenant(), Some(&manifest), &VerifyOptions::default()).unwrap()
    };
    for number in 0..lines.len() {
        let mut changed: Vec<String> = lines.iter().map(ToString::to_string).collect();
        changed[number] = changed[number].replacen("\"at\":\"1970-01-01", "\"at\":\"1970-01-02", 1);
        let report = check(&changed);
        let found = report.problems.iter().find(|p| p.line == Some(number as u64 + 1));
        assert!(found.is_some_and(|p| p.code != "not_sorted"), "line {} {:?}", number + 1, report.problems);
        let mut fewer: Vec<String> = lines.iter().map(ToString::to_string).collect();
        fewer.remove(number);
        let codes: Vec<_> = check(&fewer).problems.iter().map(|p| p.code).collect();
        assert!(
            codes.contains(&"manifest_differs") && codes.len() > 1,
            "without line {} {codes:?}",
            number + 1
        );
    }
    let mut junk: Vec<String> = lines.iter().map(ToString::to_string).collect();
    junk.insert(3, "junk".into());
    assert!(check(&junk).problems.iter().any(|p| p.line == Some(4) && p.code == "unreadable"));
}

#[tokio::test]
async fn a_run_left_out_of_an_export_is_found() {
    let (store, sims) = full().await;
    let (file, mut manifest) = exported(&store, None).await;
    let gone = Stream::Run(sims[0].state.key.run);
    let left: String =
        file.lines().filter(|line| stream_of(line) != gone).map(|line| format!("{line}\n")).collect();
    manifest.sha256 = Digest::of(&left);
    manifest.counts.streams -= 1;
    manifest.counts.bytes = left.len() as u64;
    manifest.counts.entries = left.lines().count() as u64;
    manifest.heads.retain(|named| named.stream != gone);
    let report =
        verify_export(left.as_bytes(), &tenant(), Some(&manifest), &VerifyOptions::default()).unwrap();
    let found: Vec<_> = report.problems.iter().map(|p| (p.stream, p.code)).collect();
    assert_eq!(found, [(gone, "deleted")]);
}

#[tokio::test]
async fn a_manifest_that_says_anything_else_than_the_file_is_found() {
    let (store, sims) = full().await;
    let (file, manifest) = exported(&store, None).await;
    let check = |manifest: &Manifest| {
        verify_export(file.as_bytes(), &tenant(), Some(manifest), &VerifyOptions::default()).unwrap()
    };
    let changed = |change: fn(&mut Manifest, RunId)| {
        let mut changed = manifest.clone();
        change(&mut changed, sims[1].state.key.run);
        changed
    };
    assert!(check(&changed(|manifest, _| manifest.created_at = Timestamp::EPOCH)).is_clean());
    for (what, change) in [
        ("format", (|manifest, _| manifest.format.push('2')) as fn(&mut Manifest, RunId)),
        ("tenant", |manifest, _| manifest.tenant = TenantId::new("evil").unwrap()),
        // As if the others had never been meant to be there.
        ("run", |manifest, run| manifest.run = Some(run)),
        ("streams", |manifest, _| manifest.counts.streams += 1),
        ("entries", |manifest, _| manifest.counts.entries -= 1),
        ("bytes", |manifest, _| manifest.counts.bytes += 1),
        ("sha256", |manifest, _| manifest.sha256 = Digest::ZERO),
        ("fewer heads", |manifest, _| manifest.heads.truncate(1)),
        ("more heads", |manifest, _| manifest.heads.push(manifest.heads[0].clone())),
        ("other heads", |manifest, _| manifest.heads[0].head.seq += 1),
    ] {
        assert!(!check(&changed(change)).is_clean(), "{what}");
    }
}
