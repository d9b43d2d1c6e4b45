-- Of the jobs $8 those that are lost or past their deadline, locked; parameters 1 to 5 as in suspects.sql, $6 how many, $7 as $6 there.
-- Row-locked jobs are left for the next pass. _is_lost also has later heartbeats go to the row. Index: primary key.
--
-- Form: which jobs is decided without locks, then they are locked by id and everything is decided again. A row that turns out not
-- to be a zombie, because its worker released it just now, stays locked: it is returned, and the caller notes it if it is pending. bound IS TRUE: with
-- NULL the AND would go on to _is_lost, which has an effect.
SELECT j.id, j.lease, j.attempt, j.max_attempts, j.crashes, coalesce(j.cancel_requested, false), j.worker,
       jobq._seen_at(j.id, j.lease, coalesce(j.seen_at, j.claimed_at)),
       coalesce((SELECT q.max_crashes FROM jobq._queue AS q WHERE q.id = j.queue_id), 3),
       (SELECT q.backoff FROM jobq._queue AS q WHERE q.id = j.queue_id),
       j.state = 'r' AND ((j.lease_expires_at < $1 OR coalesce(j.seen_at, j.claimed_at) < $4)
                          AND (coalesce(j.seen_at, j.claimed_at) >= $2 OR $2 + greatest($3, j.lease_ms) * interval '1 millisecond' < $1)
                          AND jobq._is_lost(j.id, j.lease, j.lease_expires_at < $1, $4)
                          OR j.bound IS TRUE AND j.claimed_at < $7 AND jobq._is_lost(j.id, j.lease, true, NULL)),
       j.state = 'r' AND $5 AND j.deadline_at < $1
       AND (j.claimed_at >= $2 OR $2 + (j.deadline_at - j.claimed_at) < $1),
       j.state, j.queue_id, j.priority, j.run_at, j.id, j.kind
FROM jobq._job AS j
WHERE j.id = ANY ($8)
ORDER BY j.id
LIMIT $6
FOR UPDATE SKIP LOCKED
