//! Streams of what happens to runs: over WebSocket and as server-sent events, resumed without gap or duplicate.
//!
//! ```text
//! ledger ──▶ RunEvents ───────────▶ source.rs ──▶ socket.rs | sse.rs ──▶ client
//!        └─▶ RunFeed ──▶ hub.rs ──▶
//! ```
//!
//! The record of a run is its own log, and the feed of a tenant the log of all its runs: a cursor names a place in it, and
//! whatever reads from there on says the same as the first time, in this process or another. One reader of a feed serves
//! all who listen to its tenant (`hub.rs`).

mod cursor;
mod end;
mod hub;
mod message;
mod socket;
mod source;
mod sse;

pub(crate) use hub::Hubs;
pub(crate) use message::{Filter, MessageView};
pub(crate) use socket::{credentials, serve as serve_socket};
pub(crate) use source::{Open, Source};
pub(crate) use sse::serve as serve_events;
