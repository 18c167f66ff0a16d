//! What is damaged in a file: its pages, and what must hold between its tables.

use orch::{Error, ErrorKind, Result};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqlitePool};

use crate::error::mapped;
use crate::store::{head, run_row};

/// Rows of runs compared at once.
const PAGE: i64 = 500;

/// What answers rows of names when something is wrong, and what that is.
const RULES: &[(&str, &str)] = &[
    (
        "entries without the row of their run",
        "SELECT s.tenant || ' ' || s.name FROM streams s
         WHERE s.name LIKE 'run/%' AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.stream = s.id) LIMIT 100",
    ),
    (
        "row of a run without its entries",
        "SELECT r.tenant || ' run/' || r.run FROM runs r
         WHERE NOT EXISTS
            (SELECT 1 FROM streams s WHERE s.id = r.stream AND s.tenant = r.tenant AND s.name = 'run/' || r.run)
         LIMIT 100",
    ),
    (
        "entries of no stream",
        "SELECT DISTINCT 'stream ' || stream FROM appends WHERE stream NOT IN (SELECT id FROM streams) LIMIT 100",
    ),
    (
        "entries are missing before the head",
        "SELECT s.tenant || ' ' || s.name FROM streams s
         WHERE s.seq <> ifnull((SELECT max(last_seq) FROM appends a WHERE a.stream = s.id), 0) LIMIT 100",
    ),
    (
        "entries are missing between others",
        "SELECT DISTINCT s.tenant || ' ' || s.name
         FROM (SELECT stream, first_seq, last_seq,
                1 + lag(last_seq, 1, 0) OVER (PARTITION BY stream ORDER BY first_seq) AS next FROM appends) a
         JOIN streams s ON s.id = a.stream
         WHERE a.first_seq <> a.next OR a.last_seq < a.first_seq LIMIT 100",
    ),
];

/// Rows of runs with their columns, and the heads of their streams.
const ROWS: &str = "
    SELECT r.body, r.tenant, r.run, r.dag, r.status, r.newest, r.wake_at, s.seq, s.hash, r.stream
    FROM runs r JOIN streams s ON s.id = r.stream WHERE r.stream > ?1 ORDER BY r.stream LIMIT ?2";

/// All findings.
pub(crate) async fn check(readers: &SqlitePool) -> Result<Vec<String>> {
    let pages = sqlx::query_scalar::<_, String>("PRAGMA integrity_check(100)").fetch_all(readers).await;
    let mut findings = Vec::new();
    collect(&mut findings, pages.map_err(mapped), "the file")?;
    findings.retain(|finding| finding != "ok");
    for (what, sql) in RULES.iter().copied() {
        let names = sqlx::query_scalar::<_, String>(sql).fetch_all(readers).await;
        let named = names.map(|names| names.iter().map(|name| format!("{what}: {name}")).collect());
        collect(&mut findings, named.map_err(mapped), what)?;
    }
    let rows = compare_rows(readers).await;
    collect(&mut findings, rows, "rows of runs")?;
    Ok(findings)
}

/// What is so damaged that it does not read is a finding, too.
fn collect(findings: &mut Vec<String>, found: Result<Vec<String>>, what: &str) -> Result<()> {
    match found {
        Ok(found) => findings.extend(found),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            findings.push(format!("{what}: cannot be checked: {error}"));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn compare_rows(readers: &SqlitePool) -> Result<Vec<String>> {
    let (mut findings, mut after) = (Vec::new(), i64::MIN);
    loop {
        let rows = sqlx::query(ROWS).bind(after).bind(PAGE).fetch_all(readers).await.map_err(mapped)?;
        let Some(last) = rows.last() else { return Ok(findings) };
        after = last.try_get(9).map_err(mapped)?;
        collect_rows(&rows, &mut findings);
        if findings.len() >= 100 {
            return Ok(findings);
        }
    }
}

fn collect_rows(rows: &[SqliteRow], findings: &mut Vec<String>) {
    let wrong = rows.iter().filter_map(|row| compare(row).err());
    findings.extend(wrong.map(|error| error.to_string()));
}

fn compare(found: &SqliteRow) -> Result<()> {
    let row = run_row(found)?;
    if row.head == head(found, 7).map_err(mapped)? {
        return Ok(());
    }
    Err(Error::corrupt("head in a run's row is not its stream's").with("run", row.run))
}
