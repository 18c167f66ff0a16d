use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::*;
use crate::executor::{Executors, LogLine, Secret};
use crate::spec::{Network, ResourceLimits, Uses};
use crate::time::Span;

/// Much longer than anything here takes, much shorter than the sleeps of the children.
const SOON: Duration = Duration::from_secs(20);

struct Bench {
    root: tempfile::TempDir,
    settings: ProcessSettings,
    context: StepContext,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let settings = ProcessSettings::below(root.path());
        let settings = ProcessSettings { grace: Duration::from_millis(300), ..settings };
        Self { root, settings, context: StepContext::standalone(Uses::Process) }
    }

    async fn run(&self, input: Value) -> Outcome {
        let executor = Arc::new(ProcessExecutor::unsandboxed(self.settings.clone()));
        let executors = Executors::new().executor("process", "1", executor);
        let (executor, _) = executors.lookup(&Uses::Process).unwrap();
        let attempt = executor.execute(self.context.clone(), Payload::new(&input).unwrap());
        timeout(SOON, attempt).await.expect("an attempt must not hang")
    }

    async fn sh(&self, script: &str) -> Outcome {
        self.run(sh(script)).await
    }

    fn limit(&mut self, limits: ResourceLimits) {
        self.context.limits = Some(limits);
    }

    fn log(&self) -> Vec<(LogStream, String)> {
        let text = self.context.log.finish().unwrap_or_default();
        let line = |line| serde_json::from_slice::<LogLine>(line).unwrap();
        text.split(|byte| *byte == b'\n')
            .filter(|text| !text.is_empty())
            .map(line)
            .map(|line| (line.stream, line.line))
            .collect()
    }

    /// The process id a script has written, once it has.
    async fn pid(&self, file: &str) -> u32 {
        let read = || std::fs::read_to_string(self.root.path().join(file)).ok();
        let written = async {
            loop {
                if let Some(pid) = read().and_then(|text| text.strip_suffix('\n')?.parse().ok()) {
                    return pid;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, written).await.expect("the script writes its process id")
    }
}

fn sh(script: &str) -> Value {
    json!({"command": "sh", "args": ["-c", script]})
}

fn output(outcome: Outcome) -> Value {
    let Outcome::Succeeded(output) = outcome else { panic!("{outcome:?}") };
    output.to_value()
}

fn failure(outcome: Outcome) -> Failure {
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    failure
}

/// Whether a process runs; a dead one that nobody has reaped yet does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit(") ").next().unwrap().starts_with(['Z', 'X']))
}

async fn assert_dies(pid: u32) {
    let dead = async {
        while runs(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), dead).await.expect("the process must be dead");
}

#[tokio::test]
async fn json_becomes_the_output_and_other_text_is_kept_as_text() {
    let bench = Bench::new();
    assert_eq!(output(bench.sh("echo '{\"a\": [1, 2.0]}'").await), json!({"a": [1, 2]}));
    assert_eq!(output(bench.sh("printf 'not json'").await), json!({"stdout": "not json"}));
    assert_eq!(output(bench.sh("true").await), json!({"stdout": ""}));
    let failure = failure(bench.sh("echo 9007199254740993").await);
    assert!(failure.code == "invalid_output" && !failure.retryable, "{failure}");
}

#[tokio::test]
async fn arguments_and_input_arrive_as_they_are() {
    let bench = Bench::new();
    let cat = |stdin: Value| json!({"command": "/bin/cat", "stdin": stdin});
    assert_eq!(output(bench.run(cat(json!("text\n"))).await), json!({"stdout": "text\n"}));
    assert_eq!(output(bench.run(cat(json!({"k": [1]}))).await), json!({"k": [1]}));
    assert_eq!(output(bench.run(cat(json!(null))).await), json!({"stdout": ""}));
    let printed = bench.run(json!({"command": "printf", "args": ["%s|", "a b", "$HOME", "*", "; ls"]})).await;
    assert_eq!(output(printed), json!({"stdout": "a b|$HOME|*|; ls|"}));
    let much = "x".repeat(500_000);
    assert_eq!(output(bench.run(cat(json!(much))).await), json!({"stdout": much}));
    let unread = json!({"command": "true", "stdin": "x".repeat(500_000)});
    assert_eq!(output(bench.run(unread).await), json!({"stdout": ""}));
}

#[tokio::test]
async fn the_environment_is_what_was_declared_and_nothing_else() {
    let mut bench = Bench::new();
    let secrets = BTreeMap::from([("TOKEN".to_owned(), Secret::new("hunter22").unwrap())]);
    bench.context = bench.context.with_secrets(secrets);
    let input = json!({"command": "/usr/bin/env", "env": {"MODE": "test"}});
    assert!(std::env::var_os("HOME").is_some() || std::env::var_os("CARGO").is_some());
    let printed = output(bench.run(input).await);
    let mut lines: Vec<_> = printed["stdout"].as_str().unwrap().lines().collect();
    lines.sort_unstable();
    let own: Vec<_> = lines.extract_if(.., |line| line.starts_with("ORCH_")).collect();
    assert_eq!(lines, ["MODE=test", "PATH=/usr/bin:/bin", "TOKEN=[redacted]"]);
    let run = format!("ORCH_RUN_ID={}", bench.context.run.run);
    let key = format!("ORCH_IDEMPOTENCY_KEY={}", bench.context.idempotency_key());
    let known = ["ORCH_ATTEMPT=1", key.as_str(), run.as_str(), "ORCH_STEP=standalone"];
    assert_eq!(own, known);
    let check = "test \"$TOKEN\" = hunter2\"\"2";
    assert_eq!(output(bench.sh(check).await), json!({"stdout": ""}));
    let clash = failure(bench.run(json!({"command": "true", "env": {"TOKEN": "x"}})).await);
    assert_eq!(clash, Failure::fatal("invalid_input", "env.TOKEN: a declared secret has that name"));
}

#[tokio::test]
async fn a_child_knows_its_attempt_and_its_trace_and_nothing_can_pose_as_them() {
    let mut bench = Bench::new();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    bench.context.submitted_in = Some(trace.to_owned());
    bench.context.attempt = 3;
    bench.context.step = "scan[7]".parse().unwrap();
    bench.context.baggage = Some("user=alice".to_owned());
    let handed_on = bench.context.traceparent().unwrap();
    assert!(handed_on.starts_with(&trace[..36]) && handed_on != trace, "{handed_on}");
    let told = output(bench.sh("echo \"$ORCH_STEP $ORCH_ATTEMPT $TRACEPARENT $BAGGAGE\"").await);
    assert_eq!(told, json!({"stdout": format!("scan[7] 3 {handed_on} user=alice\n")}));
    for name in ["ORCH_RUN_ID", "ORCH_STEP", "ORCH_ATTEMPT", "ORCH_IDEMPOTENCY_KEY", "TRACEPARENT", "BAGGAGE"]
    {
        let posed = failure(bench.run(json!({"command": "true", "env": {name: "x"}})).await);
        let message = format!("env.{name}: this one is set by orch itself");
        assert_eq!(posed, Failure::fatal("invalid_input", message));
    }
    let secrets = BTreeMap::from([("ORCH_STEP".to_owned(), Secret::new("hunter22").unwrap())]);
    bench.context = bench.context.with_secrets(secrets);
    let posed = failure(bench.sh("true").await);
    assert_eq!(posed, Failure::fatal("invalid_input", "secrets: ORCH_STEP is set by orch itself"));
}

#[tokio::test]
async fn codes_and_signals_are_named_with_the_last_words() {
    let bench = Bench::new();
    let exit = failure(bench.sh("echo first >&2; echo 'no such thing' >&2; exit 3").await);
    assert_eq!(exit, Failure::retryable("exit_3", "the command exited with code 3: no such thing"));
    assert_eq!(failure(bench.sh("kill -9 $$").await).code, "signal_9");
    let missing = failure(bench.run(json!({"command": "no-such-command"})).await);
    assert_eq!(missing, Failure::fatal("command_not_found", "no command \"no-such-command\""));
    std::fs::write(bench.root.path().join("plain"), "text").unwrap();
    let refused = failure(bench.run(json!({"command": "./plain"})).await);
    assert!(refused.code == "command_not_executable" && !refused.retryable, "{refused}");
    for input in
        [json!({}), json!({"command": ""}), json!({"command": "a\u{0}"}), json!({"command": "a", "cwd": "b"})]
    {
        assert_eq!(failure(bench.run(input).await).code, "invalid_input");
    }
}

#[tokio::test]
async fn the_working_directory_stays_below_the_root() {
    let bench = Bench::new();
    std::fs::create_dir(bench.root.path().join("sub")).unwrap();
    std::os::unix::fs::symlink("/", bench.root.path().join("out")).unwrap();
    let at = |workdir: &str| json!({"command": "pwd", "workdir": workdir});
    let real = bench.root.path().canonicalize().unwrap().join("sub");
    assert_eq!(output(bench.run(at("./sub")).await), json!({"stdout": format!("{}\n", real.display())}));
    for outside in ["..", "sub/../..", "/", "out"] {
        assert_eq!(failure(bench.run(at(outside)).await).code, "path_outside_root", "{outside}");
    }
    assert_eq!(failure(bench.run(at("nothing")).await).code, "no_workdir");
}

#[tokio::test]
async fn both_streams_are_logged_line_by_line() {
    let bench = Bench::new();
    bench.sh("printf 'one\\n\\ntwo'; printf 'bad \\377 byte\\n' >&2").await;
    let mut log = bench.log();
    log.sort_by_key(|(stream, _)| *stream == LogStream::Stderr);
    let out = |line: &str| (LogStream::Stdout, line.to_owned());
    let err = (LogStream::Stderr, "bad \u{fffd} byte".to_owned());
    assert_eq!(log, [out("one"), out(""), out("two"), err]);
}

#[tokio::test]
async fn lines_are_logged_while_the_command_runs() {
    let bench = Bench::new();
    let mut live = bench.context.log.follow();
    let cancel = bench.context.cancellation.clone();
    let watch = async move {
        let line = live.recv().await.unwrap();
        cancel.cancel();
        line.line
    };
    let (outcome, line) = tokio::join!(bench.sh("echo ready; sleep 100"), watch);
    assert_eq!((outcome, line.as_str()), (Outcome::Cancelled, "ready"));
}

#[tokio::test]
async fn a_secret_is_hidden_even_when_it_is_written_in_pieces() {
    let mut bench = Bench::new();
    let secrets = BTreeMap::from([("TOKEN".to_owned(), Secret::new("hunter22").unwrap())]);
    bench.context = bench.context.with_secrets(secrets);
    let script = "printf 'is hun'; sleep 0.1; printf 'ter22\\n'; printf '%s' \"$TOKEN\" | base64 >&2; echo \"$TOKEN\" >&2; exit 1";
    let failure = failure(bench.sh(script).await);
    assert_eq!(failure.message, "the command exited with code 1: [redacted]");
    let log = bench.log();
    assert!(log.contains(&(LogStream::Stdout, "is [redacted]".to_owned())), "{log:?}");
    assert!(log.iter().filter(|(_, line)| line == "[redacted]").count() == 2, "{log:?}");
}

#[tokio::test]
async fn half_a_secret_cut_by_the_limit_is_not_logged() {
    let mut bench = Bench::new();
    bench.limit(ResourceLimits { output: Some(10), ..ResourceLimits::default() });
    let ended = failure(bench.sh("printf 'a\\nhunt'; sleep 0.1; printf 'er22 and more'").await);
    assert_eq!(ended.code, "output_limit");
    assert_eq!(bench.log(), [(LogStream::Stdout, "a".to_owned())]);
}

#[tokio::test]
async fn output_over_the_limit_ends_the_command() {
    let mut bench = Bench::new();
    bench.limit(ResourceLimits { output: Some(100_000), ..ResourceLimits::default() });
    for (redirect, stream) in [("", "standard output"), (">&2", "standard error")] {
        let ended =
            failure(bench.sh(&format!("echo $$ > pid; while :; do echo yyyyyyyy {redirect}; done")).await);
        let message = format!("{stream} is over the limit of 100000 bytes");
        assert_eq!(ended, Failure::fatal("output_limit", message));
        assert_dies(bench.pid("pid").await).await;
    }
    let size = output(bench.sh("head -c 100000 /dev/zero").await)["stdout"].as_str().unwrap().len();
    assert_eq!(size, 100_000);
    assert_eq!(failure(bench.sh("head -c 100001 /dev/zero").await).code, "output_limit");
}

#[tokio::test]
async fn out_of_time_the_whole_tree_dies_and_nothing_hangs() {
    let mut bench = Bench::new();
    bench.limit(ResourceLimits {
        wall: Some(Span::new(Duration::from_millis(300))),
        ..ResourceLimits::default()
    });
    let stubborn = "(trap '' TERM; echo $(exec sh -c 'echo $PPID') > grandchild; while :; do sleep 1000; done) & trap '' TERM; wait";
    let start = Instant::now();
    assert_eq!(bench.sh(stubborn).await, Outcome::TimedOut);
    assert!(start.elapsed() < SOON / 2);
    assert_dies(bench.pid("grandchild").await).await;
}

#[tokio::test]
async fn a_cancelled_command_may_say_goodbye() {
    let bench = Bench::new();
    let cancel = bench.context.cancellation.clone();
    let when_ready = async {
        bench.pid("pid").await;
        cancel.cancel();
    };
    let polite = "trap 'echo goodbye; exit 0' TERM; echo $$ > pid; while :; do sleep 0.01; done";
    let (outcome, ()) = tokio::join!(bench.sh(polite), when_ready);
    assert_eq!(outcome, Outcome::Cancelled);
    let log = bench.log();
    assert!(log.contains(&(LogStream::Stdout, "goodbye".to_owned())), "{log:?}");
}

#[tokio::test]
async fn what_a_finished_command_leaves_running_is_killed() {
    let bench = Bench::new();
    let start = Instant::now();
    let done = bench.sh("sleep 1000 & echo $! > left; echo done").await;
    assert_eq!(output(done), json!({"stdout": "done\n"}));
    assert!(start.elapsed() < SOON / 2);
    assert_dies(bench.pid("left").await).await;
}

#[tokio::test]
async fn a_process_that_left_the_group_cannot_hold_up_the_end() {
    let bench = Bench::new();
    let start = Instant::now();
    let done = bench.sh("setsid sh -c 'echo $$ > escaped; exec sleep 1000' & while [ ! -s escaped ]; do sleep 0.01; done; echo done").await;
    assert_eq!(output(done), json!({"stdout": "done\n"}));
    assert!(start.elapsed() < SOON / 2);
    let escaped = rustix::process::Pid::from_raw(bench.pid("escaped").await.try_into().unwrap()).unwrap();
    rustix::process::kill_process(escaped, Signal::KILL).unwrap();
}

#[tokio::test]
async fn dropping_the_attempt_kills_the_tree() {
    let bench = Bench::new();
    let gone = tokio::select! {
        outcome = bench.sh("sleep 1000 & echo $! > pid; wait") => panic!("{outcome:?}"),
        pid = bench.pid("pid") => pid,
    };
    assert_dies(gone).await;
}

#[tokio::test]
async fn s1_a_step_that_needs_a_sandbox_does_not_start() {
    let none = ResourceLimits::default();
    for (limits, network, name) in [
        (ResourceLimits { cpu: Some(1.0), ..none.clone() }, None, "limits.cpu"),
        (ResourceLimits { memory: Some(1), ..none.clone() }, None, "limits.memory"),
        (ResourceLimits { processes: Some(1), ..none.clone() }, None, "limits.processes"),
        (none.clone(), Some(Network { allow: vec!["example.org:443".into()] }), "network"),
        (none, Some(Network { allow: Vec::new() }), "network"),
    ] {
        let mut bench = Bench::new();
        bench.limit(limits);
        bench.context.network = network;
        let refused = failure(bench.sh("touch started").await);
        assert!(refused.code == "limit_not_enforceable" && !refused.retryable, "{refused}");
        assert!(refused.message.starts_with(name), "{refused}");
        assert!(!Path::exists(&bench.root.path().join("started")));
    }
}
