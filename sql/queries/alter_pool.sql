-- Options that are NULL stay; $12 is the server's start. No row: nothing differs.
UPDATE jobq._pool AS p
SET queue = coalesce($2, p.queue), size = coalesce($3, p.size), autostart = coalesce($4, p.autostart), restart = coalesce($5, p.restart),
    start_ms = coalesce($6, p.start_ms), start_retries = coalesce($7, p.start_retries), stop_wait_ms = coalesce($8, p.stop_wait_ms),
    max_runtime_ms = coalesce($9, p.max_runtime_ms), max_memory_bytes = coalesce($10, p.max_memory_bytes),
    job_timeout_ms = coalesce($11, p.job_timeout_ms),
    -- Without autostart it goes on until the server ends.
    started_in = CASE WHEN p.autostart AND NOT $4 THEN $12 ELSE p.started_in END
WHERE p.id = $1
  AND (p.queue, p.size, p.autostart, p.restart, p.start_ms, p.start_retries, p.stop_wait_ms, p.max_runtime_ms, p.max_memory_bytes, p.job_timeout_ms)
   IS DISTINCT FROM (coalesce($2, p.queue), coalesce($3, p.size), coalesce($4, p.autostart), coalesce($5, p.restart), coalesce($6, p.start_ms),
       coalesce($7, p.start_retries), coalesce($8, p.stop_wait_ms), coalesce($9, p.max_runtime_ms), coalesce($10, p.max_memory_bytes),
       coalesce($11, p.job_timeout_ms))
