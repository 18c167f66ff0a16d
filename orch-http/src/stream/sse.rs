//! Streams as server-sent events (WHATWG HTML, section 9.2): resumed by `Last-Event-ID`.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::unfold;
use http::header;
use orch::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep, timeout};

use super::end::End;
use super::source::Source;
use crate::App;
use crate::api::count::Entered;

/// Messages between the stream and the connection: what is behind this waits in the source.
const AHEAD: usize = 16;

/// Serves a stream until one of the two sides ends it.
pub(crate) fn serve(app: App, source: Source, expires: Option<Timestamp>, place: Entered) -> Response {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let end = pump(&app, source, expires, &sender).await;
        app.settings.metrics.stream_ended(end.name());
        if let Some(word) = end.word() {
            last(&sender, word);
        }
        drop(place);
    });
    let chunks = unfold(receiver, |mut receiver: mpsc::Receiver<Bytes>| async move {
        receiver.recv().await.map(|chunk| (Ok::<_, std::convert::Infallible>(chunk), receiver))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, [("x-accel-buffering", "no")], Body::from_stream(chunks)).into_response()
}

/// Serves it, and says why it is over.
async fn pump(
    app: &App,
    mut source: Source,
    expires: Option<Timestamp>,
    sender: &mpsc::Sender<Bytes>,
) -> End {
    let settings = &app.settings.streams;
    let closing = app.settings.closing.clone();
    let mut beat = interval_at(Instant::now() + settings.heartbeat, settings.heartbeat);
    let now = app.orch.now();
    let token_ends = async {
        match expires {
            Some(end) => sleep(end.since(now)).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(token_ends);
    // Headers go out with the first bytes: a client learns at once that it is heard.
    let mut chunk = Bytes::from_static(b": orch.v1\n\n");
    loop {
        match timeout(settings.send_time, sender.send(chunk)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return End::Gone,
            Err(_) => return End::TooSlow,
        }
        chunk = tokio::select! {
            biased;
            () = sender.closed() => return End::Gone,
            () = closing.cancelled() => return End::GoingAway,
            () = &mut token_ends => return End::TokenEnded,
            _ = beat.tick() => Bytes::from_static(b": beat\n\n"),
            next = source.next() => match next {
                Ok(Some(message)) => {
                    let (cursor, kind, line) = (&message.cursor, message.kind, &message.line);
                    format!("id: {cursor}\nevent: {kind}\ndata: {line}\n\n").into()
                }
                Ok(None) => return End::Ended,
                Err(error) => return End::of(&error),
            },
        };
    }
}

/// Says why the stream is over. It has no id: a client that comes again goes on after the last message.
fn last(sender: &mpsc::Sender<Bytes>, code: &str) {
    let text = format!("event: end\ndata: {{\"code\":\"{code}\"}}\n\n");
    // A client that has gone need not know.
    let _ = sender.try_send(text.into());
}
