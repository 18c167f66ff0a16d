//! Being told that an item may have become claimable: a subscription that lives as long as the queue.

use std::sync::{Arc, Once, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use orch::{Digest, Error, Result};
use tokio::sync::Notify;
use tokio::sync::watch;

use crate::connect::Server;

/// The longest pause between attempts to subscribe again.
const REST_MAX: Duration = Duration::from_secs(10);

/// Listens from the first wait on.
#[derive(Debug)]
pub(super) struct Wake {
    channel: String,
    server: Arc<Server>,
    begun: Once,
    told: Arc<Notify>,
    closed: watch::Sender<bool>,
}

impl Wake {
    pub(super) fn new(server: &Arc<Server>) -> Self {
        let (told, closed) = (Arc::default(), watch::Sender::new(false));
        Self { channel: server.channel(), server: Arc::clone(server), begun: Once::new(), told, closed }
    }

    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// Tells those who wait in this process, at once.
    pub(super) fn tell(&self) {
        tell(&self.told);
    }

    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    pub(super) async fn wait(&self, timeout: Duration) -> Result<()> {
        let mut closed = self.closed.subscribe();
        self.begun.call_once(|| {
            let (server, told) = (Arc::clone(&self.server), Arc::downgrade(&self.told));
            tokio::spawn(listen(server, self.channel.clone(), told, self.closed.subscribe()));
        });
        tokio::select! {
            // What was told before is of no use once the queue is closed.
            biased;
            // It ends with an error only when the sender is gone, which is here.
            _ = closed.wait_for(|closed| *closed) => Err(Error::closed("the queue was closed")),
            () = self.told.notified() => Ok(()),
            () = tokio::time::sleep(timeout) => Ok(()),
        }
    }
}

fn tell(told: &Notify) {
    // Everybody who waits, and the next who comes: it may have looked just before.
    told.notify_waiters();
    told.notify_one();
}

/// Subscribes, and again whenever the subscription ends, until nobody is left to be told.
async fn listen(server: Arc<Server>, channel: String, told: Weak<Notify>, mut closed: watch::Receiver<bool>) {
    let mut failures: u32 = 0;
    loop {
        let subscribed = tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return,
            subscribed = server.subscribe(&channel) => subscribed,
        };
        match subscribed {
            Ok(mut messages) => {
                if failures > 0 {
                    tracing::info!(address = server.config.address(), failures, "hints are told again");
                }
                failures = 0;
                // What was told before this moment was missed.
                loop {
                    let Some(told) = told.upgrade() else { return };
                    tell(&told);
                    drop(told);
                    tokio::select! {
                        _ = closed.wait_for(|closed| *closed) => return,
                        message = messages.next() => if message.is_none() { break },
                    }
                }
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                if failures.is_power_of_two() {
                    let address = server.config.address();
                    tracing::warn!(address, %error, failures, "hints are not told; the queue is looked at by the clock");
                }
            }
        }
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return,
            () = tokio::time::sleep(rest(&channel, failures)) => {}
        }
    }
}

/// Doubles with each failure, and differs between processes that lost the same server at the same moment.
fn rest(channel: &str, failures: u32) -> Duration {
    let whole = Duration::from_millis(100 << failures.min(7)).min(REST_MAX);
    let place = std::process::id().to_string();
    let dice = Digest::of_parts(&[channel.as_bytes(), place.as_bytes(), &failures.to_be_bytes()]).to_hex()[0];
    whole / 2 + whole * u32::from(dice % 16) / 32
}
