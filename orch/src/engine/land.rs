//! From many prepared appends to one call of the store, and what became of each.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::Core;
use super::prepare::Prepared;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Append, EntriesRequest};

/// Rests before each look at what became of an append whose answer was lost.
const DOUBT_RESTS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(200)];

/// An error is told to everybody it concerns; its source stays with the log.
pub(super) fn echo(error: &Error) -> Error {
    let mut copy = Error::new(error.kind(), error.message().to_owned());
    for (key, value) in error.context() {
        copy = copy.with(key, value);
    }
    match error.operation() {
        Some(operation) => copy.during(operation),
        None => copy,
    }
}

/// Appends, and finds out about what was not answered. Answers how long the append took, too.
pub(super) async fn land(
    core: &Arc<Core>,
    mut batch: Vec<Prepared>,
) -> (Vec<(Prepared, Result<()>)>, Duration) {
    let appends: Vec<_> = batch.iter_mut().filter_map(|prepared| prepared.append.take()).collect();
    let begun = Instant::now();
    let answered = core.store.append(&appends).await;
    let took = begun.elapsed();
    core.observers.iter().for_each(|observer| observer.committed(appends.len(), took));
    let mut outcomes = match answered {
        Ok(outcomes) => outcomes,
        Err(error) => appends.iter().map(|_| Err(echo(&error))).collect(),
    };
    settle_doubts(core, &appends, &mut outcomes).await;
    (batch.into_iter().zip(outcomes).collect(), took)
}

/// An append whose answer was lost has landed when its stream goes on with exactly its lines. Then everything follows
/// from it that would have followed; otherwise it stays in doubt.
async fn settle_doubts(core: &Arc<Core>, appends: &[Append], outcomes: &mut [Result<()>]) {
    let doubtful = |outcome: &Result<()>| matches!(outcome, Err(e) if e.kind() == ErrorKind::Indeterminate);
    let doubts: Vec<usize> =
        (0..outcomes.len()).filter(|i| doubtful(&outcomes[*i]) && !appends[*i].lines.is_empty()).collect();
    if doubts.is_empty() {
        return;
    }
    let request = |i: &usize| {
        let Append { tenant, stream, expected, head, .. } = &appends[*i];
        let limit = usize::try_from(head.seq - expected.seq).unwrap_or(usize::MAX);
        EntriesRequest { tenant: tenant.clone(), stream: *stream, after: expected.seq, limit }
    };
    let requests: Vec<EntriesRequest> = doubts.iter().map(request).collect();
    for rest in DOUBT_RESTS {
        tokio::time::sleep(rest).await;
        let Ok(pages) = core.store.entries(&requests).await else { continue };
        for (i, page) in doubts.iter().zip(pages) {
            if page.lines.starts_with(&*appends[*i].lines) {
                outcomes[*i] = Ok(());
            }
        }
        return;
    }
}
