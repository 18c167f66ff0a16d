//! `orch` as people and scripts use it: a real process in a directory of its own.

mod bad_input;
mod crash;
mod kit;
mod machine;
mod people;
mod proof;
