-- Ready items by queue before tenant, and by tenant over all queues: a claim visits the next tenants of each asked
-- queue, or of all, however many wait.
DROP INDEX queue_ready;
CREATE INDEX queue_ready ON queue_items
    (tenant, rank, ready_at, dag, run, plan_index, step, step_index, attempt) WHERE state = 1;
CREATE INDEX queue_ready_by_queue ON queue_items
    (queue, tenant, rank, ready_at, dag, run, plan_index, step, step_index, attempt) WHERE state = 1;

-- The slots that ended first. Every holder has one: lost slots (0) are kept beside others only.
CREATE INDEX slots_by_end ON slots (lease_until) WHERE lease_until > 0;
