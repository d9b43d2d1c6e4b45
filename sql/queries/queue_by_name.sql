-- The options of a queue by name; no row for an unknown queue, nor for "default" before anybody altered it.
-- Index: _queue_name. Locks: none, so that enqueue and claim never wait for alter_queue.
SELECT q.id, q.default_priority, q.max_attempts, q.lease_ms, q.timeout_ms, q.max_depth, q.paused
FROM jobq._queue AS q
WHERE q.name = $1 AND q.dropped_at IS NULL
