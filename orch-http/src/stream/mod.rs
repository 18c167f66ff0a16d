//! Streams of what happens to runs: over WebSocket and as server-sent events, resumed without gap or duplicate.
//!
//! ```text
//! ledger ──▶ RunEvents ──▶ source.rs ──▶ socket.rs | sse.rs ──▶ client
//! ```
//!
//! The record of a run is its own log: a cursor names a place in it, and whatever reads from there on says the same as the
//! first time, in this process or another.

mod cursor;
mod end;
mod message;
mod socket;
mod source;
mod sse;

pub(crate) use message::MessageView;
pub(crate) use socket::{credentials, serve as serve_socket};
pub(crate) use source::Source;
pub(crate) use sse::serve as serve_events;
