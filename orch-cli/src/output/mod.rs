//! The one place that writes to the terminal.

pub(crate) mod given;
pub(crate) mod live;
pub(crate) mod run;
pub(crate) mod source;
pub(crate) mod style;
pub(crate) mod table;
mod tell;
pub(crate) mod words;

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::args::Color;
use crate::fault::Result;

/// Decides about colour for the whole process.
pub(crate) fn set_color(color: Color) {
    match color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();
}

/// Standard output and standard error.
///
/// A reader that has gone away (`orch … | head`) is no error: what is left to say is dropped, and the command goes on
/// with what it does. An answer that could not be written for any other reason, such as a full disk, is kept in mind,
/// and the command fails at its end.
#[derive(Debug)]
pub(crate) struct Out {
    /// Whether a machine reads the answer.
    pub(crate) json: bool,
    /// Whether to show no progress.
    pub(crate) quiet: bool,
    lost: Mutex<Option<io::Error>>,
}

impl Out {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, lost: Mutex::new(None) }
    }

    /// Prints a line of the answer.
    pub(crate) fn line(&self, text: impl Display) {
        if self.is_gone() {
            return;
        }
        self.check(writeln!(anstream::stdout(), "{text}"));
    }

    /// Prints bytes of the answer as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) {
        if self.is_gone() {
            return;
        }
        let mut stdout = io::stdout().lock();
        self.check(stdout.write_all(bytes).and_then(|()| stdout.flush()));
    }

    /// Prints the answer for a machine, as one document.
    pub(crate) fn document(&self, value: &impl Serialize) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.bytes(format!("{text}\n").as_bytes()),
            Err(error) => self.error(format!("the answer is no json: {error}")),
        }
    }

    /// Prints one line of a stream for a machine.
    pub(crate) fn record(&self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(text) => self.bytes(format!("{text}\n").as_bytes()),
            Err(error) => self.error(format!("the answer is no json: {error}")),
        }
    }

    /// Says something beside the answer.
    pub(crate) fn note(&self, text: impl Display) {
        if !self.quiet && !self.json {
            writeln!(anstream::stderr(), "{text}").unwrap_or_default();
        }
    }

    /// Warns of what may go wrong later.
    pub(crate) fn warn(&self, text: impl Display) {
        let style = style::WARNING;
        self.note(format_args!("{style}warning{style:#}: {text}"));
    }

    /// Says what went wrong.
    pub(crate) fn error(&self, text: impl Display) {
        writeln!(anstream::stderr(), "{text}").unwrap_or_default();
    }

    /// Says what went wrong to a machine.
    pub(crate) fn error_document(&self, value: &serde_json::Value) {
        self.error(value);
    }

    /// Whether nobody reads the answer any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.lost().is_some()
    }

    /// Writes what is left, and says whether all of the answer has reached its reader.
    pub(crate) fn finish(&self) -> Result<()> {
        self.check(io::stdout().flush());
        match self.lost().take() {
            Some(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
                Err(orch::Error::unavailable("the answer cannot be written to standard output")
                    .with("reason", cause)
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// Whether progress may be drawn over itself.
    pub(crate) fn is_live(&self) -> bool {
        !self.quiet && !self.json && io::stderr().is_terminal()
    }

    fn check(&self, result: io::Result<()>) {
        if let Err(cause) = result {
            self.lost().get_or_insert(cause);
        }
    }

    fn lost(&self) -> std::sync::MutexGuard<'_, Option<io::Error>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
