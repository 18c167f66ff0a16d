-- Times are microseconds since 1970, hashes lowercase hex. Tenants come first in every key.

-- The head of each stream. `id` is small and grows, so that what hangs on it is written side by side.
CREATE TABLE streams (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    seq INTEGER NOT NULL,
    hash TEXT NOT NULL,
    UNIQUE (tenant, name)
) STRICT;

-- The entries: one row per append, the lines as they were appended.
CREATE TABLE appends (
    stream INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    lines TEXT NOT NULL,
    PRIMARY KEY (stream, first_seq)
) STRICT;

-- One row per run: `body` is the row as JSON, the other columns are what listings look for.
-- `newest` is the negated time of creation, so that (newest, run) ascends in the order of the listing.
CREATE TABLE runs (
    stream INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    run TEXT NOT NULL,
    dag TEXT NOT NULL,
    status TEXT NOT NULL,
    newest INTEGER NOT NULL,
    wake_at INTEGER,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX runs_by_newest ON runs (tenant, newest, run);
CREATE INDEX runs_by_dag ON runs (tenant, dag, newest, run);
CREATE INDEX runs_by_status ON runs (tenant, status, newest, run);
CREATE INDEX runs_by_wake ON runs (wake_at, tenant, run) WHERE wake_at IS NOT NULL;

CREATE TABLE docs (
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (tenant, kind, key)
) STRICT, WITHOUT ROWID;

-- `id` is never used twice and `count` only grows, so (id, count) names one delivery.
-- `state`: 0 delayed until `ready_at`, 1 ready, 2 leased until `lease_until`. `rank` is the negated priority.
CREATE TABLE queue_items (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    rank INTEGER NOT NULL,
    ready_at INTEGER NOT NULL,
    dag TEXT NOT NULL,
    run TEXT NOT NULL,
    plan_index INTEGER NOT NULL,
    step TEXT NOT NULL,
    step_index INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,
    count INTEGER NOT NULL DEFAULT 0,
    lease_until INTEGER NOT NULL DEFAULT 0,
    UNIQUE (tenant, run, step, step_index, attempt)
) STRICT;
CREATE INDEX queue_ready ON queue_items
    (tenant, queue, rank, ready_at, dag, run, plan_index, step, step_index, attempt) WHERE state = 1;
CREATE INDEX queue_delayed ON queue_items (ready_at) WHERE state = 0;
CREATE INDEX queue_leased ON queue_items (lease_until) WHERE state = 2;

-- A slot is held while its lease lasts. `lease_until` 0: it was lost, and its holder has yet to learn it.
CREATE TABLE slots (
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    holder TEXT NOT NULL,
    fence INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    PRIMARY KEY (tenant, key, holder)
) STRICT, WITHOUT ROWID;
CREATE INDEX slots_by_holder ON slots (tenant, holder);

-- One count for all keys, so that nothing need be kept of a key nobody holds.
CREATE TABLE fences (last INTEGER NOT NULL) STRICT;
INSERT INTO fences VALUES (0);

CREATE TABLE buckets (
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    parts INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;
