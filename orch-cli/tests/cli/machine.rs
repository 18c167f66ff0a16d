//! What scripts rely on: JSON shapes and exit codes.

use serde_json::{Value, json};

use crate::kit::Lab;

const TWO: &str = "steps:\n  - { id: a, uses: fn/echo, with: 1 }\n  - { id: b, uses: fn/noop, needs: [a] }\n";

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn a_plan_has_exactly_the_promised_shape() {
    let lab = Lab::new();
    lab.dag("two", TWO);
    let plan = lab.json(&["plan", "two.yaml"]);
    assert_eq!(keys(&plan), ["dagId", "order", "planHash", "steps"]);
    assert_eq!(plan["order"], json!(["a", "b"]));
    assert_eq!(keys(&plan["steps"][1]), ["id", "needs", "stepHash"]);
    assert_eq!(plan["steps"][1]["needs"], json!(["a"]));
}

#[test]
fn a_run_answers_one_document_and_the_same_one_later() {
    let lab = Lab::new();
    lab.dag("two", TWO);
    let run = lab.json(&["run", "two.yaml"]);
    for (pointer, expected) in [
        ("/status", json!("completed")),
        ("/dag", json!("two")),
        ("/steps/succeeded", json!(2)),
        ("/stepStates/0/step", json!("a")),
        ("/stepStates/0/output", json!(1)),
        ("/needs", json!([])),
    ] {
        assert_eq!(run.pointer(pointer), Some(&expected), "{pointer}: {run}");
    }
    let id = run["run"].as_str().unwrap();
    assert_eq!(lab.json(&["runs", "show", id]), run);
    assert_eq!(lab.json(&["runs", "show", &id[..4]]), run, "the beginning of an id is enough");
    assert_eq!(lab.json(&["runs", "list"])["runs"][0]["run"], run["run"]);
}

#[test]
fn events_are_exactly_the_lines_that_were_hashed() {
    let lab = Lab::new();
    lab.dag("two", TWO);
    lab.orch(&["run", "two.yaml"]);
    let entries = lab.lines(&["runs", "events", "latest"]);
    assert_eq!(keys(&entries[0]), ["actor", "at", "data", "prev", "seq", "stream", "tenant", "type", "v"]);
    assert_eq!(entries[0]["actor"], "tester");
    let export = lab.orch(&["export", "--run", "latest"]).stdout;
    assert_eq!(export, lab.orch(&["runs", "events", "latest", "--json"]).stdout);
}

#[test]
fn the_same_token_is_the_same_run() {
    let lab = Lab::new();
    lab.dag("two", TWO);
    let first = lab.json(&["run", "two.yaml", "--run-token", "nightly"]);
    assert_eq!(lab.json(&["run", "two.yaml", "--run-token", "nightly"]), first);
    assert_eq!(lab.json(&["runs", "list"])["runs"].as_array().unwrap().len(), 1);
}

#[test]
fn exit_codes_tell_failure_from_tenant_from_refusal() {
    let lab = Lab::new();
    lab.dag("two", TWO).dag("bad", "steps: [{ id: a, uses: fn/fail }]\n");
    for (args, code) in [
        (&["run", "two.yaml"][..], 0),
        (&["run", "bad.yaml"], 1),
        (&["run", "missing.yaml"], 1),
        (&["frobnicate"], 1),
        (&["runs", "list", "--limit", "x"], 1),
        (&["runs", "list", "--tenant", "../x"], 2),
        (&["runs", "cancel", "latest"], 3),
        (&["--help"], 0),
    ] {
        let ended = lab.orch(args);
        assert_eq!(ended.code, code, "{args:?}: {ended:?}");
    }
    lab.orch(&["dag", "disable", "two@1"]);
    assert_eq!(lab.orch(&["run", "two.yaml"]).code, 3, "a disabled version is refused");
    lab.orch(&["dag", "enable", "two@1"]);
    assert_eq!(lab.orch(&["run", "two.yaml"]).code, 0);
}

#[test]
fn the_store_can_stand_elsewhere_or_nowhere() {
    let lab = Lab::new();
    lab.dag("two", TWO);
    assert_eq!(lab.orch(&["run", "two.yaml", "--store", "memory:"]).code, 0);
    assert!(!lab.path(".orch").exists());
    let elsewhere = lab.command(&["run", "two.yaml"]).env("ORCH_STORE", "sqlite:data/x.db").output().unwrap();
    assert!(
        elsewhere.status.success() && lab.path("data/x.db").exists() && lab.path("data/artifacts").exists()
    );
}

#[test]
fn who_decided_and_why_is_in_the_record() {
    let lab = Lab::new();
    lab.dag("gated", "steps: [{ id: ok, uses: gate/approval }]\n");
    lab.orch(&["run", "gated.yaml"]);
    lab.orch(&["gate", "decide", "latest", "ok", "reject", "--actor", "ann", "--reason", "not today"]);
    let entries = lab.lines(&["runs", "events", "latest"]);
    let decided = entries.iter().find(|entry| entry["type"] == "gate.decided").unwrap();
    assert_eq!((&decided["actor"], &decided["data"]["reason"]), (&json!("ann"), &json!("not today")));
}

#[test]
fn t1_another_tenant_sees_nothing() {
    let lab = Lab::new();
    lab.dag("two", TWO);
    let id = lab.json(&["run", "two.yaml"])["run"].as_str().unwrap().to_owned();
    let other = ["--tenant", "other"];
    assert_eq!(lab.json(&[&["runs", "list"][..], &other].concat())["runs"], json!([]));
    assert_eq!(lab.json(&[&["dag", "list"][..], &other].concat()), json!([]));
    for args in [&["runs", "show", &id][..], &["runs", "cancel", &id], &["runs", "show", &id[..6]]] {
        let ended = lab.orch(&[args, &other].concat());
        assert!(ended.code == 1 && ended.stderr.contains("no such run"), "{args:?}: {ended:?}");
    }
}

#[test]
fn errors_are_documents_too() {
    let lab = Lab::new();
    lab.write("x.yaml", "id: [\n");
    let error = |args: &[&str]| {
        let ended = lab.orch(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{args:?}");
        serde_json::from_str::<Value>(&ended.stderr).unwrap()
    };
    assert!(error(&["run", "x.yaml", "--json"])["error"]["problems"][0]["line"].is_u64());
    let absent = error(&["runs", "list", "--json"]);
    assert_eq!(absent["error"]["kind"], "not found");
    assert!(absent["error"]["hint"].as_str().unwrap().contains("orch run"));
    let check = lab.orch(&["check", "x.yaml", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&check.stdout).unwrap()["files"][0]["ok"], false);
    assert_eq!(check.code, 1);
}

#[test]
fn process_steps_run_only_when_the_operator_asks() {
    let lab = Lab::new();
    lab.dag("child", "steps: [{ id: p, uses: process, with: { command: echo, args: ['\"hi\"'] } }]\n");
    let refused = lab.orch(&["run", "child.yaml"]);
    assert!(refused.code == 1 && refused.stderr.contains("--sandbox none"), "{refused:?}");
    let run = lab.json(&["run", "child.yaml", "--sandbox", "none"]);
    assert_eq!((&run["stepStates"][0]["output"], &run["sandbox"]), (&json!("hi"), &json!("none")));
}

#[test]
fn a_step_that_this_process_cannot_execute_holds_nobody_up() {
    let lab = Lab::new();
    lab.dag("later", "steps:\n  - { id: ok, uses: gate/approval }\n  - { id: p, uses: process, needs: [ok], with: { command: echo, args: ['1'] } }\n");
    lab.orch(&["run", "later.yaml", "--sandbox", "none"]);
    let decided = lab.orch(&["gate", "decide", "latest", "ok", "approve"]);
    assert!(decided.code == 0 && decided.stdout.contains("orch work --sandbox none"), "{decided:?}");
    assert_eq!(lab.orch(&["work", "--until-idle"]).code, 0);
    assert_eq!(lab.json(&["runs", "list"])["runs"][0]["status"], "running");
    assert_eq!(lab.orch(&["work", "--until-idle", "--sandbox", "none"]).code, 0);
    assert_eq!(lab.json(&["runs", "list"])["runs"][0]["status"], "completed");
}

#[test]
fn a_secret_comes_from_the_environment_or_a_file_and_is_written_nowhere() {
    let lab = Lab::new();
    lab.dag("quiet", "steps: [{ id: p, uses: process, secrets: [KEY], with: { command: sh, args: [-c, 'echo got $KEY'] } }]\n");
    lab.write("key", "hunter2222\n");
    let args = ["run", "quiet.yaml", "--sandbox", "none", "--json"];
    let from_env =
        lab.command(&[&args[..], &["--secret", "KEY"]].concat()).env("KEY", "hunter2222").output().unwrap();
    let from_file = lab.orch(&[&args[..], &["--secret-file", "KEY=key"]].concat()).stdout;
    for answer in [String::from_utf8(from_env.stdout).unwrap(), from_file] {
        assert!(answer.contains("got [redacted]") && !answer.contains("hunter2222"), "{answer}");
    }
    assert_eq!(lab.orch(&[&args[..], &["--secret", "KEY"]].concat()).code, 1, "a variable that is not set");
}
