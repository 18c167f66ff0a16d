//! Recorded ledgers: what was written once is read for ever, folds to the same state and decides the same.
//!
//! `ledgers/` holds streams as builds of orch recorded them, and is only ever added to. `expected/` holds what each
//! comes to: the state, and the decisions at several instants, after every entry. `cargo xtask bless` writes
//! `expected/` anew; a difference there is a change of what recorded runs mean.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod record;
mod view;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orch::ledger::{Chain, Entry, Event, Head, Stream, read_chain};
use orch::planner::{RunState, decide, unshared_plan};
use orch::proof::{VerifyOptions, verify_store};
use orch::store::{Append, MemoryStore, Store};
use orch::{Digest, Limits, TenantId, Timestamp};
use serde_json::{Value, json};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A stream as it was recorded.
struct Recorded {
    name: String,
    lines: String,
    entries: Vec<(Entry, Head)>,
}

impl Recorded {
    fn stream(&self) -> Stream {
        self.entries[0].0.stream
    }

    fn is_run(&self) -> bool {
        matches!(self.stream(), Stream::Run(_))
    }

    /// The state after each entry of a run.
    fn states(&self) -> impl Iterator<Item = (&Entry, RunState)> {
        let mut length = 0;
        self.entries.iter().zip(self.lines.split_inclusive('\n')).map(move |((entry, _), line)| {
            length += line.len();
            (entry, RunState::fold([&self.lines[..length]], unshared_plan).unwrap().unwrap())
        })
    }
}

fn recorded() -> Vec<Recorded> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder("ledgers")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let lines = fs::read_to_string(&path).unwrap();
            let entries = read_chain(Head::EMPTY, &lines).map(|read| read.unwrap());
            let entries = entries.map(|(entry, _, head)| (entry, head)).collect();
            Recorded { entries, name, lines }
        })
        .collect()
}

/// What would be appended at an instant: the types and steps of the entries, and SHA-256 of their bytes.
fn decision(state: &RunState, now: Timestamp) -> Option<Value> {
    let events = decide(state, now, &Limits::default());
    let mut chain = Chain::new(&state.key.tenant, Stream::Run(state.key.run), state.head);
    for event in &events {
        chain.push("orch", now, event).unwrap();
    }
    let (lines, _) = chain.finish().unwrap();
    let told = |line: &str| {
        let entry: Value = serde_json::from_str(line).unwrap();
        let step = entry["data"]["step"].as_str().map(|step| format!(" {step}")).unwrap_or_default();
        format!("{}{step}", entry["type"].as_str().unwrap())
    };
    let events: Vec<String> = lines.lines().map(told).collect();
    (!events.is_empty()).then(|| json!({ "events": events, "sha256": Digest::of(&*lines) }))
}

/// What a build makes of a recorded stream.
fn made_of(recorded: &Recorded) -> Value {
    let head = recorded.entries.last().unwrap().1;
    if !recorded.is_run() {
        let types: Vec<&str> = recorded.entries.iter().map(|(entry, _)| entry.event.type_name()).collect();
        return json!({ "head": head, "types": types });
    }
    let mut after = Vec::new();
    let mut last = None;
    for (entry, state) in recorded.states() {
        let mut said = json!({
            "seq": entry.seq,
            "type": entry.event.type_name(),
            "state": Digest::of(view::of(&state).to_string()),
        });
        let instants = [("0s", 0), ("45s", 45), ("2h", 7_200), ("10y", 315_360_000)];
        for (name, seconds) in instants {
            if let Some(decided) = decision(&state, entry.at.plus(Duration::from_secs(seconds))) {
                said[format!("decidesAfter {name}")] = decided;
            }
        }
        after.push(said);
        last = Some(state);
    }
    let state = last.unwrap();
    json!({ "head": head, "row": state.row(), "state": view::of(&state), "afterEachEntry": after })
}

/// Set `ORCH_BLESS=1` to write what is expected anew.
#[test]
fn l3_every_recorded_stream_folds_and_decides_to_the_same_bytes_after_every_entry() {
    let all = recorded();
    let mut names = BTreeSet::new();
    for recorded in &all {
        let path = folder("expected").join(format!("{}.json", recorded.name));
        let made = serde_json::to_string_pretty(&made_of(recorded)).unwrap() + "\n";
        if std::env::var_os("ORCH_BLESS").is_some() {
            fs::write(&path, &made).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        let differs = made.lines().zip(expected.lines()).find(|(made, expected)| made != expected);
        assert!(made == expected, "{}: recorded runs mean something else now: {differs:?}", recorded.name);
        names.insert(format!("{}.json", recorded.name));
    }
    let kept = fs::read_dir(folder("expected")).unwrap();
    let kept: BTreeSet<String> = kept.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(kept, names, "something is expected of every recorded stream, and of no other");
}

#[test]
fn l1_every_recorded_entry_is_written_again_byte_by_byte() {
    for recorded in recorded() {
        for ((entry, head), line) in recorded.entries.iter().zip(recorded.lines.lines()) {
            assert_eq!(entry.to_line().unwrap(), line, "{}", recorded.name);
            assert_eq!(head.hash, Digest::of(line));
        }
        assert!(recorded.lines.ends_with('\n'));
    }
}

#[test]
fn every_event_and_every_status_is_in_some_recorded_stream() {
    let (mut types, mut runs, mut steps) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut uses = BTreeSet::new();
    let all = recorded();
    for recorded in &all {
        types.extend(recorded.entries.iter().map(|(entry, _)| entry.event.type_name()));
        if !recorded.is_run() {
            continue;
        }
        for (_, state) in recorded.states() {
            runs.insert(state.status());
            let children = |step: &orch::planner::StepState| {
                step.map.iter().flat_map(|map| map.children.iter().map(|c| c.status)).collect::<Vec<_>>()
            };
            steps.extend(state.steps().iter().flat_map(|step| [vec![step.status], children(step)].concat()));
            let kind =
                |step: &orch::spec::Step| step.uses.to_string().split('/').take(2).last().map(str::to_owned);
            uses.extend(state.plan.steps().iter().filter_map(kind));
        }
    }
    assert_eq!(types, Event::TYPES.iter().copied().collect());
    assert_eq!(runs, orch::RunStatus::ALL.iter().copied().collect());
    assert_eq!(steps, orch::StepStatus::ALL.iter().copied().collect());
    for kind in ["approval", "policy", "signal", "sleep", "child@1", "echo"] {
        assert!(uses.contains(kind), "{kind}: {uses:?}");
    }
}

#[tokio::test]
async fn l1_recorded_streams_verify_together_in_a_store() {
    let (store, all) = (MemoryStore::new(), recorded());
    let mut appends = Vec::new();
    for recorded in &all {
        let head = recorded.entries.last().unwrap().1;
        let row = recorded.is_run().then(|| recorded.states().last().unwrap().1.row());
        let (tenant, stream) = (recorded.entries[0].0.tenant.clone(), recorded.stream());
        let lines = recorded.lines.as_str().into();
        appends.push(Append { tenant, stream, expected: Head::EMPTY, lines, head, row });
    }
    assert!(store.append(&appends).await.unwrap().into_iter().all(|answer| answer.is_ok()));
    let tenant = TenantId::new(record::TENANT).unwrap();
    let options = VerifyOptions { key: Some(record::signing_key().public()), ..VerifyOptions::default() };
    let report = verify_store(&store, &tenant, &options).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.streams as usize, all.len());
}
