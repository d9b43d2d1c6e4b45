-- $3 the next tick.
UPDATE jobq._schedule AS s
SET paused = $2, next_at = $3, due_at = $3, failures = 0, last_error = NULL
WHERE s.id = $1 AND s.paused <> $2
