//! The committed fuzz corpus, replayed with the checks of the fuzz targets: what was found once stays fixed, on
//! every toolchain and without a fuzzer.

#[expect(unreachable_pub, reason = "the module is the library of another crate")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

use orch::proof::{Checkpoint, Manifest, SigningKey, VerifyOptions, verify_export};

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

#[test]
fn exports_are_verified_and_what_is_clean_comes_out_of_a_store_again() {
    replay("export", targets::export);
}

#[test]
fn checkpoints_are_refused_or_read_back_and_no_signed_one_can_be_changed() {
    replay("checkpoint", targets::checkpoint);
}

#[test]
fn the_corpus_has_a_clean_export_and_a_signed_checkpoint_to_begin_with() {
    let read = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        std::fs::read_to_string(folder.join(name)).expect("a file can be read")
    };
    for name in ["tenant", "run", "checkpoints", "pruned-and-again", "retried", "waiting", "cancelled"] {
        let text = read(&format!("export/{name}"));
        let (file, manifest) = text.split_once("%\n").expect("a manifest follows");
        let manifest: Manifest = serde_json::from_str(manifest).expect("it is one");
        let (tenant, options) = (manifest.tenant.clone(), VerifyOptions::default());
        let report =
            verify_export(file.as_bytes(), &tenant, Some(&manifest), &options).expect("memory can be read");
        assert_eq!(report.problems, [], "{name}");
    }
    let key = SigningKey::from_hex(&"42".repeat(32)).expect("32 bytes are a key").public();
    let checkpoint = Checkpoint::from_json(&read("checkpoint/signed.json")).expect("it is one");
    checkpoint.verify(Some(&key)).expect("it is signed");
}
