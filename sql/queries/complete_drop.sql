-- Finishes a job of a queue that keeps no completed jobs. Fenced by the lease. Index: primary key.
DELETE FROM jobq._job AS j
WHERE j.id = $1 AND j.lease = $2 AND j.state = 'r'
  AND NOT coalesce((SELECT q.keep_completed FROM jobq._queue AS q WHERE q.id = j.queue_id), true)
RETURNING j.queue_id
