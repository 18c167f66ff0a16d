//! A store that is watched.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Landed, Observed, SeenStream};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RunKey, TenantId};
use crate::ledger::Stream;
use crate::store::{
    Append, Capability, Doc, DocKey, DocsPage, DocsQuery, DuePage, DueQuery, EntriesPage, EntriesRequest,
    FeedPage, FeedQuery, Prune, PutDoc, RunRow, RunsPage, RunsQuery, Store,
};

#[derive(Debug)]
pub(super) struct Watched {
    inner: Arc<dyn Store>,
    observed: Observed,
}

impl Watched {
    pub(super) fn new(inner: Arc<dyn Store>, observed: Observed) -> Self {
        Self { inner, observed }
    }

    /// Notes the answer to an append; `sure` says that nothing was in doubt about it before it was asked for.
    fn answered(&self, append: &Append, sure: bool, answer: &Result<()>) {
        if append.lines.is_empty() {
            return;
        }
        let mut seen = self.observed.seen();
        let stream = seen.streams.entry((append.tenant.clone(), append.stream)).or_default();
        let mut refused = false;
        match answer.as_ref().map_err(Error::kind) {
            Ok(()) => {
                stream.doubtful.remove(&append.head);
                let landed = Landed { from: append.expected.hash, head: append.head };
                // What was refused and is granted when it is asked for again was lost in between, not refused wrongly.
                stream.refused.remove(&append.head);
                let before = stream.landed.range(..=append.expected.seq).next_back();
                match before.filter(|(_, first)| first.head.seq > append.expected.seq) {
                    None => drop(stream.landed.insert(append.expected.seq, landed)),
                    Some((_, first)) => drop(stream.rivals.insert(append.head, first.head)),
                }
            }
            Err(ErrorKind::Indeterminate) => {}
            Err(kind) => {
                if sure {
                    stream.doubtful.remove(&append.head);
                }
                refused = kind == ErrorKind::Conflict;
                if refused && sure && !stream.landed.values().any(|landed| landed.head == append.head) {
                    stream.refused.insert(append.head);
                }
            }
        }
        seen.refused += u64::from(refused && matches!(append.stream, Stream::Run(_)));
    }

    fn check_row(&self, tenant: &TenantId, row: &RunRow) {
        self.observed.answered(tenant, row);
    }

    fn check_doc(&self, tenant: &TenantId, doc: &Doc) {
        let own = self.observed.seen().documents.contains(&(tenant.clone(), Digest::of(&doc.body)));
        if !own {
            self.observed.foreign(tenant, Stream::Audit, &format!("the document `{}`", doc.key));
        }
    }
}

/// Whether every line says that it is of the tenant and the stream.
fn is_own(request: &EntriesRequest, page: &EntriesPage) -> bool {
    let (tenant, stream) = (
        format!("\"tenant\":\"{}\",\"type\":", request.tenant),
        format!("\"stream\":\"{}\"", request.stream),
    );
    page.lines.split_terminator('\n').all(|line| line.contains(&tenant) && line.contains(&stream))
}

#[async_trait]
impl Store for Watched {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    fn stamp(&self) -> Option<u64> {
        self.inner.stamp()
    }

    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>> {
        let doubt = |append: &Append| {
            let mut seen = self.observed.seen();
            let stream = seen.streams.entry((append.tenant.clone(), append.stream)).or_default();
            // A run that is there again begins anew; an append to what was pruned is a race that it lost.
            if append.expected.seq == 0 && stream.pruned.is_some() {
                *stream = SeenStream::default();
            }
            stream.doubtful.insert(append.head)
        };
        let sure: Vec<bool> = appends.iter().map(doubt).collect();
        let answers = self.inner.append(appends).await?;
        for ((append, sure), answer) in appends.iter().zip(sure).zip(&answers) {
            self.answered(append, sure, answer);
        }
        Ok(answers)
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        let pages = self.inner.entries(requests).await?;
        for (request, _) in requests.iter().zip(&pages).filter(|(request, page)| !is_own(request, page)) {
            self.observed.foreign(&request.tenant, request.stream, "entries");
        }
        Ok(pages)
    }

    async fn feed(&self, query: &FeedQuery) -> Result<FeedPage> {
        self.inner.feed(query).await
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        let row = self.inner.run(key).await?;
        row.iter().for_each(|row| self.check_row(&key.tenant, row));
        Ok(row)
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        let page = self.inner.runs(query).await?;
        page.runs.iter().for_each(|row| self.check_row(&query.tenant, row));
        Ok(page)
    }

    async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        self.inner.due(query).await
    }

    async fn put_doc(&self, put: &PutDoc) -> Result<u64> {
        if let Some(body) = &put.body {
            self.observed.seen().documents.insert((put.key.tenant.clone(), Digest::of(body)));
        }
        self.inner.put_doc(put).await
    }

    async fn doc(&self, key: &DocKey) -> Result<Option<Doc>> {
        let doc = self.inner.doc(key).await?;
        doc.iter().for_each(|doc| self.check_doc(&key.tenant, doc));
        Ok(doc)
    }

    async fn docs(&self, query: &DocsQuery) -> Result<DocsPage> {
        let page = self.inner.docs(query).await?;
        page.docs.iter().for_each(|doc| self.check_doc(&query.tenant, doc));
        Ok(page)
    }

    async fn prune(&self, prune: &Prune) -> Result<usize> {
        let gone = self.inner.prune(prune).await?;
        // Only if all of them went is it known which.
        if gone == prune.runs.len() {
            let mut seen = self.observed.seen();
            for (run, head) in &prune.runs {
                let stream = seen.streams.entry((prune.tenant.clone(), Stream::Run(*run))).or_default();
                *stream = SeenStream { pruned: Some(*head), ..SeenStream::default() };
                seen.submitted.retain(|_, submitted| submitted != run);
                let key = RunKey { tenant: prune.tenant.clone(), run: *run };
                seen.executed.retain(|(of, ..), _| *of != key);
            }
        }
        Ok(gone)
    }
}
