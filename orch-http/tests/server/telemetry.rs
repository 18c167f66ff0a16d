//! What a real server tells elsewhere: spans to a collector, and files to be carried away.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::kit::{Lab, PATIENCE, Server};

const SECRET: &str = "hunter2-of-the-collector";

/// A collector that takes what is sent to it, if the sender says who it is.
fn collector() -> (u16, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) < 3 {
                    break;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                head.push_str(&line);
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
            if sender.send((head, body)).is_err() {
                return;
            }
        }
    });
    (port, received)
}

/// Publishes a DAG and starts a run of it that is given something.
fn run(server: &Server) {
    let steps = json!([{ "id": "say", "uses": "fn/echo", "with": "${{ inputs.word }}" }]);
    let inputs = json!({ "type": "object", "properties": { "word": { "type": "string" } } });
    let dag =
        json!({ "apiVersion": "orch/v1", "kind": "Dag", "id": "say", "inputs": inputs, "steps": steps });
    assert_eq!(server.ask("POST", "/dags", Some(&dag)).0, 201);
    let run = json!({ "dagId": "say", "inputs": { "word": "nothing-of-this" } });
    assert_eq!(server.ask("POST", "/runs", Some(&run)).0, 201);
}

fn lines(lab: &Lab, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(lab.path(name)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

#[test]
fn spans_reach_a_collector_and_logs_metrics_and_spans_lie_in_files_as_lines_of_json() {
    let lab = Lab::new();
    let (port, received) = collector();
    lab.write("headers", &format!("authorization: Bearer {SECRET}\n"));
    lab.write(
        "orch-server.toml",
        &format!(
            "[telemetry]\notlp_endpoint = \"http://127.0.0.1:{port}\"\notlp_headers_file = \"headers\"\n\
             directory = \"told\"\n"
        ),
    );
    let mut server = lab.start(&[]);
    run(&server);
    let (head, body) = received.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("POST /v1/traces ") && head.contains(SECRET), "{head}");
    let mut spans = Vec::new();
    let mut batch = body;
    loop {
        let request = ExportTraceServiceRequest::decode(&batch[..]).unwrap();
        let resources = request.resource_spans;
        spans.extend(resources.into_iter().flat_map(|spans| spans.scope_spans).flat_map(|scope| scope.spans));
        if spans.len() >= 4 {
            break;
        }
        batch = received.recv_timeout(PATIENCE).unwrap().1;
    }
    let mut names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    let base = "POST /api/v1/orchestrator";
    let requests = [format!("{base}/dags"), format!("{base}/runs")];
    assert_eq!(names, [requests[0].as_str(), &requests[1], "orchestrator.run", "orchestrator.step"]);
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0));

    let logs = lines(&lab, "told/logs.ndjson");
    let ended = logs.iter().find(|line| line["message"] == "run ended").unwrap();
    assert_eq!((&ended["tenant"], &ended["status"]), (&json!("default"), &json!("completed")));
    let trace = ended["trace_id"].as_str().unwrap();
    assert!(ended["dagId"].is_string() && ended["runId"].is_string() && trace.len() == 32, "{ended}");
    let kept = lines(&lab, "told/traces.ndjson");
    let scopes = kept.iter().flat_map(|line| line["resourceSpans"][0]["scopeSpans"].as_array().unwrap());
    let kept: Vec<&Value> = scopes.flat_map(|scope| scope["spans"].as_array().unwrap()).collect();
    assert_eq!((kept.len(), kept.iter().filter(|span| span["traceId"] == trace).count()), (4, 3), "{kept:?}");
    let metrics = lines(&lab, "told/metrics.ndjson");
    let last = metrics.iter().rfind(|line| line["name"] == "orchestrator_runs_total").unwrap();
    assert_eq!((&last["value"], &last["labels"]["status"]), (&json!(1.0), &json!("completed")));
    // Neither what the job was given, nor what the collector is told by, nor the token.
    let token = server.token.as_deref().unwrap().trim().to_owned();
    for name in ["told/logs.ndjson", "told/traces.ndjson", "told/metrics.ndjson", "log"] {
        let text = std::fs::read_to_string(lab.path(name)).unwrap();
        for secret in [SECRET, "nothing-of-this", token.as_str()] {
            assert!(!text.contains(secret), "{name}: {secret}");
        }
    }
}

#[test]
fn a_collector_that_is_away_costs_nothing_but_its_spans() {
    let lab = Lab::new();
    lab.write("orch-server.toml", "[telemetry]\notlp_endpoint = \"http://127.0.0.1:1\"\n");
    let mut server = lab.start(&[]);
    run(&server);
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    let log = std::fs::read_to_string(lab.path("log")).unwrap();
    assert!(log.contains("spans are not collected"), "{log}");
}

#[test]
fn what_is_wrong_with_a_collector_is_told_before_anything_starts() {
    let lab = Lab::new();
    for (toml, told) in [
        ("otlp_endpoint = \"http://collector.example\"", "https"),
        ("otlp_endpoint = \"http://127.0.0.1:1\"\notlp_headers_file = \"headers\"", "line"),
        ("trace_ratio = 2.0", "greater than the maximum of 1"),
    ] {
        lab.write("headers", "no header\n");
        lab.write("orch-server.toml", &format!("[telemetry]\n{toml}\n"));
        let ended = lab.run(&["--listen", "127.0.0.1:0"]);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(
            ended.status.code() == Some(1) && said.contains(told) && !said.contains("no header"),
            "{toml}: {said}"
        );
    }
}
