-- Result rows. Attributes may be added at the end, never changed: drivers read them by name and position.

CREATE TYPE jobq.claimed_job AS (
    id uuid,
    lease bigint,
    queue text,
    kind text,
    payload jsonb,
    headers jsonb,
    attempt int,
    max_attempts int,
    priority int,
    enqueued_at timestamptz,
    run_at timestamptz,
    lease_expires_at timestamptz,
    deadline_at timestamptz,
    crashes int,
    last_error text
);
COMMENT ON TYPE jobq.claimed_job IS 'A job handed to a worker. lease proves who holds it: pass it to complete, fail, release and heartbeat. attempt is 1 the first time. deadline_at is NULL without a timeout.';

CREATE TYPE jobq.enqueued_job AS (id uuid, created boolean);
COMMENT ON TYPE jobq.enqueued_job IS 'One row per job given to enqueue_many or enqueue_jobs, in order. created is false when an unfinished job with the same unique_key was there already.';

CREATE TYPE jobq.finished_job AS (id uuid, completed boolean);
COMMENT ON TYPE jobq.finished_job IS 'One row per id given to complete_many. completed is false when the lease was stale and on_stale is skip.';

CREATE TYPE jobq.held_job AS (id uuid, held boolean, cancel_requested boolean);
COMMENT ON TYPE jobq.held_job IS 'One row per id given to heartbeat_many. held is false when the lease was lost.';

CREATE TYPE jobq.queue_stats AS (
    queue text,
    pending bigint,
    scheduled bigint,
    running bigint,
    failed bigint,
    completed_today bigint,
    failed_today bigint,
    oldest_pending_seconds double precision,
    workers bigint
);
COMMENT ON TYPE jobq.queue_stats IS 'Counts of one queue. pending: ready now; scheduled: run_at still ahead; today: since midnight in the session''s time zone; oldest_pending_seconds: how long the oldest ready job has been ready, NULL when there is none.';

CREATE TYPE jobq.check_result AS (check_name text, status text, detail text, hint text);
COMMENT ON TYPE jobq.check_result IS 'One finding of diagnose(). status is ok, warn or error.';
