//! What goes through a child's pipes.

use std::fmt;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;

use crate::executor::{LogSink, LogStream};

/// One of the child's output streams: kept up to a limit, and logged line by line as it comes.
pub(super) struct Capture {
    stream: LogStream,
    bytes_max: u64,
    log: LogSink,
    bytes: Vec<u8>,
    /// Where the line begins that is not complete yet.
    line: usize,
    over: bool,
}

/// A stream carried more than it may.
#[derive(Debug)]
pub(super) struct OverLimit {
    stream: LogStream,
    bytes_max: u64,
}

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = if self.stream == LogStream::Stderr { "standard error" } else { "standard output" };
        write!(f, "{stream} is over the limit of {} bytes", self.bytes_max)
    }
}

impl Capture {
    pub(super) const fn new(stream: LogStream, bytes_max: u64, log: LogSink) -> Self {
        Self { stream, bytes_max, log, bytes: Vec::new(), line: 0, over: false }
    }

    /// Reads until the pipe ends or the limit is passed.
    pub(super) async fn fill(&mut self, pipe: Option<impl AsyncRead + Unpin>) -> Result<(), OverLimit> {
        let Some(mut pipe) = pipe else { return Ok(()) };
        let mut chunk = [0; 8 << 10];
        // A pipe that cannot be read any more has ended.
        while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
            if (self.bytes.len() + count) as u64 > self.bytes_max {
                self.over = true;
                return Err(OverLimit { stream: self.stream, bytes_max: self.bytes_max });
            }
            self.take(&chunk[..count]);
        }
        Ok(())
    }

    fn take(&mut self, chunk: &[u8]) {
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.bytes.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.log_line();
            }
        }
    }

    fn log_line(&mut self) {
        self.log.line(self.stream, &String::from_utf8_lossy(&self.bytes[self.line..]));
        self.line = self.bytes.len();
    }

    /// All that was read; what is not UTF-8 becomes U+FFFD. Logs a last line without an end, unless the limit cut
    /// it: half a secret would not be recognised.
    pub(super) fn into_text(mut self) -> String {
        if self.line < self.bytes.len() && !self.over {
            self.log_line();
        }
        String::from_utf8(self.bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

/// Writes the input and closes the pipe. A child that does not want all of it is its own affair.
pub(super) async fn feed(pipe: Option<ChildStdin>, bytes: Vec<u8>) -> Result<(), OverLimit> {
    if let Some(mut pipe) = pipe {
        let _ = pipe.write_all(&bytes).await;
        let _ = pipe.shutdown().await;
    }
    Ok(())
}
