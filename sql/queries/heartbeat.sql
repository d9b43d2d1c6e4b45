-- Keeps a lease: never shorter than before, and a longer length is remembered. $3 now, $4 length in ms or NULL for the one it was
-- claimed with, $5 progress or NULL, $6 note or NULL. HOT. Waits for a rescuer that is just looking at the row, then re-checks.
UPDATE jobq._job AS j
SET seen_at = greatest(j.seen_at, j.claimed_at, $3),
    lease_ms = greatest(j.lease_ms, $4),
    lease_expires_at = greatest(j.lease_expires_at, $3 + coalesce($4, j.lease_ms) * interval '1 millisecond'),
    progress = coalesce($5, j.progress),
    note = coalesce($6, j.note)
WHERE j.id = $1 AND j.lease = $2 AND j.state = 'r'
RETURNING coalesce(j.cancel_requested, false), (j.ctid::text::point)[0]::bigint
