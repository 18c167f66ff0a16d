//! The statements of the store. `json_each(?)` turns one parameter into as many rows as it lists; `CROSS JOIN` makes
//! it the outer loop.

pub(crate) const HEADS: &str = "
    SELECT e.key, s.id, s.seq, s.hash,
        r.dag || ' ' || r.status || ' ' || -r.newest || ' ' || ifnull(r.wake_at, -1)
    FROM json_each(?1) e
    CROSS JOIN streams s ON s.tenant = e.value ->> 0 AND s.name = e.value ->> 1
    LEFT JOIN runs r ON r.stream = s.id";

pub(crate) const NEXT_STREAM: &str = "SELECT ifnull(max(id), 0) + 1 FROM streams";

pub(crate) const INSERT_STREAMS: &str = "
    INSERT INTO streams (id, tenant, name, seq, hash)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?1)";

pub(crate) const UPDATE_STREAMS: &str = "
    UPDATE streams SET seq = e.value ->> 1, hash = e.value ->> 2 FROM json_each(?1) e WHERE streams.id = e.value ->> 0";

pub(crate) const INSERT_APPENDS: &str = "
    INSERT INTO appends (stream, first_seq, last_seq, lines)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?1)";

pub(crate) const UPSERT_RUNS: &str = "
    INSERT INTO runs (stream, tenant, run, dag, status, newest, wake_at, body)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7
    FROM json_each(?1) WHERE true
    ON CONFLICT (stream) DO UPDATE SET dag = excluded.dag, status = excluded.status, newest = excluded.newest,
        wake_at = excluded.wake_at, body = excluded.body";

pub(crate) const UPDATE_RUNS: &str = "
    UPDATE runs SET body = e.value ->> 1 FROM json_each(?1) e WHERE stream = e.value ->> 0";

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

pub(crate) const PRUNE_APPENDS: &str =
    "DELETE FROM appends WHERE stream IN (SELECT value FROM json_each(?1))";
pub(crate) const PRUNE_RUNS: &str = "DELETE FROM runs WHERE stream IN (SELECT value FROM json_each(?1))";
pub(crate) const PRUNE_STREAMS: &str = "DELETE FROM streams WHERE id IN (SELECT value FROM json_each(?1))";

#[cfg(test)]
pub(crate) const ALL: &[&str] = &[
    HEADS,
    NEXT_STREAM,
    INSERT_STREAMS,
    UPDATE_STREAMS,
    INSERT_APPENDS,
    UPSERT_RUNS,
    UPDATE_RUNS,
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
    PRUNE_APPENDS,
    PRUNE_RUNS,
    PRUNE_STREAMS,
];
