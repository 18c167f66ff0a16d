//! The record proves what happened, or says where it was changed.

use crate::kit::{Lab, assert_looks};

fn lab() -> Lab {
    let lab = Lab::new();
    lab.dag(
        "two",
        "steps:\n  - { id: a, uses: fn/echo, with: 1 }\n  - { id: b, uses: fn/noop, needs: [a] }\n",
    );
    lab.orch(&["run", "two.yaml"]);
    lab
}

#[test]
fn an_untouched_record_verifies_against_its_checkpoint_and_its_export() {
    let lab = lab();
    assert_eq!(lab.orch(&["ledger", "checkpoint", "-o", "heads.json"]).code, 0);
    assert_eq!(lab.orch(&["export", "-o", "all.ndjson"]).code, 0);
    assert_looks!("verify", lab.orch(&["ledger", "verify", "--checkpoint", "heads.json"]).all());
    let report = lab.json(&["ledger", "verify", "--export", "all.ndjson"]);
    assert_eq!((&report["ok"], report["report"]["problems"].as_array().unwrap().len()), (&true.into(), 0));
}

#[test]
fn a_changed_byte_a_deleted_entry_and_a_cut_tail_are_found() {
    let lab = lab();
    lab.orch(&["ledger", "checkpoint", "-o", "heads.json"]);
    lab.orch(&["export", "-o", "all.ndjson"]);
    let text = std::fs::read_to_string(lab.path("all.ndjson")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let started = lines.iter().position(|line| line.contains("step.started")).unwrap();
    let mut cut = lines.clone();
    cut.remove(started);
    let changed = text.replacen("step.started", "step.starteD", 1);
    for (name, text) in [("changed", changed), ("deleted", cut.join("\n") + "\n")] {
        lab.write(name, &text);
        let ended = lab.orch(&["ledger", "verify", "--export", name]);
        assert!(ended.code == 1 && ended.stdout.contains("✗ failed  run/"), "{name}: {ended:?}");
    }
    let last = lines.iter().rposition(|line| line.contains("run.completed")).unwrap();
    let mut short = lines;
    short.remove(last);
    lab.write("short", &(short.join("\n") + "\n"));
    let ended = lab.orch(&["ledger", "verify", "--export", "short", "--checkpoint", "heads.json"]);
    assert!(ended.code == 1 && ended.stdout.contains("tail_cut"), "{ended:?}");
    let told = lab.orch(&["ledger", "verify", "--export", "changed", "--json"]).stdout;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["ok"], &told["report"]["problems"][0]["invariant"]), (&false.into(), &"L1".into()));
}

#[test]
fn a_signed_checkpoint_is_held_to_its_key() {
    let lab = lab();
    lab.write("seed", &"07".repeat(32));
    assert_eq!(lab.orch(&["ledger", "checkpoint", "--key", "seed", "-o", "heads.json"]).code, 0);
    let verify = ["ledger", "verify", "--checkpoint", "heads.json", "--public-key"];
    // The public key of that seed (RFC 8032, section 5.1.5).
    let own = "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c";
    assert_eq!(lab.orch(&[&verify[..], &[own]].concat()).code, 0);
    let other = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    assert_eq!(lab.orch(&[&verify[..], &[other]].concat()).code, 1);
}

#[test]
fn p1_pruned_runs_are_gone_and_the_record_still_verifies() {
    let lab = lab();
    lab.orch(&["ledger", "checkpoint", "-o", "heads.json"]);
    assert_eq!(lab.json(&["runs", "prune", "--older-than", "1h"])["pruned"], 0);
    assert_eq!(lab.json(&["runs", "prune", "--older-than", "0s"])["pruned"], 1);
    assert_eq!(lab.json(&["runs", "list"])["runs"].as_array().unwrap().len(), 0);
    assert_eq!(lab.orch(&["ledger", "verify", "--checkpoint", "heads.json"]).code, 0);
}
