-- Changes what is not NULL; no row when nothing differs.
UPDATE jobq._queue AS q
SET default_priority = coalesce($2, q.default_priority), max_attempts = coalesce($3, q.max_attempts),
    lease_ms = coalesce($4, q.lease_ms), timeout_ms = coalesce($5, q.timeout_ms), backoff = coalesce($6, q.backoff),
    max_crashes = coalesce($7, q.max_crashes), retention_ms = coalesce($8, q.retention_ms),
    keep_completed = coalesce($9, q.keep_completed), max_depth = coalesce($10, q.max_depth)
WHERE q.id = $1
  AND (q.default_priority, q.max_attempts, q.lease_ms, q.timeout_ms, q.backoff, q.max_crashes, q.retention_ms, q.keep_completed, q.max_depth)
      IS DISTINCT FROM
      (coalesce($2, q.default_priority), coalesce($3, q.max_attempts), coalesce($4, q.lease_ms), coalesce($5, q.timeout_ms),
       coalesce($6, q.backoff), coalesce($7, q.max_crashes), coalesce($8, q.retention_ms), coalesce($9, q.keep_completed),
       coalesce($10, q.max_depth))
