-- Jobs that an open transaction added to a queue after it was dropped: id and lease, locked.
SELECT j.id, j.lease FROM jobq._job AS j
WHERE j.queue_id = ANY (ARRAY(SELECT q.id FROM jobq._queue AS q WHERE q.dropped_at IS NOT NULL))
ORDER BY j.id LIMIT $1 FOR UPDATE SKIP LOCKED
