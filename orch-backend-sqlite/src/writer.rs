//! The one writer of a process: group commit.
//!
//! Work that arrives while a commit is in flight is collected and lands together in the next transaction, so that
//! many callers share one flush of the disk. Work that is in flight at the same time has no order, so appends of
//! one group are merged into one set of statements.

use async_trait::async_trait;
use orch::store::Append;
use orch::{Error, Result};
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use crate::error::Failure;
use crate::store;

/// What a change needs, besides itself, to run in the writer's transaction.
#[async_trait]
pub(crate) trait Change: Send + Sync + 'static {
    /// What the caller gets.
    type Answer: Send + 'static;

    /// Carries out the change. The outer error undoes the whole group; the inner one is the caller's alone, and
    /// nothing may have been changed then.
    async fn apply(&self, connection: &mut SqliteConnection) -> sqlx::Result<Result<Self::Answer>>;
}

type Sender<T> = oneshot::Sender<Result<T>>;

enum Job {
    Append(Vec<Append>, Sender<Vec<Result<()>>>),
    Other(Box<dyn Work>),
    Close(oneshot::Sender<()>),
}

/// A change, its answer once there is one, and who waits for it.
struct Pending<C: Change> {
    change: C,
    answer: Option<Result<C::Answer>>,
    sender: Sender<C::Answer>,
}

#[async_trait]
trait Work: Send {
    async fn apply(&mut self, connection: &mut SqliteConnection) -> sqlx::Result<()>;
    fn finish(self: Box<Self>, failure: Option<&Failure>);
}

#[async_trait]
impl<C: Change> Work for Pending<C> {
    async fn apply(&mut self, connection: &mut SqliteConnection) -> sqlx::Result<()> {
        self.answer = Some(self.change.apply(connection).await?);
        Ok(())
    }

    fn finish(self: Box<Self>, failure: Option<&Failure>) {
        let answer = match (failure, self.answer) {
            (Some(failure), _) => Err(failure.to_error()),
            (None, Some(answer)) => answer,
            (None, None) => Err(Error::internal("work was committed without having run")),
        };
        // Who no longer waits does not want to know.
        let _ = self.sender.send(answer);
    }
}

const COMMIT: &str = "COMMIT";

/// Bounds on one group, so that one commit stays short.
const GROUP_JOBS: usize = 1_024;
const GROUP_BYTES: usize = 16 << 20;

/// A handle on the writer task.
#[derive(Clone, Debug)]
pub(crate) struct Writer(mpsc::Sender<Job>);

impl Writer {
    pub(crate) fn start(connection: SqliteConnection) -> Self {
        let (sender, receiver) = mpsc::channel(GROUP_JOBS);
        tokio::spawn(run(connection, receiver));
        Self(sender)
    }

    pub(crate) async fn append(&self, appends: Vec<Append>) -> Result<Vec<Result<()>>> {
        let (sender, answer) = oneshot::channel();
        self.ask(Job::Append(appends, sender), answer).await?
    }

    pub(crate) async fn change<C: Change>(&self, change: C) -> Result<C::Answer> {
        let (sender, answer) = oneshot::channel();
        self.ask(Job::Other(Box::new(Pending { change, answer: None, sender })), answer).await?
    }

    /// Ends the writer after what was asked before. Later calls answer `Closed`.
    pub(crate) async fn close(&self) {
        let (sender, answer) = oneshot::channel();
        // An error means that it has ended already.
        let _ = self.ask(Job::Close(sender), answer).await;
    }

    async fn ask<T>(&self, job: Job, answer: oneshot::Receiver<T>) -> Result<T> {
        self.0.send(job).await.map_err(|_| Error::closed("database was closed"))?;
        answer.await.map_err(|_| Error::indeterminate("writer ended before it answered"))
    }
}

async fn run(mut connection: SqliteConnection, mut jobs: mpsc::Receiver<Job>) {
    let mut closer = None;
    while closer.is_none() {
        let Some(first) = jobs.recv().await else { break };
        let mut group = Group::default();
        closer = group.add(first);
        while closer.is_none() && group.has_room() {
            let Ok(job) = jobs.try_recv() else { break };
            closer = group.add(job);
        }
        group.commit(&mut connection).await;
    }
    jobs.close();
    shut(connection).await;
    if let Some(closer) = closer {
        let _ = closer.send(());
    }
}

/// Moves everything into the main file and closes it. What fails here is made good by the next who opens the file.
async fn shut(mut connection: SqliteConnection) {
    if let Err(error) = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await {
        tracing::warn!(%error, "checkpoint at close failed");
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "close failed");
    }
}

/// What lands in one transaction.
#[derive(Default)]
struct Group {
    appends: Vec<Append>,
    /// How many of the appends are whose.
    senders: Vec<(usize, Sender<Vec<Result<()>>>)>,
    others: Vec<Box<dyn Work>>,
    bytes: usize,
}

impl Group {
    fn add(&mut self, job: Job) -> Option<oneshot::Sender<()>> {
        match job {
            Job::Append(appends, sender) => {
                self.bytes += appends.iter().map(|append| append.lines.len()).sum::<usize>();
                self.senders.push((appends.len(), sender));
                self.appends.extend(appends);
            }
            Job::Other(work) => self.others.push(work),
            Job::Close(closer) => return Some(closer),
        }
        None
    }

    fn has_room(&self) -> bool {
        self.senders.len() + self.others.len() < GROUP_JOBS && self.bytes < GROUP_BYTES
    }

    async fn commit(mut self, connection: &mut SqliteConnection) {
        if self.senders.is_empty() && self.others.is_empty() {
            return;
        }
        let outcome = self.transact(connection).await;
        if outcome.is_err() {
            // Without effect where SQLite has rolled back by itself.
            let _ = sqlx::query("ROLLBACK").execute(&mut *connection).await;
        }
        let failure = outcome.as_ref().err();
        let mut answers =
            outcome.as_ref().map_or_else(|_| Vec::new(), |conflicts| conflicts.clone()).into_iter();
        let mut appends = self.appends.iter();
        for (count, sender) in self.senders {
            let answer = match failure {
                Some(failure) => Err(failure.to_error()),
                None => Ok(appends
                    .by_ref()
                    .take(count)
                    .zip(answers.by_ref())
                    .map(|(append, stale)| {
                        stale.map_or(Ok(()), |head| Err(orch::store::stale_head(append, head)))
                    })
                    .collect()),
            };
            let _ = sender.send(answer);
        }
        self.others.into_iter().for_each(|work| work.finish(failure));
    }

    /// Runs the whole group in one transaction. Answers, for each append, the head that stood against it.
    async fn transact(
        &mut self,
        connection: &mut SqliteConnection,
    ) -> std::result::Result<Vec<Option<orch::ledger::Head>>, Failure> {
        let failed = |error: sqlx::Error| Failure::of(&error);
        let unknown = |error: sqlx::Error| Failure::of_commit(&error);
        let mut conflicts = Vec::new();
        if self.appends.is_empty() {
            sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await.map_err(failed)?;
        } else {
            let mut write = store::begin(&mut *connection, &self.appends).await.map_err(failed)?;
            conflicts = std::mem::take(&mut write.conflicts);
            if write.small && self.others.is_empty() {
                // Of few appends, a call of the driver costs more than what it does.
                write.carry_out(&mut *connection, Some(COMMIT)).await.map_err(unknown)?;
                return Ok(conflicts);
            }
            write.carry_out(&mut *connection, None).await.map_err(failed)?;
        }
        for work in &mut self.others {
            work.apply(&mut *connection).await.map_err(failed)?;
        }
        sqlx::query(COMMIT).execute(&mut *connection).await.map_err(unknown)?;
        Ok(conflicts)
    }
}
