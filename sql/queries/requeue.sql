-- Makes a running job that this transaction has locked pending again. $2 its lease from now on, $3 when to run (NULL: keep its
-- place), $4 whether that is ahead, $5 attempts given back, $6 crashes added, $7 error or NULL, $8 now.
-- Returns what the dispatcher is to know of it. HOT unless it moves in time.
UPDATE jobq._job AS j
SET state = 'p',
    crashes = j.crashes + $6,
    attempt = j.attempt - $5,
    lease = $2,
    claimed_at = NULL,
    lease_expires_at = NULL,
    lease_ms = NULL,
    seen_at = NULL,
    deadline_at = NULL,
    progress = NULL,
    bound = NULL,
    cancel_requested = NULL,
    note = NULL,
    worker = NULL,
    run_at = coalesce($3, j.run_at),
    scheduled = CASE WHEN $3 IS NULL THEN j.scheduled ELSE $4 END,
    errors = CASE WHEN $7 IS NULL THEN j.errors
                  ELSE CASE WHEN jsonb_array_length(j.errors) >= 20 THEN j.errors - 0 ELSE coalesce(j.errors, '[]') END
                       || jsonb_build_object('attempt', j.attempt, 'at', $8, 'worker', j.worker, 'error', $7) END
WHERE j.id = $1 AND j.state = 'r'
RETURNING j.queue_id, j.priority, j.run_at, j.id, j.kind
