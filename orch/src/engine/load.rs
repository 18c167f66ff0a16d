//! Reading runs: from entries to state.

use std::sync::Arc;

use super::core::Core;
use crate::error::{Error, Result};
use crate::id::RunKey;
use crate::ledger::{Head, Stream, read_chain};
use crate::planner::RunState;
use crate::store::EntriesRequest;

/// Entries read at once of one run.
const PAGE: usize = 10_000;

/// A run being folded, page by page.
struct Folding {
    key: RunKey,
    state: Option<RunState>,
    /// Whether the state is older than this reading: the run may have been pruned since, and begun anew.
    old: bool,
    result: Option<Result<()>>,
}

/// The states of many runs; nothing for a run that does not exist.
pub(super) async fn states(core: &Arc<Core>, keys: Vec<RunKey>) -> Vec<(RunKey, Result<Option<RunState>>)> {
    let folding = |key| Folding { key, state: None, old: false, result: None };
    fold(core, keys.into_iter().map(folding).collect()).await
}

/// The same states with what has been appended since.
pub(super) async fn refreshed(
    core: &Arc<Core>,
    states: Vec<RunState>,
) -> Vec<(RunKey, Result<Option<RunState>>)> {
    let folding =
        |state: RunState| Folding { key: state.key.clone(), state: Some(state), old: true, result: None };
    fold(core, states.into_iter().map(folding).collect()).await
}

async fn fold(core: &Arc<Core>, mut runs: Vec<Folding>) -> Vec<(RunKey, Result<Option<RunState>>)> {
    loop {
        let open: Vec<usize> = (0..runs.len()).filter(|i| runs[*i].result.is_none()).collect();
        if open.is_empty() {
            break;
        }
        let requests: Vec<EntriesRequest> = open.iter().map(|i| runs[*i].request()).collect();
        match core.store.entries(&requests).await {
            Ok(pages) => {
                for (i, page) in open.into_iter().zip(pages) {
                    let run = &mut runs[i];
                    let folded = run.fold(core, &page.lines);
                    match folded {
                        // It is not the run that it was: read from its beginning.
                        _ if run.old && (folded.is_err() || (!page.more() && page.head != run.head())) => {
                            (run.state, run.old) = (None, false);
                        }
                        Ok(()) if page.more() && !page.lines.is_empty() => {}
                        Ok(()) => run.result = Some(Ok(())),
                        Err(error) => run.result = Some(Err(error)),
                    }
                }
            }
            Err(error) => {
                for i in open {
                    let copy = Error::new(error.kind(), error.message().to_owned());
                    runs[i].result = Some(Err(copy.during("store.entries")));
                }
            }
        }
    }
    runs.into_iter().map(|run| (run.key, run.result.unwrap_or(Ok(())).map(|()| run.state))).collect()
}

/// The state of one run.
///
/// # Errors
/// `NotFound` when there is no such run, `Corrupt` when its entries do not fold, `Unavailable`.
pub(super) async fn state(core: &Arc<Core>, key: &RunKey) -> Result<RunState> {
    let loaded = states(core, vec![key.clone()]).await.pop();
    let (_, state) = loaded.ok_or_else(|| Error::internal("every run asked for is answered"))?;
    state?.ok_or_else(|| Error::not_found("no such run").with("run", key.run))
}

impl Folding {
    fn request(&self) -> EntriesRequest {
        EntriesRequest {
            tenant: self.key.tenant.clone(),
            stream: Stream::Run(self.key.run),
            after: self.head().seq,
            limit: PAGE,
        }
    }

    /// As far as it has been folded.
    fn head(&self) -> Head {
        self.state.as_ref().map_or(Head::EMPTY, |state| state.head)
    }

    fn fold(&mut self, core: &Arc<Core>, lines: &str) -> Result<()> {
        for entry in read_chain(self.head(), lines) {
            let (entry, _, head) = entry?;
            match &mut self.state {
                None => self.state = Some(RunState::open(&entry, head, |document| core.plan_of(document))?),
                Some(state) => {
                    state.apply(entry.at, &entry.actor, &entry.event)?;
                    state.head = head;
                    // Whoever appended this wrote the row.
                    state.wake_written = None;
                }
            }
        }
        Ok(())
    }
}
