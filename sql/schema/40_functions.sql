-- The contract. Signatures are final once released; every optional argument defaults to NULL, and NULL means the default that the
-- comment names, or the queue's. No function is STRICT (a NULL must raise, not swallow a job) and none is parallel safe.
-- Who may call what is decided by EXECUTE: see grant_access.

-- Producers

CREATE FUNCTION jobq.enqueue(kind text, payload jsonb DEFAULT '{}', queue text DEFAULT NULL, priority int DEFAULT NULL,
    run_at timestamptz DEFAULT NULL, delay interval DEFAULT NULL, max_attempts int DEFAULT NULL, timeout interval DEFAULT NULL,
    unique_key text DEFAULT NULL, headers jsonb DEFAULT NULL, options jsonb DEFAULT NULL) RETURNS uuid
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_enqueue';
COMMENT ON FUNCTION jobq.enqueue IS 'Adds a job to a queue (default) as part of the caller''s transaction and returns its id. With unique_key: the id of the unfinished job that has the key already, if there is one. options: {"unique_while": "pending"} counts only the job that has not been claimed yet.';

CREATE FUNCTION jobq.enqueue_many(kind text, payloads jsonb, queue text DEFAULT NULL, priority int DEFAULT NULL,
    run_at timestamptz DEFAULT NULL, delay interval DEFAULT NULL, max_attempts int DEFAULT NULL, timeout interval DEFAULT NULL,
    headers jsonb DEFAULT NULL, options jsonb DEFAULT NULL) RETURNS SETOF jobq.enqueued_job
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_enqueue_many';
COMMENT ON FUNCTION jobq.enqueue_many IS 'Adds one job per element of the JSON array payloads (at most 10000), all of one kind; rows in its order.';

CREATE FUNCTION jobq.enqueue_jobs(jobs jsonb) RETURNS SETOF jobq.enqueued_job
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_enqueue_jobs';
COMMENT ON FUNCTION jobq.enqueue_jobs IS 'Adds the jobs of a JSON array of objects (at most 10000) whose fields are the arguments of enqueue: all or nothing, rows in its order.';

CREATE FUNCTION jobq.cancel(id uuid) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_cancel';
COMMENT ON FUNCTION jobq.cancel IS 'Cancels a pending job; asks the worker of a running one to stop, which it learns at its next heartbeat. Returns the state after. JQ003: no such job.';

CREATE FUNCTION jobq.reschedule(id uuid, run_at timestamptz DEFAULT NULL, priority int DEFAULT NULL, max_attempts int DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_reschedule';
COMMENT ON FUNCTION jobq.reschedule IS 'Moves a pending job to run_at (NULL: now) and optionally changes priority and max_attempts. Returns ''pending''. JQ004: the job is not pending.';

-- Workers

CREATE FUNCTION jobq.claim(queue text DEFAULT NULL, batch int DEFAULT NULL, worker text DEFAULT NULL, lease_for interval DEFAULT NULL,
    kinds text[] DEFAULT NULL, bind text DEFAULT NULL) RETURNS SETOF jobq.claimed_job
    LANGUAGE c VOLATILE ROWS 10 AS 'MODULE_PATHNAME', 'jobq_claim';
COMMENT ON FUNCTION jobq.claim IS 'Hands out up to batch (1; at most 10000) ready jobs by priority, run_at and id. queue: one (default), or several as ''high,low'' in that order. worker: your name (pid-<backend pid>). lease_for: 1 s to 7 days (the queue''s, 5 min). bind: ''lease'', or ''session'' to be released when this connection ends.';

CREATE PROCEDURE jobq.claim_wait(queue text DEFAULT NULL, batch int DEFAULT NULL, wait interval DEFAULT NULL, worker text DEFAULT NULL,
    lease_for interval DEFAULT NULL, kinds text[] DEFAULT NULL, bind text DEFAULT NULL, INOUT jobs jsonb DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'jobq_claim_wait';
COMMENT ON PROCEDURE jobq.claim_wait IS 'As claim, but waits inside the server, up to wait (20 s; at most 1 h), until there is a job; jobs is an array of objects with the fields of claim''s rows, empty when the time is over. Ends before statement_timeout. 25001: in a transaction block or pipeline; 55000: needs preload.';

CREATE FUNCTION jobq.complete_and_claim(ids uuid[], leases bigint[], results jsonb DEFAULT NULL, queue text DEFAULT NULL,
    batch int DEFAULT NULL, worker text DEFAULT NULL, lease_for interval DEFAULT NULL, kinds text[] DEFAULT NULL, bind text DEFAULT NULL,
    on_stale text DEFAULT NULL) RETURNS SETOF jobq.claimed_job
    LANGUAGE c VOLATILE ROWS 10 AS 'MODULE_PATHNAME', 'jobq_complete_and_claim';
COMMENT ON FUNCTION jobq.complete_and_claim IS 'complete_many and claim in one call and one commit; with empty arrays it only claims. Arguments as there.';

CREATE FUNCTION jobq.complete(id uuid, lease bigint, result jsonb DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_complete';
COMMENT ON FUNCTION jobq.complete IS 'Finishes a claimed job, as part of the caller''s transaction. Returns ''completed''. JQ001: the lease was lost, roll back; JQ002: this lease has finished the job before.';

CREATE FUNCTION jobq.complete_many(ids uuid[], leases bigint[], results jsonb DEFAULT NULL, on_stale text DEFAULT NULL) RETURNS SETOF jobq.finished_job
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_complete_many';
COMMENT ON FUNCTION jobq.complete_many IS 'Finishes several claimed jobs. results: a JSON array as long as ids, null for none. on_stale: ''error'' (default) all or nothing, ''skip'' the rest.';

CREATE FUNCTION jobq.fail(id uuid, lease bigint, error text DEFAULT NULL, retry_in interval DEFAULT NULL, retry boolean DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_fail';
COMMENT ON FUNCTION jobq.fail IS 'Ends an attempt that went wrong: ''pending'' after retry_in or the queue''s backoff while attempts are left and retry (true) is wanted, else ''failed''; ''cancelled'' when cancellation was asked for. error is kept per attempt (8 KB each, the last 20).';

CREATE FUNCTION jobq.release(id uuid, lease bigint, delay interval DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_release';
COMMENT ON FUNCTION jobq.release IS 'Puts a claimed job back and gives the attempt back (shutdown, snooze). Without delay it keeps its place. Returns ''pending'', or ''cancelled'' when cancellation was asked for.';

CREATE FUNCTION jobq.heartbeat(id uuid, lease bigint, lease_for interval DEFAULT NULL, progress double precision DEFAULT NULL, note text DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_heartbeat';
COMMENT ON FUNCTION jobq.heartbeat IS 'Keeps a lease: it then ends lease_for (what it was claimed with) from now, never earlier than before. progress 0..100, note up to 200 characters. Returns false when cancellation was asked for. JQ001: the lease was lost.';

CREATE FUNCTION jobq.heartbeat_many(ids uuid[], leases bigint[], lease_for interval DEFAULT NULL) RETURNS SETOF jobq.held_job
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_heartbeat_many';
COMMENT ON FUNCTION jobq.heartbeat_many IS 'Keeps several leases; reports lost ones instead of raising.';

CREATE FUNCTION jobq.rescue_zombies(older_than interval DEFAULT NULL, batch int DEFAULT NULL) RETURNS int
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_rescue_zombies';
COMMENT ON FUNCTION jobq.rescue_zombies IS 'Takes running jobs whose lease has expired, and with older_than those without a sign of life for that long, from their dead workers; up to batch (1000). Returns how many. The background worker does this by itself.';

-- Queues and operators

CREATE FUNCTION jobq.create_queue(name text, default_priority int DEFAULT NULL, max_attempts int DEFAULT NULL, lease_for interval DEFAULT NULL,
    timeout interval DEFAULT NULL, backoff jsonb DEFAULT NULL, max_crashes int DEFAULT NULL, retention interval DEFAULT NULL,
    keep_completed boolean DEFAULT NULL, max_depth bigint DEFAULT NULL, options jsonb DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_create_queue';
COMMENT ON FUNCTION jobq.create_queue IS 'Makes a queue. Defaults: priority 2, max_attempts 3, lease_for 5 min, no timeout, exponential backoff from 5 s to 1 h, max_crashes 3, retention 7 days, keep_completed true, no max_depth. timeout ''0'' and max_depth 0 mean none. 42710: it exists.';

CREATE FUNCTION jobq.alter_queue(name text, default_priority int DEFAULT NULL, max_attempts int DEFAULT NULL, lease_for interval DEFAULT NULL,
    timeout interval DEFAULT NULL, backoff jsonb DEFAULT NULL, max_crashes int DEFAULT NULL, retention interval DEFAULT NULL,
    keep_completed boolean DEFAULT NULL, max_depth bigint DEFAULT NULL, options jsonb DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_alter_queue';
COMMENT ON FUNCTION jobq.alter_queue IS 'Changes the options that are given, leaves those that are NULL. Returns whether anything changed.';

CREATE FUNCTION jobq.drop_queue(name text, force boolean DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_drop_queue';
COMMENT ON FUNCTION jobq.drop_queue IS 'Drops a queue with its failed jobs and, with force, its unfinished ones; returns how many. Its history stays until its retention is over. 2BP01: it has unfinished jobs.';

CREATE FUNCTION jobq.pause(queue text) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_pause';
COMMENT ON FUNCTION jobq.pause IS 'Stops handing out the queue''s jobs; enqueue and running jobs go on. Returns whether anything changed.';

CREATE FUNCTION jobq.resume(queue text) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_resume';
COMMENT ON FUNCTION jobq.resume IS 'Undoes pause. Returns whether anything changed.';

CREATE FUNCTION jobq.retry(id uuid) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_retry';
COMMENT ON FUNCTION jobq.retry IS 'Makes a failed or cancelled job pending again, now; attempts start over, its errors stay. Returns ''pending''. JQ004: it is neither.';

CREATE FUNCTION jobq.retry_failed(queue text DEFAULT NULL, kind text DEFAULT NULL, batch int DEFAULT NULL) RETURNS int
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_retry_failed';
COMMENT ON FUNCTION jobq.retry_failed IS 'Retries failed jobs of a queue (all) and kind (all), the longest failed first, up to batch (1000). Returns how many.';

CREATE FUNCTION jobq.delete(id uuid) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_delete';
COMMENT ON FUNCTION jobq.delete IS 'Deletes a job in any state but running (JQ004). Returns false when there was none.';

CREATE FUNCTION jobq.purge(queue text, state text, older_than interval, batch int DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_purge';
COMMENT ON FUNCTION jobq.purge IS 'Deletes completed, cancelled or failed jobs that finished longer ago than older_than, up to batch (10000) a call. Returns how many.';

CREATE FUNCTION jobq.resume_after_restore() RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_resume_after_restore';
COMMENT ON FUNCTION jobq.resume_after_restore IS 'Starts the background duties of a restored or copied database. Returns whether they were waiting for it.';

CREATE FUNCTION jobq.tick() RETURNS int
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_tick';
COMMENT ON FUNCTION jobq.tick IS 'Runs the background duties once by hand, for servers without preload: rescue, timeouts, retention, tombstones. Returns how many jobs were rescued or timed out.';

CREATE FUNCTION jobq.grant_access(role regrole, access text) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_grant_access';
COMMENT ON FUNCTION jobq.grant_access IS 'Lets a role use jobq as producer, worker, reader or admin (all of it): USAGE on the schema, EXECUTE on the functions, for reader SELECT on the views. Returns whether anything changed.';

CREATE FUNCTION jobq.revoke_access(role regrole, access text) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_revoke_access';
COMMENT ON FUNCTION jobq.revoke_access IS 'Takes from a role what belongs to an access, whichever grant it came from; with the last of it also USAGE on the schema. Returns whether anything changed.';

-- Looking

CREATE FUNCTION jobq.job(id uuid) RETURNS SETOF jobq.jobs
    LANGUAGE c STABLE ROWS 1 AS 'MODULE_PATHNAME', 'jobq_job';
COMMENT ON FUNCTION jobq.job IS 'The job with this id, by index; no row when there is none.';

CREATE FUNCTION jobq.why(id uuid) RETURNS text
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'jobq_why';
COMMENT ON FUNCTION jobq.why IS 'One sentence for people: why this job is not running now and when it can, or what became of it.';

CREATE FUNCTION jobq.diagnose() RETURNS SETOF jobq.check_result
    LANGUAGE c STABLE ROWS 12 AS 'MODULE_PATHNAME', 'jobq_diagnose';
COMMENT ON FUNCTION jobq.diagnose IS 'What an operator should look at first, one row per check, with a hint where something is wrong.';

CREATE FUNCTION jobq.version() RETURNS text
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'jobq_version';
COMMENT ON FUNCTION jobq.version IS 'Versions of the library and of the schema.';

-- Private: called at the end of this script, so that the launcher looks at this database once we have committed.
CREATE FUNCTION jobq._installed() RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_installed';
