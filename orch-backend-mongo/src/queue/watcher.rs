//! Seeing what other processes push: a change stream, for as long as anybody waits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ChangeStreamEvent;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::WAITING;
use crate::connect::Connection;
use crate::indexes::QUEUE;

/// How long the server holds a question for changes: an idle process asks twice a minute.
const HELD: Duration = Duration::from_secs(30);

/// The rest after a stream failed; it doubles each time up to [`REST_MAX`].
const REST: Duration = Duration::from_millis(200);
const REST_MAX: Duration = Duration::from_secs(30);

/// Changes that are read one by one after nobody waited for a while; if there are more, the stream is opened anew.
const BACKLOG: usize = 1_000;

/// Watches for all who wait in this process.
#[derive(Debug)]
pub(super) struct Watcher {
    state: Arc<State>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct State {
    connection: Arc<Connection>,
    pushed: Arc<Notify>,
    /// How many wait now.
    waiting: AtomicUsize,
    /// Tells the watcher that somebody does.
    wanted: Notify,
    /// The stream is open: what is pushed is told.
    told: AtomicBool,
}

/// Somebody waits for as long as this lives.
#[derive(Debug)]
pub(super) struct Waiting<'w>(&'w State);

impl Waiting<'_> {
    /// Whether it will be told of what others push.
    pub(super) fn is_told(&self) -> bool {
        self.0.told.load(Ordering::Acquire)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Watcher {
    pub(super) fn new(connection: Arc<Connection>, pushed: Arc<Notify>) -> Self {
        let state = State {
            connection,
            pushed,
            waiting: AtomicUsize::new(0),
            wanted: Notify::new(),
            told: AtomicBool::new(false),
        };
        Self { state: Arc::new(state), task: Mutex::default() }
    }

    /// Says that somebody waits; the first one starts the watching.
    pub(super) fn waiting(&self) -> Waiting<'_> {
        self.state.waiting.fetch_add(1, Ordering::AcqRel);
        if self.state.connection.tells && !self.state.connection.is_closed() {
            let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            if task.is_none() {
                *task = Some(tokio::spawn(watch(Arc::clone(&self.state))));
            }
            self.state.wanted.notify_one();
        }
        Waiting(&self.state)
    }

    pub(super) fn stop(&self) {
        self.state.told.store(false, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A question that is cut off spoils its connection, of which nobody has any more need.
        task.into_iter().for_each(|task| task.abort());
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop();
    }
}

type Stream = ChangeStream<ChangeStreamEvent<Document>>;

/// Opens the stream again and again, each time it fails.
async fn watch(state: Arc<State>) {
    let mut rest = REST;
    while !state.connection.is_closed() {
        state.somebody_waits().await;
        let failed = match open(&state.connection).await {
            Ok(mut stream) => {
                rest = REST;
                // Something may have been pushed before it was open.
                state.told.store(true, Ordering::Release);
                state.pushed.notify_waiters();
                follow(&state, &mut stream).await
            }
            Err(error) => Some(error),
        };
        // Who waits looks by itself from now on.
        state.told.store(false, Ordering::Release);
        state.pushed.notify_waiters();
        if let Some(error) = failed {
            tracing::warn!(%error, "changes of the queue are not told; waiting workers look every so often");
            // No two processes together: half of it is by chance.
            let chance = u32::from(mongodb::bson::oid::ObjectId::new().bytes()[11]);
            tokio::time::sleep(rest / 2 + rest / 512 * chance).await;
            rest = (rest * 2).min(REST_MAX);
        }
    }
}

async fn open(connection: &Connection) -> mongodb::error::Result<Stream> {
    let waits = doc! {"$or": [
        {"operationType": "insert"},
        {"operationType": "update", "updateDescription.updatedFields.state": WAITING},
        {"operationType": {"$in": ["drop", "dropDatabase", "rename", "invalidate"]}},
    ]};
    let pipeline = [doc! {"$match": waits}, doc! {"$project": {"_id": 1, "operationType": 1, "ns": 1}}];
    connection.collection::<Document>(QUEUE).watch().pipeline(pipeline).max_await_time(HELD).await
}

/// Passes on what the stream tells until it fails, answering why, or is to be opened anew.
async fn follow(state: &State, stream: &mut Stream) -> Option<mongodb::error::Error> {
    let mut backlog = 0;
    while !state.connection.is_closed() {
        if state.waiting.load(Ordering::Acquire) == 0 {
            state.somebody_waits().await;
            backlog = 0;
        }
        match stream.next_if_any().await {
            Ok(Some(_)) => {
                state.pushed.notify_waiters();
                backlog += 1;
                if backlog > BACKLOG {
                    return None;
                }
            }
            Ok(None) if stream.is_alive() => backlog = 0,
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
    None
}

impl State {
    async fn somebody_waits(&self) {
        while self.waiting.load(Ordering::Acquire) == 0 {
            self.wanted.notified().await;
        }
    }
}
