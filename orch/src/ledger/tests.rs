//! Entries have one spelling, for every type of event; chains break where they are touched.

use super::*;
use crate::digest::Digest;
use crate::id::{RunId, StepKey, TenantId, WorkerId};
use crate::payload::Payload;
use crate::store::ParentStep;
use crate::time::Timestamp;

const AT: Timestamp = Timestamp::EPOCH;

fn run() -> RunId {
    "0123456789abcdef0123456789abcdef".parse().unwrap()
}

fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn json(text: &str) -> Payload {
    Payload::parse(text).unwrap()
}

fn logs() -> Option<ArtifactRef> {
    let (hash, media_type) = (Digest::of("x"), "text/plain".to_owned());
    Some(ArtifactRef { hash, media_type, name: Some("log\u{1}\"\\".to_owned()), size: 9 })
}

fn heads() -> Vec<StreamHead> {
    let head = Head { hash: Digest::of("h"), seq: 12 };
    [Stream::Audit, Stream::Run(run())].map(|stream| StreamHead { head, stream }).to_vec()
}

/// Every type of event with every field filled in; strings hold what needs escaping.
fn samples() -> Vec<Event> {
    let step: StepKey = "scan[3]".parse().unwrap();
    let text = || "né\n\"\\\u{7f}\u{2028}".to_owned();
    let reason = || Some(text());
    let (hash, worker) = (Digest::of("y"), Some(WorkerId::new("w\"1")));
    let output = Some(json(r#"{"b":[1,2.5,-0.0,1e21],"a":"é\u0001"}"#));
    vec![
        RunCreated {
            baggage: None,
            dag_id: "d".parse().unwrap(),
            dag_version: Some(3),
            inputs: json(r#"{"z":1,"a":null}"#),
            inputs_hash: hash,
            parent: Some(ParentStep { attempt: 1, depth: 2, run: run(), step: step.clone() }),
            plan: json("{}"),
            plan_hash: hash,
            priority: -5,
            rationale: reason(),
            replay_of: Some(run()),
            run_token: text(),
            sandbox: Some("none".into()),
            traceparent: Some("00-aa-bb-01".into()),
        }
        .into(),
        RunStarted {}.into(),
        RunPaused { reason: reason() }.into(),
        RunResumed { reason: reason() }.into(),
        RunRetried { reason: reason(), steps: vec![step.clone()] }.into(),
        RunCancelRequested { code: Some("run_timeout".into()), reason: reason() }.into(),
        RunCompleted { outputs_hash: hash }.into(),
        RunFailed { code: "step_failed".into(), message: text(), outputs_hash: hash }.into(),
        RunCancelled { outputs_hash: hash }.into(),
        StepScheduled {
            attempt: 2,
            input: output.clone(),
            input_hash: hash,
            not_before: Some(AT),
            step: step.clone(),
        }
        .into(),
        StepStarted {
            attempt: 2,
            child_run: Some(run()),
            executor: Some(text()),
            lease_until: Some(AT),
            step: step.clone(),
            worker: worker.clone(),
        }
        .into(),
        AttemptProgress {
            lease_until: AT,
            notes: vec![ProgressNote { attempt: 1, note: text(), step: step.clone() }],
            worker: WorkerId::new("w"),
        }
        .into(),
        StepSucceeded {
            attempt: 2,
            logs: logs(),
            output: output.clone(),
            output_hash: hash,
            reused: Some(ReusedFrom { run: run(), step: step.clone() }),
            step: step.clone(),
        }
        .into(),
        StepFailed {
            attempt: 2,
            code: "exit_1".into(),
            logs: logs(),
            message: text(),
            retry_at: Some(AT),
            retryable: true,
            step: step.clone(),
        }
        .into(),
        StepLost { attempt: 2, retry_at: AT, step: step.clone(), worker }.into(),
        StepSkipped { reason: text(), step: step.clone() }.into(),
        StepParked { attempt: 2, code: "x".into(), logs: logs(), message: text(), step: step.clone() }.into(),
        StepCancelled { attempt: 2, logs: logs(), step: step.clone() }.into(),
        StepWaiting { expires_at: Some(AT), signal: Some(text()), step: step.clone(), until: Some(AT) }
            .into(),
        MapExpanded { items: vec![json("1"), json("null"), json("{\"k\":[]}")], step: step.clone() }.into(),
        GateRequested { expires_at: Some(AT), gate: GateKind::Policy, input: json("[]"), step: step.clone() }
            .into(),
        GateDecided { approved: true, reason: reason(), step }.into(),
        SignalReceived { name: text(), payload: json("\"p\"") }.into(),
        AuditAction { action: "dag.publish".into(), detail: json("{}"), reason: reason(), target: text() }
            .into(),
        CheckpointTaken { heads: heads(), key: Some("00".into()), signature: Some("11".into()) }.into(),
        CheckpointPruned { heads: heads() }.into(),
    ]
}

/// The samples as one chain.
fn chain() -> String {
    let mut chain = Chain::new(&tenant(), Stream::Run(run()), Head::EMPTY);
    for (number, event) in (1..).zip(samples()) {
        let at = Timestamp::from_micros(1_700_000_000_123_456);
        assert_eq!(chain.push("al\"ice\n", at, &event).unwrap(), number);
        assert_eq!((chain.count() as u64, chain.head().seq), (number, number));
    }
    chain.finish().unwrap().0.to_string()
}

fn canonical(line: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    serde_json_canonicalizer::to_string(&value).unwrap()
}

#[test]
fn there_is_a_sample_of_every_type_of_event() {
    let sampled: Vec<&str> = samples().iter().map(Event::type_name).collect();
    assert_eq!(sampled, Event::TYPES);
}

#[test]
fn every_entry_is_canonical_json_and_reads_back_as_itself() {
    for (line, event) in chain().lines().zip(samples()) {
        assert_eq!(canonical(line), line);
        let entry = Entry::read(line).unwrap();
        assert_eq!(entry.event, event);
        assert_eq!(entry.to_line().unwrap(), line);
    }
}

#[test]
fn what_is_absent_is_left_out_and_stays_canonical() {
    for line in chain().lines() {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        let fields: Vec<String> = value["data"].as_object().unwrap().keys().cloned().collect();
        for field in fields {
            let kept = value["data"].as_object_mut().unwrap().remove(&field).unwrap();
            let shorter = serde_json_canonicalizer::to_string(&value).unwrap();
            // A field that must be there makes it unreadable; one that may be absent leaves no trace.
            if let Ok(entry) = Entry::read(&shorter) {
                assert_eq!(entry.to_line().unwrap(), shorter, "{field}");
            }
            value["data"][field] = kept;
        }
    }
}

#[test]
fn unknown_fields_types_and_versions_are_refused() {
    for line in chain().lines() {
        let changes = [
            ("\"v\":1}", "\"v\":2}"),
            ("\"v\":1}", "\"v\":1,\"w\":1}"),
            ("\"data\":{", "\"data\":{\"unknown\":1,"),
            ("\"type\":\"", "\"type\":\"x."),
        ];
        for (from, to) in changes {
            let to = if line.contains("\"data\":{}") { to.replace("1,", "1") } else { to.to_owned() };
            let changed = line.replacen(from, &to, 1);
            assert_ne!(changed, line);
            assert!(Entry::read(&changed).is_err(), "{changed}");
        }
    }
}

#[test]
fn a_chain_breaks_at_every_changed_removed_or_swapped_line() {
    let text = chain();
    let lines: Vec<&str> = text.lines().collect();
    let valid = |lines: &[&str]| {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        read_chain(Head::EMPTY, &text).take_while(Result::is_ok).count()
    };
    assert_eq!(valid(&lines), lines.len());
    for number in 0..lines.len() - 1 {
        let changed = lines[number].replacen("al\\\"ice", "bob", 1);
        let mut tampered = lines.clone();
        tampered[number] = &changed;
        assert_eq!(valid(&tampered), number + 1, "the entry after it does not follow");
        let mut tampered = lines.clone();
        tampered.remove(number);
        assert_eq!(valid(&tampered), number);
        let mut tampered = lines.clone();
        tampered.swap(number, number + 1);
        assert_eq!(valid(&tampered), number);
    }
}

#[test]
fn a_chain_continues_where_another_ended() {
    let all = chain();
    let mut head = Head::EMPTY;
    let mut pieces = String::new();
    for event in samples() {
        let mut chain = Chain::new(&tenant(), Stream::Run(run()), head);
        chain.push("al\"ice\n", Timestamp::from_micros(1_700_000_000_123_456), &event).unwrap();
        let (lines, after) = chain.finish().unwrap();
        pieces.push_str(&lines);
        head = after;
    }
    assert_eq!(pieces, all);
    assert_eq!(read_chain(Head::EMPTY, &all).last().unwrap().unwrap().2, head);
}

#[test]
fn encodings_are_pinned() {
    let lines = chain();
    let started = lines.lines().nth(10).unwrap();
    assert_eq!(
        started,
        concat!(
            r#"{"actor":"al\"ice\n","at":"2023-11-14T22:13:20.123456Z","data":{"attempt":2,"#,
            r#""childRun":"0123456789abcdef0123456789abcdef","executor":"né\n\"\\"#,
            "\u{7f}\u{2028}",
            r#"","leaseUntil":"1970-01-01T00:00:00.000000Z","step":"scan[3]","worker":"w\"1"},"#,
            r#""prev":"00be29b5bf98337055031c4a37092e39da3335032be60d74f84910bed65c0a88","seq":11,"stream":"run/0123456789abcdef0123456789abcdef","tenant":"acme","#,
            r#""type":"step.started","v":1}"#
        )
    );
    assert_eq!(
        Digest::of(&lines).to_string(),
        "d6ea72cc68a95e0657cbfbf6f2c0863d7a5b7613de7501059439e8f0a7d8d582",
        "the encoding of some entry has changed"
    );
}

#[test]
fn streams_and_statuses_have_one_spelling() {
    for text in ["audit", "checkpoint", "run/0123456789abcdef0123456789abcdef"] {
        assert_eq!(text.parse::<Stream>().unwrap().to_string(), text);
    }
    for text in ["", "run/", "run/0123", "Audit", "run/0123456789ABCDEF0123456789abcdef"] {
        assert!(text.parse::<Stream>().is_err(), "{text}");
    }
    for status in StepStatus::ALL {
        assert_eq!(status.as_str().parse::<StepStatus>().unwrap(), *status);
        assert_eq!(serde_json::to_string(status).unwrap(), format!("\"{status}\""));
    }
    for status in RunStatus::ALL {
        assert_eq!(status.as_str().parse::<RunStatus>().unwrap(), *status);
        assert_eq!(serde_json::to_string(status).unwrap(), format!("\"{status}\""));
    }
}

#[test]
fn what_has_ended_and_what_is_settled_is_said_once() {
    let ended: Vec<&str> = RunStatus::ALL.iter().filter(|s| s.is_terminal()).map(|s| s.as_str()).collect();
    assert_eq!(ended, ["completed", "failed", "cancelled"]);
    let settled: Vec<&str> = StepStatus::ALL.iter().filter(|s| s.is_settled()).map(|s| s.as_str()).collect();
    assert_eq!(settled, ["succeeded", "failed", "skipped", "cancelled"]);
}

#[test]
fn counts_add_up() {
    let mut counts = StepCounts::default();
    for (number, status) in (1..).zip(StepStatus::ALL) {
        *counts.of(*status) += number;
        assert_eq!(counts.get(*status), number);
    }
    assert_eq!(counts.total(), 45);
}
