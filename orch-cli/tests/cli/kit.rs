//! What every test of the command line needs.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// A directory of its own, and `orch` in it.
pub(crate) struct Lab {
    directory: TempDir,
    /// Whether the directory is a disk.
    mounted: bool,
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
        Self { directory: TempDir::new().unwrap(), mounted: false }
    }

    /// A laboratory on a small disk of its own, in memory. Mounting takes root: without it there is none, and the test
    /// says that it was skipped; where `ORCH_REQUIRE` names `tmpfs`, it fails.
    #[cfg(target_os = "linux")]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    pub(crate) fn on_disk(size: &str, test: &str) -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(directory.path());
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self { directory, mounted: true });
        }
        let required = std::env::var("ORCH_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "tmpfs"),
            "a tmpfs is required and cannot be mounted"
        );
        eprintln!("skipped: {test}: a tmpfs cannot be mounted here");
        None
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

impl Drop for Lab {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: whatever a failed test has left there goes with it.
            let _ = Command::new("umount").arg("--lazy").arg(self.directory.path()).status();
        }
    }
}

/// A process at work, and what it says on standard error. It is killed when the test ends.
pub(crate) struct Worker {
    child: Child,
    said: Receiver<String>,
    lines: Vec<String>,
}

impl Worker {
    /// No process takes longer to say the next thing.
    const PATIENCE: Duration = Duration::from_secs(60);

    pub(crate) fn start(lab: &Lab, args: &[&str]) -> Self {
        let mut child = lab.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, said) = channel();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut line = String::new();
            // What a kill cuts off is no line.
            while stderr.read_line(&mut line).is_ok() && line.pop() == Some('\n') {
                if lines.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        Self { child, said, lines: Vec::new() }
    }

    /// Waits for its next line; nothing when it has ended.
    pub(crate) fn listen(&mut self) -> Option<&str> {
        match self.said.recv_timeout(Self::PATIENCE) {
            Ok(line) => {
                self.lines.push(line);
                self.lines.last().map(String::as_str)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("nothing was said for a minute after {:?}", self.lines.last())
            }
        }
    }

    /// Waits until it says something with these words in it.
    pub(crate) fn hear(&mut self, words: &str) {
        while !self.listen().unwrap_or_else(|| panic!("it ended without a word of {words}")).contains(words) {
        }
    }

    /// The steps of which it has said that they succeeded.
    pub(crate) fn announced(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| line.split_once("✓ succeeded  ")?.1.split("  ").next())
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGKILL; hears what it said until then.
    pub(crate) fn kill(&mut self) -> ExitStatus {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        while self.listen().is_some() {}
        status
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        while self.listen().is_some() {}
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        Ended { code, stdout, stderr: self.lines.join("\n") }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail when it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A service in the directory of a laboratory, told of with `orch serve`. It is killed when the test ends.
#[cfg(feature = "serve")]
pub(crate) struct Service {
    child: Child,
    /// Where it is, as in `http://127.0.0.1:8470`.
    pub(crate) address: String,
    /// What it lets in.
    pub(crate) token: String,
}

#[cfg(feature = "serve")]
impl Service {
    pub(crate) fn start(lab: &Lab, args: &[&str]) -> Self {
        let mut service = lab.command(&[&["serve", "--listen", "127.0.0.1:0"], args].concat());
        let mut child = service.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let address = said.split_whitespace().find(|word| word.starts_with("http://"));
        let address = address.unwrap_or_else(|| panic!("{said}")).to_owned();
        let token = std::fs::read_to_string(lab.path(".orch/token")).unwrap();
        Self { child, address, token: token.trim().to_owned() }
    }
}

#[cfg(feature = "serve")]
impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
