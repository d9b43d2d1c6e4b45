-- Moves an unfinished job that this transaction has locked to the history as cancelled. $2 the lease it ends with, $3 error or
-- NULL, $4 now, $5 slot, $6 crashes added.
WITH cancelled AS (
    DELETE FROM jobq._job AS j WHERE j.id = $1 RETURNING j.*
)
INSERT INTO jobq._history (id, slot, state, queue_id, priority, attempt, max_attempts, crashes, timeout_ms, enqueued_at, run_at,
                           claimed_at, finished_at, lease, progress, unique_pending, note, worker, kind, unique_key, headers, errors,
                           payload)
SELECT c.id, $5::smallint, 'x', c.queue_id, c.priority, c.attempt, c.max_attempts, c.crashes + $6, c.timeout_ms, c.enqueued_at, c.run_at,
       c.claimed_at, $4, $2, jobq._progress(c.id, c.lease, c.progress), c.unique_pending, c.note, c.worker, c.kind, coalesce(c.unique_key, c.spent_key), c.headers,
       CASE WHEN $3 IS NULL THEN c.errors
            ELSE CASE WHEN jsonb_array_length(c.errors) >= 20 THEN c.errors - 0 ELSE coalesce(c.errors, '[]') END
                 || jsonb_build_object('attempt', c.attempt, 'at', $4, 'worker', c.worker, 'error', $3) END,
       c.payload
FROM cancelled AS c
RETURNING queue_id
