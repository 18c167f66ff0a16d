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
    result: Option<Result<()>>,
}

/// The states of many runs; nothing for a run that does not exist.
pub(super) async fn states(core: &Arc<Core>, keys: Vec<RunKey>) -> Vec<(RunKey, Result<Option<RunState>>)> {
    fold(core, keys.into_iter().map(|key| Folding { key, state: None, result: None }).collect()).await
}

/// The same states with what has been appended since.
pub(super) async fn refreshed(
    core: &Arc<Core>,
    states: Vec<RunState>,
) -> Vec<(RunKey, Result<Option<RunState>>)> {
    let folding = |state: RunState| Folding { key: state.key.clone(), state: Some(state), result: None };
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
                    let more = page.more();
                    match runs[i].fold(core, &page.lines) {
                        Ok(()) if more && !page.lines.is_empty() => {}
                        Ok(()) => runs[i].result = Some(Ok(())),
                        Err(error) => runs[i].result = Some(Err(error)),
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
            after: self.state.as_ref().map_or(0, |state| state.head.seq),
            limit: PAGE,
        }
    }

    fn fold(&mut self, core: &Arc<Core>, lines: &str) -> Result<()> {
        let head = self.state.as_ref().map_or(Head::EMPTY, |state| state.head);
        for entry in read_chain(head, lines) {
            let (entry, _, head) = entry?;
            match &mut self.state {
                None => self.state = Some(RunState::open(&entry, head, |document| core.plan_of(document))?),
                Some(state) => {
                    state.apply(entry.at, &entry.actor, &entry.event)?;
                    state.head = head;
                }
            }
        }
        Ok(())
    }
}
