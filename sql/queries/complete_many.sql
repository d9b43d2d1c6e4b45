-- Finishes the jobs whose lease is current; returns their ids, queues, whether they are kept, and workers. $1 ids, $2 leases, $3 results (a JSON array or NULL), $4 now, $5 slot.
-- Rows are locked in the order of their ids, so that two calls with the same jobs in other orders cannot deadlock.
-- Index: primary key, once to lock and once to delete, for each id given.
WITH held AS MATERIALIZED (
    SELECT j.id, g.place
    FROM ROWS FROM (unnest($1), unnest($2)) WITH ORDINALITY AS g (id, lease, place)
    JOIN jobq._job AS j ON j.id = g.id AND j.lease = g.lease
    WHERE j.state = 'r'
    ORDER BY j.id
    FOR UPDATE OF j
),
done AS (
    DELETE FROM jobq._job AS j USING held WHERE j.id = held.id AND j.state = 'r' RETURNING j.*, held.place
),
kept AS (
    INSERT INTO jobq._history (id, slot, state, queue_id, priority, attempt, max_attempts, crashes, timeout_ms, enqueued_at, run_at,
                               claimed_at, finished_at, lease, progress, unique_pending, note, worker, kind, unique_key, headers,
                               errors, result, payload)
    SELECT d.id, $5::smallint, 'c', d.queue_id, d.priority, d.attempt, d.max_attempts, d.crashes, d.timeout_ms, d.enqueued_at, d.run_at,
           d.claimed_at, $4, d.lease, jobq._progress(d.id, d.lease, d.progress), d.unique_pending, d.note, d.worker, d.kind, coalesce(d.unique_key, d.spent_key),
           d.headers, d.errors, nullif($3 -> (d.place - 1)::int, 'null'), d.payload
    FROM done AS d
    WHERE coalesce((SELECT q.keep_completed FROM jobq._queue AS q WHERE q.id = d.queue_id), true)
    RETURNING id
)
SELECT d.id, d.queue_id, EXISTS (SELECT 1 FROM kept WHERE kept.id = d.id), d.worker FROM done AS d
