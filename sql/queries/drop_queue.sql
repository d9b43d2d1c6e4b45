-- Leaves a tombstone and deletes the queue's unfinished and failed jobs; returns how many. The history stays until its retention
-- is over. An enqueue that read the queue before this commits is found by the tombstone duty.
WITH stone AS (UPDATE jobq._queue AS q SET dropped_at = $2 WHERE q.id = $1),
     live AS (DELETE FROM jobq._job AS j WHERE j.queue_id = $1 RETURNING 1),
     dead AS (DELETE FROM jobq._dead AS d WHERE d.queue_id = $1 RETURNING 1)
SELECT (SELECT count(*) FROM live) + (SELECT count(*) FROM dead)
