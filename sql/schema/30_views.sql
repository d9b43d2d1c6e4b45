-- Views read the private tables with their owner's rights; SELECT on them is what grant_access(..., 'reader') gives.
-- In jobs, each branch names one table, without join or condition, so that WHERE id = and ORDER BY id DESC LIMIT go down to the
-- primary keys. What a view needs of queues comes from one object that is built once per query: a sub-select per row would make the
-- planner expect, and compile for, far more work than there is.

CREATE VIEW jobq.jobs AS
SELECT
    x.id,
    CASE x.queue_id WHEN 0 THEN 'default' ELSE (SELECT jsonb_object_agg(q.id, q.name) FROM jobq._queue AS q) ->> x.queue_id::text END AS queue,
    x.kind,
    x.state,
    x.priority::int AS priority,
    x.payload,
    x.headers,
    x.attempt::int AS attempt,
    x.max_attempts::int AS max_attempts,
    x.crashes::int AS crashes,
    x.run_at,
    x.enqueued_at,
    x.claimed_at,
    x.finished_at,
    x.lease_expires_at,
    x.deadline_at,
    x.worker,
    x.progress,
    x.note,
    x.result,
    x.errors -> -1 ->> 'error' AS last_error,
    x.errors AS attempt_errors,
    x.unique_key,
    x.cancel_requested
FROM (
    SELECT j.id, j.queue_id, j.kind, CASE j.state WHEN 'p' THEN 'pending' ELSE 'running' END AS state, j.priority, j.payload, j.headers,
           j.attempt, j.max_attempts, j.crashes, j.run_at, j.enqueued_at, j.claimed_at, NULL::timestamptz AS finished_at,
           CASE j.state WHEN 'r' THEN jobq._lease_expires_at(j.id, j.lease, j.lease_expires_at) END AS lease_expires_at,
           j.deadline_at, j.worker, CASE j.state WHEN 'r' THEN jobq._progress(j.id, j.lease, j.progress) END AS progress, j.note, NULL::jsonb AS result, j.errors,
           coalesce(j.unique_key, j.spent_key) AS unique_key, coalesce(j.cancel_requested, false) AS cancel_requested
    FROM jobq._job AS j
    UNION ALL
    SELECT d.id, d.queue_id, d.kind, 'failed', d.priority, d.payload, d.headers, d.attempt, d.max_attempts, d.crashes, d.run_at,
           d.enqueued_at, d.claimed_at, d.finished_at, NULL, NULL, d.worker, d.progress, d.note, NULL, d.errors, d.unique_key, false
    FROM jobq._dead AS d
    UNION ALL
    SELECT h.id, h.queue_id, h.kind, CASE h.state WHEN 'c' THEN 'completed' ELSE 'cancelled' END, h.priority, h.payload, h.headers,
           h.attempt, h.max_attempts, h.crashes, h.run_at, h.enqueued_at, h.claimed_at, h.finished_at, NULL, NULL, h.worker,
           h.progress, h.note, h.result, h.errors, h.unique_key, false
    FROM jobq._history AS h
) AS x
-- Past the queue's retention a job is gone, whether or not the maintainer has been here yet.
WHERE x.finished_at IS NULL
   OR x.state = 'failed'
   OR x.finished_at > statement_timestamp()
      - coalesce(((SELECT jsonb_object_agg(q.id, q.retention_ms) FROM jobq._queue AS q) ->> x.queue_id::text)::bigint, 604800000)
        * interval '1 millisecond';
COMMENT ON VIEW jobq.jobs IS 'Every job, live or finished. Ids are time-ordered: ORDER BY id DESC is newest first, by index. Filters other than id scan.';

CREATE VIEW jobq.running_jobs AS
SELECT
    j.id,
    CASE j.queue_id WHEN 0 THEN 'default' ELSE (SELECT jsonb_object_agg(q.id, q.name) FROM jobq._queue AS q) ->> j.queue_id::text END AS queue,
    j.kind, j.priority::int AS priority, j.attempt::int AS attempt, j.max_attempts::int AS max_attempts, j.crashes::int AS crashes,
    j.worker, j.claimed_at,
    jobq._seen_at(j.id, j.lease, coalesce(j.seen_at, j.claimed_at)) AS last_seen_at, jobq._lease_expires_at(j.id, j.lease, j.lease_expires_at) AS lease_expires_at,
    j.deadline_at,
    jobq._progress(j.id, j.lease, j.progress) AS progress,
    j.note,
    coalesce(j.cancel_requested, false) AS cancel_requested
FROM jobq._job AS j
WHERE j.state = 'r';
COMMENT ON VIEW jobq.running_jobs IS 'Jobs that a worker holds now, with the worker''s last sign of life.';

CREATE VIEW jobq.failed_jobs AS
SELECT
    d.id,
    CASE d.queue_id WHEN 0 THEN 'default' ELSE (SELECT jsonb_object_agg(q.id, q.name) FROM jobq._queue AS q) ->> d.queue_id::text END AS queue,
    d.kind, d.priority::int AS priority, d.payload, d.headers, d.attempt::int AS attempt, d.max_attempts::int AS max_attempts,
    d.crashes::int AS crashes, d.enqueued_at, d.finished_at, d.worker,
    d.errors -> -1 ->> 'error' AS last_error,
    d.errors AS attempt_errors
FROM jobq._dead AS d;
COMMENT ON VIEW jobq.failed_jobs IS 'The dead-letter list: jobs that gave up. They stay until retry, retry_failed, delete or purge.';

-- Queue options with "default" filled in while nobody has altered it.
CREATE VIEW jobq._queue_options AS
SELECT q.id, q.name, q.default_priority, q.max_attempts, q.lease_ms, q.timeout_ms, q.backoff, q.max_crashes, q.retention_ms,
       q.keep_completed, q.max_depth, q.paused, q.created_at
FROM jobq._queue AS q
WHERE q.dropped_at IS NULL
UNION ALL
SELECT 0, 'default', 2, 3, 300000, 0, NULL, 3, 604800000, true, 0, false, NULL
WHERE NOT EXISTS (SELECT 1 FROM jobq._queue AS q WHERE q.id = 0);

-- The view of queues asks it.
CREATE FUNCTION jobq.stats(queue text DEFAULT NULL) RETURNS SETOF jobq.queue_stats
    LANGUAGE c STABLE ROWS 10 AS 'MODULE_PATHNAME', 'jobq_stats';
COMMENT ON FUNCTION jobq.stats IS 'One row per queue (all): counts, what finished today, how long the oldest ready job waits, how many workers hold jobs.';

CREATE VIEW jobq.queues AS
SELECT
    q.name,
    q.paused,
    q.default_priority,
    q.max_attempts,
    (q.lease_ms / 1000.0)::double precision AS lease_seconds,
    (nullif(q.timeout_ms, 0) / 1000.0)::double precision AS timeout_seconds,
    coalesce(q.backoff, '{"kind": "exponential", "base": "5s", "factor": 2, "max": "1h", "jitter": 0.1}') AS backoff,
    q.max_crashes,
    (q.retention_ms / 1000.0)::double precision AS retention_seconds,
    q.keep_completed,
    nullif(q.max_depth, 0) AS max_depth,
    q.created_at,
    coalesce(s.pending, 0) AS pending,
    coalesce(s.scheduled, 0) AS scheduled,
    coalesce(s.running, 0) AS running,
    coalesce(s.failed, 0) AS failed
FROM jobq._queue_options AS q
LEFT JOIN jobq.stats() AS s ON s.queue = q.name;
COMMENT ON VIEW jobq.queues IS 'Queues with their options and counts. Durations are in seconds; NULL timeout_seconds and max_depth mean none.';

-- Private: the view of workers asks it; whoever may read that may call this.
CREATE FUNCTION jobq._workers() RETURNS TABLE (name text, running int, last_seen_at timestamptz, completed bigint, failed bigint)
    LANGUAGE c STABLE ROWS 10 AS 'MODULE_PATHNAME', 'jobq_workers';

CREATE VIEW jobq.workers AS
SELECT w.name, w.running, w.last_seen_at, w.completed, w.failed FROM jobq._workers() AS w;
COMMENT ON VIEW jobq.workers IS 'Workers that hold a job or finished one that is still kept: running jobs, last sign of life, completed and failed jobs.';
