//! A service does it.

use std::io::Write;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use orch::engine::{DagVersion, Identity, PublishedDag, Resubmit, Submit, Submitted, VersionPlan};
use orch::planner::Operation;
use orch::proof::{Checkpoint, Manifest, Scope, SigningKey};
use orch::store::RunRow;
use orch::{Dag, DagId, Digest, Error, Result, RunId, StepId, Timestamp};
use orch_connect::read_text;
use orch_http::client::{Client, ClientSettings};

use super::Desk;
use crate::args::{Globals, WorkArgs};
use crate::connect::Mode;
use crate::fault::{Advise as _, Fault, Result as Told};

/// The most bytes of a file with a token.
const TOKEN_BYTES: u64 = 64 << 10;

/// A service that is reached with a token.
#[derive(Debug)]
pub(crate) struct There(Client);

impl There {
    /// The service that the command line names.
    pub(crate) fn new(globals: &Globals, server: &str, who: &Identity, mode: Mode<'_>) -> Told<Self> {
        if let Mode::Work(work) = mode {
            check(work)?;
        }
        Self::reach(globals, server, who).map(Self)
    }

    /// What speaks to the service that the command line names; nothing is sent yet.
    pub(crate) fn reach(globals: &Globals, server: &str, who: &Identity) -> Told<Client> {
        let settings = ClientSettings {
            token: globals.token.as_deref().map(token).transpose()?,
            authorities: globals.server_ca.clone(),
            reason: who.reason.clone(),
            ticket: who.ticket.clone(),
            ..ClientSettings::new(server, who.tenant.clone())
        };
        Client::new(&settings).advise(|_| Some("an address is written like https://orch.example".to_owned()))
    }

    /// What speaks to it.
    pub(crate) fn client(&self) -> Client {
        self.0.clone()
    }
}

/// The token itself, or what stands in the file that is named.
fn token(text: &str) -> Told<String> {
    let Some(path) = text.strip_prefix('@') else { return Ok(text.to_owned()) };
    let text = read_text(Path::new(path), TOKEN_BYTES)
        .map_err(|cause| Fault::said(format!("the token cannot be read from {path}: {cause}")))?;
    match text.lines().next().map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned()),
        None => Err(Fault::said(format!("the first line of {path} is no token"))),
    }
}

/// What the steps of a service may do was said by whoever started it.
fn check(work: &WorkArgs) -> Told<()> {
    let asked = [
        ("--sandbox", work.sandbox.is_some()),
        ("--secret", !work.secrets.is_empty()),
        ("--secret-file", !work.secret_files.is_empty()),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((name, _)) => Err(Fault::said(format!("{name} is about steps that this process executes"))
            .hint("with --server the service executes them, as whoever started it has said")),
    }
}

#[async_trait]
impl Desk for There {
    async fn publish(&self, dag: Dag) -> Result<DagVersion> {
        self.0.publish(&dag).await
    }

    async fn dags(&self) -> Result<Vec<PublishedDag>> {
        self.0.dags().await
    }

    async fn dag(&self, dag: &DagId) -> Result<PublishedDag> {
        self.0.dag(dag).await
    }

    async fn dag_version(&self, dag: &DagId, version: Option<u32>) -> Result<VersionPlan> {
        self.0.dag_version(dag, version).await
    }

    async fn set_disabled(&self, dag: &DagId, version: u32, disabled: bool) -> Result<DagVersion> {
        self.0.set_disabled(dag, version, disabled).await
    }

    async fn submit(&self, submit: Submit) -> Result<Submitted> {
        self.0.submit(&submit).await
    }

    async fn operate(&self, run: RunId, operation: Operation) -> Result<RunRow> {
        self.0.operate(run, &operation).await
    }

    async fn replay(&self, run: RunId) -> Result<Submitted> {
        self.0.replay(run, &Resubmit::default()).await
    }

    async fn rerun(&self, run: RunId, from: &StepId) -> Result<Submitted> {
        self.0.rerun(run, from, &Resubmit::default()).await
    }

    async fn artifact(&self, hash: &Digest) -> Result<Bytes> {
        self.0.artifact(hash).await
    }

    async fn checkpoint(&self, scope: Scope, key: Option<SigningKey>) -> Result<Option<Checkpoint>> {
        match key {
            None => self.0.checkpoint(scope).await,
            Some(_) => Err(Error::invalid("a service signs checkpoints with its own key; leave --key out")),
        }
    }

    async fn export(&self, run: Option<RunId>, writer: &mut (dyn Write + Send)) -> Result<Manifest> {
        self.0.export(run, writer).await
    }

    async fn prune(&self, ended_before: Timestamp) -> Result<u64> {
        self.0.prune(ended_before).await
    }
}
