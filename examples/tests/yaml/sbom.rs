//! The SBOM example, on this repository's own lock file, on odd ones and on a large one.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use orch::Limits;
use orch::ledger::RunStatus;
use orch::planner::RunState;
use serde_json::{Value, json};

use crate::kit::{Bench, output};

const FILES: [&str; 3] = ["SHA256SUMS", "report.md", "sbom.cdx.json"];

/// One of everything a lock file can hold: a local package, one without dependencies, two versions of a name, one
/// name and version from three places, a git repository with a query, another registry, build metadata in a version.
const CRAFTED: &str = r#"
version = 4

[[package]]
name = "app"
version = "0.1.0"
dependencies = [
 "dup 1.0.0",
 "dup 2.0.0+build.7",
 "forked",
 "private",
 "same 1.0.0",
 "same 1.0.0 (git+https://example.org/same?branch=main)",
 "same 1.0.0 (registry+https://github.com/rust-lang/crates.io-index)",
]

[[package]]
name = "dup"
version = "1.0.0"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "1111111111111111111111111111111111111111111111111111111111111111"

[[package]]
name = "dup"
version = "2.0.0+build.7"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "2222222222222222222222222222222222222222222222222222222222222222"

[[package]]
name = "forked"
version = "0.3.0"
source = "git+https://example.org/forked?tag=v0.3.0#0123456789012345678901234567890123456789"

[[package]]
name = "private"
version = "5.0.0"
source = "sparse+https://registry.example.org/index/"

[[package]]
name = "same"
version = "1.0.0"

[[package]]
name = "same"
version = "1.0.0"
source = "git+https://example.org/same?branch=main#abcdefabcdefabcdefabcdefabcdefabcdefabcd"

[[package]]
name = "same"
version = "1.0.0"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "3333333333333333333333333333333333333333333333333333333333333333"
"#;

const CRAFTED_REPORT: &str = "# What Cargo.lock locks

8 packages. SHA-256 of the lock file: `LOCK`

## Locked more than once

| package | versions |
|---|---|
| dup | 1.0.0, 2.0.0+build.7 |
| same | 1.0.0, 1.0.0, 1.0.0 |

## Without a checksum

| package | version | why |
|---|---|---|
| app | 0.1.0 | local: part of the workspace, or a path |
| forked | 0.3.0 | git: pinned by its commit |
| private | 5.0.0 | **registry: should have one** |
| same | 1.0.0 | local: part of the workspace, or a path |
| same | 1.0.0 | git: pinned by its commit |
";

/// What a run leaves behind.
struct Made {
    bench: Bench,
    state: RunState,
}

impl Made {
    async fn of(lock: &str) -> Self {
        let made = Self::with(Bench::new(), lock).await;
        made.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn with(bench: Bench, lock: &str) -> Result<Self, String> {
        std::fs::write(bench.path("Cargo.lock"), lock).unwrap();
        let (ended, state) = bench.run("sbom", json!({})).await;
        let why = |step: &orch::planner::StepState| step.error.as_ref().map(|error| error.message.clone());
        match ended {
            RunStatus::Completed => Ok(Self { bench, state }),
            _ => Err(state.steps().iter().find_map(why).unwrap()),
        }
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.bench.path("sbom-out").join(name)).unwrap()
    }

    fn sbom(&self) -> Value {
        serde_json::from_str(&self.file("sbom.cdx.json")).unwrap()
    }

    fn components(&self) -> Vec<Value> {
        self.sbom()["components"].as_array().unwrap().clone()
    }

    /// Against the published schema, and against what it cannot say: that references lead somewhere.
    fn assert_valid(&self) {
        let sbom = self.sbom();
        let errors: Vec<_> = cyclonedx().iter_errors(&sbom).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(sbom["version"], 1);
        let components = sbom["components"].as_array().unwrap();
        let refs: BTreeSet<_> = components.iter().map(|component| &component["bom-ref"]).map(text).collect();
        assert_eq!(refs.len(), components.len(), "references are unique");
        let dependencies = sbom["dependencies"].as_array().unwrap();
        let known: BTreeSet<_> = dependencies.iter().map(|dependency| text(&dependency["ref"])).collect();
        assert_eq!(known, refs);
        for on in dependencies.iter().flat_map(|dependency| dependency["dependsOn"].as_array().unwrap()) {
            assert!(refs.contains(text(on)), "{on} is no component");
        }
        let checked = Command::new("sha256sum")
            .args(["--check", "--strict", "SHA256SUMS"])
            .current_dir(self.bench.path("sbom-out"))
            .output()
            .unwrap();
        assert!(checked.status.success(), "{checked:?}");
        assert_eq!(String::from_utf8(checked.stdout).unwrap(), "report.md: OK\nsbom.cdx.json: OK\n");
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The published schema, with the two it refers to; nothing is fetched.
fn cyclonedx() -> jsonschema::Validator {
    let read = |name: &str| -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas").join(name);
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let mut registry = jsonschema::Registry::new();
    for name in ["spdx.schema.json", "jsf-0.82.schema.json"] {
        let resource = jsonschema::Resource::from_contents(read(name));
        registry = registry.add(format!("http://cyclonedx.org/schema/{name}"), resource).unwrap();
    }
    let registry = registry.prepare().unwrap();
    jsonschema::options().with_registry(&registry).build(&read("bom-1.6.schema.json")).unwrap()
}

fn own_lock() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock")).unwrap()
}

#[tokio::test]
async fn this_repository_gets_an_sbom_of_every_package() {
    let lock = own_lock();
    let made = Made::of(&lock).await;
    made.assert_valid();
    let packages = lock.matches("[[package]]").count();
    assert_eq!(made.components().len(), packages);
    let orch = made.components().into_iter().find(|component| component["name"] == "orch").unwrap();
    assert_eq!((&orch["purl"], &orch["hashes"]), (&json!("pkg:cargo/orch@0.1.0"), &json!([])));
    let summary = output(&made.state, "summary");
    assert_eq!(summary["packages"], packages);
    assert_eq!(
        summary["files"],
        json!(["sbom-out/sbom.cdx.json", "sbom-out/report.md", "sbom-out/SHA256SUMS"])
    );
}

#[tokio::test]
async fn files_and_artifacts_hold_the_same_bytes_and_nothing_else_is_written() {
    let made = Made::of(CRAFTED).await;
    let mut names: Vec<_> = std::fs::read_dir(made.bench.path("sbom-out"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, FILES);
    for (step, name) in [("manifest", "SHA256SUMS"), ("report", "report.md"), ("sbom", "sbom.cdx.json")] {
        let hash = text(&output(&made.state, step)["artifact"]["hash"]).parse().unwrap();
        let artifact = made.bench.orchestrator.artifacts().get(&made.bench.who.tenant, &hash).await.unwrap();
        assert_eq!(artifact, made.file(name), "{name}");
    }
}

#[tokio::test]
async fn the_report_names_what_is_locked_twice_and_what_has_no_checksum() {
    let made = Made::of(CRAFTED).await;
    let digest = orch::Digest::of(CRAFTED).to_string();
    assert_eq!(made.file("report.md"), CRAFTED_REPORT.replace("LOCK", &digest));
    let summary = output(&made.state, "summary");
    assert_eq!(summary["lockedMoreThanOnce"], 2);
    assert_eq!(summary["withoutChecksum"], 5);
}

#[tokio::test]
async fn every_kind_of_package_is_told_apart() {
    let made = Made::of(CRAFTED).await;
    made.assert_valid();
    let told: Vec<_> = made
        .components()
        .iter()
        .map(|component| (text(&component["bom-ref"]).to_owned(), text(&component["purl"]).to_owned()))
        .collect();
    let expected = [
        ("app", "pkg:cargo/app@0.1.0"),
        ("dup 1.0.0", "pkg:cargo/dup@1.0.0"),
        ("dup 2.0.0+build.7", "pkg:cargo/dup@2.0.0%2Bbuild.7"),
        (
            "forked",
            "pkg:cargo/forked@0.3.0?vcs_url=git%2Bhttps:%2F%2Fexample.org%2Fforked%400123456789012345678901234567890123456789",
        ),
        (
            "private",
            "pkg:cargo/private@5.0.0?repository_url=sparse%2Bhttps:%2F%2Fregistry.example.org%2Findex%2F",
        ),
        ("same 1.0.0", "pkg:cargo/same@1.0.0"),
        (
            "same 1.0.0 (git+https://example.org/same?branch=main)",
            "pkg:cargo/same@1.0.0?vcs_url=git%2Bhttps:%2F%2Fexample.org%2Fsame%40abcdefabcdefabcdefabcdefabcdefabcdefabcd",
        ),
        ("same 1.0.0 (registry+https://github.com/rust-lang/crates.io-index)", "pkg:cargo/same@1.0.0"),
    ];
    assert_eq!(told, expected.map(|(reference, purl)| (reference.to_owned(), purl.to_owned())));
    let hash = |digit: &str| json!([{ "alg": "SHA-256", "content": digit.repeat(64) }]);
    assert_eq!(made.components()[2]["hashes"], hash("2"));
    assert_eq!(made.sbom()["dependencies"][0]["dependsOn"].as_array().unwrap().len(), 7);
}

#[tokio::test]
async fn two_runs_give_the_same_bytes() {
    for lock in [own_lock(), CRAFTED.to_owned()] {
        let (first, second) = (Made::of(&lock).await, Made::of(&lock).await);
        for name in FILES {
            assert_eq!(first.file(name), second.file(name), "{name}");
        }
    }
    let other = Made::of(&CRAFTED.replace("0.1.0", "0.1.1")).await.sbom();
    assert_ne!(other["serialNumber"], Made::of(CRAFTED).await.sbom()["serialNumber"]);
}

#[tokio::test]
async fn format_3_and_a_project_of_one_package_are_read() {
    let alone = "version = 3\n\n[[package]]\nname = \"alone\"\nversion = \"0.1.0\"\n";
    let made = Made::of(alone).await;
    made.assert_valid();
    assert_eq!(made.sbom()["dependencies"], json!([{ "ref": "alone", "dependsOn": [] }]));
    assert!(made.file("report.md").contains("Nothing: every package is there once."));
    let made = Made::of(&format!(
        "{alone}source = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \"{}\"\n",
        "a".repeat(64)
    ))
    .await;
    assert!(made.file("report.md").contains("Nothing: every package has one."));
}

#[tokio::test]
async fn what_is_no_lock_file_fails_with_a_clear_word() {
    for (lock, word) in [
        ("[[package]\n", "toml"),
        ("version = 4\n", "package"),
        ("[[package]]\nname = \"old\"\nversion = \"1.0.0\"\n", "version"),
        ("version = 4\n\n[[package]]\nname = \"nameless\"\n", "version"),
    ] {
        let error = Made::with(Bench::new(), lock).await.err().expect(lock);
        assert!(error.contains(word), "{error}");
    }
    let bench = Bench::new();
    let (ended, state) = bench.run("sbom", json!({"lockfile": "../Cargo.lock"})).await;
    let error = state.steps()[0].error.as_ref().unwrap();
    assert_eq!((ended, error.code.as_str()), (RunStatus::Failed, "path_outside_root"));
}

/// Packages `p0`, `p1`, … of which each needs the five before it; every tenth name is there twice.
fn large(packages: usize) -> String {
    let mut lock = "version = 4\n".to_owned();
    let name = |n: usize| if n % 10 == 1 { format!("p{:05}", n - 1) } else { format!("p{n:05}") };
    let reference = |n: usize| {
        if n % 10 < 2 { format!("{} {n}.0.0", name(n)) } else { name(n) }
    };
    for n in 0..packages {
        let needs: String = (n.saturating_sub(5)..n).map(|on| format!(" \"{}\",\n", reference(on))).collect();
        lock.push_str(&format!(
            "\n[[package]]\nname = \"{}\"\nversion = \"{n}.0.0\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \"{:064x}\"\ndependencies = [\n{needs}]\n",
            name(n),
            n
        ));
    }
    lock
}

#[tokio::test]
async fn thousands_of_packages_are_no_trouble() {
    let made = Made::of(&large(3_000)).await;
    made.assert_valid();
    assert_eq!(made.components().len(), 3_000);
    assert_eq!(output(&made.state, "summary")["lockedMoreThanOnce"], 300);
}

#[tokio::test]
async fn a_list_too_large_for_the_ledger_is_an_error_and_not_an_empty_sbom() {
    let error = Made::with(Bench::with_limits(Limits::default()), &large(3_000)).await.err().unwrap();
    assert!(error.contains("artifact"), "{error}");
}
