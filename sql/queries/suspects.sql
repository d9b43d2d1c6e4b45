-- Ids of running jobs whose worker is lost, or whose attempt has run past its deadline. $1 now, $2 start of the grace period, $3 least
-- grace in ms, $4 no sign of life before this (NULL: only expired leases), $5 with deadlines, $6 when the server began to take writes.
-- A job that has given no sign of life since the last start, promotion or jump of the clock is judged only once its grace has
-- passed: its own lease length or $3, whichever is longer. An attempt gets its timeout anew from there. Heartbeats keep leases in shared
-- memory: _is_kept asks there. What was bound to a session before $6 has lost it with the server's last run. Nothing is locked.
SELECT j.id
FROM jobq._job AS j
WHERE j.state = 'r'
  AND ((j.lease_expires_at < $1 OR coalesce(j.seen_at, j.claimed_at) < $4)
       AND (coalesce(j.seen_at, j.claimed_at) >= $2 OR $2 + greatest($3, j.lease_ms) * interval '1 millisecond' < $1)
       AND NOT jobq._is_kept(j.id, j.lease, j.lease_expires_at < $1, $4)
       OR j.bound IS TRUE AND j.claimed_at < $6 AND NOT jobq._is_kept(j.id, j.lease, true, NULL)
       OR $5 AND j.deadline_at < $1
       AND (j.claimed_at >= $2 OR $2 + (j.deadline_at - j.claimed_at) < $1))
