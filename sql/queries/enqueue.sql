-- One job without a unique_key. Locks: nothing but the new row.
INSERT INTO jobq._job (id, enqueued_at, run_at, timeout_ms, queue_id, priority, max_attempts, scheduled, unique_pending, headers, kind, payload)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, false, $9, $10, $11)
