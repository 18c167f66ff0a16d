//! From the words of the command line to an orchestrator: the store, the artifacts, the executors.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orch::engine::{Identity, Orchestrator, Roles, Settings};
use orch::executor::{Builtins, Executors, ProcessExecutor, ProcessSettings, Secret};
use orch::spec::Uses;
use orch::{Artifacts, Error, ErrorKind, Limits, TenantId};
use orch_backend_sqlite::{SqliteBackend, SqliteConfig};

use crate::args::{Globals, Sandbox, WorkArgs};
use crate::fault::{Advise as _, Fault, NOT_ALLOWED, Result};

/// The most bytes of one inline payload: a person's machine has room for more than a shared service.
const PAYLOAD_BYTES: usize = 4 << 20;
/// The most bytes of a file with a secret.
const SECRET_BYTES: u64 = 64 << 10;
/// How long a first Ctrl-C waits for running steps.
pub(crate) const DRAIN: Duration = Duration::from_secs(30);
/// How often a working process looks for runs that nobody told it of.
const SWEEP: Duration = Duration::from_secs(2);

/// What a command may do with the store.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode<'a> {
    /// Look. A store that is not there is an error, not made.
    Look,
    /// Record changes.
    Record,
    /// Record changes and carry runs on.
    Work(&'a WorkArgs),
}

impl<'a> Mode<'a> {
    /// What a command that changes a run does.
    pub(crate) fn of(work: &'a WorkArgs) -> Self {
        if work.no_work { Self::Record } else { Self::Work(work) }
    }
}

/// An orchestrator on behalf of somebody.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) orch: Orchestrator,
    pub(crate) who: Identity,
    /// What this process can execute; nothing when it does not work.
    executors: Option<Executors>,
    backend: Option<SqliteBackend>,
}

impl Session {
    /// Opens the store and starts what the mode asks for.
    pub(crate) async fn open(globals: &Globals, mode: Mode<'_>) -> Result<Self> {
        let who = identity(globals)?;
        let place = Place::of(globals)?;
        if let (Mode::Look, Place::File(config)) = (mode, &place)
            && !config.path.exists()
        {
            let path = config.path.display();
            return Err(Fault::from(Error::not_found("there is no store here yet").with("path", path))
                .hint("`orch run FILE` makes one; --store names another"));
        }
        let builder = Orchestrator::builder().settings(settings(mode, &who.tenant)).label("cli");
        let (mut builder, executors) = match mode {
            Mode::Work(work) => {
                let (secrets, executors) = (secrets(work)?, executors(globals, work)?);
                let builder = builder.executors(executors.clone());
                (builder.secrets(move |_, name| secrets.get(name).cloned()), Some(executors))
            }
            Mode::Look | Mode::Record => (builder, None),
        };
        let directory = place.artifacts(globals);
        let backend = match place {
            Place::Memory => None,
            Place::File(config) => {
                let backend = open(config, mode).await.advise(advice)?;
                builder = builder.store(Arc::new(backend.store())).lock(Arc::new(backend.lock()));
                Some(backend)
            }
        };
        if let Some(artifacts) = artifacts(directory, mode)? {
            builder = builder.artifacts(artifacts);
        }
        Ok(Self { orch: builder.start()?, who, executors, backend })
    }

    /// Whether this process works and yet cannot execute such a step.
    pub(crate) fn cannot_execute(&self, uses: &Uses) -> bool {
        self.executors.as_ref().is_some_and(|executors| uses.is_task() && executors.lookup(uses).is_none())
    }

    /// Whether nothing can be recorded in the store.
    pub(crate) fn only_reads(&self) -> bool {
        self.backend.as_ref().is_some_and(SqliteBackend::is_read_only)
    }

    /// What is damaged in the database file.
    pub(crate) async fn integrity(&self) -> Result<Vec<String>> {
        match &self.backend {
            None => Ok(Vec::new()),
            Some(backend) => Ok(backend.integrity().await?),
        }
    }

    /// Ends gracefully: running steps are waited for or given back, and the store is closed.
    pub(crate) async fn close(self) {
        self.orch.shutdown().await;
        if let Some(backend) = self.backend {
            backend.close().await;
        }
    }
}

/// Where runs are kept.
#[derive(Debug)]
pub(crate) enum Place {
    /// In this process.
    Memory,
    /// In a file.
    File(SqliteConfig),
}

impl Place {
    /// The place that the command line names.
    pub(crate) fn of(globals: &Globals) -> Result<Self> {
        if globals.store == "memory:" {
            return Ok(Self::Memory);
        }
        let config = globals.store.parse::<SqliteConfig>();
        config.map(Self::File).advise(|_| Some("write `sqlite:PATH` or `memory:`".to_owned()))
    }

    /// The directory of artifacts, if they are kept in one.
    pub(crate) fn artifacts(&self, globals: &Globals) -> Option<PathBuf> {
        match (&globals.artifacts, self) {
            (Some(directory), _) => Some(directory.clone()),
            (None, Self::File(config)) => {
                Some(config.path.parent().unwrap_or_else(|| Path::new("")).join("artifacts"))
            }
            (None, Self::Memory) => None,
        }
    }
}

/// Who acts for whom.
pub(crate) fn identity(globals: &Globals) -> Result<Identity> {
    let tenant = TenantId::new(&globals.tenant).map_err(|error| Fault::from(error).code(NOT_ALLOWED))?;
    let user = || ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let actor = globals.actor.clone().or_else(user).filter(|name| !name.is_empty());
    let mut who = Identity::new(tenant, actor.unwrap_or_else(|| "local".to_owned()));
    who.reason.clone_from(&globals.reason);
    Ok(who)
}

/// The bounds for local use.
pub(crate) fn limits() -> Limits {
    Limits { payload_bytes: PAYLOAD_BYTES, ..Limits::default() }
}

fn settings(mode: Mode<'_>, tenant: &TenantId) -> Settings {
    let base = Settings { limits: limits(), drain: DRAIN, sweep_every: SWEEP, ..Settings::default() };
    match mode {
        Mode::Look | Mode::Record => {
            Settings { roles: Roles { submit: true, schedule: false, work: false }, ..base }
        }
        Mode::Work(work) => Settings {
            slots: work.slots,
            lease: work.lease,
            tenants: Some(vec![tenant.clone()]),
            sandbox: work.sandbox.map(|Sandbox::None| "none".to_owned()),
            ..base
        },
    }
}

/// Opens the file; for reading only where it may not be written and the command only looks.
async fn open(config: SqliteConfig, mode: Mode<'_>) -> orch::Result<SqliteBackend> {
    let mut look = config.clone();
    look.read_only = true;
    let looks = matches!(mode, Mode::Look);
    if looks && std::fs::metadata(&config.path).is_ok_and(|file| file.permissions().readonly()) {
        return SqliteBackend::open(look).await;
    }
    match SqliteBackend::open(config).await {
        Err(error) if looks && error.kind() == ErrorKind::Refused => SqliteBackend::open(look).await,
        opened => opened,
    }
}

fn artifacts(directory: Option<PathBuf>, mode: Mode<'_>) -> Result<Option<Artifacts>> {
    let Some(directory) = directory else { return Ok(None) };
    // Only work makes directories.
    if !matches!(mode, Mode::Work(_)) && !directory.exists() {
        return Ok(None);
    }
    let opened = Artifacts::local(&directory);
    opened.map(Some).advise(|_| Some("--artifacts names another directory".to_owned()))
}

fn executors(globals: &Globals, work: &WorkArgs) -> Result<Executors> {
    let here = std::env::current_dir()
        .map_err(|cause| Fault::said(format!("the working directory cannot be used: {cause}")))?;
    let root = globals.root.clone().map_or_else(|| here.clone(), |root| here.join(root));
    if !root.is_dir() {
        return Err(Fault::said(format!("--root is no directory: {}", root.display())));
    }
    let builtins = Builtins { root: Some(root.clone()), output: Some(here) };
    let executors = builtins.register(Executors::new());
    Ok(match work.sandbox {
        None => executors,
        Some(Sandbox::None) => {
            let process = ProcessExecutor::unsandboxed(ProcessSettings::below(root));
            executors.executor("process", env!("CARGO_PKG_VERSION"), Arc::new(process))
        }
    })
}

/// The secrets, from the environment and from files: never from the command line, which every process can read.
fn secrets(work: &WorkArgs) -> Result<BTreeMap<String, Secret>> {
    let mut secrets = BTreeMap::new();
    for name in &work.secrets {
        let value = std::env::var(name)
            .map_err(|_| Fault::said(format!("the environment variable of --secret {name} is not set")))?;
        secrets.insert(name.clone(), Secret::new(value)?);
    }
    for pair in &work.secret_files {
        let (name, path) =
            pair.split_once('=').ok_or_else(|| Fault::said("--secret-file is written NAME=PATH"))?;
        let value = read_secret(Path::new(path))
            .map_err(|cause| Fault::said(format!("the secret {name} cannot be read from {path}: {cause}")))?;
        // Editors end files with a newline that is no part of the secret.
        let value = value.strip_suffix('\n').map_or(value.as_str(), |line| line.trim_end_matches('\r'));
        secrets.insert(name.to_owned(), Secret::new(value)?);
    }
    Ok(secrets)
}

fn read_secret(path: &Path) -> std::io::Result<String> {
    let mut value = String::new();
    std::fs::File::open(path)?.take(SECRET_BYTES).read_to_string(&mut value)?;
    Ok(value)
}

fn advice(error: &Error) -> Option<String> {
    use orch::ErrorKind::{Corrupt, Refused, Unavailable};
    match error.kind() {
        Refused | Unavailable => Some(
            "orch needs a directory that it may write to, on a disk with room; --store names another file"
                .to_owned(),
        ),
        Corrupt => Some("restore the file from a backup; nothing was changed".to_owned()),
        _ => None,
    }
}
