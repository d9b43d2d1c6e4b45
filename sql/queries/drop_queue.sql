-- Leaves a tombstone and deletes the queue's failed jobs and, with $3, its unfinished ones; returns how many. $2 now. The history
-- stays until its retention is over. A job that was added since the caller counted, or that an open transaction still adds, is
-- cancelled by the tombstone duty: it must not go without a trace.
WITH stone AS (UPDATE jobq._queue AS q SET dropped_at = $2 WHERE q.id = $1),
     live AS (DELETE FROM jobq._job AS j WHERE j.queue_id = $1 AND $3 RETURNING 1),
     dead AS (DELETE FROM jobq._dead AS d WHERE d.queue_id = $1 RETURNING 1)
SELECT (SELECT count(*) FROM live) + (SELECT count(*) FROM dead)
