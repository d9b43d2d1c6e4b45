-- Keeps the leases that are current; returns id and whether cancellation was asked for. Rows are locked in the order of their ids.
WITH held AS MATERIALIZED (
    SELECT j.id
    FROM jobq._job AS j
    WHERE j.id = ANY ($1) AND j.state = 'r'
      AND j.lease = (SELECT g.lease FROM ROWS FROM (unnest($1), unnest($2)) AS g (id, lease) WHERE g.id = j.id)
    ORDER BY j.id
    FOR UPDATE
)
UPDATE jobq._job AS j
SET seen_at = greatest(j.seen_at, $3),
    lease_ms = greatest(j.lease_ms, $4),
    lease_expires_at = greatest(j.lease_expires_at, $3 + coalesce($4, j.lease_ms) * interval '1 millisecond')
WHERE j.id = ANY (ARRAY(SELECT held.id FROM held)) AND j.state = 'r'
RETURNING j.id, j.cancel_requested
