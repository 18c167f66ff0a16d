//! The store: entries, rows, documents.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use orch::ledger::{Head, RunStatus, Stream};
use orch::store::*;
use orch::{Digest, Error, Result, RunKey, TenantId, Timestamp};
use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use crate::Database;
use crate::config::Synchronous;
use crate::error::{corrupt, mapped};
use crate::writer::Change;

mod feed;
mod stamp;
mod statements;
pub(crate) use statements::*;

/// A [`Store`] in a SQLite file. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SqliteStore(Arc<Database>);

impl SqliteStore {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self(database)
    }
}

/// A number as SQLite keeps it. What lies beyond is further than any stream is long.
pub(crate) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn natural(row: &SqliteRow, column: usize) -> sqlx::Result<u64> {
    row.try_get::<i64, _>(column).map(i64::cast_unsigned)
}

/// A stream as the merge of appends sees it.
struct Current {
    id: i64,
    head: Head,
    is_new: bool,
    /// The indexed columns of the run's row, if it has one.
    place: Option<String>,
}

/// What the indexes of a run's row are made of; a row that keeps its place needs no index touched.
fn place(row: &RunRow) -> String {
    let wake_at = row.wake_at.map(Timestamp::as_micros).unwrap_or(-1);
    format!("{} {} {} {wake_at}", row.dag, row.status, row.created_at.as_micros())
}

/// A value to be bound.
enum Cell {
    Number(i64),
    Text(String),
    Lines(Arc<str>),
    Null,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// A set of rows for one statement.
struct Rows {
    many: &'static Many,
    cells: Vec<Cell>,
}

impl Rows {
    fn of(many: &'static Many) -> Self {
        Self { many, cells: Vec::new() }
    }

    fn push<const WIDTH: usize>(&mut self, row: [Cell; WIDTH]) {
        debug_assert_eq!(WIDTH, self.many.width(), "a row is as wide as its set");
        self.cells.extend(row);
    }

    fn parts(&self) -> Vec<Part> {
        self.many.parts(self.cells.len() / self.many.width())
    }

    /// The values of each part, filled up to what it takes.
    fn split(self, parts: &[Part]) -> impl Iterator<Item = (&'static str, Vec<Cell>)> {
        let width = self.many.width();
        let mut cells = self.cells.into_iter();
        parts.iter().map(move |(rows, sql)| {
            let mut own: Vec<Cell> = cells.by_ref().take(rows * width).collect();
            own.resize_with(rows * width, || Cell::Null);
            (*sql, own)
        })
    }
}

impl Cell {
    fn bind(query: SqliteQuery, cell: Self) -> SqliteQuery {
        match cell {
            Self::Number(number) => query.bind(number),
            Self::Text(text) => query.bind(text),
            Self::Lines(lines) => query.bind(lines),
            Self::Null => query.bind(None::<i64>),
        }
    }
}

type SqliteQuery = sqlx::query::Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// What is inserted and updated.
struct Changes {
    new: Rows,
    moved: Rows,
    chunks: Rows,
    placed: Rows,
    kept: Rows,
}

impl Changes {
    fn new() -> Self {
        Self {
            new: Rows::of(&INSERT_STREAMS),
            moved: Rows::of(&UPDATE_STREAMS),
            chunks: Rows::of(&INSERT_APPENDS),
            placed: Rows::of(&UPSERT_RUNS),
            kept: Rows::of(&UPDATE_RUNS),
        }
    }
}

/// What is to be written in the writer's transaction, which has begun.
pub(crate) struct Write {
    texts: Vec<&'static str>,
    values: Vec<Vec<Cell>>,
    /// Whether it goes in one call of the driver.
    pub(crate) small: bool,
    /// For each append, the head that stands against it.
    pub(crate) conflicts: Vec<Option<Head>>,
}

/// Begins the writer's transaction and finds out what the appends change.
pub(crate) async fn begin(connection: &mut SqliteConnection, appends: &[Append]) -> sqlx::Result<Write> {
    let mut streams = heads(connection, appends).await?;
    // A stream that has no head yet is made by an append that expects none.
    let next_id = match appends.iter().any(|append| append.expected == Head::EMPTY) {
        true => sqlx::query(NEXT_STREAM).fetch_one(&mut *connection).await?.try_get(0)?,
        false => 0,
    };
    let (Changes { new, moved, chunks, placed, kept }, conflicts) = merge(appends, &mut streams, next_id)?;
    let sets = [new, moved, chunks, placed, kept].map(|rows| (rows.parts(), rows));
    // Of texts of many parts no two are alike, and each would be prepared anew.
    let small = sets.iter().all(|(parts, _)| parts.len() <= 1);
    let parts = sets.into_iter().flat_map(|(parts, rows)| rows.split(&parts).collect::<Vec<_>>());
    let (texts, values) = parts.unzip();
    Ok(Write { texts, values, small, conflicts })
}

impl Write {
    /// Writes; with `last`, a statement that goes in the same call of the driver.
    pub(crate) async fn carry_out(
        self,
        connection: &mut SqliteConnection,
        last: Option<&'static str>,
    ) -> sqlx::Result<()> {
        if self.small {
            let text = self.texts.into_iter().chain(last).collect::<Vec<_>>().join("; ");
            if !text.is_empty() {
                let query = sqlx::query(AssertSqlSafe(text));
                self.values.into_iter().flatten().fold(query, Cell::bind).execute(connection).await?;
            }
            return Ok(());
        }
        let queries = self
            .texts
            .into_iter()
            .zip(self.values)
            .map(|(sql, values)| values.into_iter().fold(sqlx::query(sql), Cell::bind));
        for query in queries.chain(last.map(sqlx::query)) {
            query.execute(&mut *connection).await?;
        }
        Ok(())
    }
}

type Streams<'a> = HashMap<(&'a TenantId, Stream), Current>;

async fn heads<'a>(connection: &mut SqliteConnection, appends: &'a [Append]) -> sqlx::Result<Streams<'a>> {
    let mut keys = Rows::of(&HEADS);
    for (number, append) in (0..).zip(appends) {
        keys.push([
            Cell::Number(number),
            append.tenant.as_str().into(),
            Cell::Text(append.stream.to_string()),
        ]);
    }
    let mut parts = keys.parts();
    if let (Some(first), Some(begun)) = (parts.first_mut(), BEGIN_AND_HEADS.parts(appends.len()).first()) {
        *first = *begun;
    }
    let mut streams = Streams::with_capacity(appends.len());
    for (sql, values) in keys.split(&parts) {
        let query = values.into_iter().fold(sqlx::query(sql), Cell::bind);
        let row = query.fetch_one(&mut *connection).await?;
        let found: Vec<(usize, i64, u64, Digest, Option<String>)> =
            serde_json::from_str(row.try_get(0)?).map_err(|error| sqlx::Error::Decode(error.into()))?;
        for (number, id, seq, hash, place) in found {
            let current = Current { id, head: Head { hash, seq }, is_new: false, place };
            streams.insert((&appends[number].tenant, appends[number].stream), current);
        }
    }
    Ok(streams)
}

/// The head in two columns: number and hash.
pub(crate) fn head(row: &SqliteRow, column: usize) -> sqlx::Result<Head> {
    let hash: &str = row.try_get(column + 1)?;
    let hash = hash.parse::<Digest>().map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(Head { hash, seq: natural(row, column)? })
}

fn number(number: u64) -> Cell {
    Cell::Number(integer(number))
}

/// Compares the appends one after the other and collects what those that fit change.
fn merge<'a>(
    appends: &'a [Append],
    streams: &mut Streams<'a>,
    mut next_id: i64,
) -> sqlx::Result<(Changes, Vec<Option<Head>>)> {
    let mut changes = Changes::new();
    let mut conflicts = Vec::with_capacity(appends.len());
    let mut rows: HashMap<i64, &RunRow> = HashMap::new();
    let mut touched = Vec::new();
    for append in appends {
        let key = (&append.tenant, append.stream);
        let actual = streams.get(&key).map_or(Head::EMPTY, |current| current.head);
        if actual != append.expected {
            conflicts.push(Some(actual));
            continue;
        }
        conflicts.push(None);
        let current = streams.entry(key).or_insert_with(|| {
            next_id += 1;
            Current { id: next_id - 1, head: Head::EMPTY, is_new: true, place: None }
        });
        if append.lines.is_empty() && append.row.is_none() {
            continue;
        }
        touched.push(key);
        current.head = append.head;
        if !append.lines.is_empty() {
            let (first, last) = (append.expected.seq + 1, append.head.seq);
            let lines = Cell::Lines(Arc::clone(&append.lines));
            changes.chunks.push([Cell::Number(current.id), number(first), number(last), lines]);
        }
        if let Some(row) = &append.row {
            rows.insert(current.id, row);
        }
    }
    touched.sort_unstable();
    touched.dedup();
    for key in touched {
        let current = &streams[&key];
        let (seq, hash) = (number(current.head.seq), Cell::Text(current.head.hash.to_string()));
        if current.is_new {
            let name = Cell::Text(key.1.to_string());
            changes.new.push([Cell::Number(current.id), key.0.as_str().into(), name, seq, hash]);
        } else {
            changes.moved.push([Cell::Number(current.id), seq, hash]);
        }
        let Some(row) = rows.get(&current.id) else { continue };
        let body = serde_json::to_string(row).map_err(|cause| sqlx::Error::Encode(cause.into()))?;
        let (id, body) = (Cell::Number(current.id), Cell::Text(body));
        if current.place.as_ref() == Some(&place(row)) {
            changes.kept.push([id, body]);
        } else {
            changes.placed.push([
                id,
                row.tenant.as_str().into(),
                Cell::Text(row.run.to_string()),
                row.dag.as_str().into(),
                row.status.as_str().into(),
                Cell::Number(-row.created_at.as_micros()),
                row.wake_at.map_or(Cell::Null, |at| Cell::Number(at.as_micros())),
                body,
            ]);
        }
    }
    Ok((changes, conflicts))
}

/// A run's row from its body and the columns after it, which must say the same: listings look at the columns only.
pub(crate) fn run_row(found: &SqliteRow) -> Result<RunRow> {
    let run = found.try_get::<&str, _>(2).map_err(mapped)?;
    let body = found.try_get::<&str, _>(0).map_err(mapped)?;
    let row: RunRow = serde_json::from_str(body)
        .map_err(|cause| corrupt("row of a run does not read")(cause.to_string()).with("run", run))?;
    let text = |column| found.try_get::<&str, _>(column).map_err(mapped);
    let newest: i64 = found.try_get(5).map_err(mapped)?;
    let wake_at: Option<i64> = found.try_get(6).map_err(mapped)?;
    let same = [
        ("tenant", text(1)? == row.tenant.as_str()),
        ("run", run == row.run.to_string()),
        ("dag", text(3)? == row.dag.as_str()),
        ("status", text(4)? == row.status.as_str()),
        ("newest", newest == -row.created_at.as_micros()),
        ("wake_at", wake_at == row.wake_at.map(Timestamp::as_micros)),
    ];
    let differing: Vec<_> = same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect();
    if differing.is_empty() {
        return Ok(row);
    }
    let error = Error::corrupt("columns of a run's row differ from its body");
    Err(error.with("run", run).with("columns", differing.join(", ")))
}

#[async_trait]
impl Store for SqliteStore {
    fn capability(&self) -> Capability {
        Capability {
            survives_process: true,
            survives_power_loss: self.0.config.synchronous == Synchronous::Full,
            shared: true,
            atomic_row: true,
            append_batch: 1_000,
            append_bytes: 256 << 20,
        }
    }

    fn stamp(&self) -> Option<u64> {
        stamp::of(&self.0.config.path)
    }

    async fn append(&self, appends: &[Append]) -> Result<Vec<Result<()>>> {
        let capability = self.capability();
        let mut answers: Vec<_> = appends.iter().map(|append| append.check(&capability)).collect();
        let sound: Vec<_> = appends
            .iter()
            .zip(&answers)
            .filter(|(_, answer)| answer.is_ok())
            .map(|(a, _)| a.clone())
            .collect();
        if !sound.is_empty() {
            let mut landed = self.0.writer()?.append(sound).await?.into_iter();
            for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
                *answer = landed.next().unwrap_or_else(|| Err(Error::internal("an append has no answer")));
            }
        }
        Ok(answers)
    }

    async fn entries(&self, requests: &[EntriesRequest]) -> Result<Vec<EntriesPage>> {
        let wanted: Vec<_> = requests
            .iter()
            .map(|request| {
                let last_first = request.after.saturating_add(request.limit as u64);
                json!([request.tenant, request.stream, integer(request.after), integer(last_first)])
            })
            .collect();
        let rows = sqlx::query(ENTRIES).bind(json!(wanted).to_string()).fetch_all(&self.0.readers).await;
        let empty = |request: &EntriesRequest| EntriesPage {
            lines: String::new(),
            last: request.after,
            head: Head::EMPTY,
        };
        let mut pages: Vec<_> = requests.iter().map(empty).collect();
        for row in rows.map_err(mapped)? {
            let at = row.try_get::<u32, _>(0).map_err(mapped)? as usize;
            let page = &mut pages[at];
            page.head = head(&row, 1).map_err(mapped)?;
            if let Some(lines) = row.try_get::<Option<&str>, _>(5).map_err(mapped)? {
                let (first, last) = (natural(&row, 3).map_err(mapped)?, natural(&row, 4).map_err(mapped)?);
                if last > page.last {
                    page.lines.push_str(lines_after(lines, first, page.last));
                    page.last = last;
                }
            }
        }
        Ok(pages)
    }

    async fn feed(&self, query: &FeedQuery) -> Result<FeedPage> {
        feed::feed(self, query).await
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRow>> {
        let row = sqlx::query(RUN)
            .bind(key.tenant.as_str())
            .bind(Stream::Run(key.run).to_string())
            .fetch_optional(&self.0.readers)
            .await
            .map_err(mapped)?;
        let row = row.as_ref().map(run_row).transpose()?;
        if row.as_ref().is_some_and(|row| row.key() != *key) {
            return Err(Error::corrupt("row of a run belongs to another stream").with("run", key.run));
        }
        Ok(row)
    }

    async fn runs(&self, query: &RunsQuery) -> Result<RunsPage> {
        check_page(query.limit)?;
        let cursor = query.cursor.as_deref().map(RunsCursor::parse).transpose()?;
        // The first place of the page, in the order of the listing: after the cursor, and created before `to`.
        let after_cursor = cursor.map(|cursor| (-cursor.created_at.as_micros(), cursor.run.to_string()));
        let (newest, run) = after_cursor.unwrap_or((i64::MIN, String::new()));
        let before_to = query.to.map_or(i64::MIN, |to| 1 - to.as_micros());
        let sql = runs_statement(query.dag.is_some(), query.status.is_some());
        let rows = sqlx::query(sql)
            .bind(query.tenant.as_str())
            .bind(newest)
            .bind(run)
            .bind(before_to)
            .bind(query.from.map_or(i64::MAX, |from| -from.as_micros()))
            .bind(integer(query.limit as u64 + 1))
            .bind(query.dag.as_ref().map(|dag| dag.as_str().to_owned()))
            .bind(query.status.map(RunStatus::as_str))
            .fetch_all(&self.0.readers)
            .await
            .map_err(mapped)?;
        let more = rows.len() > query.limit;
        let runs = rows.iter().take(query.limit).map(run_row).collect::<Result<Vec<_>>>()?;
        let next = runs.last().filter(|_| more).map(|last| RunsCursor::of(last).to_text());
        Ok(RunsPage { runs, next })
    }

    async fn due(&self, query: &DueQuery) -> Result<DuePage> {
        let (wake_at, tenant, run) =
            query.after.as_ref().map_or((-1, String::new(), String::new()), |(at, key)| {
                (at.as_micros(), key.tenant.to_string(), key.run.to_string())
            });
        let rows = sqlx::query(DUE)
            .bind(wake_at)
            .bind(tenant)
            .bind(run)
            .bind(query.until.as_micros())
            .bind(integer(query.limit as u64))
            .fetch_all(&self.0.readers)
            .await
            .map_err(mapped)?;
        let due = |row: &SqliteRow| {
            let text = |column| row.try_get::<&str, _>(column).map_err(mapped);
            let (tenant, run) = (TenantId::new(text(1)?)?, text(2)?.parse()?);
            Ok((Timestamp::from_micros(row.try_get(0).map_err(mapped)?), RunKey { tenant, run }))
        };
        let runs = rows.iter().map(due).collect::<Result<Vec<_>>>()?;
        let next = sqlx::query(NEXT_DUE).bind(query.until.as_micros()).fetch_one(&self.0.readers).await;
        let next_at: Option<i64> = next.and_then(|row| row.try_get(0)).map_err(mapped)?;
        Ok(DuePage { runs, next_at: next_at.map(Timestamp::from_micros) })
    }

    async fn put_doc(&self, put: &PutDoc) -> Result<u64> {
        self.0.writer()?.change(put.clone()).await
    }

    async fn doc(&self, key: &DocKey) -> Result<Option<Doc>> {
        let row = sqlx::query(DOC)
            .bind(key.tenant.as_str())
            .bind(key.kind)
            .bind(key.key.as_str())
            .fetch_optional(&self.0.readers)
            .await;
        row.map_err(mapped)?.as_ref().map(doc).transpose().map_err(mapped)
    }

    async fn docs(&self, query: &DocsQuery) -> Result<DocsPage> {
        check_page(query.limit)?;
        let rows = sqlx::query(DOCS)
            .bind(query.tenant.as_str())
            .bind(query.kind)
            .bind(query.after.as_deref())
            .bind(integer(query.limit as u64 + 1))
            .fetch_all(&self.0.readers)
            .await
            .map_err(mapped)?;
        let more = rows.len() > query.limit;
        let docs = rows.iter().take(query.limit).map(doc).collect::<sqlx::Result<_>>().map_err(mapped)?;
        Ok(DocsPage { docs, more })
    }

    async fn prune(&self, prune: &Prune) -> Result<usize> {
        self.0.writer()?.change(prune.clone()).await
    }
}

fn doc(row: &SqliteRow) -> sqlx::Result<Doc> {
    Ok(Doc { key: row.try_get(0)?, version: natural(row, 1)?, body: row.try_get(2)? })
}

#[async_trait]
impl Change for PutDoc {
    type Answer = u64;

    async fn apply(&self, connection: &mut SqliteConnection) -> sqlx::Result<Result<u64>> {
        let DocKey { tenant, kind, key } = &self.key;
        let bound = |sql| sqlx::query(sql).bind(tenant.as_str()).bind(*kind).bind(key.as_str());
        let found = bound(DOC).fetch_optional(&mut *connection).await?;
        let version = found.as_ref().map(doc).transpose()?.map_or(0, |doc| doc.version);
        if let Err(conflict) = self.check_version(version) {
            return Ok(Err(conflict));
        }
        match &self.body {
            None => {
                bound(DELETE_DOC).execute(connection).await?;
                Ok(Ok(0))
            }
            Some(body) => {
                let put = bound(PUT_DOC).bind(integer(version + 1)).bind(body.as_str());
                put.execute(connection).await?;
                Ok(Ok(version + 1))
            }
        }
    }
}

#[async_trait]
impl Change for Prune {
    type Answer = usize;

    async fn apply(&self, connection: &mut SqliteConnection) -> sqlx::Result<Result<usize>> {
        let runs: Vec<_> =
            self.runs.iter().map(|(run, head)| json!([Stream::Run(*run), head.seq, head.hash])).collect();
        let rows = sqlx::query(PRUNABLE)
            .bind(self.tenant.as_str())
            .bind(json!(runs).to_string())
            .fetch_all(&mut *connection)
            .await?;
        let streams = rows.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<Vec<i64>>>()?;
        let listed = json!(streams).to_string();
        for sql in [PRUNE_END, PRUNE_APPENDS, PRUNE_RUNS, PRUNE_STREAMS] {
            sqlx::query(sql).bind(listed.as_str()).execute(&mut *connection).await?;
        }
        sqlx::query(PRUNE_ENDS).execute(&mut *connection).await?;
        Ok(Ok(streams.len()))
    }
}
