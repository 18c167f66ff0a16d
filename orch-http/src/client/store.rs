//! The record of a service as a store that can be read: whoever reads it verifies it where he is.

use async_trait::async_trait;
use futures::stream::{StreamExt as _, TryStreamExt as _, iter};
use orch::ledger::{Head, Stream};
use orch::store::{
    Append, Capability, Doc, DocKey, DocsPage, DocsQuery, DuePage, DueQuery, EntriesPage, EntriesRequest,
    Prune, PutDoc, RunsPage, RunsQuery, Store,
};
use orch::{Error, ErrorKind, Result, RunKey, RunRow, TenantId};
use serde::Deserialize;

use super::Client;
use crate::api::page::{PAGE_SIZE_MAX, Page};
use crate::resources::entries::EntriesView;
use crate::resources::runs::RunView;

/// Streams read at once.
const AT_ONCE: usize = 8;

/// Just enough of an entry to know its place.
#[derive(Deserialize)]
struct Place {
    seq: u64,
}

/// Runs and entries can be read. What changes something is asked of the client itself: the service decides it.
#[async_trait]
impl Store for Client {
    fn capability(&self) -> Capability {
        Capability {
            survives_process: true,
            survives_power_loss: false,
            shared: true,
            atomic_row: false,
            append_batch: 1,
            append_bytes: 0,
        }
    }

    async fn append(&self, _: &[Append]) -> Result<Vec<Result<()>>> {
        Err(only_read())
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        let pages: Vec<_> = requests.iter().map(|request| self.page(request)).collect();
        iter(pages).buffered(AT_ONCE).try_collect().await
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        self.check(&key.tenant)?;
        match self.get(format!("/runs/{}/status", key.run)).answer::<RunView>().await {
            Ok(view) => Ok(Some(view.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        self.check(&query.tenant)?;
        let call = self.get("/runs").query("dagId", query.dag.as_ref()).query("status", query.status);
        let call = call.query("from", query.from).query("to", query.to).query("page_size", Some(query.limit));
        let Page { items, next_page_token } =
            call.query("page_token", query.cursor.as_ref()).answer::<Page<RunView>>().await?;
        Ok(RunsPage { runs: items.into_iter().map(Into::into).collect(), next: next_page_token })
    }

    async fn due(&self, _: &DueQuery) -> Result<DuePage> {
        Err(not_told())
    }

    async fn put_doc(&self, _: &PutDoc) -> Result<u64> {
        Err(only_read())
    }

    async fn doc(&self, _: &DocKey) -> Result<Option<Doc>> {
        Err(not_told())
    }

    async fn docs(&self, _: &DocsQuery) -> Result<DocsPage> {
        Err(not_told())
    }

    async fn prune(&self, _: &Prune) -> Result<usize> {
        Err(only_read())
    }
}

impl Client {
    /// Only the tenant that the token is used for can be read.
    fn check(&self, tenant: &TenantId) -> Result<()> {
        match tenant == self.tenant() {
            true => Ok(()),
            false => Err(Error::refused("this client acts for another tenant").with("tenant", tenant)),
        }
    }

    async fn page(&self, request: &EntriesRequest) -> Result<EntriesPage> {
        self.check(&request.tenant)?;
        let path = match &request.stream {
            Stream::Run(run) => format!("/runs/{run}/events"),
            Stream::Audit => "/audit".to_owned(),
            Stream::Checkpoint => "/checkpoints".to_owned(),
        };
        let size = request.limit.clamp(1, PAGE_SIZE_MAX as usize);
        let call = self.get(path).query("after", Some(request.after)).query("page_size", Some(size));
        let view = match call.answer::<EntriesView>().await {
            Ok(view) => view,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(EntriesPage { lines: String::new(), last: request.after, head: Head::EMPTY });
            }
            Err(error) => return Err(error),
        };
        let last = match view.items.last() {
            None => request.after,
            Some(entry) => {
                let place = serde_json::from_str::<Place>(entry.get());
                place.map_err(|cause| Error::corrupt("an entry has no place").caused_by(cause))?.seq
            }
        };
        let mut lines = String::new();
        for entry in &view.items {
            lines.push_str(entry.get());
            lines.push('\n');
        }
        Ok(EntriesPage { lines, last, head: Head { hash: view.head_hash, seq: view.head_seq } })
    }
}

fn only_read() -> Error {
    Error::unsupported("the record of a service is written by the service alone")
}

fn not_told() -> Error {
    Error::unsupported("a service does not tell this of its store")
}
