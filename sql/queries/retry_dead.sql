-- Makes a finished job pending again, now ($2): attempts and crashes start over, lease and errors stay. Returns how many it
-- took and how many it put back: when another unfinished job has its unique_key, the caller raises and the delete is undone. Index: primary key.
WITH old AS (
    DELETE FROM jobq._dead AS d WHERE d.id = $1 RETURNING d.*
),
new AS (
    INSERT INTO jobq._job (id, enqueued_at, run_at, timeout_ms, queue_id, priority, max_attempts, scheduled, unique_pending, lease,
                           headers, errors, kind, payload, unique_key)
    SELECT o.id, o.enqueued_at, $2, o.timeout_ms, o.queue_id, o.priority, o.max_attempts, false, o.unique_pending, o.lease, o.headers,
           o.errors, o.kind, o.payload, o.unique_key
    FROM old AS o
    ON CONFLICT (queue_id, unique_key) WHERE unique_key IS NOT NULL DO NOTHING
    RETURNING queue_id, priority, run_at, id, kind
)
SELECT (SELECT count(*) FROM old), n.queue_id, n.priority, n.run_at, n.id, n.kind, o.finished_at, o.worker
FROM (VALUES (true)) AS one (row)
LEFT JOIN new AS n ON true
LEFT JOIN old AS o ON o.id = n.id
