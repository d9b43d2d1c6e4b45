-- Writes all of a schedule that is locked. Whoever changes it may have mended what was wrong: it is tried again at once.
UPDATE jobq._schedule AS s
SET next_at = $2, due_at = $2, failures = 0, last_error = NULL, anchor_at = $3, starts_at = $4, ends_at = $5, timeout_ms = $6, jitter_ms = $7,
    priority = $8, max_attempts = $9, catch_up_max = $10, cron = $11, timezone = $12, catch_up = $13, overlap = $14, queue = $15, kind = $16,
    headers = $17, payload = $18
WHERE s.id = $1
