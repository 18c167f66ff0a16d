//! Keeping the image up: an ordered reader of the stream, which begins anew after every gap.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::Message as JetStreamMessage;
use async_nats::{Message, StatusCode};
use futures::StreamExt as _;
use orch::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::json;
use tokio::task::AbortHandle;

use super::image::{Image, read};
use crate::connect;
use crate::error;
use crate::link::{Link, pause};

/// How often the server says that it is there when it has nothing to tell.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long it may be silent.
const SILENCE: Duration = Duration::from_secs(12);

/// Messages taken over at once.
const CHUNK: usize = 256;

/// The task that keeps an image up; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Follower(AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Follower {
    pub(crate) fn start(link: Arc<Link>, image: Arc<Image>) -> Self {
        Self(tokio::spawn(async move { follow(&link, &image).await }).abort_handle())
    }
}

async fn follow(link: &Link, image: &Image) {
    let mut failures = 0;
    let mut connects = link.connects();
    while !link.is_closed() {
        let Err(error) = read_on(link, image, &mut failures).await;
        if link.is_closed() {
            return;
        }
        failures += 1;
        image.set_trouble(Some(format!("{error:?}")));
        match error.kind() {
            ErrorKind::Conflict => tracing::info!(%error, "the image of the queue is read anew"),
            _ => {
                tracing::warn!(%error, failures, "the image of the queue cannot be kept up; it is tried again")
            }
        }
        let pause = pause(failures, Duration::from_millis(20), Duration::from_secs(2));
        // A new connection is a reason to try at once; either way it is tried.
        let _ = tokio::time::timeout(pause, connects.changed()).await;
    }
}

/// Reads the whole stream and then what comes. It ends with an error, which is a `Conflict` when something was missed.
async fn read_on(link: &Link, image: &Image, failures: &mut u32) -> Result<std::convert::Infallible> {
    let mut losses = link.losses();
    losses.mark_unchanged();
    // Somebody may have deleted it; what is waiting is made again from the ledger.
    image.set_room(connect::ensure_all(link).await?);
    image.begin();
    let last = link.last_sequence(&link.names.queue).await?;
    let (mut reader, mut messages) = Reader::start(link, last).await?;
    if reader.is_whole {
        image.saw(last);
        image.set_trouble(None);
        *failures = 0;
    }
    loop {
        let chunk = tokio::select! {
            biased;
            _ = losses.changed() => return Err(missed("the connection was lost")),
            () = image.doubted() => return Err(missed("it does not fit the stream")),
            chunk = tokio::time::timeout(SILENCE, messages.next()) => chunk,
        };
        let chunk = chunk.map_err(|_| missed("the stream is silent"))?;
        let chunk = chunk.ok_or_else(error::closed)?;
        let mut told = Vec::with_capacity(chunk.len());
        let before = (reader.seen, reader.is_whole);
        for message in chunk {
            told.extend(reader.take(link, message).await?);
        }
        image.told(told);
        if reader.is_whole && before != (reader.seen, reader.is_whole) {
            image.saw(reader.seen);
            if !before.1 {
                image.set_trouble(None);
                *failures = 0;
            }
        }
    }
}

fn missed(why: &'static str) -> Error {
    Error::conflict(why)
}

/// How far a reader has come.
struct Reader {
    /// The last sequence of the stream that was seen.
    seen: u64,
    /// How many messages were delivered.
    delivered: u64,
    /// Whether everything was delivered that was there at the beginning.
    is_whole: bool,
}

#[derive(Deserialize)]
struct Made {
    /// Messages that are to be delivered.
    num_pending: u64,
}

type Told = (String, u64, Option<super::message::Stored>);
type Chunks = futures::stream::ReadyChunks<async_nats::Subscriber>;

impl Reader {
    /// Begins at the first message: each is the last of its subject. `last` was the stream's last sequence before.
    async fn start(link: &Link, last: u64) -> Result<(Self, Chunks)> {
        let inbox = link.client.new_inbox();
        let subscribed = link.client.subscribe(inbox.clone()).await;
        let subscriber = subscribed.map_err(|cause| {
            Error::unavailable("stream cannot be listened to").caused_by(cause.to_string())
        })?;
        let body = json!({
            "stream_name": link.names.queue,
            "config": {
                "description": "orch: a process that claims",
                "deliver_subject": inbox,
                "deliver_policy": "all",
                "ack_policy": "none",
                "replay_policy": "instant",
                "flow_control": true,
                "idle_heartbeat": u64::try_from(HEARTBEAT.as_nanos()).unwrap_or(u64::MAX),
                "num_replicas": 1,
                "mem_storage": true,
            },
        });
        let request = format!("CONSUMER.CREATE.{}", link.names.queue);
        let made: Made = link.ask(&request, &body).await?;
        let is_whole = made.num_pending == 0;
        Ok((Self { seen: last, delivered: 0, is_whole }, subscriber.ready_chunks(CHUNK)))
    }

    /// Takes one message; answers what it tells of the stream.
    async fn take(&mut self, link: &Link, message: Message) -> Result<Option<Told>> {
        match message.status {
            Some(StatusCode::IDLE_HEARTBEAT) => {
                self.hear(link, &message).await?;
                return Ok(None);
            }
            // The server says that the consumer has ended.
            Some(_) => return Err(missed("the stream is followed no longer")),
            None => {}
        }
        let subject = message.subject.to_string();
        let message = JetStreamMessage { message, context: link.context.clone() };
        let told = message.info().map_err(|cause| error::corrupt(&subject, cause))?;
        let (sequence, delivered, pending) = (told.stream_sequence, told.consumer_sequence, told.pending);
        self.delivered += 1;
        if delivered != self.delivered {
            return Err(missed("a message is missing"));
        }
        self.seen = self.seen.max(sequence);
        self.is_whole |= pending == 0;
        match read(&link.names, &subject, &message.payload) {
            Ok(stored) => Ok(Some((subject, sequence, stored))),
            Err(error) => {
                // One bad message must not keep all the others from being worked on.
                tracing::error!(%error, sequence, "a message of the queue is passed over");
                Ok(None)
            }
        }
    }

    /// The server says that it is there, or asks whether the client keeps up.
    async fn hear(&self, link: &Link, message: &Message) -> Result<()> {
        let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name));
        if let Some(last) = header("Nats-Last-Consumer")
            && last.as_str().parse::<u64>().is_ok_and(|last| last > self.delivered)
        {
            return Err(missed("a message is missing"));
        }
        let stalled = header("Nats-Consumer-Stalled").map(|subject| subject.as_str().to_owned());
        if let Some(reply) = message.reply.as_ref().map(ToString::to_string).or(stalled) {
            let answered = link.client.publish(reply, Vec::new().into()).await;
            answered.map_err(|cause| {
                Error::unavailable("stream cannot be listened to").caused_by(cause.to_string())
            })?;
        }
        Ok(())
    }
}
