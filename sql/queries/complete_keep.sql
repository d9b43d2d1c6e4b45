-- Finishes a job and moves it to the history. Fenced by the lease. Index: primary key. $3 now, $4 result, $5 slot.
WITH done AS (
    DELETE FROM jobq._job AS j WHERE j.id = $1 AND j.lease = $2 AND j.state = 'r'
      AND coalesce((SELECT q.keep_completed FROM jobq._queue AS q WHERE q.id = j.queue_id), true)
    RETURNING j.*
)
INSERT INTO jobq._history (id, slot, state, queue_id, priority, attempt, max_attempts, crashes, timeout_ms, enqueued_at, run_at,
                           claimed_at, finished_at, lease, progress, unique_pending, note, worker, kind, unique_key, headers, errors,
                           result, payload)
SELECT d.id, $5::smallint, 'c', d.queue_id, d.priority, d.attempt, d.max_attempts, d.crashes, d.timeout_ms, d.enqueued_at, d.run_at,
       d.claimed_at, $3, d.lease, jobq._progress(d.id, d.lease, d.progress), d.unique_pending, d.note, d.worker, d.kind, coalesce(d.unique_key, d.spent_key),
       d.headers, d.errors, $4, d.payload
FROM done AS d
RETURNING queue_id, worker
