//! The functions every orchestrator can offer, so that a DAG can be useful with no program beside it.
//!
//! | function | input | output |
//! |---|---|---|
//! | `fn/noop` | anything | null |
//! | `fn/echo` | anything | the input |
//! | `fn/sleep` | `duration` | null |
//! | `fn/fail` | `times?`, `code?`, `message?`, `retryable?` | `attempts` |
//! | `fn/read` | `path`, `as?`, `maxBytes?` | `path`, `size`, `sha256`, `text`, `base64` or `artifact` |
//! | `fn/parse` | `format`, `text` or `artifact` | the document |
//! | `fn/cel` | `expression`, `vars?` | the value, over `inputs` = `vars` |
//! | `fn/template` | `template` or `artifact`, `data?`, `artifacts?`, `as?` | `text` or `json` |
//! | `fn/hash` | `text`, `value`, `items` or `artifact` | `sha256`, `items?` |
//! | `fn/write` | `name`, `text`, `value`, `lines` or `artifact`, `mediaType?`, `path?` | `artifact`, `path?` |
//!
//! Files of `fn/write` lie below `DAG-out/` in the output directory, DAG being the id of the run's DAG: one DAG writes
//! nowhere else, and two DAGs do not write over each other's files.
//!
//! All give the same output for the same input, files aside. A failure that no attempt can cure is final.

mod cel;
mod document;
mod flow;
mod hash;
mod read;
mod room;
mod source;
mod template;
mod write;

use std::path::PathBuf;
use std::sync::Arc;

use super::{Executors, Failure};

/// The most text a function takes in or gives out, in bytes: 16 MiB.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// The built-in functions, and the two directories they may touch.
#[derive(Clone, Debug, Default)]
pub struct Builtins {
    /// What `fn/read` may read. Without it there is no `fn/read`.
    pub root: Option<PathBuf>,
    /// The directory in which `fn/write` makes a directory `DAG-out` for each DAG. Without it, it makes artifacts only.
    pub output: Option<PathBuf>,
}

impl Builtins {
    /// Adds the functions to `executors`.
    #[must_use]
    pub fn register(self, executors: Executors) -> Executors {
        let executors = executors
            .task("noop", flow::noop)
            .task("echo", flow::echo)
            .task("sleep", flow::sleep)
            .task("fail", flow::fail)
            .task("parse", document::parse)
            .task("cel", cel::cel)
            .task("template", template::template)
            .task("hash", hash::hash);
        let output = self.output.map(Arc::<std::path::Path>::from);
        let executors =
            executors.task("write", move |context, input| write::write(context, input, output.clone()));
        match self.root.map(Arc::<std::path::Path>::from) {
            None => executors,
            Some(root) => {
                executors.task("read", move |context, input| read::read(context, input, root.clone()))
            }
        }
    }
}

/// Runs work that blocks or computes for long beside the runtime's own threads.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Failure::retryable("shut_down", "the runtime is shutting down")),
        },
    }
}

/// The failure of an input that has the right shape and no sense.
fn invalid(message: impl Into<String>) -> Failure {
    Failure::fatal("invalid_input", message)
}

#[cfg(test)]
mod tests;
