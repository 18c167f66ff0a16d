//! From the words of the command line to an orchestrator: the backends, the artifacts, the executors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orch::engine::{Identity, Orchestrator, Roles, Settings};
use orch::executor::{Builtins, Executors, ProcessExecutor, ProcessSettings, Secret};
use orch::spec::Uses;
use orch::{Artifacts, Error, Limits, TenantId};
use orch_backend_sqlite::SqliteBackend;
use orch_connect::{Access, read_text};

use crate::args::{Globals, Sandbox, WorkArgs};
use crate::desk::{self, Desk, Here};
use crate::fault::{Advise as _, Fault, NOT_ALLOWED, Result};

pub(crate) use orch_connect::{Address, Backends, Places, Seam, advice};

/// The most bytes of one inline payload: a person's machine has room for more than a shared service.
const PAYLOAD_BYTES: usize = 4 << 20;
/// The most bytes of a file with a secret.
const SECRET_BYTES: u64 = 64 << 10;
/// How long a first Ctrl-C waits for running steps.
pub(crate) const DRAIN: Duration = Duration::from_secs(30);
/// How often a working process looks for runs that nobody told it of, where that costs little: in a file.
const SWEEP: Duration = Duration::from_secs(2);

/// What a process does that carries nothing on.
const READS: Roles = Roles { submit: true, schedule: false, work: false };

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

    /// What it needs: who only looks needs no queue, and who only records no lock.
    fn seams(self) -> &'static [Seam] {
        match self {
            Self::Look => &[Seam::Store],
            Self::Record => &[Seam::Store, Seam::Queue],
            Self::Work(_) => &Seam::ALL,
        }
    }

    /// What it asks of a backend.
    pub(crate) fn access(self) -> Access {
        if matches!(self, Self::Look) { Access::Read } else { Access::Write }
    }
}

/// What a command works with, on behalf of somebody.
#[derive(Debug)]
pub(crate) struct Session {
    /// What is looked at is read through this, also the record of a service: folded and verified here.
    pub(crate) orch: Orchestrator,
    /// What is done goes this way.
    pub(crate) desk: Box<dyn Desk>,
    pub(crate) who: Identity,
    /// What this process can execute; nothing when it does not work.
    executors: Option<Executors>,
    backends: Backends,
    served: bool,
}

impl Session {
    /// Opens what the mode needs and starts what it asks for.
    pub(crate) async fn open(globals: &Globals, mode: Mode<'_>) -> Result<Self> {
        let who = identity(globals)?;
        if let Some(server) = &globals.server {
            return Self::served(globals, server, who, mode);
        }
        let places = places(globals)?;
        if let (Mode::Look, Address::Sqlite(config)) = (mode, &places.store)
            && !config.path.exists()
        {
            let path = config.path.display();
            return Err(Fault::from(Error::not_found("there is no store here yet").with("path", path))
                .hint("`orch run FILE` makes one; --store names another"));
        }
        let settings = settings(mode, &who.tenant, &places.store);
        let mut builder = Orchestrator::builder().settings(settings).label("cli");
        let mut executors = None;
        if let Mode::Work(work) = mode {
            let secrets = secrets(work)?;
            let registered = self::executors(globals, work)?;
            builder = builder.executors(registered.clone());
            builder = builder.secrets(move |_, name| secrets.get(name).cloned());
            executors = Some(registered);
        }
        let mut backends = Backends::default();
        builder = backends.build(builder, &places, mode.access(), mode.seams()).await?;
        if let Some(artifacts) = artifacts(places.artifacts(globals.artifacts.as_deref()), mode)? {
            builder = builder.artifacts(artifacts);
        }
        let orch = builder.start()?;
        let only_reads = backends.sqlite().is_some_and(SqliteBackend::is_read_only);
        let desk = Box::new(Here { orch: orch.clone(), who: who.clone(), only_reads });
        Ok(Self { orch, desk, who, executors, backends, served: false })
    }

    /// Prepares a session with a service, which keeps the runs and carries them on; nothing is sent yet.
    #[cfg(feature = "remote")]
    fn served(globals: &Globals, server: &str, who: Identity, mode: Mode<'_>) -> Result<Self> {
        let desk = desk::There::new(globals, server, &who, mode)?;
        let settings = Settings { limits: limits(), roles: READS, ..Settings::default() };
        let builder = Orchestrator::builder().settings(settings).store(Arc::new(desk.client()));
        let (orch, backends) = (builder.start()?, Backends::default());
        Ok(Self { orch, desk: Box::new(desk), who, executors: None, backends, served: true })
    }

    /// Says what to build.
    #[cfg(not(feature = "remote"))]
    fn served(_: &Globals, _: &str, _: Identity, _: Mode<'_>) -> Result<Self> {
        Err(desk::missing())
    }

    /// Whether a service carries runs on, and not this process.
    pub(crate) fn is_served(&self) -> bool {
        self.served
    }

    /// Whether this process works and yet cannot execute such a step.
    pub(crate) fn cannot_execute(&self, uses: &Uses) -> bool {
        self.executors.as_ref().is_some_and(|executors| uses.is_task() && executors.lookup(uses).is_none())
    }

    /// Whether nothing can be recorded in the store.
    pub(crate) fn only_reads(&self) -> bool {
        self.backends.sqlite().is_some_and(SqliteBackend::is_read_only)
    }

    /// What is damaged in the database file, if there is one.
    pub(crate) async fn integrity(&self) -> Result<Vec<String>> {
        match self.backends.sqlite() {
            None => Ok(Vec::new()),
            Some(backend) => Ok(backend.integrity().await?),
        }
    }

    /// What about the backends could lose data.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.backends.warnings().map(|(address, warning)| format!("{address}: {warning}")).collect()
    }

    /// Ends gracefully: running steps are waited for or given back, and the backends are closed.
    pub(crate) async fn close(self) {
        self.orch.shutdown().await;
        self.backends.close().await;
    }
}

/// The places that the command line names.
pub(crate) fn places(globals: &Globals) -> Result<Places> {
    Ok(Places::read(&globals.store, globals.queue.as_deref(), globals.lock.as_deref())?)
}

/// Who acts for whom.
pub(crate) fn identity(globals: &Globals) -> Result<Identity> {
    let tenant = TenantId::new(&globals.tenant).map_err(|error| Fault::from(error).code(NOT_ALLOWED))?;
    let user = || ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let actor = globals.actor.clone().or_else(user).filter(|name| !name.is_empty());
    let mut who = Identity::new(tenant, actor.unwrap_or_else(|| "local".to_owned()));
    who.reason.clone_from(&globals.reason);
    who.ticket.clone_from(&globals.ticket);
    Ok(who)
}

/// The bounds for local use.
pub(crate) fn limits() -> Limits {
    Limits { payload_bytes: PAYLOAD_BYTES, ..Limits::default() }
}

fn settings(mode: Mode<'_>, tenant: &TenantId, store: &Address) -> Settings {
    let mut base = Settings { limits: limits(), drain: DRAIN, ..Settings::default() };
    if !store.is_remote() {
        base.sweep_every = SWEEP;
    }
    match mode {
        Mode::Look | Mode::Record => Settings { roles: READS, ..base },
        Mode::Work(work) => Settings {
            slots: work.slots,
            lease: work.lease,
            tenants: Some(vec![tenant.clone()]),
            sandbox: work.sandbox.map(|Sandbox::None| "none".to_owned()),
            ..base
        },
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

/// The working directory, and what steps run and may read below.
pub(crate) fn grounds(globals: &Globals) -> Result<(PathBuf, PathBuf)> {
    let here = std::env::current_dir()
        .map_err(|cause| Fault::said(format!("the working directory cannot be used: {cause}")))?;
    let root = globals.root.clone().map_or_else(|| here.clone(), |root| here.join(root));
    match root.is_dir() {
        true => Ok((here, root)),
        false => Err(Fault::said(format!("--root is no directory: {}", root.display()))),
    }
}

fn executors(globals: &Globals, work: &WorkArgs) -> Result<Executors> {
    let (here, root) = grounds(globals)?;
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
pub(crate) fn secrets(work: &WorkArgs) -> Result<BTreeMap<String, Secret>> {
    let mut secrets = BTreeMap::new();
    for name in &work.secrets {
        let value = std::env::var(name)
            .map_err(|_| Fault::said(format!("the environment variable of --secret {name} is not set")))?;
        secrets.insert(name.clone(), Secret::new(value)?);
    }
    for pair in &work.secret_files {
        let (name, path) =
            pair.split_once('=').ok_or_else(|| Fault::said("--secret-file is written NAME=PATH"))?;
        let value = read_text(Path::new(path), SECRET_BYTES)
            .map_err(|cause| Fault::said(format!("the secret {name} cannot be read from {path}: {cause}")))?;
        // Editors end files with a newline that is no part of the secret.
        let value = value.strip_suffix('\n').map_or(value.as_str(), |line| line.trim_end_matches('\r'));
        secrets.insert(name.to_owned(), Secret::new(value)?);
    }
    Ok(secrets)
}
