use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::executor::{Outcome, StepContext};
use crate::ledger::ArtifactRef;
use crate::payload::Payload;
use crate::spec::Uses;

/// The built-in functions over a fresh directory, and a context whose artifacts last.
struct Bench {
    directory: tempfile::TempDir,
    executors: Executors,
    context: StepContext,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("in");
        std::fs::create_dir(&root).unwrap();
        let builtins = Builtins { root: Some(root), output: Some(directory.path().join("out")) };
        let executors = builtins.register(Executors::new());
        executors.check().unwrap();
        Self { directory, executors, context: StepContext::standalone(Uses::Process) }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("in")
    }

    fn written(&self, path: &str) -> String {
        std::fs::read_to_string(self.directory.path().join("out/standalone-out").join(path)).unwrap()
    }

    async fn run(&self, name: &str, input: Value) -> Outcome {
        let uses = Uses::Function(name.to_owned());
        let context = StepContext { uses: uses.clone(), ..self.context.clone() };
        let (executor, _) = self.executors.lookup(&uses).unwrap();
        executor.execute(context, Payload::new(&input).unwrap()).await
    }

    async fn ok(&self, name: &str, input: Value) -> Value {
        match self.run(name, input).await {
            Outcome::Succeeded(output) => output.to_value(),
            other => panic!("{name}: {other:?}"),
        }
    }

    /// Code and message of the failure, and that it is final.
    async fn fails(&self, name: &str, input: Value) -> String {
        match self.run(name, input).await {
            Outcome::Failed(failure) if !failure.retryable => failure.to_string(),
            other => panic!("{name}: {other:?}"),
        }
    }

    async fn artifact(&self, media_type: &str, text: &str) -> Value {
        let made = self.context.artifacts.put(media_type, None, text.to_owned()).await.unwrap();
        serde_json::to_value(made).unwrap()
    }
}

macro_rules! assert_has {
    ($text:expr, $($part:expr),+) => {{
        let text = $text;
        $(assert!(text.contains($part), "{:?} is not in: {text}", $part);)+
    }};
}

#[tokio::test]
async fn noop_and_echo_take_anything() {
    let bench = Bench::new();
    for input in [json!(null), json!([1, "two"]), json!({"a": {"b": 3}})] {
        assert_eq!(bench.ok("noop", input.clone()).await, Value::Null);
        assert_eq!(bench.ok("echo", input.clone()).await, input);
    }
}

#[tokio::test(start_paused = true)]
async fn sleep_ends_in_time_or_when_cancelled() {
    let bench = Bench::new();
    let start = tokio::time::Instant::now();
    bench.ok("sleep", json!({"duration": "90s"})).await;
    assert!(start.elapsed() >= Duration::from_secs(90));
    assert_has!(bench.fails("sleep", json!(null)).await, "invalid_input", "missing field `duration`");
    let token = bench.context.cancellation.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        token.cancel();
    });
    let start = tokio::time::Instant::now();
    assert_eq!(bench.run("sleep", json!({"duration": "1h"})).await, Outcome::Cancelled);
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn fail_fails_as_often_as_asked_with_the_chosen_code() {
    let mut bench = Bench::new();
    let input = json!({"times": 2, "code": "flaky", "message": "not yet"});
    for attempt in 1..=2 {
        bench.context.attempt = attempt;
        assert_eq!(bench.run("fail", input.clone()).await, Failure::retryable("flaky", "not yet").into());
    }
    bench.context.attempt = 3;
    assert_eq!(bench.ok("fail", input).await, json!({"attempts": 3}));
    assert_has!(bench.fails("fail", json!({"retryable": false})).await, "failed: failed as asked");
    assert_has!(bench.fails("fail", json!({"code": "No Good"})).await, "invalid_input: code");
}

#[tokio::test]
async fn read_gives_text_or_bytes_with_size_and_digest() {
    let bench = Bench::new();
    std::fs::create_dir(bench.root().join("sub")).unwrap();
    std::fs::write(bench.root().join("sub/a.txt"), "héllo").unwrap();
    let found = bench.ok("read", json!({"path": "./sub/a.txt"})).await;
    let sha256 = crate::Digest::of("héllo");
    assert_eq!(found, json!({"path": "./sub/a.txt", "size": 6, "sha256": sha256, "text": "héllo"}));
    std::fs::write(bench.root().join("raw"), b"\xff\x00").unwrap();
    assert_eq!(bench.ok("read", json!({"path": "raw", "as": "base64"})).await["base64"], "/wA=");
    assert_has!(bench.fails("read", json!({"path": "raw"})).await, "not_text", "as: base64");
    assert_has!(bench.fails("read", json!({"path": "raw", "maxBytes": 1})).await, "too_large");
    assert_has!(bench.fails("read", json!({"path": "sub"})).await, "not_a_file");
    assert_has!(bench.fails("read", json!({"path": "nothing"})).await, "file_not_found: nothing");
}

#[cfg(unix)]
#[tokio::test]
async fn no_path_leads_out_of_the_root() {
    let bench = Bench::new();
    std::fs::write(bench.directory.path().join("secret"), "secret").unwrap();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, bench.root().join(name)).unwrap();
    link("../secret", "relative");
    link("/etc/hostname", "absolute");
    link("..", "up");
    let own = bench.directory.path().join("out/standalone-out");
    std::fs::create_dir_all(&own).unwrap();
    std::os::unix::fs::symlink("../..", own.join("up")).unwrap();
    for path in ["../secret", "a/../../secret", "/etc/hostname", "relative", "absolute", "up/secret"] {
        assert_has!(bench.fails("read", json!({"path": path})).await, "path_outside_root", path);
    }
    for path in ["../secret", "a/../../secret", "/etc/hostname", "up/secret", "up/new/file"] {
        let input = json!({"name": "x", "text": "x", "path": path});
        assert_has!(bench.fails("write", input).await, "path_outside_root", path);
    }
    for path in ["", ".", "a\u{0}b"] {
        assert_has!(bench.fails("read", json!({"path": path})).await, "invalid_input");
    }
    assert_eq!(std::fs::read_to_string(bench.directory.path().join("secret")).unwrap(), "secret");
}

#[tokio::test]
async fn every_format_parses_to_the_same_kind_of_value() {
    let bench = Bench::new();
    let people = json!([{"name": "a", "age": "1"}, {"name": "b,c", "age": "2"}]);
    for (format, text, value) in [
        ("json", "{\"a\": [1, 2.5, null, true]}", json!({"a": [1, 2.5, null, true]})),
        (
            "toml",
            "a = [1, 2.5]\n[b]\nd = 1979-05-27T07:32:00Z",
            json!({"a": [1, 2.5], "b": {"d": "1979-05-27T07:32:00Z"}}),
        ),
        (
            "yaml",
            "a: [1, 2.5, null]\nb: &x {c: text}\nd: *x",
            json!({"a": [1, 2.5, null], "b": {"c": "text"}, "d": {"c": "text"}}),
        ),
        ("csv", "name,age\na,1\n\"b,c\",2\n", people.clone()),
        ("ndjson", "{\"name\":\"a\",\"age\":\"1\"}\n\n{\"name\":\"b,c\",\"age\":\"2\"}\n", people),
    ] {
        assert_eq!(bench.ok("parse", json!({"format": format, "text": text})).await, value, "{format}");
        let artifact = bench.artifact("text/plain", text).await;
        assert_eq!(
            bench.ok("parse", json!({"format": format, "artifact": artifact})).await,
            value,
            "{format}"
        );
    }
}

#[tokio::test]
async fn a_malformed_document_says_where() {
    let bench = Bench::new();
    for (format, text, parts) in [
        ("json", "{\"a\":\n 1,}", ["malformed_document: json", "line 2 column 4"]),
        ("json", "{\"a\": 1, \"a\": 2}", ["\"a\" stands twice", "line 1"]),
        ("json", "[9007199254740993]", ["beyond 2^53", "line 1"]),
        ("json", "[123456789012345678901234567890]", ["beyond 2^53", "line 1"]),
        ("toml", "a = 1\nb = ", ["toml", "line 2 column"]),
        ("toml", "a = [1, 9007199254740993]", ["toml: a[1]", "beyond 2^53"]),
        ("toml", "x.y = nan", ["toml: x.y", "no infinity and no NaN"]),
        ("yaml", "a: 1\nb: [", ["yaml:2:4", "unclosed"]),
        ("yaml", "a: 1\na: 2", ["yaml", "duplicate"]),
        ("yaml", "a: 9007199254740993", ["yaml", "beyond 2^53"]),
        ("yaml", "a: .inf", ["yaml", "inf"]),
        ("csv", "a,b\n1,2,3\n", ["csv", "line: 2"]),
        ("csv", "a,a\n1,2\n", ["csv", "column 2"]),
        ("ndjson", "1\n\n{\n", ["line 3", "json"]),
    ] {
        let failure = bench.fails("parse", json!({"format": format, "text": text})).await;
        assert!(!failure.contains("Options") && !failure.contains("CSV error"), "{failure}");
        assert_has!(&failure, "malformed_document", parts[0], parts[1]);
    }
    assert_has!(
        bench.fails("parse", json!({"format": "xml", "text": ""})).await,
        "invalid_input",
        "with.format"
    );
    assert_has!(bench.fails("parse", json!({"format": "json"})).await, "needs `text` or `artifact`");
    let text = json!({"format": "json", "text": "[".repeat(100_000)});
    assert_has!(bench.fails("parse", text).await, "malformed_document", "recursion");
}

#[tokio::test]
async fn a_document_that_unfolds_without_end_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
        text.push_str(&format!("a{n}: &a{n} [{aliases}]\n"));
    }
    let failure = Bench::new().fails("parse", json!({"format": "yaml", "text": text})).await;
    assert_has!(failure, "malformed_document: yaml");
}

#[tokio::test]
async fn a_template_sees_its_data_and_nothing_else() {
    let bench = Bench::new();
    let artifact = bench.artifact("application/json", "[\"b\", \"a\"]").await;
    let input = json!({
        "template": "{% for x in list|sort %}{{ x }}<{{ n|tojson }}>{% endfor %}{{ \"abc\"|sha256 }}",
        "data": {"n": {"k": 1}}, "artifacts": {"list": artifact},
    });
    let sha256 = crate::Digest::of("abc");
    let text = format!("a<{{\"k\": 1}}>b<{{\"k\": 1}}>{sha256}");
    assert_eq!(bench.ok("template", input).await, json!({"text": text}));
    for (template, part) in [
        ("a\n{{ missing }}", "line 2: undefined value"),
        ("{{ env.HOME }}", "undefined value"),
        ("{% include 'x' %}", "line 1"),
        ("{% for x in %}", "syntax error"),
        ("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "fuel"),
        ("{% for a in range(100000) %}{{ big }}{% endfor %}", "over the limit"),
    ] {
        let data = json!({"big": "x".repeat(100_000)});
        let failure = bench.fails("template", json!({"template": template, "data": data})).await;
        assert_has!(failure, "template_failed", part);
    }
}

#[tokio::test]
async fn a_template_can_make_json_and_says_where_it_is_not() {
    let bench = Bench::new();
    let made = bench
        .ok("template", json!({"template": "{\"a\": {{ x|tojson }}}", "data": {"x": "<\">"}, "as": "json"}));
    assert_eq!(made.await, json!({"json": {"a": "<\">"}}));
    let failure = bench.fails("template", json!({"template": "{\n  \"a\": }", "as": "json"})).await;
    assert_has!(failure, "rendered_malformed", "line 2 column 8");
}

#[tokio::test]
async fn hashes_are_of_texts_values_lists_and_artifacts() {
    let bench = Bench::new();
    let of = |text: &str| json!(crate::Digest::of(text));
    assert_eq!(bench.ok("hash", json!({"text": "abc"})).await, json!({"sha256": of("abc")}));
    assert_eq!(bench.ok("hash", json!({"value": {"b": 1, "a": 2}})).await["sha256"], of("{\"a\":2,\"b\":1}"));
    assert_eq!(bench.ok("hash", json!({"value": null})).await["sha256"], of("null"));
    let list = bench.ok("hash", json!({"items": ["abc", {"a": 1}]})).await;
    assert_eq!(list, json!({"items": [of("abc"), of("{\"a\":1}")], "sha256": of("[\"abc\",{\"a\":1}]")}));
    let artifact = bench.artifact("text/plain", "abc").await;
    assert_eq!(bench.ok("hash", json!({"artifact": artifact})).await["sha256"], of("abc"));
    assert_has!(bench.fails("hash", json!({"text": "a", "value": 1})).await, "exactly one of");
    assert_has!(bench.fails("hash", json!({})).await, "exactly one of");
}

#[tokio::test]
async fn write_makes_an_artifact_and_a_file_of_the_same_bytes() {
    let bench = Bench::new();
    for (content, bytes, media_type) in [
        (json!({"text": "plain"}), "plain", "text/plain"),
        (json!({"value": {"b": 1, "a": []}}), "{\n  \"a\": [],\n  \"b\": 1\n}\n", "application/json"),
        (json!({"lines": ["one", {"n": 2}]}), "one\n{\"n\":2}\n", "text/plain"),
    ] {
        let mut input = json!({"name": "x", "path": "deep/er/x"});
        input.as_object_mut().unwrap().extend(content.as_object().unwrap().clone());
        let written = bench.ok("write", input).await;
        let artifact: ArtifactRef = serde_json::from_value(written["artifact"].clone()).unwrap();
        assert_eq!((artifact.media_type.as_str(), artifact.size), (media_type, bytes.len() as u64));
        assert_eq!(bench.context.artifacts.get(&artifact.hash).await.unwrap(), bytes);
        assert_eq!(
            (bench.written("deep/er/x").as_str(), &written["path"]),
            (bytes, &json!("standalone-out/deep/er/x"))
        );
    }
    let names: Vec<_> =
        std::fs::read_dir(bench.directory.path().join("out/standalone-out/deep/er")).unwrap().collect();
    assert_eq!(names.len(), 1, "a temporary file is left: {names:?}");
    let again = json!({"name": "y", "artifact": bench.artifact("text/x", "kept").await, "path": "y"});
    assert_eq!(bench.ok("write", again).await["artifact"]["mediaType"], "text/x");
    assert_eq!(bench.written("y"), "kept");
    assert_has!(bench.fails("write", json!({"name": "x", "text": "", "path": "deep"})).await, "not_a_file");
    assert_has!(bench.fails("write", json!({"name": "x"})).await, "exactly one of");
    assert_has!(bench.fails("write", json!({"name": "\n", "text": ""})).await, "name");
}

#[tokio::test]
async fn a_file_can_be_read_straight_into_an_artifact() {
    let bench = Bench::new();
    std::fs::write(bench.root().join("raw"), [0xff, 0x00]).unwrap();
    let found = bench.ok("read", json!({"path": "raw", "as": "artifact"})).await;
    let artifact: ArtifactRef = serde_json::from_value(found["artifact"].clone()).unwrap();
    assert_eq!(bench.context.artifacts.get(&artifact.hash).await.unwrap().as_ref(), [0xff, 0x00]);
    assert_eq!((&found["sha256"], &found["size"]), (&json!(artifact.hash), &json!(2)));
}

#[tokio::test]
async fn each_dag_writes_below_a_directory_of_its_own() {
    let mut bench = Bench::new();
    let out = bench.directory.path().join("out");
    for dag in ["first", "second.dag"] {
        bench.context.dag = crate::DagId::new(dag).unwrap();
        let written = bench.ok("write", json!({"name": "x", "text": dag, "path": "./x"})).await;
        assert_eq!(written["path"], format!("{dag}-out/x"));
    }
    assert_eq!(std::fs::read_to_string(out.join("first-out/x")).unwrap(), "first");
    assert_eq!(std::fs::read_to_string(out.join("second.dag-out/x")).unwrap(), "second.dag");
    std::os::unix::fs::symlink("../first-out", out.join("second.dag-out/link")).unwrap();
    for path in ["link/x", "../first-out/x"] {
        let failure = bench.fails("write", json!({"name": "x", "text": "over", "path": path})).await;
        assert_has!(failure, "path_outside_root");
    }
    std::os::unix::fs::symlink("/tmp", out.join("third-out")).unwrap();
    bench.context.dag = crate::DagId::new("third").unwrap();
    assert_has!(
        bench.fails("write", json!({"name": "x", "text": "", "path": "x"})).await,
        "path_outside_root"
    );
    assert_eq!(std::fs::read_to_string(out.join("first-out/x")).unwrap(), "first");
}

#[tokio::test]
async fn an_expression_sees_its_vars_and_nothing_else() {
    let bench = Bench::new();
    let cel = |expression: &str| json!({"expression": expression, "vars": {"n": [3, 1, 2], "who": "a"}});
    assert_eq!(bench.ok("cel", cel("inputs.n.sort().map(x, x * 2)")).await, json!([2, 4, 6]));
    assert_eq!(bench.ok("cel", json!({"expression": "{'a': 1 + 1}"})).await, json!({"a": 2}));
    for (expression, parts) in [
        ("1 +", ["invalid_input: expression: syntax error", "character 4"]),
        ("input.n", ["invalid_input: expression", "inputs"]),
        ("steps.a.output", ["invalid_input: expression", "`vars`"]),
        ("item", ["invalid_input: expression", "`vars`"]),
        ("inputs.nn", ["expression_failed: no-such-field", "who"]),
        ("run.id", ["expression_failed: type-mismatch", "null"]),
        ("inputs.n + 'x'", ["expression_failed: type-mismatch", "list"]),
        ("range(100000).map(a, range(100000))", ["expression_failed: out-of-fuel", ""]),
    ] {
        assert_has!(bench.fails("cel", cel(expression)).await, parts[0], parts[1]);
    }
    assert_has!(bench.fails("cel", json!({"vars": {}})).await, "missing field `expression`");
}

#[tokio::test]
async fn without_directories_nothing_is_read_and_no_file_written() {
    let executors = Builtins::default().register(Executors::new());
    assert!(executors.lookup(&Uses::Function("read".into())).is_none());
    let bench = Bench { executors, ..Bench::new() };
    assert_has!(bench.fails("write", json!({"name": "x", "text": "", "path": "x"})).await, "no_output_root");
    bench.ok("write", json!({"name": "x", "text": ""})).await;
}

const COMPONENT: &str = r#"{
  "type": "library", "bom-ref": {{ purl|tojson }}, "name": {{ package.name|tojson }},
  "version": {{ package.version|tojson }}, "purl": {{ purl|tojson }}
  {% if package.checksum is defined %}, "hashes": [{"alg": "SHA-256", "content": {{ package.checksum|tojson }}}]{% endif %}
}"#;

const REPORT: &str = "# Report
{% for group in packages|groupby('name') if group.list|length > 1 %}
- {{ group.grouper }}: {{ group.list|map(attribute='version')|sort|join(', ') }}
{%- endfor %}
Missing checksums: {{ packages|selectattr('checksum', 'undefined')|map(attribute='name')|join(', ') }}
";

/// The way of the SBOM example: read, parse, one component for each package, the document, a report, a manifest.
#[tokio::test]
async fn a_lock_file_becomes_an_sbom_a_report_and_a_manifest() {
    let bench = Bench::new();
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    std::fs::copy(lock, bench.root().join("Cargo.lock")).unwrap();
    let text = bench.ok("read", json!({"path": "Cargo.lock"})).await["text"].clone();
    let packages = bench.ok("parse", json!({"format": "toml", "text": text})).await["package"].clone();
    let mut components = Vec::new();
    for package in packages.as_array().unwrap() {
        let template = format!(
            "{{% set purl = 'pkg:cargo/' ~ package.name ~ '@' ~ package.version|replace('+', '%2B') %}}{COMPONENT}"
        );
        let input = json!({"template": template, "data": {"package": package}, "as": "json"});
        components.push(bench.ok("template", input).await["json"].clone());
    }
    assert_eq!(components.len(), packages.as_array().unwrap().len());
    let sbom = bench
        .ok("template", json!({
            "template": "{\"bomFormat\": \"CycloneDX\", \"specVersion\": \"1.6\", \"version\": 1, \"components\": {{ components|tojson }}}",
            "data": {"components": components}, "as": "json",
        }))
        .await["json"]
        .clone();
    assert_eq!(sbom["components"], json!(components));
    let own = components.iter().find(|component| component["name"] == "orch").unwrap();
    assert_eq!((own.get("hashes"), &own["purl"]), (None, &json!("pkg:cargo/orch@0.1.0")));
    let written = bench.ok("write", json!({"name": "sbom.json", "value": sbom, "path": "sbom.json"})).await;
    let report =
        bench.ok("template", json!({"template": REPORT, "data": {"packages": packages}})).await["text"]
            .clone();
    let names: Vec<_> = packages.as_array().unwrap().iter().map(|package| &package["name"]).collect();
    let twice = |name: &&&Value| names.iter().filter(|other| other == name).count() > 1;
    let twice: BTreeSet<_> = names.iter().filter(twice).map(|name| name.as_str().unwrap()).collect();
    let reported =
        report.as_str().unwrap().lines().filter_map(|line| line.strip_prefix("- ")?.split(':').next());
    assert_eq!(reported.collect::<BTreeSet<_>>(), twice);
    assert_has!(report.as_str().unwrap(), "Missing checksums: orch");
    let hash = written["artifact"]["hash"].as_str().unwrap();
    let line = bench
        .ok("template", json!({"template": "{{ f.hash }}  {{ f.name }}", "data": {"f": written["artifact"]}}))
        .await;
    bench.ok("write", json!({"name": "SHA256SUMS", "lines": [line["text"]], "path": "SHA256SUMS"})).await;
    assert_eq!(bench.written("SHA256SUMS"), format!("{hash}  sbom.json\n"));
    assert_eq!(hash, crate::Digest::of(bench.written("sbom.json")).to_string());
}
