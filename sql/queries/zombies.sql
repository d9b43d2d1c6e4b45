-- Running jobs whose worker is lost, or whose attempt has run past its deadline, locked. $1 now, $2 start of the grace period, $3 least
-- grace in ms, $4 no sign of life before this (NULL: only expired leases), $5 with deadlines, $6 how many,
-- $7 when the server began to take writes, $8 only these (NULL: all).
-- A job that has given no sign of life since the last start, promotion or jump of the clock is judged only once its grace has
-- passed: its own lease length or $3, whichever is longer. An attempt gets its timeout anew from there. Row-locked jobs
-- are left for the next pass. Heartbeats keep leases in shared memory: _is_kept asks there, and _is_lost also has later heartbeats go
-- to the row. What was bound to a session before $7 has lost it with the server's last run.
--
-- Form: which jobs is decided without locks, then they are locked by id and everything is decided again. A row that turns out not
-- to be a zombie, because its worker released it just now, stays locked: it is returned, and the caller notes it if it is pending.
WITH suspect AS MATERIALIZED (
    SELECT j.id
    FROM jobq._job AS j
    WHERE j.state = 'r' AND ($8 IS NULL OR j.id = ANY ($8))
      AND ((j.lease_expires_at < $1 OR j.seen_at < $4)
           AND (j.seen_at >= $2 OR $2 + greatest($3, j.lease_ms) * interval '1 millisecond' < $1)
           AND NOT jobq._is_kept(j.id, j.lease, j.lease_expires_at < $1, $4)
           OR j.bound AND j.claimed_at < $7 AND NOT jobq._is_kept(j.id, j.lease, true, NULL)
           OR $5 AND j.deadline_at < $1 AND j.deadline_at > '-infinity'
           AND (j.claimed_at >= $2 OR $2 + (j.deadline_at - j.claimed_at) < $1))
)
SELECT j.id, j.lease, j.attempt, j.max_attempts, j.crashes, j.cancel_requested, j.worker,
       jobq._seen_at(j.id, j.lease, j.seen_at),
       coalesce((SELECT q.max_crashes FROM jobq._queue AS q WHERE q.id = j.queue_id), 3),
       (SELECT q.backoff FROM jobq._queue AS q WHERE q.id = j.queue_id),
       j.state = 'r' AND ((j.lease_expires_at < $1 OR j.seen_at < $4)
                          AND (j.seen_at >= $2 OR $2 + greatest($3, j.lease_ms) * interval '1 millisecond' < $1)
                          AND jobq._is_lost(j.id, j.lease, j.lease_expires_at < $1, $4)
                          OR j.bound AND j.claimed_at < $7 AND jobq._is_lost(j.id, j.lease, true, NULL)),
       j.state = 'r' AND $5 AND j.deadline_at < $1 AND j.deadline_at > '-infinity'
       AND (j.claimed_at >= $2 OR $2 + (j.deadline_at - j.claimed_at) < $1),
       j.state, j.queue_id, j.priority, j.run_at, j.id, j.kind
FROM jobq._job AS j
WHERE j.id = ANY (ARRAY(SELECT suspect.id FROM suspect))
ORDER BY j.id
LIMIT $6
FOR UPDATE SKIP LOCKED
