//! Streams over WebSocket (RFC 6455): a text frame for each message, pings in between, and a close code that says why.

use axum::extract::ws::{CloseFrame, Message as Frame, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use orch::Timestamp;
use tokio::time::{Instant, interval_at, sleep, timeout};

use super::end::End;
use super::source::Source;
use crate::App;
use crate::api::count::Entered;

/// What clients speak.
const PROTOCOL: &str = "orch.v1";
/// How a page hands its token over, which cannot set headers: as a protocol it offers.
const BEARER: &str = "orch.bearer.";
/// How a page names its tenant.
const TENANT: &str = "orch.tenant.";
/// Clients have nothing to say but pongs.
const INCOMING_BYTES_MAX: usize = 4 << 10;

/// Makes headers of the credentials that a page offers as protocols.
pub(crate) fn credentials(headers: &mut HeaderMap, tenant: &header::HeaderName) {
    let offered: Vec<String> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|part| part.trim().to_owned()))
        .collect();
    let find = |prefix: &str| offered.iter().find_map(|part| part.strip_prefix(prefix));
    let token = find(BEARER).and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
    if let Some(token) = token {
        headers.entry(header::AUTHORIZATION).or_insert(token);
    }
    if let Some(named) = find(TENANT).and_then(|named| HeaderValue::from_str(named).ok()) {
        headers.entry(tenant).or_insert(named);
    }
}

/// Serves a stream until one of the two sides ends it.
pub(crate) fn serve(
    upgrade: WebSocketUpgrade,
    app: App,
    source: Source,
    expires: Option<Timestamp>,
    place: Entered,
) -> Response {
    // Small buffers: thousands of streams are idle most of the time.
    let upgrade = upgrade
        .protocols([PROTOCOL])
        .read_buffer_size(1 << 10)
        .write_buffer_size(0)
        .max_message_size(INCOMING_BYTES_MAX)
        .max_frame_size(INCOMING_BYTES_MAX);
    upgrade.on_upgrade(move |socket| async move {
        Stream { socket, app: &app, source }.run(expires).await;
        drop(place);
    })
}

struct Stream<'a> {
    socket: WebSocket,
    app: &'a App,
    source: Source,
}

impl Stream<'_> {
    async fn run(mut self, expires: Option<Timestamp>) {
        let end = self.serve(expires).await;
        self.app.settings.metrics.stream_ended(end.name());
        if let Some((code, reason)) = end.close() {
            let frame = Frame::Close(Some(CloseFrame { code, reason: reason.into() }));
            // A client that takes no message takes no farewell either.
            let _ = timeout(self.app.settings.streams.send_time, self.socket.send(frame)).await;
        }
    }

    /// Serves it, and says why it is over.
    async fn serve(&mut self, expires: Option<Timestamp>) -> End {
        let settings = &self.app.settings.streams;
        let closing = self.app.settings.closing.clone();
        let mut beat = interval_at(Instant::now() + settings.heartbeat, settings.heartbeat);
        let mut silent = 0;
        let now = self.app.orch.now();
        let token_ends = async {
            match expires {
                Some(end) => sleep(end.since(now)).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(token_ends);
        loop {
            let frame = tokio::select! {
                biased;
                () = closing.cancelled() => return End::GoingAway,
                () = &mut token_ends => return End::TokenEnded,
                said = self.socket.recv() => match said {
                    Some(Ok(Frame::Close(_)) | Err(_)) | None => return End::Gone,
                    Some(Ok(_)) => {
                        silent = 0;
                        continue;
                    }
                },
                _ = beat.tick() => {
                    silent += 1;
                    if silent > 2 {
                        return End::Gone;
                    }
                    Frame::Ping(Default::default())
                }
                next = self.source.next() => match next {
                    Ok(Some(message)) => Frame::Text(message.line.as_str().into()),
                    Ok(None) => return End::Ended,
                    Err(error) => return End::of(&error),
                },
            };
            match timeout(settings.send_time, self.socket.send(frame)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return End::Gone,
                Err(_) => return End::TooSlow,
            }
        }
    }
}
