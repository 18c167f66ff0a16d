//! The engine as its users see it, on in-memory seams.

mod kit;
mod runs;
