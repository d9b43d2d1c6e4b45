-- Moves a pending job that this transaction has locked. $2 when, $3 whether that is ahead, $4 priority or NULL, $5 attempts or NULL.
UPDATE jobq._job AS j
SET run_at = $2, scheduled = $3, priority = coalesce($4, j.priority), max_attempts = coalesce($5, j.max_attempts)
WHERE j.id = $1 AND j.state = 'p'
RETURNING j.queue_id, j.priority, j.run_at, j.id, j.kind
