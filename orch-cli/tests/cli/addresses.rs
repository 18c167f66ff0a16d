//! Where things are kept: addresses, wrong ones, and the secrets in them.

use crate::kit::{Ended, Lab};

const GOOD: &str = "steps: [{ id: a, uses: fn/noop }]\n";
const SECRET: &str = "s3cret";

/// A command that is refused with these words, and with no secret.
fn refused(lab: &Lab, args: &[&str], words: &[&str]) {
    for json in [&[][..], &["--json"]] {
        let ended = lab.orch(&[args, json].concat());
        assert_ne!(ended.code, 0, "{args:?}: {ended:?}");
        for word in words {
            assert!(ended.stderr.contains(word), "{args:?}: {word}: {ended:?}");
        }
        assert!(!ended.all().contains(SECRET), "{args:?}: {ended:?}");
        assert!(!ended.all().contains("panicked"), "{args:?}: {ended:?}");
    }
}

#[test]
fn an_address_of_nothing_known_is_refused_by_its_scheme_alone() {
    let lab = Lab::new();
    lab.dag("good", GOOD);
    let unknown = format!("postgres://me:{SECRET}@h/db");
    for (option, words) in [
        ("--store", &["not an address", "--store", "postgres", "sqlite:PATH", "mongodb://", "redis://"][..]),
        ("--queue", &["not an address", "--queue", "postgres", "nats://"]),
        ("--lock", &["not an address", "--lock", "postgres", "nats://"]),
    ] {
        refused(&lab, &["run", "good.yaml", option, &unknown], words);
        refused(&lab, &["doctor", option, &unknown], words);
        refused(&lab, &["run", "good.yaml", option, SECRET], &["not an address", option]);
        refused(&lab, &["run", "good.yaml", option, ""], &["not an address", option]);
    }
    refused(&lab, &["run", "good.yaml", "--store", "sqlite:"], &["names no file", "sqlite:PATH"]);
    assert!(!lab.path(".orch").exists(), "nothing was begun");
}

#[test]
fn nats_keeps_no_runs() {
    let lab = Lab::new();
    for scheme in ["nats", "tls"] {
        let address = format!("{scheme}://me:{SECRET}@h");
        refused(
            &lab,
            &["runs", "list", "--store", &address],
            &["nats keeps hints and slots", "--queue", "--lock"],
        );
    }
}

#[cfg(all(feature = "mongo", feature = "redis", feature = "nats"))]
#[test]
fn an_option_that_no_server_has_is_refused_by_name() {
    let lab = Lab::new();
    for (option, address) in [
        ("--store", format!("mongodb://me:{SECRET}@h/?frobnicate=1")),
        ("--store", format!("redis://me:{SECRET}@h?frobnicate=1")),
        ("--queue", format!("nats://me:{SECRET}@h?frobnicate=1")),
    ] {
        refused(&lab, &["doctor", option, &address], &["frobnicate", option]);
    }
}

#[test]
fn addresses_in_the_environment_are_used_and_shown_to_nobody() {
    let lab = Lab::new();
    lab.dag("good", GOOD);
    let help = |args: &[&str]| {
        let mut command = lab.command(args);
        for name in ["ORCH_STORE", "ORCH_QUEUE", "ORCH_LOCK"] {
            command.env(name, format!("redis://me:{SECRET}@h"));
        }
        Ended::of(command.output().unwrap()).all()
    };
    for args in [&["--help"][..], &["run", "--help"], &["work", "--help"], &["doctor", "--help"], &["-h"]] {
        let help = help(args);
        assert!(
            help.contains("ORCH_STORE") && help.contains("ORCH_QUEUE") && help.contains("ORCH_LOCK"),
            "{help}"
        );
        assert!(!help.contains(SECRET), "{help}");
    }
    let mut run = lab.command(&["run", "good.yaml"]);
    run.env("ORCH_STORE", "sqlite:here.db").env("ORCH_QUEUE", "sqlite:there.db").env("ORCH_LOCK", "memory:");
    assert_eq!(Ended::of(run.output().unwrap()).code, 0);
    assert!(lab.path("here.db").exists() && lab.path("there.db").exists() && !lab.path(".orch").exists());
}

#[test]
fn an_address_may_stand_in_the_first_line_of_a_file() {
    let lab = Lab::new();
    lab.dag("good", GOOD)
        .write("address", "sqlite:kept.db\nmore\n")
        .write("empty", "\n")
        .write("round", "@round\n");
    assert_eq!(lab.orch(&["run", "good.yaml", "--store", "@address"]).code, 0);
    assert!(lab.path("kept.db").exists());
    for file in ["@missing", "@empty", "@round", "@", "@."] {
        refused(&lab, &["runs", "list", "--store", file], &["--store", "@FILE"]);
    }
    lab.write("wrong", &format!("postgres://me:{SECRET}@h\n"));
    refused(&lab, &["runs", "list", "--store", "@wrong"], &["postgres", "not an address"]);
}

#[test]
fn a_queue_in_the_file_lets_one_process_submit_and_another_work() {
    let lab = Lab::new();
    lab.dag("good", GOOD);
    let shared = ["--queue", "sqlite:.orch/orch.db"];
    assert_eq!(lab.orch(&[&["run", "good.yaml", "--no-work"][..], &shared].concat()).code, 0);
    assert_eq!(lab.orch(&[&["work", "--until-idle"][..], &shared].concat()).code, 0);
    assert_eq!(lab.json(&["runs", "list"])["runs"][0]["status"], "completed");
}
