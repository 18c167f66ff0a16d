//! The suite can fail: backends that are wrong on purpose, each held against the cases that must find it.
//!
//! Every case of every suite is found by at least one of them.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::time::Duration;

mod engines;
mod locks;
mod queues;
mod stores;

/// Runs a case and says whether it failed. Time is paused, so that waiting costs none; a case that a wrong backend
/// keeps busy for ever has failed.
async fn fails(case: impl Future<Output = ()> + Send + 'static) -> bool {
    let running = tokio::spawn(tokio::time::timeout(Duration::from_secs(60), case));
    running.await.map_or(true, |ended| ended.is_err())
}

/// Holds each fault against the cases of a suite that must find it, and demands that no case is left out but those that
/// have a guard of their own besides.
macro_rules! guards {
    ($seam:ident, $wrong:path, $suite:literal $(besides $other:ident)*: $($fault:ident => $($case:ident)+;)+) => {
        #[tokio::test(start_paused = true)]
        async fn every_fault_is_found() {
            $($(
                assert!(
                    crate::fails(orch_conformance::$seam::$case($wrong(Fault::$fault))).await,
                    concat!(stringify!($case), " does not find ", stringify!($fault))
                );
            )+)+
        }

        #[tokio::test(start_paused = true)]
        async fn without_a_fault_nothing_is_found() {
            $($(assert!(!crate::fails(orch_conformance::$seam::$case($wrong(Fault::None))).await);)+)+
        }

        #[test]
        fn every_case_finds_a_fault() {
            let guarded = [$($(stringify!($case)),+),+ $(, stringify!($other))*];
            for case in crate::cases($suite) {
                assert!(guarded.contains(&case), "{case} finds no fault");
            }
        }
    };
}
use guards;

/// The names of the cases in the macro of a suite.
fn cases(suite: &str) -> Vec<&'static str> {
    let text = include_str!("../../src/lib.rs");
    let begin = text.find(&format!("macro_rules! {suite} ")).expect("the suite is there");
    let names = text[begin..].lines().skip_while(|line| !line.contains("$crate::tests_of!")).skip(1);
    let names: Vec<_> = names.map(str::trim).take_while(|line| *line != "}").collect();
    assert!(names.len() > 10, "a suite has cases: {names:?}");
    names
}

#[test]
fn every_case_is_in_its_suite() {
    let suites = ["store_suite", "queue_suite", "lock_suite", "engine_suite"].map(cases).concat();
    for source in [
        include_str!("../../src/store/entries.rs"),
        include_str!("../../src/store/rows.rs"),
        include_str!("../../src/store/docs.rs"),
        include_str!("../../src/queue.rs"),
        include_str!("../../src/lock.rs"),
        include_str!("../../src/engine/alone.rs"),
        include_str!("../../src/engine/shared.rs"),
    ] {
        for line in source.lines().filter_map(|line| line.strip_prefix("pub async fn ")) {
            let name = line.split('(').next().unwrap();
            assert!(suites.contains(&name), "{name} is in no suite");
        }
    }
}
