-- The next schedules to look at, due or not. Index: _schedule_due.
SELECT s.id, s.due_at FROM jobq._schedule AS s WHERE s.due_at IS NOT NULL ORDER BY s.due_at LIMIT $1
