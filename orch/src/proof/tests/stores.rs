//! Stores that lose runs, cannot read them, or prune them while they are verified.

use async_trait::async_trait;

use super::*;
use crate::error::{Error, ErrorKind};
use crate::id::RunKey;
use crate::store::*;

/// What a store does to one run that it listed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Nothing is there any more, or only the entries are.
    Lost,
    RowLost,
    EntriesLost,
    /// The store answers `Corrupt`.
    Unread,
    /// The listing ends in `Corrupt` when it comes to it.
    Unlisted,
    /// It is pruned right after it was listed.
    Pruned,
}

#[derive(Debug)]
struct Odd {
    inner: MemoryStore,
    run: RunId,
    fate: Fate,
}

#[async_trait]
impl Store for Odd {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>> {
        self.inner.append(appends).await
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        if requests[0].stream == Stream::Run(self.run) {
            match self.fate {
                Fate::Lost | Fate::EntriesLost => {
                    return Ok(vec![EntriesPage { lines: String::new(), last: 0, head: Head::EMPTY }]);
                }
                Fate::Unread => return Err(Error::corrupt("damaged")),
                _ => {}
            }
        }
        self.inner.entries(requests).await
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        let lost = key.run == self.run && matches!(self.fate, Fate::Lost | Fate::RowLost);
        if lost { Ok(None) } else { self.inner.run(key).await }
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        let page = self.inner.runs(query).await?;
        if self.fate == Fate::Unlisted && page.runs.iter().any(|row| row.run == self.run) {
            return Err(Error::corrupt("row is damaged").with("run", self.run));
        }
        if self.fate == Fate::Pruned {
            prune_them(&self.inner, vec![self.run]).await;
        }
        Ok(page)
    }

    async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        self.inner.due(query).await
    }

    async fn put_doc(&self, put: &PutDoc) -> Result<u64> {
        self.inner.put_doc(put).await
    }

    async fn doc(&self, key: &DocKey) -> Result<Option<Doc>> {
        self.inner.doc(key).await
    }

    async fn docs(&self, query: &DocsQuery) -> Result<DocsPage> {
        self.inner.docs(query).await
    }

    async fn prune(&self, prune: &Prune) -> Result<usize> {
        self.inner.prune(prune).await
    }
}

/// Verifies two runs of which one meets its fate, with or without a checkpoint that names both.
async fn verified(fate: Fate, with_checkpoint: bool) -> (Report, RunId) {
    let (one, two) = (mixed("t1"), mixed("t2"));
    let inner = store_of(&[&one, &two]).await;
    let taken = if with_checkpoint { checkpoint(&inner, Scope::All).await } else { None };
    let options = VerifyOptions { checkpoints: taken.into_iter().collect(), ..VerifyOptions::default() };
    let odd = Odd { inner, run: one.state.key.run, fate };
    (verify_store(&odd, &tenant(), &options).await.unwrap(), one.state.key.run)
}

#[tokio::test]
async fn a_run_that_is_lost_or_cannot_be_read_is_named_and_the_others_are_verified() {
    for with_checkpoint in [true, false] {
        for (fate, code) in [
            (Fate::Lost, "deleted"),
            (Fate::RowLost, "row_missing"),
            (Fate::EntriesLost, "deleted"),
            (Fate::Unread, "unreadable"),
            (Fate::Unlisted, "unreadable"),
        ] {
            let (report, run) = verified(fate, with_checkpoint).await;
            let named: Vec<_> = report.problems.iter().map(|p| (p.stream, p.code)).collect();
            assert_eq!(named, [(Stream::Run(run), code)], "{fate:?} {report:?}");
            if with_checkpoint {
                assert_eq!(report.streams, 3, "{fate:?} {report:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_run_that_is_pruned_while_the_ledger_is_verified_is_no_problem() {
    for with_checkpoint in [true, false] {
        let (report, _) = verified(Fate::Pruned, with_checkpoint).await;
        assert_eq!(report.problems, []);
        assert_eq!(report.streams, 1 + u64::from(with_checkpoint));
    }
}

#[tokio::test]
async fn the_error_of_a_stream_that_cannot_be_exported_names_it() {
    let one = mixed("t1");
    let run = one.state.key.run;
    let odd = Odd { inner: store_of(&[&one]).await, run, fate: Fate::Unread };
    let error = export(&odd, &tenant(), None, Timestamp::EPOCH, &mut Vec::<u8>::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.context().contains(&("stream", format!("run/{run}"))), "{error:?}");
}
