-- A schedule that is due at $2, locked; no row if somebody else has it, or it is not due any more. Columns as in lock_schedule.sql.
SELECT s.id, s.name, s.next_at, s.failures, s.paused, s.anchor_at, s.starts_at, s.ends_at, s.timeout_ms, s.jitter_ms, s.priority, s.max_attempts,
       s.catch_up_max, s.cron, s.timezone, s.catch_up, s.overlap, s.queue, s.kind, s.headers, s.payload
FROM jobq._schedule AS s WHERE s.id = $1 AND s.due_at <= $2 FOR NO KEY UPDATE SKIP LOCKED
