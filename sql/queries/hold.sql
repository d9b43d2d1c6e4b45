-- Locks a running job for the holder of its lease and returns what fail and release decide by. Waits for a rescuer that is just
-- looking at it. Index: primary key.
SELECT j.attempt, j.max_attempts, coalesce(j.cancel_requested, false),
       (SELECT q.backoff FROM jobq._queue AS q WHERE q.id = j.queue_id)
FROM jobq._job AS j
WHERE j.id = $1 AND j.lease = $2 AND j.state = 'r'
FOR UPDATE
