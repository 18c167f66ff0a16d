//! A worker in Python against a real server: it works, dies, comes back late, is told to stop.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::kit::{Lab, PATIENCE, Server, TICK};

/// A worker process; killed when dropped.
struct Worker(Child);

impl Worker {
    /// Starts the example that hashes texts, for so many jobs.
    fn start(server: &Server, jobs: u32, lease_seconds: u32) -> Self {
        let mut command = Command::new("python3");
        command.arg(example()).arg(jobs.to_string());
        command.env("ORCH_URL", format!("http://127.0.0.1:{}", server.port));
        command.env("ORCH_TOKEN", server.token.as_deref().unwrap());
        command.env("LEASE_SECONDS", lease_seconds.to_string());
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for its end; answers whether it went well.
    fn ends(&mut self) -> bool {
        for _ in 0..PATIENCE.as_millis() / TICK.as_millis() {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(TICK);
        }
        panic!("the worker does not end");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/workers/checksum.py")
}

/// A server that Python can work for; nothing where there is no Python.
fn served() -> Option<(Lab, Server)> {
    let probe = Command::new("python3").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        orch_servers::skipped_without("python");
        return None;
    }
    let lab = Lab::new();
    let server = lab.start(&[]);
    Some((lab, server))
}

fn submit(server: &Server, payload: &Value) -> String {
    let job = json!({ "jobType": "checksum", "payload": payload, "maxAttempts": 3 });
    let (status, job) = server.ask("POST", "/jobs", Some(&job));
    assert_eq!(status, 201, "{job}");
    job["jobId"].as_str().unwrap().to_owned()
}

/// Waits until the job's step is as asked; answers the step.
fn until(server: &Server, job: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let mut step = Value::Null;
    for _ in 0..PATIENCE.as_millis() / TICK.as_millis() {
        step = server.ask("GET", &format!("/runs/{job}/steps/job"), None).1;
        if fits(&step) {
            return step;
        }
        std::thread::sleep(TICK);
    }
    panic!("the job does not get there: {step}");
}

const A: &str = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";

#[test]
fn a_worker_in_python_does_jobs_and_says_what_is_wrong_with_others() {
    let Some((_lab, server)) = served() else { return };
    let mut worker = Worker::start(&server, 2, 30);
    let good = submit(&server, &json!({ "texts": ["a"] }));
    let step = until(&server, &good, |step| step["status"] == "succeeded");
    assert_eq!(step["output"]["sums"], json!([A]));
    let report = step["output"]["report"]["hash"].as_str().unwrap();
    assert_eq!(server.ask("GET", &format!("/artifacts/{report}"), None).0, 200);
    let bad = submit(&server, &json!("nonsense"));
    let step = until(&server, &bad, |step| step["status"] == "failed");
    assert!(step.to_string().contains("invalid_input"), "{step}");
    assert!(worker.ends());
}

#[test]
fn r2_a_worker_that_hung_comes_back_to_find_its_job_done_by_another() {
    let Some((_lab, server)) = served() else { return };
    let job = submit(&server, &json!({ "texts": ["a", "b", "c"], "pause": 0.2 }));
    let mut late = Worker::start(&server, 1, 2);
    until(&server, &job, |step| step["status"] == "running");
    late.signal(Signal::STOP);
    let mut next = Worker::start(&server, 1, 2);
    let step = until(&server, &job, |step| step["status"] == "succeeded");
    assert_eq!((&step["attempt"], &step["output"]["sums"][0]), (&json!(2), &json!(A)));
    assert!(next.ends());
    late.signal(Signal::CONT);
    assert!(late.ends(), "it hears that its lease is lost, and that is no failure");
    let again = until(&server, &job, |step| step["status"] == "succeeded");
    assert_eq!(again["outputHash"], step["outputHash"]);
}

#[test]
fn r4_a_job_outlives_its_worker_and_its_server() {
    let Some((lab, mut server)) = served() else { return };
    let job = submit(&server, &json!({ "texts": ["a", "b"], "pause": 1 }));
    let worker = Worker::start(&server, 1, 2);
    until(&server, &job, |step| step["status"] == "running");
    worker.signal(Signal::KILL);
    server.signal(Signal::KILL);
    server.wait();
    let server = lab.start(&[]);
    let mut worker = Worker::start(&server, 1, 5);
    let step = until(&server, &job, |step| step["status"] == "succeeded");
    assert_eq!(step["attempt"], 2);
    assert!(worker.ends());
}

#[test]
fn a_cancelled_job_stops_its_worker() {
    let Some((_lab, server)) = served() else { return };
    let job = submit(&server, &json!({ "texts": vec!["a"; 1_000], "pause": 0.1 }));
    let mut worker = Worker::start(&server, 1, 2);
    until(&server, &job, |step| step["status"] == "running");
    let (status, _) = server.ask("POST", &format!("/runs/{job}:cancel"), Some(&json!({})));
    assert_eq!(status, 200);
    assert!(worker.ends());
    let (_, found) = server.ask("GET", &format!("/jobs/{job}"), None);
    assert_eq!(found["status"], "cancelled", "{found}");
}
