-- Queues (all, or $1) with the session's last midnight before $2.
SELECT q.id, date_trunc('day', $2) FROM jobq._queue_options AS q WHERE $1 IS NULL OR q.id = $1
