-- Jobs that differ in id and payload only, in one statement. Ids and payloads are of the same length (checked before).
INSERT INTO jobq._job (id, enqueued_at, run_at, timeout_ms, queue_id, priority, max_attempts, scheduled, unique_pending, headers, kind, payload)
SELECT new.id, $3, $4, $5, $6, $7, $8, $9, false, $10, $11, new.payload
FROM ROWS FROM (unnest($1), jsonb_array_elements($2)) AS new (id, payload)
