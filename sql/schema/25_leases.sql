-- Private: what shared memory knows of a lease, else what the row says. The views ask; whoever may read them may call these.
CREATE FUNCTION jobq._seen_at(id uuid, lease bigint, seen_at timestamptz) RETURNS timestamptz
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'jobq_seen_at';
CREATE FUNCTION jobq._lease_expires_at(id uuid, lease bigint, lease_expires_at timestamptz) RETURNS timestamptz
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'jobq_lease_expires_at';
CREATE FUNCTION jobq._progress(id uuid, lease bigint, progress double precision) RETURNS double precision
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'jobq_progress';

-- Private: the rescue asks whether heartbeats keep a lease; and before it takes a job, whether it is lost, which has later heartbeats go
-- to the row.
CREATE FUNCTION jobq._is_kept(id uuid, lease bigint, expired boolean, not_seen_since timestamptz) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_is_kept';
CREATE FUNCTION jobq._is_lost(id uuid, lease bigint, expired boolean, not_seen_since timestamptz) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_is_lost';
