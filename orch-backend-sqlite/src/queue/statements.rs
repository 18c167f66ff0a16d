//! The statements of the queue.

pub(crate) const PUSH: &str = "
    INSERT INTO queue_items (tenant, queue, rank, ready_at, dag, run, plan_index, step, step_index, attempt)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8, value ->> 9
    FROM json_each(?1) WHERE true
    ON CONFLICT (tenant, run, step, step_index, attempt) DO NOTHING";

pub(crate) const PROMOTE_DELAYED: &str =
    "UPDATE queue_items SET state = 1 WHERE state = 0 AND ready_at <= ?1";
pub(crate) const PROMOTE_LEASED: &str =
    "UPDATE queue_items SET state = 1 WHERE state = 2 AND lease_until <= ?1";

/// Whether a claim has anything to do, and when the next one will.
pub(crate) const CLAIMABLE: &str = "
    SELECT EXISTS (SELECT 1 FROM queue_items WHERE state = 0 AND ready_at <= ?3)
        OR EXISTS (SELECT 1 FROM queue_items WHERE state = 2 AND lease_until <= ?3)
        OR EXISTS (SELECT 1 FROM queue_items WHERE state = 1 AND ?1 IS NULL AND ?2 IS NULL)
        OR EXISTS (
            SELECT 1 FROM json_each(?2) t CROSS JOIN queue_items q ON q.state = 1 AND q.tenant = t.value
            WHERE ?1 IS NULL)
        OR EXISTS (
            SELECT 1 FROM json_each(?1) n CROSS JOIN queue_items q ON q.state = 1 AND q.queue = n.value
            WHERE ?2 IS NULL)
        OR EXISTS (
            SELECT 1 FROM json_each(?1) n CROSS JOIN json_each(?2) t
            CROSS JOIN queue_items q ON q.state = 1 AND q.queue = n.value AND q.tenant = t.value),
        (SELECT min(at) FROM (
            SELECT min(ready_at) AS at FROM queue_items WHERE state = 0
            UNION ALL
            SELECT min(lease_until) FROM queue_items WHERE state = 2))";

/// The first `?3` tenants after `?2` that have ready items, of all queues: one look-up each.
pub(crate) const TENANTS: &str = "
    WITH RECURSIVE lanes (tenant, number) AS (
        SELECT (SELECT min(q.tenant) FROM queue_items q WHERE q.state = 1 AND q.tenant > ?2), 1
        UNION ALL
        SELECT (SELECT min(q.tenant) FROM queue_items q WHERE q.state = 1 AND q.tenant > lanes.tenant), number + 1
        FROM lanes WHERE tenant IS NOT NULL AND number < ?3
    )
    SELECT tenant, NULL FROM lanes WHERE tenant IS NOT NULL AND ?1 IS NULL";

/// The lanes of the first `?3` tenants after `?2`, of each asked queue `?1`: one look-up each.
pub(crate) const LANES: &str = "
    WITH RECURSIVE lanes (queue, tenant, number) AS (
        SELECT DISTINCT value, (
            SELECT min(q.tenant) FROM queue_items q WHERE q.state = 1 AND q.queue = value AND q.tenant > ?2), 1
        FROM json_each(?1)
        UNION ALL
        SELECT queue, (
            SELECT min(q.tenant) FROM queue_items q
            WHERE q.state = 1 AND q.queue = lanes.queue AND q.tenant > lanes.tenant), number + 1
        FROM lanes WHERE tenant IS NOT NULL AND number < ?3
    )
    SELECT tenant, queue FROM lanes WHERE tenant IS NOT NULL";

/// Which of the asked tenants `?2` have ready items, of all queues.
pub(crate) const TENANTS_OF: &str = "
    SELECT DISTINCT t.value, NULL FROM json_each(?2) t
    WHERE ?1 IS NULL AND EXISTS (SELECT 1 FROM queue_items q WHERE q.state = 1 AND q.tenant = t.value)";

/// The lanes of the asked tenants `?2`, of the asked queues `?1`.
pub(crate) const LANES_OF: &str = "
    SELECT DISTINCT t.value, n.value FROM json_each(?1) n CROSS JOIN json_each(?2) t
    WHERE EXISTS (SELECT 1 FROM queue_items q WHERE q.state = 1 AND q.queue = n.value AND q.tenant = t.value)";

macro_rules! first_of {
    ($lane:literal) => {
        concat!(
            "SELECT q.id, q.count, q.tenant, q.queue, q.rank, q.ready_at, q.dag, q.run, q.plan_index, q.step,
                q.step_index, q.attempt
            FROM json_each(?1) e CROSS JOIN queue_items q
            WHERE q.id IN (
                SELECT n.id FROM queue_items n
                WHERE n.state = 1 AND n.ready_at <= ?2 AND n.tenant = e.value ->> 1",
            $lane,
            " ORDER BY n.rank, n.ready_at, n.dag, n.run, n.plan_index, n.step, n.step_index, n.attempt LIMIT ?3)"
        )
    };
}

pub(crate) const FIRST_OF_TENANTS: &str = first_of!("");
pub(crate) const FIRST_OF_LANES: &str = first_of!(" AND n.queue = e.value ->> 0");

pub(crate) const LEASE: &str = "
    UPDATE queue_items SET state = 2, count = count + 1, lease_until = ?2
    WHERE id IN (SELECT value FROM json_each(?1))";

pub(crate) const NEXT_AT: &str = "
    SELECT min(at) FROM (
        SELECT min(ready_at) AS at FROM queue_items WHERE state = 0
        UNION ALL
        SELECT min(lease_until) FROM queue_items WHERE state = 2)";

pub(crate) const LIVE: &str = "
    SELECT q.id, q.count FROM json_each(?1) e CROSS JOIN queue_items q ON q.id = e.value ->> 0
    WHERE q.count = e.value ->> 1 AND q.state = 2 AND q.lease_until > ?2";

pub(crate) const RENEW: &str = "
    UPDATE queue_items SET lease_until = ?2 WHERE id IN (SELECT value FROM json_each(?1))";

pub(crate) const DONE: &str = "DELETE FROM queue_items WHERE id IN (SELECT value FROM json_each(?1))";

pub(crate) const RELEASE: &str = "
    UPDATE queue_items SET state = 0, ready_at = e.value ->> 1 FROM json_each(?1) e WHERE queue_items.id = e.value ->> 0";

pub(crate) const DEPTH: &str = "
    SELECT queue, sum(NOT leased AND ready_at <= ?2), sum(NOT leased AND ready_at > ?2), sum(leased),
        min(ready_at) FILTER (WHERE NOT leased AND ready_at <= ?2)
    FROM (SELECT queue, ready_at, state = 2 AND lease_until > ?2 AS leased FROM queue_items WHERE tenant = ?1)
    GROUP BY queue ORDER BY queue";

pub(crate) const DATA_VERSION: &str = "PRAGMA data_version";

#[cfg(test)]
pub(crate) const ALL: &[&str] = &[
    PUSH,
    PROMOTE_DELAYED,
    PROMOTE_LEASED,
    CLAIMABLE,
    TENANTS,
    LANES,
    TENANTS_OF,
    LANES_OF,
    FIRST_OF_TENANTS,
    FIRST_OF_LANES,
    LEASE,
    NEXT_AT,
    LIVE,
    RENEW,
    DONE,
    RELEASE,
    DEPTH,
    DATA_VERSION,
];
