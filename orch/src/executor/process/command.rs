//! From a step's input to a command, and from its end to an outcome.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Component, Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use serde::Deserialize;
use serde_json::Value;

use super::ProcessSettings;
use crate::executor::task::read_input;
use crate::executor::{Failure, Outcome, StepContext};
use crate::payload::Payload;

/// The longest piece of standard error in a failure's message, in bytes.
const LAST_WORDS_MAX: usize = 500;

/// What a `process` step says in `with`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Command {
    command: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    stdin: Value,
    workdir: Option<String>,
}

impl Command {
    pub(super) fn read(input: &Payload) -> Result<Self, Failure> {
        let command: Self = read_input(input)?;
        let has_nul = |text: &&String| text.contains('\0');
        let texts = command.args.iter().chain(command.env.values()).chain([&command.command]);
        if command.command.is_empty() || texts.chain(&command.workdir).any(|text| has_nul(&text)) {
            return Err(invalid("a command has a name, and no part of it holds the character NUL"));
        }
        Ok(command)
    }

    /// The command ready to start: a cleared environment, three pipes, a directory below the root.
    pub(super) fn prepare(
        &self,
        settings: &ProcessSettings,
        context: &StepContext,
    ) -> Result<tokio::process::Command, Failure> {
        let mut command = tokio::process::Command::new(&self.command);
        command.args(&self.args).current_dir(self.directory(&settings.root)?);
        let own = identity(context);
        command.env_clear().env("PATH", &settings.path).envs(&own);
        for (name, value) in &self.env {
            check_name(name)?;
            if context.secrets.contains_key(name) {
                return Err(invalid(format!("env.{name}: a declared secret has that name")));
            }
            if own.contains_key(name.as_str()) {
                return Err(invalid(format!("env.{name}: this one is set by orch itself")));
            }
            command.env(name, value);
        }
        for (name, secret) in context.secrets.iter() {
            check_name(name)?;
            if own.contains_key(name.as_str()) {
                return Err(invalid(format!("secrets: {name} is set by orch itself")));
            }
            if secret.expose().contains('\0') {
                return Err(invalid(format!("the secret {name} holds the character NUL")));
            }
            command.env(name, secret.expose());
        }
        let stdin = if self.stdin.is_null() { Stdio::null() } else { Stdio::piped() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// A string as it is, another value as JSON.
    pub(super) fn stdin_bytes(&self) -> Vec<u8> {
        match &self.stdin {
            Value::Null => Vec::new(),
            Value::String(text) => text.clone().into(),
            value => value.to_string().into(),
        }
    }

    fn directory(&self, root: &Path) -> Result<PathBuf, Failure> {
        let named = Path::new(self.workdir.as_deref().unwrap_or("."));
        let outside =
            || Failure::fatal("path_outside_root", format!("workdir {named:?} is not below the root"));
        if named.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(outside());
        }
        let real = |path: &Path| {
            path.canonicalize()
                .map_err(|error| Failure::fatal("no_workdir", format!("workdir {}: {error}", path.display())))
        };
        let (root, directory) = (real(root)?, real(&root.join(named))?);
        if !directory.starts_with(&root) {
            return Err(outside());
        }
        if !directory.is_dir() {
            return Err(Failure::fatal("no_workdir", format!("workdir {named:?} is not a directory")));
        }
        Ok(directory)
    }
}

/// What an attempt is told about itself.
fn identity(context: &StepContext) -> BTreeMap<&'static str, String> {
    let mut own = BTreeMap::from([
        ("ORCH_ATTEMPT", context.attempt.to_string()),
        ("ORCH_IDEMPOTENCY_KEY", context.idempotency_key()),
        ("ORCH_RUN_ID", context.run.run.to_string()),
        ("ORCH_STEP", context.step.to_string()),
    ]);
    own.extend(context.traceparent().map(|traceparent| ("TRACEPARENT", traceparent)));
    own.extend(context.baggage.clone().map(|baggage| ("BAGGAGE", baggage)));
    own
}

fn check_name(name: &str) -> Result<(), Failure> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(invalid(format!("{name:?} is no name of an environment variable")));
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::fatal("invalid_input", message)
}

/// What the end of a command means.
pub(super) fn outcome(status: ExitStatus, out: String, err: &str) -> Result<Outcome, Failure> {
    let (code, what) = match (status.code(), status.signal()) {
        (Some(0), _) => return output(out).map(Outcome::Succeeded),
        (Some(code), _) => (format!("exit_{code}"), format!("the command exited with code {code}")),
        (None, Some(signal)) => {
            (format!("signal_{signal}"), format!("the command was ended by signal {signal}"))
        }
        (None, None) => ("process_error".to_owned(), format!("the command ended strangely: {status}")),
    };
    let last_words = err.trim_end().lines().last().unwrap_or_default();
    let end = last_words.floor_char_boundary(LAST_WORDS_MAX);
    let message = if end == 0 { what } else { format!("{what}: {}", &last_words[..end]) };
    Err(Failure::retryable(code, message))
}

fn output(text: String) -> Result<Payload, Failure> {
    let unfit = |error| Failure::from_error("invalid_output", &error).into_fatal();
    match serde_json::from_str::<Value>(&text) {
        Ok(value) => Payload::new(&value).map_err(unfit),
        Err(_) => Payload::new(&serde_json::json!({ "stdout": text })).map_err(unfit),
    }
}
