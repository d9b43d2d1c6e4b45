-- Keeps the leases that are current; returns id and whether cancellation was asked for. $1 ids, $2 leases, $3 now, $4 length in ms or
-- NULL. Rows are locked in the order of their ids. Index: primary key. HOT.
WITH held AS MATERIALIZED (
    SELECT j.id
    FROM ROWS FROM (unnest($1), unnest($2)) AS g (id, lease)
    JOIN jobq._job AS j ON j.id = g.id AND j.lease = g.lease
    WHERE j.state = 'r'
    ORDER BY j.id
    FOR UPDATE OF j
)
UPDATE jobq._job AS j
SET seen_at = greatest(j.seen_at, j.claimed_at, $3),
    lease_ms = greatest(j.lease_ms, $4),
    lease_expires_at = greatest(j.lease_expires_at, $3 + coalesce($4, j.lease_ms) * interval '1 millisecond')
FROM held
WHERE j.id = held.id AND j.state = 'r'
RETURNING j.id, coalesce(j.cancel_requested, false), (j.ctid::text::point)[0]::bigint
