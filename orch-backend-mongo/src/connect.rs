//! Connecting: what the driver is told, what the server must be able to do, and how calls are made.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};
use mongodb::options::{
    Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, Tls, WriteConcern,
};
use mongodb::{Client, Collection};
use orch::{Error, Result};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::de::DeserializeOwned;

use crate::config::MongoConfig;
use crate::error::{Doing, late, mapped, of_opening, reading, writing};
use crate::indexes;

/// Sub-queries of one aggregation: a pipeline may have 1 000 stages, and some servers allow 200.
const UNION_MAX: usize = 100;

/// Statements of one command: well below 16 MiB.
const STATEMENTS_MAX: usize = 1_000;

/// Documents of one answer, if they fit 16 MiB: everything there is.
const BATCH: u32 = 100_000;

/// How long to look for a server, and to connect to it, where the address does not say.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the three seams share.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
    pub(crate) database: mongodb::Database,
    pub(crate) config: MongoConfig,
    write_concern: WriteConcern,
    /// Whether the server tells of changes: it is a member of a replica set, or a router of a cluster.
    pub(crate) tells: bool,
    closed: AtomicBool,
}

/// What a batch of updates or deletes did.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Documents that were matched, made or deleted.
    pub(crate) matched: usize,
    /// Statements that the server refused: number, code, its words.
    pub(crate) refused: Vec<(usize, i32, String)>,
}

/// How the driver is to behave: what the address leaves open, and what is not open to discussion.
pub(crate) async fn options(config: &MongoConfig) -> Result<ClientOptions> {
    let parsed = ClientOptions::parse(config.connection()?).await;
    let mut options = parsed.map_err(|error| mapped(&error, Doing::Reading))?;
    options.app_name.get_or_insert_with(|| "orch".to_owned());
    options.server_selection_timeout.get_or_insert(PATIENCE);
    options.connect_timeout.get_or_insert(PATIENCE);
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    let mut concern = options.write_concern.take().unwrap_or_default();
    concern.w.get_or_insert(Acknowledgment::Majority);
    concern.journal.get_or_insert(true);
    concern.w_timeout.get_or_insert(config.call_timeout);
    // Heads that may be rolled back must not be seen, unless one's own are such.
    let read = if is_strong(&concern) { ReadConcern::majority() } else { ReadConcern::local() };
    options.read_concern = Some(read);
    options.write_concern = Some(concern);
    Ok(options)
}

/// Looks into the files that TLS is to use: the driver would take one without certificates for a list of nobody to trust.
fn check_files(options: &ClientOptions) -> Result<()> {
    let Some(Tls::Enabled(tls)) = &options.tls else { return Ok(()) };
    if let Some(path) = &tls.ca_file_path {
        check_certificates(path, &read(path)?)?;
    }
    if let Some(path) = &tls.cert_key_file_path {
        let text = read(path)?;
        check_certificates(path, &text)?;
        if PrivateKeyDer::from_pem_slice(&text).is_err() {
            return Err(Error::invalid("file holds no private key (PEM)").with("path", path.display()));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|cause| {
        Error::invalid("certificate or key cannot be read").with("path", path.display()).caused_by(cause)
    })
}

fn check_certificates(path: &Path, text: &[u8]) -> Result<()> {
    let wrong = || Error::invalid("file holds no certificate (PEM)").with("path", path.display());
    let mut known = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text) {
        let certificate = certificate.map_err(|cause| wrong().caused_by(cause.to_string()))?;
        known.add(certificate).map_err(|cause| wrong().caused_by(cause.to_string()))?;
    }
    if known.is_empty() { Err(wrong()) } else { Ok(()) }
}

/// Whether an answered write outlives loss of power, and of any minority of the servers.
fn is_strong(concern: &WriteConcern) -> bool {
    concern.w == Some(Acknowledgment::Majority) && concern.journal == Some(true)
}

impl Connection {
    pub(crate) async fn open(config: MongoConfig) -> Result<Self> {
        let options = options(&config).await?;
        Self::open_with(config, options).await
    }

    pub(crate) async fn open_with(config: MongoConfig, options: ClientOptions) -> Result<Self> {
        // Whoever embeds this may have chosen a provider already: any is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        check_files(&options)?;
        let encrypted = matches!(options.tls, Some(Tls::Enabled(_)));
        let write_concern = options.write_concern.clone().unwrap_or_default();
        let client = Client::with_options(options).map_err(|error| mapped(&error, Doing::Reading))?;
        let database = client.database(&config.namespace);
        let hello = database.run_command(doc! {"hello": 1}).await;
        let hello = hello.map_err(|error| of_opening(&error, encrypted))?;
        let tells = hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
        indexes::ensure(&database).await?;
        Ok(Self { client, database, config, write_concern, tells, closed: AtomicBool::new(false) })
    }

    pub(crate) fn collection<T: Send + Sync>(&self, name: &str) -> Collection<T> {
        self.database.collection(name)
    }

    /// Whether an answered write outlives loss of power.
    pub(crate) fn is_durable(&self) -> bool {
        is_strong(&self.write_concern)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Lets later calls answer `Closed`.
    pub(crate) fn refuse(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) async fn shut_down(&self) {
        self.client.clone().shutdown().immediate(true).await;
    }

    /// Does `work` in a task of its own: the driver's futures must not be dropped halfway, and callers may drop theirs.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        doing: Doing,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if self.is_closed() {
            return Err(Error::closed("database was closed"));
        }
        match tokio::time::timeout(self.config.call_timeout, tokio::spawn(work)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(ended)) if ended.is_cancelled() => Err(late(doing)),
            Ok(Err(panicked)) => Err(Error::internal("call of the database panicked").caused_by(panicked)),
            Err(_) => Err(late(doing)),
        }
    }

    /// The answers of many small queries of one collection, in one command for every hundred.
    pub(crate) async fn union<T>(&self, collection: &str, queries: Vec<Vec<Document>>) -> Result<Vec<T>>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        let mut found = Vec::new();
        for part in queries.chunks(UNION_MAX) {
            let mut queries = part.iter();
            let mut pipeline = queries.next().cloned().unwrap_or_default();
            pipeline
                .extend(queries.map(|query| doc! {"$unionWith": {"coll": collection, "pipeline": query}}));
            let cursor = self
                .collection::<Document>(collection)
                .aggregate(pipeline)
                .batch_size(BATCH)
                .with_type::<T>()
                .await;
            let answers: Vec<T> = cursor.map_err(reading)?.try_collect().await.map_err(reading)?;
            found.extend(answers);
        }
        Ok(found)
    }

    pub(crate) async fn find<T>(
        &self,
        collection: &str,
        filter: Document,
        projection: Document,
    ) -> Result<Vec<T>>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        let found =
            self.collection::<T>(collection).find(filter).projection(projection).batch_size(BATCH).await;
        found.map_err(reading)?.try_collect().await.map_err(reading)
    }

    /// Updates by many statements in one command for every thousand, in order. A statement that is refused does not
    /// stop the others.
    pub(crate) async fn update(&self, collection: &str, statements: Vec<Document>) -> Result<Outcome> {
        self.batch("update", "updates", collection, statements, &self.write_concern).await
    }

    /// Deletes by many statements in one command for every thousand, in order.
    pub(crate) async fn delete(&self, collection: &str, statements: Vec<Document>) -> Result<Outcome> {
        self.batch("delete", "deletes", collection, statements, &self.write_concern).await
    }

    /// Deletes what nobody sees any more: it need not wait for the disk.
    pub(crate) async fn sweep_away(&self, collection: &str, statements: Vec<Document>) -> Result<Outcome> {
        let concern = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
        self.batch("delete", "deletes", collection, statements, &concern).await
    }

    async fn batch(
        &self,
        command: &str,
        field: &str,
        collection: &str,
        statements: Vec<Document>,
        concern: &WriteConcern,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let concern = mongodb::bson::serialize_to_document(concern).map_err(|cause| {
            Error::internal("write concern does not serialize").caused_by(cause.to_string())
        })?;
        for (part, statements) in statements.chunks(STATEMENTS_MAX).enumerate() {
            let reply = self
                .database
                .run_command(doc! {
                    command: collection, field: statements, "ordered": false, "writeConcern": concern.clone(),
                })
                .await
                .map_err(writing)?;
            let matched = reply.get_i32("n").unwrap_or(0);
            outcome.matched += usize::try_from(matched).unwrap_or(0);
            for error in
                reply.get_array("writeErrors").into_iter().flatten().filter_map(|error| error.as_document())
            {
                let index = usize::try_from(error.get_i32("index").unwrap_or(0)).unwrap_or(0);
                let code = error.get_i32("code").unwrap_or(0);
                let words = error.get_str("errmsg").unwrap_or_default().to_owned();
                outcome.refused.push((part * STATEMENTS_MAX + index, code, words));
            }
            if reply.contains_key("writeConcernError") {
                return Err(late(Doing::Writing));
            }
        }
        Ok(outcome)
    }
}
