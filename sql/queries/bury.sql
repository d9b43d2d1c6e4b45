-- Moves a running job that this transaction has locked to the dead-letter list. $2 the lease it ends with, $3 crashes added,
-- $4 error, $5 now.
WITH dead AS (
    DELETE FROM jobq._job AS j WHERE j.id = $1 AND j.state = 'r' RETURNING j.*
)
INSERT INTO jobq._dead (id, slot, state, queue_id, priority, attempt, max_attempts, crashes, timeout_ms, enqueued_at, run_at,
                        claimed_at, finished_at, lease, progress, unique_pending, note, worker, kind, unique_key, headers, errors,
                        payload)
SELECT d.id, 0, 'f', d.queue_id, d.priority, d.attempt, d.max_attempts, d.crashes + $3, d.timeout_ms, d.enqueued_at, d.run_at,
       d.claimed_at, $5, $2, jobq._progress(d.id, d.lease, d.progress), d.unique_pending, d.note, d.worker, d.kind, coalesce(d.unique_key, d.spent_key), d.headers,
       CASE WHEN jsonb_array_length(d.errors) >= 20 THEN d.errors - 0 ELSE coalesce(d.errors, '[]') END
       || jsonb_build_object('attempt', d.attempt, 'at', $5, 'worker', d.worker, 'error', $4),
       d.payload
FROM dead AS d
RETURNING queue_id, worker
