//! What every test of the command line needs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A directory of its own, and `orch` in it.
pub(crate) struct Lab {
    directory: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> &Self {
        std::fs::write(self.path(name), text).unwrap();
        self
    }

    /// Writes a document from everything but its head.
    pub(crate) fn dag(&self, id: &str, rest: &str) -> &Self {
        self.write(&format!("{id}.yaml"), &format!("apiVersion: orch/v1\nkind: Dag\nid: {id}\n{rest}"))
    }

    /// The command with nothing in its environment but a user: no HOME, no terminal.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        command_in(self.directory.path(), args)
    }

    pub(crate) fn orch(&self, args: &[&str]) -> Ended {
        Ended::of(self.command(args).output().unwrap())
    }

    /// A command that must exit with 0 and answer one JSON document.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let ended = self.orch(&[args, &["--json"]].concat());
        assert_eq!(ended.code, 0, "{args:?}: {ended:?}");
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {ended:?}"))
    }

    /// Lines of NDJSON.
    pub(crate) fn lines(&self, args: &[&str]) -> Vec<Value> {
        let ended = self.orch(&[args, &["--json"]].concat());
        assert_eq!(ended.code, 0, "{args:?}: {ended:?}");
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub(crate) fn command_in(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
    command.args(args).current_dir(directory).env_clear().env("USER", "tester").stdin(Stdio::null());
    command
}

impl Ended {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Everything in one text, for a snapshot.
    pub(crate) fn all(&self) -> String {
        let Self { code, stdout, stderr } = self;
        format!("exit {code}\n--- stdout\n{stdout}--- stderr\n{stderr}")
    }
}

/// Compares with a snapshot in which nothing is left that differs from run to run.
macro_rules! assert_looks {
    ($name:literal, $text:expr) => {
        // The widths of columns depend on what stood in them.
        crate::kit::assert_looks!($name, $text, (r" {2,}", "  "))
    };
    ($name:literal, $text:expr, $blanks:expr) => {
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true, filters => vec![
            (r"[0-9a-f]{64}", "[hash]"),
            (r"[0-9a-f]{32}", "[run]"),
            (r"\b[0-9a-f]{12}\b", "[short]"),
            (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "[token]"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "[instant]"),
            (r"\b\d\d:\d\d:\d\d\b", "[time]"),
            (r"\b\d+s ago", "[ago]"),
            (r" *\b(\d+ms|\d+\.\d+s)\b", " [took]"),
            // Where below the working directory files lie is not for the command line to say.
            (r"\S*/?hello\.txt", "[file]"),
            $blanks,
        ]}, { insta::assert_snapshot!($name, $text) })
    };
}
pub(crate) use assert_looks;
