-- A schedule by name, locked: the maintainer passes it over until this transaction ends. Index: _schedule_name.
SELECT s.id, s.name, s.next_at, s.failures, s.paused, s.anchor_at, s.starts_at, s.ends_at, s.timeout_ms, s.jitter_ms, s.priority, s.max_attempts,
       s.catch_up_max, s.cron, s.timezone, s.catch_up, s.overlap, s.queue, s.kind, s.headers, s.payload
FROM jobq._schedule AS s WHERE s.name = $1 FOR NO KEY UPDATE
