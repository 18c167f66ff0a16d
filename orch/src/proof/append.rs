//! Appending to the streams that belong to no run.

use super::{END, read_page};
use crate::error::{Error, ErrorKind, Result};
use crate::id::TenantId;
use crate::ledger::{Chain, Event, Stream};
use crate::store::{Append, Store};
use crate::time::Timestamp;

/// How often an append is tried again because somebody else was quicker.
const TRIES: u32 = 64;

/// Appends events to the `audit` or `checkpoint` stream of a tenant, again and again until no other append comes
/// between; answers the lines, each ended by a newline.
///
/// # Errors
/// `Invalid` for a run's stream, `Conflict` when others were quicker 64 times, and what the store answers.
pub async fn append(
    store: &dyn Store,
    tenant: &TenantId,
    stream: Stream,
    actor: &str,
    at: Timestamp,
    events: &[Event],
) -> Result<String> {
    let write =
        |chain: &mut Chain| events.iter().try_for_each(|event| chain.push(actor, at, event).map(drop));
    append_by(store, tenant, stream, &write).await
}

/// The same with entries that depend on where they come to stand: `write` is asked again after every lost race.
pub(super) async fn append_by(
    store: &dyn Store,
    tenant: &TenantId,
    stream: Stream,
    write: &(dyn Fn(&mut Chain) -> Result<()> + Sync),
) -> Result<String> {
    if matches!(stream, Stream::Run(_)) {
        return Err(Error::invalid("runs are appended to by the engine alone").with("stream", stream));
    }
    for _ in 0..TRIES {
        let expected = read_page(store, tenant, stream, END, 1).await?.head;
        let mut chain = Chain::new(tenant, stream, expected);
        write(&mut chain)?;
        let count = chain.count();
        let (lines, head) = chain.finish()?;
        let append =
            Append { tenant: tenant.clone(), stream, expected, lines: lines.clone(), head, row: None };
        let answer = store.append(&[append]).await.and_then(|mut answers| {
            answers.pop().unwrap_or_else(|| Err(Error::internal("the store answered nothing")))
        });
        match answer {
            Ok(()) => return Ok(lines.to_string()),
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) if error.kind() == ErrorKind::Indeterminate => {
                let page = read_page(store, tenant, stream, expected.seq, count).await?;
                if page.lines.starts_with(&*lines) {
                    return Ok(lines.to_string());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::conflict("others keep appending to the stream").with("stream", stream).with("tries", TRIES))
}
