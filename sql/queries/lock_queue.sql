-- A queue's row, locked against other operators.
SELECT q.id, q.paused FROM jobq._queue AS q WHERE q.name = $1 AND q.dropped_at IS NULL FOR UPDATE
