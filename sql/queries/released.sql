-- Jobs $1 whose sessions have ended, locked; columns as in zombies.sql. $2 the leases they had. Locked by id, and decided about afterwards,
-- as there. Row-locked jobs are left for the next pass. Index: primary key.
SELECT j.id, j.lease, j.attempt, j.max_attempts, j.crashes, coalesce(j.cancel_requested, false), j.worker, jobq._seen_at(j.id, j.lease, coalesce(j.seen_at, j.claimed_at)),
       coalesce((SELECT q.max_crashes FROM jobq._queue AS q WHERE q.id = j.queue_id), 3),
       (SELECT q.backoff FROM jobq._queue AS q WHERE q.id = j.queue_id),
       j.state = 'r' AND j.lease = ANY ($2),
       false,
       j.state, j.queue_id, j.priority, j.run_at, j.id, j.kind
FROM jobq._job AS j
WHERE j.id = ANY ($1)
ORDER BY j.id
FOR UPDATE SKIP LOCKED
