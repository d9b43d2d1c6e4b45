-- Schedules: what is enqueued when. The maintainer locks a row that is due, enqueues its job and moves next_at on, in one transaction:
-- a tick is enqueued once, or not yet. Each tick changes due_at, which has an index: rows are few, and their ticks seldom.
CREATE TABLE jobq._schedule (
    id uuid NOT NULL,                                   -- version 7, as of jobs: tells rows of a restore, see origin.sql
    created_at timestamptz NOT NULL,
    anchor_at timestamptz NOT NULL,                     -- intervals count from here
    next_at timestamptz,                                -- the next tick; NULL: paused, or none will come
    due_at timestamptz,                                 -- when to look at it: next_at, or later after a failure
    last_at timestamptz,                                -- the last tick that was run
    last_enqueued_at timestamptz,
    starts_at timestamptz,
    ends_at timestamptz,
    last_job_id uuid,
    timeout_ms bigint,                                  -- NULL: the queue's; as priority and max_attempts
    jitter_ms bigint NOT NULL,
    priority int,
    max_attempts int,
    catch_up_max int NOT NULL,
    failures int NOT NULL DEFAULT 0,                    -- attempts to enqueue the next tick
    paused boolean NOT NULL DEFAULT false,
    name text NOT NULL,
    cron text NOT NULL,
    timezone text NOT NULL,
    catch_up text NOT NULL,
    overlap text NOT NULL,
    queue text NOT NULL,                                -- by name: looked up at each tick
    kind text NOT NULL,
    last_error text,
    headers jsonb,
    payload jsonb NOT NULL,
    CONSTRAINT _schedule_pkey PRIMARY KEY (id),
    CONSTRAINT _schedule_policies CHECK (catch_up IN ('skip', 'last', 'all') AND overlap IN ('allow', 'skip', 'queue')),
    CONSTRAINT _schedule_next CHECK ((next_at IS NULL) = (due_at IS NULL) AND (next_at IS NULL OR NOT paused))
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.2, autovacuum_analyze_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE UNIQUE INDEX _schedule_name ON jobq._schedule (name);
CREATE INDEX _schedule_due ON jobq._schedule (due_at) WHERE due_at IS NOT NULL;
SELECT pg_extension_config_dump('jobq._schedule', '');

CREATE VIEW jobq.schedules AS
SELECT s.name, s.cron, s.timezone, s.kind, s.queue, s.payload, s.headers, s.priority, s.max_attempts,
       (s.timeout_ms / 1000.0)::double precision AS timeout_seconds,
       s.catch_up, s.catch_up_max, s.overlap,
       (s.jitter_ms / 1000.0)::double precision AS jitter_seconds,
       s.starts_at, s.ends_at, s.paused,
       s.next_at AS next_run_at, s.last_at AS last_run_at, s.last_enqueued_at, s.last_job_id, s.last_error, s.created_at
FROM jobq._schedule AS s;
COMMENT ON VIEW jobq.schedules IS 'Schedules with their options, their next and last run. last_run_at is the time it was due; last_error is why the next run could not be enqueued so far. Durations are in seconds.';

CREATE FUNCTION jobq.schedule(name text, cron text, kind text, payload jsonb DEFAULT '{}', queue text DEFAULT NULL, timezone text DEFAULT NULL,
    catch_up text DEFAULT NULL, overlap text DEFAULT NULL, jitter interval DEFAULT NULL, starts_at timestamptz DEFAULT NULL,
    ends_at timestamptz DEFAULT NULL, priority int DEFAULT NULL, max_attempts int DEFAULT NULL, timeout interval DEFAULT NULL,
    headers jsonb DEFAULT NULL, options jsonb DEFAULT NULL) RETURNS timestamptz
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_schedule';
COMMENT ON FUNCTION jobq.schedule IS 'Enqueues a job at each time that cron names (in timezone, UTC), once per time, also across restarts and failovers; returns the next one, NULL if there is none. cron: five fields, six with the second first, @daily and the like, or an interval such as ''10 minutes''. catch_up, for times that were missed: last (default), skip, all. overlap, while the job before is unfinished: allow (default), skip, queue. options: {"catch_up_max": n} (100). 42710: it exists.';

CREATE FUNCTION jobq.alter_schedule(name text, cron text DEFAULT NULL, kind text DEFAULT NULL, payload jsonb DEFAULT NULL, queue text DEFAULT NULL,
    timezone text DEFAULT NULL, catch_up text DEFAULT NULL, overlap text DEFAULT NULL, jitter interval DEFAULT NULL,
    starts_at timestamptz DEFAULT NULL, ends_at timestamptz DEFAULT NULL, priority int DEFAULT NULL, max_attempts int DEFAULT NULL,
    timeout interval DEFAULT NULL, headers jsonb DEFAULT NULL, options jsonb DEFAULT NULL) RETURNS timestamptz
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_alter_schedule';
COMMENT ON FUNCTION jobq.alter_schedule IS 'Changes what is given, leaves what is NULL; returns the next run. If cron, timezone or a bound has changed it is found anew from now on. options: {"clear": ["ends_at"]} takes values away, {"catch_up_max": n}.';

CREATE FUNCTION jobq.unschedule(name text) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_unschedule';
COMMENT ON FUNCTION jobq.unschedule IS 'Removes a schedule; jobs that it has enqueued stay. Returns false when there was none.';

CREATE FUNCTION jobq.pause_schedule(name text) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_pause_schedule';
COMMENT ON FUNCTION jobq.pause_schedule IS 'Stops a schedule. Returns whether anything changed.';

CREATE FUNCTION jobq.resume_schedule(name text) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_resume_schedule';
COMMENT ON FUNCTION jobq.resume_schedule IS 'Undoes pause_schedule; what was due meanwhile is not made up for. Returns whether anything changed.';

CREATE FUNCTION jobq.run_now(name text) RETURNS uuid
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_run_now';
COMMENT ON FUNCTION jobq.run_now IS 'Enqueues a schedule''s job now, apart from its times, also of a paused one; returns its id, or with overlap skip or queue that of the job that is there already.';

CREATE FUNCTION jobq.preview(name text, n int DEFAULT NULL) RETURNS SETOF timestamptz
    LANGUAGE c STABLE ROWS 10 AS 'MODULE_PATHNAME', 'jobq_preview';
COMMENT ON FUNCTION jobq.preview IS 'The next n (10; at most 1000) runs of a schedule, without jitter; as if it were not paused.';
