-- The next tick of a schedule could not be enqueued at $2, for the reason $3: it is tried again after 1, 2, 4 ... 60 s.
UPDATE jobq._schedule AS s
SET failures = least(s.failures, 1000000) + 1, last_error = $3, due_at = $2 + least(60, 2 ^ least(s.failures, 6)) * interval '1 second'
WHERE s.id = $1 AND s.due_at IS NOT NULL
