-- Jobs that an open transaction added to a queue after it was dropped: id and lease, locked. Found whether the tombstone is still
-- there or not. The queues in use are walked one by one through _job_ready.
WITH RECURSIVE used (id) AS (
    (SELECT j.queue_id FROM jobq._job AS j ORDER BY j.queue_id LIMIT 1)
    UNION ALL
    SELECT (SELECT j.queue_id FROM jobq._job AS j WHERE j.queue_id > used.id ORDER BY j.queue_id LIMIT 1)
    FROM used WHERE used.id IS NOT NULL
),
gone AS MATERIALIZED (
    SELECT used.id FROM used
    WHERE used.id <> 0 AND NOT EXISTS (SELECT 1 FROM jobq._queue AS q WHERE q.id = used.id AND q.dropped_at IS NULL)
)
SELECT j.id, coalesce(j.lease, 0) FROM jobq._job AS j
WHERE j.queue_id = ANY (ARRAY(SELECT gone.id FROM gone))
ORDER BY j.id LIMIT $1 FOR UPDATE SKIP LOCKED
