//! The feed of a tenant: which appends landed in which order, written down by the script that lands them, for as long as
//! anybody listens.
//!
//! One script has to reach the feed and every stream, so there is none in a cluster. Whoever opens a feed makes it; an hour
//! after the last look it is forgotten, and what is appended meanwhile costs nothing. It reaches back about 100 000 appends.

use orch::ledger::Stream;
use orch::store::{FeedItem, FeedPage, FeedQuery};
use orch::{Digest, Error, Result};

use super::{RedisStore, SCRIPT_BYTES};
use crate::error::unexpected;
use crate::queue::fresh_name;
use crate::script::FEED;

/// After which append of which feed a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor {
    feed: String,
    number: u64,
}

impl Cursor {
    fn read(text: &str) -> Result<Self> {
        let read = || {
            let (feed, number) = text.strip_prefix('r')?.split_once('.')?;
            let named = !feed.is_empty() && feed.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let number = number.parse().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()))?;
            named.then(|| Self { feed: feed.to_owned(), number })
        };
        read().ok_or_else(|| Error::invalid("not a cursor of a feed"))
    }

    fn text(&self) -> String {
        format!("r{}.{}", self.feed, self.number)
    }
}

pub(super) async fn feed(store: &RedisStore, query: &FeedQuery) -> Result<FeedPage> {
    if store.server.is_cluster() {
        return Err(Error::unsupported("a cluster keeps no order over all runs"));
    }
    let after = query.after.as_deref().map(Cursor::read).transpose()?;
    let keys: Vec<&str> = store.shards.iter().map(String::as_str).collect();
    let mut call = FEED.on(&keys);
    call.arg(query.tenant.as_str()).arg(fresh_name());
    match &after {
        None => call.arg("").arg(0),
        Some(after) => call.arg(&after.feed).arg(after.number),
    };
    call.arg(query.limit).arg(SCRIPT_BYTES);
    let answer: Vec<String> = call.send(&store.server).await?;
    let [feed, present, appends @ ..] = &answer[..] else {
        return Err(Error::not_found("the feed does not reach to this cursor any more: begin anew"));
    };
    let number = |text: &str| text.parse::<u64>().map_err(|_| unexpected("a number that does not read"));
    let present = number(present)?;
    let mut next = Cursor { feed: feed.clone(), number: after.map_or(present, |after| after.number) };
    let mut items = Vec::new();
    for append in appends.chunks(4) {
        let [at, stream, hash, lines] = append else { return Err(unexpected("an append without lines")) };
        next.number = number(at)?;
        // What was pruned is left out, and so is what another run of the same name has put in its place.
        let told = lines.lines().last().is_some_and(|last| Digest::of(last).to_string().starts_with(hash));
        if told {
            items.push(item(stream, lines, &next)?);
        }
    }
    Ok(FeedPage { items, next: next.text(), more: next.number < present })
}

fn item(stream: &str, lines: &str, cursor: &Cursor) -> Result<FeedItem> {
    #[derive(serde::Deserialize)]
    struct Place {
        seq: u64,
    }
    let run = match stream.split_once('/').and_then(|(_, stream)| stream.parse().ok()) {
        Some(Stream::Run(run)) => run,
        _ => return Err(unexpected("a feed with another stream than a run's")),
    };
    let first = lines.lines().next().unwrap_or_default();
    let first: Place = serde_json::from_str(first).map_err(|cause| {
        Error::corrupt("an entry has no place").with("run", run).caused_by(cause.to_string())
    })?;
    Ok(FeedItem { run, first: first.seq, lines: lines.to_owned(), cursor: cursor.text() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written_and_nothing_else_is() {
        let cursor = Cursor { feed: "a1b2".to_owned(), number: 12 };
        assert_eq!(Cursor::read(&cursor.text()).unwrap(), cursor);
        for wrong in ["", "r", "ra", "r.1", "ra.", "ra.x", "ra.+1", "ra.1.2", "r*.1", "s1.2.3"] {
            assert!(Cursor::read(wrong).is_err(), "{wrong}");
        }
    }
}
