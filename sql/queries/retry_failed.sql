-- Retries failed jobs, the longest failed first; those whose unique_key another unfinished job has stay failed. $1 queue or NULL,
-- $2 kind or NULL, $3 batch, $4 now. Row-locked ones are left to whoever holds them. Returns how
-- many it took and how many it put back; if they differ, a key was taken meanwhile and the caller must raise to undo it.
WITH chosen AS MATERIALIZED (
    SELECT DISTINCT ON (d.queue_id, coalesce(d.unique_key, d.id::text)) d.id
    FROM (
        SELECT x.id, x.queue_id, x.unique_key, x.finished_at
        FROM jobq._dead AS x
        WHERE ($1 IS NULL OR x.queue_id = $1) AND ($2 IS NULL OR x.kind = $2)
          AND NOT EXISTS (SELECT 1 FROM jobq._job AS j WHERE j.queue_id = x.queue_id AND j.unique_key = x.unique_key)
        ORDER BY x.finished_at
        LIMIT $3
        FOR UPDATE SKIP LOCKED
    ) AS d
),
old AS (
    DELETE FROM jobq._dead AS d WHERE d.id = ANY (ARRAY(SELECT chosen.id FROM chosen)) RETURNING d.*
),
new AS (
    INSERT INTO jobq._job (id, enqueued_at, run_at, timeout_ms, queue_id, priority, max_attempts, scheduled, unique_pending, lease,
                           headers, errors, kind, payload, unique_key)
    SELECT o.id, o.enqueued_at, $4, o.timeout_ms, o.queue_id, o.priority, o.max_attempts, false, o.unique_pending, o.lease, o.headers,
           o.errors, o.kind, o.payload, o.unique_key
    FROM old AS o
    ON CONFLICT (queue_id, unique_key) WHERE unique_key IS NOT NULL DO NOTHING
    RETURNING queue_id, priority, run_at, id, kind
)
SELECT (SELECT count(*) FROM old), n.queue_id, n.priority, n.run_at, n.id, n.kind, o.finished_at, o.worker
FROM (VALUES (true)) AS one (row)
LEFT JOIN new AS n ON true
LEFT JOIN old AS o ON o.id = n.id
