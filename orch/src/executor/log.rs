//! What a step says while it runs.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::secret::Redactor;
use crate::time::{Clock, Timestamp};

/// Where a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LogStream {
    /// Standard output of a child process.
    Stdout,
    /// Standard error of a child process.
    Stderr,
    /// The step's own function.
    Step,
    /// orch itself: a remark about the log.
    Orch,
}

/// One line of a step's log; in the artifact, one line of NDJSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was said.
    pub at: Timestamp,
    /// What was said, without secrets.
    pub line: String,
    /// Its place in the attempt's log, from 1.
    pub seq: u64,
    /// Where it comes from.
    pub stream: LogStream,
}

/// Takes the log of one attempt: redacted, bounded, and visible while it grows. Cheap to clone.
#[derive(Clone)]
pub struct LogSink(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    redactor: Redactor,
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    text: Vec<u8>,
    lines: u64,
    closed: bool,
    live: Option<broadcast::Sender<LogLine>>,
}

impl LogSink {
    /// What one attempt may log unless told otherwise: 1 MiB of NDJSON, one remark about the rest not counted.
    pub const BYTES_MAX: usize = 1 << 20;

    /// The longest line in bytes of text; what lies beyond is cut off after redaction.
    pub const LINE_BYTES_MAX: usize = 16 << 10;

    /// How many lines a slow follower may lag behind before it misses some.
    const LIVE_LINES: usize = 256;

    /// An empty log.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, redactor: Redactor, bytes_max: usize) -> Self {
        Self(Arc::new(Inner { clock, redactor, bytes_max, state: Mutex::default() }))
    }

    /// Logs `text`, one entry for each of its lines.
    pub fn line(&self, stream: LogStream, text: &str) {
        let clean = self.0.redactor.text(text);
        let mut state = self.state();
        for line in clean.strip_suffix('\n').unwrap_or(&clean).split('\n') {
            let line = line.strip_suffix('\r').unwrap_or(line);
            state.push(self.0.clock.now(), stream, line, self.0.bytes_max);
        }
    }

    /// What hides the attempt's secrets.
    #[must_use]
    pub fn redactor(&self) -> &Redactor {
        &self.0.redactor
    }

    /// Receives the lines that are logged from now on.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<LogLine> {
        let mut state = self.state();
        if state.closed {
            return broadcast::channel(1).1;
        }
        state.live.get_or_insert_with(|| broadcast::channel(Self::LIVE_LINES).0).subscribe()
    }

    /// Ends the log and gives it away as NDJSON; nothing if nothing was said. Later lines are dropped.
    #[must_use]
    pub fn finish(&self) -> Option<Vec<u8>> {
        let mut state = self.state();
        state.closed = true;
        state.live = None;
        Some(std::mem::take(&mut state.text)).filter(|text| !text.is_empty())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole after every statement, so a panic elsewhere while it was held does no harm.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, at: Timestamp, stream: LogStream, text: &str, bytes_max: usize) {
        if self.closed {
            return;
        }
        let line = LogLine { at, line: shortened(text), seq: self.lines + 1, stream };
        let encoded = encode(&line);
        if self.text.len() + encoded.len() <= bytes_max {
            self.keep(line, &encoded);
            return;
        }
        let remark = format!("log limit of {bytes_max} bytes reached, the rest is not kept");
        let remark = LogLine { line: remark, stream: LogStream::Orch, ..line };
        let encoded = encode(&remark);
        self.keep(remark, &encoded);
        self.closed = true;
        self.live = None;
    }

    fn keep(&mut self, line: LogLine, encoded: &[u8]) {
        self.text.extend_from_slice(encoded);
        self.lines = line.seq;
        if let Some(live) = &self.live {
            // Nobody listening is fine: the log is kept all the same.
            let _ = live.send(line);
        }
    }
}

fn encode(line: &LogLine) -> Vec<u8> {
    let mut encoded = serde_json::to_vec(line).expect("a log line is strings and numbers");
    encoded.push(b'\n');
    encoded
}

fn shortened(text: &str) -> String {
    if text.len() <= LogSink::LINE_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(LogSink::LINE_BYTES_MAX);
    format!("{}… ({} more bytes)", &text[..end], text.len() - end)
}

impl fmt::Debug for LogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSink").field("lines", &self.state().lines).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::Secret;
    use crate::time::ManualClock;
    use std::collections::BTreeMap;

    fn redactor() -> Redactor {
        Redactor::new(&BTreeMap::from([("KEY".to_owned(), Secret::new("hunter22").unwrap())]))
    }

    fn sink(bytes_max: usize) -> LogSink {
        LogSink::new(Arc::new(ManualClock::new(Timestamp::EPOCH)), redactor(), bytes_max)
    }

    fn lines(log: &LogSink) -> Vec<LogLine> {
        let text = String::from_utf8(log.finish().unwrap()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_log_is_ndjson_without_secrets() {
        let log = sink(LogSink::BYTES_MAX);
        log.line(LogStream::Step, "key is hunter22\nand \"so\" on");
        assert_eq!(
            String::from_utf8(log.finish().unwrap()).unwrap(),
            "{\"at\":\"1970-01-01T00:00:00.000000Z\",\"line\":\"key is [redacted]\",\"seq\":1,\"stream\":\"step\"}\n\
             {\"at\":\"1970-01-01T00:00:00.000000Z\",\"line\":\"and \\\"so\\\" on\",\"seq\":2,\"stream\":\"step\"}\n"
        );
    }

    #[test]
    fn nothing_said_is_no_log_and_after_the_end_nothing_is_kept() {
        let log = sink(LogSink::BYTES_MAX);
        assert_eq!(log.finish(), None);
        log.line(LogStream::Step, "too late");
        assert_eq!(log.finish(), None);
    }

    #[test]
    fn over_the_limit_there_is_one_remark_and_no_more() {
        let log = sink(1_000);
        for _ in 0..100 {
            log.line(LogStream::Stdout, "something to say");
        }
        let lines = lines(&log);
        let (remark, said) = lines.split_last().unwrap();
        assert_eq!(remark.stream, LogStream::Orch);
        assert!(remark.line.contains("1000 bytes"), "{}", remark.line);
        assert!(!said.is_empty() && said.iter().all(|line| line.stream == LogStream::Stdout));
    }

    #[test]
    fn a_long_line_is_redacted_before_it_is_cut() {
        let log = sink(LogSink::BYTES_MAX);
        let start = "x".repeat(LogSink::LINE_BYTES_MAX - 4);
        log.line(LogStream::Step, &format!("{start}hunter22{start}"));
        let line = &lines(&log)[0].line;
        assert!(!line.contains("hunt") && line.contains("more bytes"), "{line}");
    }

    #[tokio::test]
    async fn a_follower_sees_lines_as_they_come_and_the_end() {
        let log = sink(LogSink::BYTES_MAX);
        let mut live = log.follow();
        log.line(LogStream::Step, "one");
        assert_eq!(live.recv().await.unwrap().line, "one");
        let _ = log.finish();
        assert!(live.recv().await.is_err());
        assert!(log.follow().recv().await.is_err());
    }
}
