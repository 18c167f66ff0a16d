//! A run of a thousand steps whose process is killed again and again, at random moments. `ORCH_SEED` draws others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use serde_json::Value;

use crate::kit::{Lab, Worker};

/// Chains of steps that need each other, and items of one more step: a thousand attempts that sleep.
const CHAINS: usize = 40;
const LINKS: usize = 24;
const ITEMS: usize = 40;
/// Kills by time alone from the start of the process on, so that some come before its first commit.
const EARLY: u64 = 10;
/// Kills at work: each in its turn, after about so many more steps.
const LATE: u64 = 44;
const STRIDE: u64 = 18;

const RUN: [&str; 8] = ["run", "many.yaml", "--run-token", "nightly", "--lease", "1s", "--slots", "4"];

/// The same throws for the same seed (Marsaglia, "Xorshift RNGs", 2003).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn many() -> String {
    let nap = "uses: fn/sleep, with: { duration: 30ms }";
    let mut steps =
        format!("steps:\n  - {{ id: fan, forEach: {{ items: '${{{{ inputs.items }}}}' }}, {nap} }}\n");
    for (chain, link) in (0..CHAINS).flat_map(|chain| (0..LINKS).map(move |link| (chain, link))) {
        let needs =
            link.checked_sub(1).map_or_else(String::new, |before| format!("needs: [c{chain}-{before}], "));
        writeln!(steps, "  - {{ id: c{chain}-{link}, {needs}{nap} }}").unwrap();
    }
    let items: Vec<usize> = (0..ITEMS).collect();
    format!(
        "inputs: {{ type: object, properties: {{ items: {{ type: array, default: {items:?} }} }} }}\n{steps}"
    )
}

/// Everything that has to succeed, once.
fn steps() -> BTreeSet<String> {
    let links = (0..CHAINS).flat_map(|chain| (0..LINKS).map(move |link| format!("c{chain}-{link}")));
    let items = (0..ITEMS).map(|item| format!("fan[{item}]"));
    links.chain(items).chain(["fan".to_owned()]).collect()
}

/// The run's lines as they stand in the store; nothing before its first commit.
pub(crate) fn ledger(lab: &Lab) -> String {
    let ended = lab.orch(&["runs", "events", "latest", "--json"]);
    // A kill may come before there is a file, or before the run is in it.
    assert!(ended.code == 0 || ended.stderr.contains("\"kind\":\"not found\""), "{ended:?}");
    ended.stdout
}

/// How often each step has succeeded.
pub(crate) fn successes(lines: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in lines.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        if entry["type"] == "step.succeeded" {
            *counts.entry(entry["data"]["step"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    counts
}

#[test]
fn l1_r1_r4_a_run_killed_at_fifty_random_moments_loses_nothing_repeats_nothing_and_ends() {
    let seed = std::env::var("ORCH_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("ORCH_SEED={seed}");
    let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15) | 1);
    let lab = Lab::new();
    lab.dag("many", &many());
    let (mut seen, mut acknowledged) = (String::new(), BTreeSet::new());
    let (mut kills, mut unborn, mut done) = (0, 0, 0);
    for turn in 0..EARLY + LATE {
        let mut worker = Worker::start(&lab, &RUN);
        match turn.checked_sub(EARLY) {
            // The first one hardly gets to its first instruction.
            None => std::thread::sleep(Duration::from_millis(turn * dice.below(20))),
            Some(late) => {
                let target = late * STRIDE + dice.below(STRIDE);
                while worker.listen().is_some() && done + (worker.announced().count() as u64) < target {}
                std::thread::sleep(Duration::from_millis(dice.below(30)));
            }
        }
        kills += u32::from(worker.kill().signal() == Some(9));
        done += worker.announced().count() as u64;
        acknowledged.extend(worker.announced().map(str::to_owned));
        // Every other time the next process finds the file as the killed one left it.
        if turn % 2 == 0 {
            let now = ledger(&lab);
            assert!(now.starts_with(&seen), "kill {kills}: what was there is there");
            let recorded = successes(&now);
            let lost: Vec<_> = acknowledged.iter().filter(|step| !recorded.contains_key(*step)).collect();
            assert!(lost.is_empty(), "kill {kills}: {lost:?} were said to have succeeded");
            unborn += u32::from(now.is_empty());
            done = recorded.len() as u64;
            seen = now;
        }
    }
    assert!(kills >= 50, "the run was over after {kills} kills");
    assert!(unborn > 0, "no kill came before the first commit");
    let ended = lab.orch(&RUN);
    assert!(ended.code == 0 && ended.stdout.contains("✓ completed many run"), "{ended:?}");
    let lines = ledger(&lab);
    assert!(lines.starts_with(&seen), "what was there is there");
    let recorded = successes(&lines);
    assert_eq!(recorded.keys().cloned().collect::<BTreeSet<_>>(), steps());
    assert!(recorded.values().all(|count| *count == 1), "{recorded:?}");
    assert!(lines.contains("\"type\":\"step.lost\""), "no kill struck a step");
    assert_eq!(lab.json(&["runs", "list"])["runs"].as_array().unwrap().len(), 1);
    let verified = lab.orch(&["ledger", "verify"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    println!("{kills} kills, {} attempts lost", lines.matches("\"type\":\"step.lost\"").count());
}
