//! The committed fuzz corpus, replayed with the checks of the fuzz targets: what was found once stays fixed, on
//! every toolchain and without a fuzzer.

#[expect(unreachable_pub, reason = "the module is the library of another crate")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

/// Runs `check` over every file of a corpus; a failing check names its file.
fn replay(target: &str, check: fn(&str)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the corpus is a folder")
        .map(|file| file.expect("a folder can be listed").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no corpus in {}", folder.display());
    for file in files {
        // The fuzzer skips what is not text, and so does this.
        if let Ok(text) = String::from_utf8(std::fs::read(&file).expect("a file can be read")) {
            let outcome = std::panic::catch_unwind(|| check(&text));
            assert!(outcome.is_ok(), "{} does not hold", file.display());
        }
    }
}

#[test]
fn specs_are_refused_or_have_a_plan_that_reads_back() {
    replay("spec", targets::spec);
}

#[test]
fn expressions_are_refused_or_give_the_same_payload_every_time() {
    replay("expression", targets::expression);
}

#[test]
fn ledger_lines_are_refused_or_encode_to_themselves_and_fold() {
    replay("ledger", targets::ledger);
}

#[test]
fn payloads_are_refused_or_canonical_for_every_reader() {
    replay("payload", targets::payload);
}
