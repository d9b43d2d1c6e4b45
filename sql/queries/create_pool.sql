-- No row: the name is taken.
INSERT INTO jobq._pool (id, name, queue, run_as, size, autostart, restart, start_ms, start_retries, stop_wait_ms, max_runtime_ms,
                        max_memory_bytes, job_timeout_ms, created_by, created_at)
VALUES (nextval('jobq._pool_id_seq'), $1, coalesce($4, 'default'), $2, coalesce($5, 1), coalesce($6, true), coalesce($7, 'unexpected'),
        coalesce($8, 1000), coalesce($9, 3), coalesce($10, 10000), coalesce($11, 0), coalesce($12, 0), coalesce($13, 0), $3, $14)
ON CONFLICT (name) DO NOTHING
