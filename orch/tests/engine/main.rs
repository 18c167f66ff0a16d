//! The engine as its users see it, on in-memory seams.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod away;
mod cache_and_slots;
mod cancel;
mod events;
mod faults;
mod gates;
mod kit;
mod lifecycle;
mod observing;
mod outside;
mod processes;
mod retry;
mod runs;
mod steps;
mod sub_dags;
mod tenants;
