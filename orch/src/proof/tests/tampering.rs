use super::*;
use crate::limits::Limits;

fn look(sim: &Sim, lines: &[u8]) -> Option<Problem> {
    let text = std::str::from_utf8(lines).unwrap();
    let stream = Stream::Run(sim.state.key.run);
    let mut verifier = StreamVerifier::new(tenant(), stream, Limits::default());
    text.split_terminator('\n').for_each(|line| drop(verifier.push(line)));
    verifier.finish(Some(sim.state.head))
}

#[test]
fn whichever_byte_is_flipped_its_entry_is_named() {
    let sim = small();
    assert_eq!(look(&sim, sim.lines.as_bytes()), None);
    let mut bytes = sim.lines.clone().into_bytes();
    let mut seq = 1;
    let mut codes = std::collections::BTreeSet::new();
    for at in 0..bytes.len() {
        let old = bytes[at];
        if old.is_ascii() {
            for bit in [1, 2] {
                bytes[at] = old ^ bit;
                let problem = look(&sim, &bytes).unwrap_or_else(|| panic!("byte {at} is not missed"));
                assert_eq!(problem.seq, seq, "byte {at} ({}) {problem:?}", char::from(old));
                codes.insert(problem.code);
            }
            bytes[at] = old;
        }
        seq += u64::from(old == b'\n');
    }
    for code in [
        "unreadable",
        "out_of_order",
        "misplaced",
        "chain_broken",
        "impossible",
        "hash_differs",
        "head_differs",
    ] {
        assert!(codes.contains(code), "{code} never came up: {codes:?}");
    }
}

#[tokio::test]
async fn whole_ledgers_verify_and_one_changed_byte_is_found_in_its_store() {
    let (one, two) = (mixed("t1"), mixed("t2"));
    let store = store_of(&[&one, &two]).await;
    audit(&store, "dag.publish").await;
    let report = verify(&store, &VerifyOptions::default()).await;
    assert_eq!(report.problems, []);
    assert_eq!(report.streams, 3);
    assert_eq!(report.entries, one.state.head.seq + two.state.head.seq + 1);
    for number in 0..one.events.len() {
        let mut bad = kept(&one);
        bad.lines[number] = bad.lines[number].replacen("\"at\":\"1970", "\"at\":\"1971", 1);
        let store = store_of(&[&two]).await;
        put(&store, &bad).await;
        let report = verify(&store, &VerifyOptions::default()).await;
        let named: Vec<_> = report.problems.iter().map(|p| (p.stream, p.seq)).collect();
        assert_eq!(named, [(Stream::Run(one.state.key.run), number as u64 + 1)], "{report:?}");
    }
}

#[tokio::test]
async fn a_deleted_entry_and_two_swapped_ones_are_named() {
    let sim = mixed("t");
    for number in 0..sim.events.len() {
        let mut bad = kept(&sim);
        bad.lines.remove(number);
        let store = MemoryStore::new();
        put(&store, &bad).await;
        let report = verify(&store, &VerifyOptions::default()).await;
        let last = number + 1 == sim.events.len();
        let expected = if last { number as u64 } else { number as u64 + 1 };
        assert_eq!(report.problems[0].seq, expected, "without entry {} {report:?}", number + 1);
        if last {
            continue;
        }
        let mut bad = kept(&sim);
        bad.lines.swap(number, number + 1);
        let store = MemoryStore::new();
        put(&store, &bad).await;
        let report = verify(&store, &VerifyOptions::default()).await;
        assert_eq!((report.problems[0].seq, report.problems[0].code), (number as u64 + 1, "out_of_order"));
    }
}

#[tokio::test]
async fn a_row_that_says_something_else_is_found() {
    let sim = mixed("t");
    let mut bad = kept(&sim);
    bad.row.actor = "mallory".into();
    bad.row.steps.failed = 0;
    let store = MemoryStore::new();
    put(&store, &bad).await;
    let report = verify(&store, &VerifyOptions::default()).await;
    assert_eq!(report.problems[0].code, "row_differs");
    assert!(report.problems[0].message.ends_with("actor, steps"), "{report:?}");
    let mut good = kept(&sim);
    good.row.wake_at = Some(Timestamp::from_micros(5));
    let store = MemoryStore::new();
    put(&store, &good).await;
    assert!(verify(&store, &VerifyOptions::default()).await.is_clean(), "`wake_at` is a hint");
}

/// Changes a ledger and chains it anew, as somebody with the database and this source could.
fn rechained(sim: &Sim, change: impl Fn(&mut Event)) -> Kept {
    let mut chain = crate::ledger::Chain::new(&tenant(), Stream::Run(sim.state.key.run), Head::EMPTY);
    for line in sim.lines.lines() {
        let mut entry = crate::ledger::Entry::read(line).unwrap();
        change(&mut entry.event);
        chain.push(&entry.actor, entry.at, &entry.event).unwrap();
    }
    let (lines, head) = chain.finish().unwrap();
    Kept { lines: lines.lines().map(str::to_owned).collect(), head, row: sim.state.row() }
}

type Change = Box<dyn Fn(&mut Event)>;

#[tokio::test]
async fn what_does_not_follow_is_found_even_if_the_chain_was_made_anew() {
    let sim = mixed("t");
    let other = Payload::parse("\"forged\"").unwrap();
    let changes: [(&str, Change); 3] = [
        ("hash_differs", {
            let other = other.clone();
            Box::new(move |event| {
                if let Event::StepSucceeded(e) = event
                    && e.output.is_some()
                {
                    e.output = Some(other.clone());
                }
            })
        }),
        (
            "hash_differs",
            Box::new(move |event| {
                if let Event::StepScheduled(e) = event
                    && e.input.is_some()
                {
                    e.input = Some(other.clone());
                }
            }),
        ),
        (
            "impossible",
            Box::new(|event| {
                if let Event::StepFailed(e) = event {
                    e.attempt += 1;
                }
            }),
        ),
    ];
    for (code, change) in changes {
        let store = MemoryStore::new();
        put(&store, &rechained(&sim, change)).await;
        let report = verify(&store, &VerifyOptions::default()).await;
        assert_eq!(report.problems[0].code, code, "{report:?}");
    }
}

#[test]
fn another_spelling_of_the_same_entry_is_found() {
    let sim = small();
    for (from, to) in [("\"x\":\"é\"", "\"x\": \"é\""), ("\"x\":\"é\"", "\"x\":\"\\u00e9\"")] {
        let changed = sim.lines.replacen(from, to, 1);
        assert_ne!(changed, sim.lines);
        let problem = look(&sim, changed.as_bytes()).unwrap();
        assert_eq!((problem.seq, problem.code), (1, "not_canonical"));
    }
}

#[tokio::test]
async fn entries_in_streams_they_do_not_belong_to_are_found() {
    let store = MemoryStore::new();
    let event = crate::ledger::CheckpointPruned { heads: Vec::new() };
    append(&store, &tenant(), Stream::Audit, "x", Timestamp::EPOCH, &[event.into()]).await.unwrap();
    let report = verify(&store, &VerifyOptions::default()).await;
    assert_eq!((report.problems[0].code, report.problems[0].seq), ("misplaced", 1));
    assert!(
        append(&store, &tenant(), Stream::Run(small().state.key.run), "x", Timestamp::EPOCH, &[])
            .await
            .is_err()
    );
}

#[test]
fn runs_are_compared_step_by_step() {
    let (left, mut right) = (mixed("t1"), mixed("t2"));
    let all = compare(&left.state, &right.state);
    let steps: Vec<String> = all.iter().map(|c| c.step.to_string()).collect();
    assert_eq!(steps, ["a", "m", "m[0]", "m[1]", "z"]);
    assert!(all.iter().all(|comparison| comparison.same));
    right.operate(&crate::planner::Operation::Retry(vec![])).unwrap();
    right.run("z", good());
    let differing: Vec<String> = compare(&left.state, &right.state)
        .into_iter()
        .filter(|comparison| !comparison.same)
        .map(|comparison| format!("{} {:?} {:?}", comparison.step, comparison.left, comparison.right))
        .collect();
    assert_eq!(differing, ["z Some(Failed) Some(Succeeded)"]);
    assert_eq!(compare(&left.state, &small().state).iter().filter(|c| c.right.is_none()).count(), 4);
}
