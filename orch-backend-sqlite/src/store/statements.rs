//! The statements of the store. `json_each(?)` turns one parameter into as many rows as it lists; `CROSS JOIN` makes
//! what stands before it the outer loop.

use std::sync::LazyLock;

/// A statement over a set of rows, in a few sizes: powers of two. Values are bound as they are: lines and rows are long,
/// and spelling them as JSON first costs several passes. What a set falls short of a size is filled up with rows of NULL,
/// which no statement heeds: a call of the driver costs more than a row.
pub(crate) struct Many {
    width: usize,
    sized: Vec<(usize, &'static str)>,
}

/// A statement and how many rows it takes.
pub(crate) type Part = (usize, &'static str);

impl Many {
    /// The most rows of one statement.
    const LARGEST: usize = 256;

    /// `before` and `after` enclose the rows, each of `width` values.
    fn new(before: &str, width: usize, after: &str) -> Self {
        let row = format!("({})", vec!["?"; width].join(", "));
        let sizes =
            std::iter::successors(Some(1), |size| Some(size * 2)).take_while(|size| *size <= Self::LARGEST);
        let sized = sizes.map(|size| {
            let sql = format!("{before} {} {after}", vec![row.as_str(); size].join(", "));
            // Made once in the life of a process.
            (size, &*sql.leak())
        });
        Self { width, sized: sized.collect() }
    }

    /// Values in a row.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// The statements that together take `count` rows: the last one perhaps more.
    pub(crate) fn parts(&self, count: usize) -> Vec<Part> {
        let (full, rest) = (count / Self::LARGEST, count % Self::LARGEST);
        let largest = self.sized.last().into_iter().cycle().take(full);
        let last = self.sized.iter().find(|(size, _)| rest > 0 && *size >= rest);
        largest.chain(last).copied().collect()
    }

    #[cfg(test)]
    pub(crate) fn all(&self) -> impl Iterator<Item = &'static str> {
        self.sized.iter().map(|(_, sql)| *sql)
    }
}

/// Takes number, tenant and name of each stream, and answers one row: every row wakes who waits for it. Begins the transaction: one call of the driver less.
pub(crate) static BEGIN_AND_HEADS: LazyLock<Many> = LazyLock::new(|| heads("BEGIN IMMEDIATE; "));
pub(crate) static HEADS: LazyLock<Many> = LazyLock::new(|| heads(""));

fn heads(first: &str) -> Many {
    Many::new(
        &format!("{first}WITH e (key, tenant, name) AS (VALUES"),
        3,
        ") SELECT json_group_array(json_array(e.key, s.id, s.seq, s.hash,
            r.dag || ' ' || r.status || ' ' || -r.newest || ' ' || ifnull(r.wake_at, -1)))
        FROM e
        CROSS JOIN streams s ON s.tenant = e.tenant AND s.name = e.name
        LEFT JOIN runs r ON r.stream = s.id",
    )
}

/// Leaves out rows that begin with NULL.
fn insert(into: &str, width: usize, after: &str) -> Many {
    Many::new(
        &format!("{into} SELECT * FROM (VALUES"),
        width,
        &format!(") WHERE column1 IS NOT NULL {after}"),
    )
}

pub(crate) const NEXT_STREAM: &str = "SELECT ifnull(max(id), 0) + 1 FROM streams";

pub(crate) static INSERT_STREAMS: LazyLock<Many> =
    LazyLock::new(|| insert("INSERT INTO streams (id, tenant, name, seq, hash)", 5, ""));

pub(crate) static UPDATE_STREAMS: LazyLock<Many> = LazyLock::new(|| {
    Many::new(
        "WITH e (id, seq, hash) AS (VALUES",
        3,
        ") UPDATE streams SET seq = e.seq, hash = e.hash FROM e WHERE streams.id = e.id",
    )
});

pub(crate) static INSERT_APPENDS: LazyLock<Many> =
    LazyLock::new(|| insert("INSERT INTO appends (stream, first_seq, last_seq, lines)", 4, ""));

pub(crate) static UPSERT_RUNS: LazyLock<Many> = LazyLock::new(|| {
    insert(
        "INSERT INTO runs (stream, tenant, run, dag, status, newest, wake_at, body)",
        8,
        "ON CONFLICT (stream) DO UPDATE SET dag = excluded.dag, status = excluded.status, newest = excluded.newest,
            wake_at = excluded.wake_at, body = excluded.body",
    )
});

pub(crate) static UPDATE_RUNS: LazyLock<Many> = LazyLock::new(|| {
    Many::new(
        "WITH e (stream, body) AS (VALUES",
        2,
        ") UPDATE runs SET body = e.body FROM e WHERE runs.stream = e.stream",
    )
});

/// Begins with the chunk that holds the first entry wanted.
pub(crate) const ENTRIES: &str = "
    SELECT e.key, s.seq, s.hash, a.first_seq, a.last_seq, a.lines
    FROM json_each(?1) e
    CROSS JOIN streams s ON s.tenant = e.value ->> 0 AND s.name = e.value ->> 1
    LEFT JOIN appends a ON a.stream = s.id AND a.first_seq <= e.value ->> 3 AND a.first_seq >=
        (SELECT max(b.first_seq) FROM appends b WHERE b.stream = s.id AND b.first_seq <= 1 + (e.value ->> 2))
    ORDER BY e.key, a.first_seq";

pub(crate) const RUN: &str = "
    SELECT r.body, r.tenant, r.run, r.dag, r.status, r.newest, r.wake_at
    FROM streams s JOIN runs r ON r.stream = s.id WHERE s.tenant = ?1 AND s.name = ?2";

macro_rules! runs {
    ($index:literal, $filter:literal) => {
        concat!(
            "SELECT body, tenant, run, dag, status, newest, wake_at FROM runs INDEXED BY ",
            $index,
            " WHERE tenant = ?1 AND (newest, run) > (?2, ?3) AND newest >= ?4 AND newest <= ?5",
            $filter,
            " ORDER BY newest, run LIMIT ?6"
        )
    };
}

pub(crate) const RUNS: [&str; 4] = [
    runs!("runs_by_newest", ""),
    runs!("runs_by_status", " AND status = ?8"),
    runs!("runs_by_dag", " AND dag = ?7"),
    runs!("runs_by_dag", " AND dag = ?7 AND status = ?8"),
];

pub(crate) fn runs_statement(by_dag: bool, by_status: bool) -> &'static str {
    RUNS[usize::from(by_dag) * 2 + usize::from(by_status)]
}

pub(crate) const DUE: &str = "
    SELECT wake_at, tenant, run FROM runs
    WHERE wake_at IS NOT NULL AND (wake_at, tenant, run) > (?1, ?2, ?3) AND wake_at <= ?4
    ORDER BY wake_at, tenant, run LIMIT ?5";

pub(crate) const NEXT_DUE: &str = "SELECT min(wake_at) FROM runs WHERE wake_at > ?1";

pub(crate) const DOC: &str =
    "SELECT key, version, body FROM docs WHERE tenant = ?1 AND kind = ?2 AND key = ?3";

pub(crate) const DOCS: &str = "
    SELECT key, version, body FROM docs WHERE tenant = ?1 AND kind = ?2 AND (?3 IS NULL OR key > ?3)
    ORDER BY key LIMIT ?4";

pub(crate) const PUT_DOC: &str = "
    INSERT INTO docs (tenant, kind, key, version, body) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT DO UPDATE SET version = excluded.version, body = excluded.body";

pub(crate) const DELETE_DOC: &str = "DELETE FROM docs WHERE tenant = ?1 AND kind = ?2 AND key = ?3";

/// The streams that stand where the request says, of runs that have ended.
pub(crate) const PRUNABLE: &str = "
    SELECT DISTINCT s.id
    FROM json_each(?2) e
    CROSS JOIN streams s
        ON s.tenant = ?1 AND s.name = e.value ->> 0 AND s.seq = e.value ->> 1 AND s.hash = e.value ->> 2
    LEFT JOIN runs r ON r.stream = s.id
    WHERE r.stream IS NULL OR r.status IN ('completed', 'failed', 'cancelled')";

/// Where the last append of all goes, an empty one of no stream takes a place after it: SQLite would give its row id out
/// again, and a cursor of a feed that names it would hide what comes there.
pub(crate) const PRUNE_END: &str = "INSERT INTO appends (stream, first_seq, last_seq, lines)
    SELECT -1, rowid + 1, 0, '' FROM appends WHERE rowid = (SELECT max(rowid) FROM appends)
    AND stream IN (SELECT value FROM json_each(?1))";
/// Earlier ones have done their work.
pub(crate) const PRUNE_ENDS: &str =
    "DELETE FROM appends WHERE stream = -1 AND rowid < (SELECT max(rowid) FROM appends)";
pub(crate) const PRUNE_APPENDS: &str =
    "DELETE FROM appends WHERE stream IN (SELECT value FROM json_each(?1))";
pub(crate) const PRUNE_RUNS: &str = "DELETE FROM runs WHERE stream IN (SELECT value FROM json_each(?1))";
pub(crate) const PRUNE_STREAMS: &str = "DELETE FROM streams WHERE id IN (SELECT value FROM json_each(?1))";

#[cfg(test)]
pub(crate) const ALL: &[&str] = &[
    NEXT_STREAM,
    ENTRIES,
    RUN,
    RUNS[0],
    RUNS[1],
    RUNS[2],
    RUNS[3],
    DUE,
    NEXT_DUE,
    DOC,
    DOCS,
    PUT_DOC,
    DELETE_DOC,
    PRUNABLE,
    PRUNE_END,
    PRUNE_ENDS,
    PRUNE_APPENDS,
    PRUNE_RUNS,
    PRUNE_STREAMS,
];

#[cfg(test)]
pub(crate) fn sets() -> impl Iterator<Item = &'static Many> {
    [&HEADS, &INSERT_STREAMS, &UPDATE_STREAMS, &INSERT_APPENDS, &UPSERT_RUNS, &UPDATE_RUNS]
        .into_iter()
        .map(|set| &**set)
}
