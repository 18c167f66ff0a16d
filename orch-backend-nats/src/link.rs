//! The connection: what it was told, requests to JetStream, and writes that are compared.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishAckFuture, PublishError};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::response::Response;
use async_nats::{Client, Event, ServerError, connection};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use orch::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use crate::config::NatsConfig;
use crate::connect;
use crate::error;
use crate::names::Names;

/// Writes that are under way at once.
const WINDOW: usize = 1_000;

/// Refusals that are remembered.
const REFUSALS: usize = 16;

/// What the server said without being asked.
#[derive(Debug)]
pub(crate) struct Told {
    /// How often a connection was made.
    connects: watch::Sender<u64>,
    /// How often one was lost.
    losses: watch::Sender<u64>,
    /// What the client was not allowed to do, newest last.
    refusals: Mutex<VecDeque<String>>,
}

impl Told {
    pub(crate) fn new() -> Self {
        Self { connects: watch::Sender::new(0), losses: watch::Sender::new(0), refusals: Mutex::default() }
    }

    pub(crate) fn hear(&self, address: &str, event: Event) {
        match event {
            Event::Connected => {
                tracing::info!(%address, "connected to nats");
                self.connects.send_modify(|count| *count += 1);
            }
            Event::Disconnected => {
                tracing::warn!(%address, "connection to nats is lost; it is made again");
                self.losses.send_modify(|count| *count += 1);
            }
            Event::ServerError(ServerError::Other(words)) => {
                tracing::warn!(%address, %words, "nats server refuses");
                let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
                refusals.push_back(words);
                while refusals.len() > REFUSALS {
                    refusals.pop_front();
                }
            }
            event => tracing::debug!(%address, %event, "nats client"),
        }
    }

    /// What the server said instead of an answer, once: it drops what a client may not send, and no answer arrives where
    /// it may not listen.
    fn refusal(&self, subject: &str) -> Option<String> {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let at = refusals.iter().rposition(|words| words.contains(subject) || words.contains("\"_INBOX."))?;
        refusals.remove(at)
    }
}

/// A connection to a server or its cluster, which is made again by itself.
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) context: Context,
    pub(crate) config: NatsConfig,
    pub(crate) names: Names,
    told: Arc<Told>,
    opened: AtomicBool,
    closed: AtomicBool,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A message that becomes the last of its subject if the last is still the one that it expects.
#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub(crate) subject: String,
    /// The sequence of the last message; 0 for none.
    pub(crate) expected: u64,
    /// Nothing for the end of what was there.
    pub(crate) payload: Vec<u8>,
    /// After how many seconds it goes by itself.
    pub(crate) seconds: Option<u64>,
}

/// The last message of a subject.
#[derive(Clone, Debug)]
pub(crate) struct Last {
    pub(crate) sequence: u64,
    pub(crate) payload: Vec<u8>,
}

#[derive(Deserialize)]
struct Found {
    message: FoundMessage,
}

#[derive(Deserialize)]
struct FoundMessage {
    seq: u64,
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct StreamState {
    state: Sequences,
}

#[derive(Deserialize)]
struct Sequences {
    last_seq: u64,
}

impl Link {
    pub(crate) fn new(client: Client, context: Context, config: NatsConfig, told: Arc<Told>) -> Self {
        let names = Names::new(&config.namespace);
        Self {
            client,
            context,
            config,
            names,
            told,
            opened: AtomicBool::default(),
            closed: AtomicBool::default(),
        }
    }

    /// From now on, a JetStream that does not answer is one that comes back.
    pub(crate) fn opened(&self) {
        self.opened.store(true, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Sends what was given to it, and closes.
    pub(crate) async fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            // What does not get through now never will.
            let _ = tokio::time::timeout(self.config.timeout, self.client.drain()).await;
        }
    }

    /// How often a connection was made; it tells each time.
    pub(crate) fn connects(&self) -> watch::Receiver<u64> {
        self.told.connects.subscribe()
    }

    /// How often a connection was lost; it tells each time.
    pub(crate) fn losses(&self) -> watch::Receiver<u64> {
        self.told.losses.subscribe()
    }

    /// Whether there is a connection. Without one the client would keep what it is given, and send it long after the
    /// caller was told that it failed.
    ///
    /// # Errors
    /// `Closed`, `Unavailable`.
    pub(crate) fn ready(&self) -> Result<()> {
        if self.is_closed() {
            return Err(error::closed());
        }
        match self.client.connection_state() {
            connection::State::Connected => Ok(()),
            _ => Err(self.at(Error::unavailable("nats server cannot be reached at the moment"))),
        }
    }

    fn at(&self, error: Error) -> Error {
        error.with("server", self.config.address())
    }

    /// Asks JetStream. It answers from the leader, so what was acknowledged before is in it.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        request: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T> {
        self.ready()?;
        let answer = self.context.request(request.to_owned(), body).await;
        match answer.map_err(|cause| (error::is_without_jetstream(&cause), error::of_request(&cause))) {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => Err(self.at(error::of_api(&error)).with("request", request)),
            Err((true, _)) if !self.opened.load(Ordering::Acquire) => {
                Err(self.at(error::without_jetstream()))
            }
            Err((_, error)) => Err(self.refused(request, self.at(error)).with("request", request)),
        }
    }

    /// Says that something was refused, if that is why there is no answer.
    fn refused(&self, subject: &str, error: Error) -> Error {
        match self.told.refusal(subject) {
            Some(words) => self
                .at(Error::refused("nats server does not let the client do it; give it the permission"))
                .with("answer", words),
            None => error,
        }
    }

    /// The last sequence of a stream.
    pub(crate) async fn last_sequence(&self, stream: &str) -> Result<u64> {
        let info: StreamState = self.ask(&format!("STREAM.INFO.{stream}"), &json!({})).await?;
        Ok(info.state.last_seq)
    }

    /// The last message of a subject.
    pub(crate) async fn last(&self, stream: &str, subject: &str) -> Result<Option<Last>> {
        let found: Result<Found> =
            self.ask(&format!("STREAM.MSG.GET.{stream}"), &json!({ "last_by_subj": subject })).await;
        match found {
            Ok(Found { message }) => {
                let payload =
                    STANDARD.decode(message.data).map_err(|cause| error::corrupt(subject, cause))?;
                Ok(Some(Last { sequence: message.seq, payload }))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one message; see [`put_all`](Self::put_all).
    pub(crate) async fn put(&self, put: Put) -> Result<Option<u64>> {
        self.ready()?;
        self.put_all(vec![put]).await.pop().unwrap_or_else(|| Err(error::closed()))
    }

    /// Writes messages, all under way at once. Answers for each its sequence, or nothing when the last of its subject
    /// was another one than it expects.
    pub(crate) async fn put_all(&self, puts: Vec<Put>) -> Vec<Result<Option<u64>>> {
        let mut answers = Vec::with_capacity(puts.len());
        let mut puts = puts.into_iter().peekable();
        let gone = AtomicBool::new(false);
        while puts.peek().is_some() {
            let broken =
                answers.iter().any(|answer: &Result<_>| answer.as_ref().is_err_and(Error::is_retryable));
            if let Err(error) = if broken { Err(unsent()) } else { self.ready() } {
                answers
                    .extend(puts.by_ref().map(|_| Err(Error::new(error.kind(), error.message().to_owned()))));
                break;
            }
            let (mut sent, mut failed) = (Vec::with_capacity(WINDOW), false);
            for put in puts.by_ref().take(WINDOW) {
                // Whoever waits for room in vain once would do so for each.
                let ack = if failed { None } else { Some(self.send(&put).await) };
                failed = !matches!(ack, Some(Ok(_)));
                sent.push((put.subject, ack));
            }
            let gone = &gone;
            let acks = sent.into_iter().map(|(subject, ack)| async move {
                let Some(ack) = ack else { return Err(unsent()) };
                let acked = match ack {
                    Ok(ack) => ack.await,
                    Err(error) => Err(error),
                };
                match acked {
                    Ok(acked) => Ok(Some(acked.sequence)),
                    Err(cause) => match error::of_publish(&cause) {
                        None => Ok(None),
                        Some(error) if error::is_without_stream(&cause) => {
                            gone.store(true, Ordering::Relaxed);
                            Err(self.at(error))
                        }
                        Some(error) => Err(self.refused(&subject, self.at(error))),
                    },
                }
            });
            answers.extend(join_all(acks).await);
        }
        if gone.into_inner()
            && let Err(error) = connect::ensure_all(self).await
        {
            tracing::warn!(%error, "a stream is gone and cannot be made again");
        }
        answers
    }

    async fn send(&self, put: &Put) -> Result<PublishAckFuture, PublishError> {
        // Of one length, so that no state of an item needs more room than the one before.
        let expected = format!("{:020}", put.expected);
        let mut message = PublishMessage::build()
            .payload(put.payload.clone().into())
            .header(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.as_str());
        if let Some(seconds) = put.seconds {
            message = message.ttl(Duration::from_secs(seconds));
        }
        self.context.send_publish(put.subject.clone(), message).await
    }
}

fn unsent() -> Error {
    Error::unavailable("nats server cannot be reached at the moment; it was not sent")
}

/// A pause before trying again, longer each time up to `most`, and never quite the same for two who collided.
pub(crate) fn pause(tries: u32, least: Duration, most: Duration) -> Duration {
    let whole = least.saturating_mul(1 << tries.min(16)).min(most);
    // What a new hasher makes of anything is random.
    let random = u32::try_from(RandomState::new().hash_one(tries) % 1_000).unwrap_or(0);
    whole / 2 + whole / 2 * random / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_differ() {
        let (least, most) = (Duration::from_millis(10), Duration::from_secs(1));
        for tries in 0..40 {
            let whole = least.saturating_mul(1 << tries.min(16)).min(most);
            let pauses: Vec<_> = (0..20).map(|_| pause(tries, least, most)).collect();
            assert!(pauses.iter().all(|pause| (whole / 2..=whole).contains(pause)), "{pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
    }
}
