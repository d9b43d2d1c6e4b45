-- $1 NULL: the next id; 0: the row of "default". No row when the name is taken.
INSERT INTO jobq._queue (id, name, created_at, default_priority, max_attempts, lease_ms, timeout_ms, backoff, max_crashes, retention_ms,
                         keep_completed, max_depth)
VALUES (coalesce($1, nextval('jobq._queue_id_seq')::int), $2, $3, coalesce($4, 2), coalesce($5, 3), coalesce($6, 300000), coalesce($7, 0),
        $8, coalesce($9, 3), coalesce($10, 604800000), coalesce($11, true), coalesce($12, 0))
ON CONFLICT DO NOTHING
