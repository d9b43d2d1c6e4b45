-- One job with a unique_key: no row when an unfinished job of the queue has it. Waits for a transaction that is just adding the
-- same key. Index: _job_unique. In REPEATABLE READ a key that is not visible yet is 40001.
INSERT INTO jobq._job (id, enqueued_at, run_at, timeout_ms, queue_id, priority, max_attempts, scheduled, unique_pending, headers, kind, payload, unique_key)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $12, $9, $10, $11, $13)
ON CONFLICT (queue_id, unique_key) WHERE unique_key IS NOT NULL DO NOTHING
