//! From addresses to open backends, for programs that are told where to keep things.
//!
//! An [`Address`] is what a person writes: `sqlite:PATH`, `mongodb://…`, `redis://…`, `nats://…`, `memory:`, or `@FILE` for
//! one that stands in a file because it holds a password. [`Places`] are the addresses of store, queue and lock, and
//! [`Backends`] opens them, each once. Whatever goes wrong comes with advice ([`Advised`]) and without a password.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `mongo` | MongoDB |
//! | `redis` | Redis and Valkey |
//! | `nats` | NATS |

mod address;
mod advice;
mod backend;

pub use address::{Address, Places, Seam, read_text};
pub use advice::{Advised, Result, advice};
pub use backend::{Access, Backend, Backends};
