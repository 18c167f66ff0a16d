//! `cargo xtask api`: schemathesis (PyPI) against a real service. It makes requests out of the OpenAPI document, good and bad
//! ones, alone and in sequences, and holds every answer against it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{cargo, root, say, target};

const VERSION: &str = "4.32.5";
/// What every answer must be.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                      response_headers_conformance,unsupported_method,allow_header_conformance,ignored_auth";
/// Streams, and exports: they answer for as long as somebody listens.
const ENDLESS: &str = "runs/stream$|exports$";

/// A service that ends with this.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it for so many seconds.
pub(crate) fn run(seconds: &str) -> Result<(), String> {
    let program = fetched()?;
    cargo("the service", &["build", "--package", "orch-http", "--locked"], &[])?;
    let target = target();
    let place = target.join("api");
    if place.exists() {
        fs::remove_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    }
    fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    let log = fs::File::create(place.join("log")).map_err(|error| error.to_string())?;
    let mut server = Command::new(target.join("debug/orch-server"));
    server.args(["--listen", "127.0.0.1:0"]).current_dir(&place).stdout(Stdio::piped()).stderr(log);
    let mut service = Service(server.spawn().map_err(|error| format!("orch-server: {error}"))?);
    let mut said = String::new();
    let lines = service.0.stdout.take().ok_or("orch-server says nothing")?;
    BufReader::new(lines).read_line(&mut said).map_err(|error| error.to_string())?;
    let url = said
        .split_whitespace()
        .find(|word| word.starts_with("http://"))
        .ok_or("orch-server names no address")?;
    let token = fs::read_to_string(place.join(".orch/token")).map_err(|error| error.to_string())?;
    let mut tool = Command::new(program);
    tool.arg("run").arg(format!("{url}/.well-known/openapi")).args(["--url", url, "--checks", CHECKS]);
    tool.args(["--exclude-path-regex", ENDLESS, "--request-timeout", "90", "--continue-on-failure"]);
    tool.args(["--max-time", seconds, "-H", "X-Stella-Tenant: default"]);
    tool.arg("-H").arg(format!("Authorization: Bearer {token}")).current_dir(&place);
    say(&format!("── schemathesis against {url}, for {seconds} s"));
    match tool.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the service does not do as its document says ({status})")),
        Err(error) => Err(format!("schemathesis cannot be run: {error}")),
    }
}

/// The program, fetched unless it is there.
fn fetched() -> Result<PathBuf, String> {
    let place = root().join(".cache/schemathesis").join(VERSION);
    let program = place.join("bin/schemathesis");
    if !program.exists() {
        python(Path::new("python3"), &["-m", "venv", &place.to_string_lossy()])?;
        let package = format!("schemathesis=={VERSION}");
        python(&place.join("bin/python"), &["-m", "pip", "install", "--quiet", &package])?;
    }
    Ok(program)
}

fn python(program: &Path, arguments: &[&str]) -> Result<(), String> {
    match Command::new(program).args(arguments).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{}: {status}", program.display())),
        Err(error) => Err(format!("{}: {error}", program.display())),
    }
}
