-- Moves a locked schedule on to the tick $2. $3 the last tick that was run, $4 when, $5 its job; NULL: none was.
UPDATE jobq._schedule AS s
SET next_at = $2, due_at = $2, failures = 0, last_error = NULL,
    last_at = coalesce($3, s.last_at), last_enqueued_at = coalesce($4, s.last_enqueued_at), last_job_id = coalesce($5, s.last_job_id)
WHERE s.id = $1
