//! Streams of what happens to runs: over WebSocket and as server-sent events, resumed without gap or duplicate.
//!
//! ```text
//! ledger ──▶ RunEvents (one run) ─────────────▶ Source ──▶ socket.rs | sse.rs ──▶ client
//!        └─▶ RunFeed (a tenant) ──▶ hub.rs ──▶ Source
//! ```
//!
//! A hub reads the feed of a tenant once, for all who listen, and keeps the last messages. Who resumes from a cursor that the
//! hub still has goes on there; who comes from further back reads the ledger until it has caught up with the hub.

mod cursor;
mod message;
mod open;
mod socket;
mod source;
mod sse;

pub(crate) use message::{Filter, MessageView};
pub(crate) use open::Streams;
pub(crate) use socket::{credentials, serve as serve_socket};
pub(crate) use source::{Open, Source};
pub(crate) use sse::serve as serve_events;
