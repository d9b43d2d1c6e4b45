-- Jobs that run inside: handlers, and the pools whose workers run them.

-- Functions are kept by name: oids do not survive a dump or pg_upgrade. What a name stands for is looked up at every run, in the
-- catalog, as jobq's owner and readers of the views need no rights in its schema. The owner must be the one it had: somebody who may
-- create functions in the same schema must not step into a dropped one's place.
CREATE TABLE jobq._handler (
    kind text NOT NULL PRIMARY KEY,
    function_schema text NOT NULL,
    function_name text NOT NULL,
    function_kind "char" NOT NULL,                      -- f function, p procedure
    arguments int NOT NULL,                             -- 1: jobq.claimed_job; 2: and INOUT jsonb
    function_owner regrole NOT NULL,
    run_as regrole NOT NULL,
    created_by regrole NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE SEQUENCE jobq._pool_id_seq AS int MINVALUE 1;
CREATE TABLE jobq._pool (
    id int NOT NULL PRIMARY KEY,
    name text NOT NULL UNIQUE,
    queue text NOT NULL,                                -- one or several, as for claim
    run_as regrole NOT NULL,
    size int NOT NULL,
    autostart boolean NOT NULL,
    restart text NOT NULL,
    start_ms bigint NOT NULL,
    start_retries int NOT NULL,
    stop_wait_ms bigint NOT NULL,
    max_runtime_ms bigint NOT NULL,                     -- 0: none; so are the next two
    max_memory_bytes bigint NOT NULL,
    job_timeout_ms bigint NOT NULL,
    stopped boolean NOT NULL DEFAULT false,             -- by stop_pool
    starts int NOT NULL DEFAULT 0,                      -- calls of start_pool
    restarts int NOT NULL DEFAULT 0,                    -- calls of restart_pool
    started_in timestamptz,                             -- the start of the server in which start_pool was last called
    created_by regrole NOT NULL,
    created_at timestamptz NOT NULL
);

SELECT pg_extension_config_dump('jobq._handler', '');
SELECT pg_extension_config_dump('jobq._pool', '');
SELECT pg_extension_config_dump('jobq._pool_id_seq', '');

-- What stands in the way of running as a role on behalf of its creator: 0 nothing; the numbers are those of rules::pool::Reason.
CREATE VIEW jobq._roles_of AS
SELECT f.run_as, f.created_by,
       CASE WHEN r.oid IS NULL THEN 1
            WHEN NOT r.rolcanlogin THEN 2
            WHEN r.rolsuper AND NOT coalesce(current_setting('jobq.allow_superuser_handlers', true)::boolean, false) THEN 3
            WHEN c.oid IS NULL OR NOT pg_has_role(c.oid, r.oid,
                 CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END) THEN 4
            WHEN NOT has_database_privilege(r.oid, current_database(), 'CONNECT') THEN 5
            ELSE 0 END AS problem
FROM (SELECT h.run_as, h.created_by FROM jobq._handler AS h UNION SELECT p.run_as, p.created_by FROM jobq._pool AS p) AS f
LEFT JOIN pg_roles AS r ON r.oid = f.run_as
LEFT JOIN pg_roles AS c ON c.oid = f.created_by;

-- The function of each handler, if it is there.
CREATE VIEW jobq._function_of AS
SELECT h.kind, f.oid, f.proowner, n.oid AS schema
FROM jobq._handler AS h
JOIN pg_namespace AS n ON n.nspname = h.function_schema
JOIN pg_proc AS f ON f.pronamespace = n.oid AND f.proname = h.function_name AND f.prokind = h.function_kind
 -- One by one: Postgres shows a cast to oidvector in a form that it does not read back.
 AND f.pronargs = h.arguments AND f.proargtypes[0] = 'jobq.claimed_job'::regtype AND (h.arguments = 1 OR f.proargtypes[1] = 'jsonb'::regtype)
 AND f.proargmodes IS NOT DISTINCT FROM CASE h.arguments WHEN 1 THEN NULL ELSE ARRAY['i', 'b']::"char"[] END
 AND NOT f.proretset AND (f.prokind = 'p' OR f.prorettype IN ('jsonb'::regtype, 'void'::regtype));

CREATE VIEW jobq.handlers AS
SELECT
    h.kind,
    quote_ident(h.function_schema) || '.' || quote_ident(h.function_name)
        || CASE h.arguments WHEN 1 THEN '(jobq.claimed_job)' ELSE '(jobq.claimed_job,jsonb)' END AS function,
    h.run_as::text AS run_as,
    h.created_by::text AS created_by,
    h.created_at,
    CASE o.problem
        WHEN 1 THEN 'the role does not exist'
        WHEN 2 THEN 'the role may not log in'
        WHEN 3 THEN 'the role is a superuser, and jobq.allow_superuser_handlers is off'
        WHEN 4 THEN 'who created the handler is no member of the role any more'
        WHEN 5 THEN 'the role may not connect to this database'
        ELSE CASE
            WHEN f.oid IS NULL THEN 'the function does not exist'
            WHEN f.proowner <> h.function_owner THEN 'the function has another owner than when the handler was created'
            WHEN NOT has_schema_privilege(h.run_as, f.schema, 'USAGE') THEN 'the role may not use the function''s schema'
            WHEN NOT has_function_privilege(h.run_as, f.oid, 'EXECUTE') THEN 'the role may not execute the function'
        END
    END AS problem
FROM jobq._handler AS h
JOIN jobq._roles_of AS o ON o.run_as = h.run_as AND o.created_by = h.created_by
LEFT JOIN jobq._function_of AS f ON f.kind = h.kind;
COMMENT ON VIEW jobq.handlers IS 'Kinds whose jobs pools run, with the function and the role. problem is NULL when a job could be run now.';

-- Private: the views of pools ask it; whoever may read those may call it.
CREATE FUNCTION jobq._pool_workers() RETURNS TABLE (pool_id int, number int, pid int, state text, since timestamptz, started_at timestamptz,
    job uuid, job_started_at timestamptz, completed bigint, failed bigint, memory_bytes bigint, reason text)
    LANGUAGE c STABLE ROWS 10 AS 'MODULE_PATHNAME', 'jobq_pool_workers';

CREATE VIEW jobq.pool_workers AS
SELECT p.name AS pool, w.number, w.pid, w.state, w.since,
       extract(epoch FROM clock_timestamp() - w.started_at)::double precision AS uptime_seconds,
       w.job, extract(epoch FROM clock_timestamp() - w.job_started_at)::double precision AS job_seconds,
       w.completed, w.failed, w.memory_bytes, w.reason
FROM jobq._pool_workers() AS w LEFT JOIN jobq._pool AS p ON p.id = w.pool_id;
COMMENT ON VIEW jobq.pool_workers IS 'One row for each worker of a pool (pool is NULL when it was dropped): its process, its state since when, its job, what it has done since it was started first, why it does not run.';

CREATE VIEW jobq.pools AS
SELECT p.name, p.queue, p.run_as::text AS run_as, p.size,
       -- The one that needs attention most.
       CASE WHEN 'FATAL' = ANY (w.states) THEN 'FATAL' WHEN 'BACKOFF' = ANY (w.states) THEN 'BACKOFF'
            WHEN 'STOPPING' = ANY (w.states) THEN 'STOPPING' WHEN 'STARTING' = ANY (w.states) THEN 'STARTING'
            WHEN 'RUNNING' = ANY (w.states) THEN 'RUNNING' ELSE 'STOPPED' END AS state,
       coalesce(w.running, 0) AS running, coalesce(w.busy, 0) AS busy, coalesce(w.completed, 0)::bigint AS completed,
       coalesce(w.failed, 0)::bigint AS failed, w.reason,
       p.autostart, p.restart, (p.start_ms / 1000.0)::double precision AS start_seconds, p.start_retries,
       (p.stop_wait_ms / 1000.0)::double precision AS stop_wait_seconds,
       (nullif(p.max_runtime_ms, 0) / 1000.0)::double precision AS max_runtime_seconds,
       nullif(p.max_memory_bytes, 0) AS max_memory_bytes,
       (nullif(p.job_timeout_ms, 0) / 1000.0)::double precision AS job_timeout_seconds,
       p.created_by::text AS created_by, p.created_at
FROM jobq._pool AS p
LEFT JOIN (
    SELECT s.pool_id, array_agg(s.state) AS states, count(*) FILTER (WHERE s.state = 'RUNNING') AS running, count(s.job) AS busy,
           sum(s.completed) AS completed, sum(s.failed) AS failed, max(s.reason) AS reason
    FROM jobq._pool_workers() AS s GROUP BY s.pool_id
) AS w ON w.pool_id = p.id;
COMMENT ON VIEW jobq.pools IS 'Pools with their options and how they are: the state of the worker that needs attention most, workers that run, workers that have a job, jobs completed and failed since the server started, why a worker does not run. Durations are in seconds; NULL: none.';

-- Handlers

CREATE FUNCTION jobq.create_handler(kind text, function regprocedure, run_as regrole DEFAULT NULL, options jsonb DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_create_handler';
COMMENT ON FUNCTION jobq.create_handler IS 'Has pools run the jobs of a kind: function(jobq.claimed_job) returning jsonb, the result, or void; or a procedure (jobq.claimed_job) or (jobq.claimed_job, INOUT jsonb). run_as: a role that may log in and that the caller is a member of (the current role); pools of that role run it. 42710: the kind has a handler.';

CREATE FUNCTION jobq.drop_handler(kind text) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_drop_handler';
COMMENT ON FUNCTION jobq.drop_handler IS 'Pools leave the jobs of a kind alone from now on. Returns whether it had a handler.';

CREATE FUNCTION jobq.snooze(delay interval) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_snooze';
COMMENT ON FUNCTION jobq.snooze IS 'In a handler: undoes what it wrote and puts the job back for delay (0 to 10 years); the attempt is given back. Never returns: it raises JQ005.';

CREATE FUNCTION jobq.discard(reason text) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_discard';
COMMENT ON FUNCTION jobq.discard IS 'In a handler: undoes what it wrote and lets the job fail for good, whatever attempts are left. Never returns: it raises JQ006.';

-- Pools

CREATE FUNCTION jobq.create_pool(name text, queue text DEFAULT NULL, size int DEFAULT NULL, run_as regrole DEFAULT NULL, autostart boolean DEFAULT NULL,
    restart text DEFAULT NULL, start_seconds int DEFAULT NULL, start_retries int DEFAULT NULL, stop_wait interval DEFAULT NULL,
    max_runtime interval DEFAULT NULL, max_memory_bytes bigint DEFAULT NULL, job_timeout interval DEFAULT NULL, options jsonb DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_create_pool';
COMMENT ON FUNCTION jobq.create_pool IS 'Makes a pool of background workers that log in as run_as (the current role) and run the jobs of queue (default) whose kinds have a handler of that role. Defaults: size 1, autostart true, restart ''unexpected'' (''always'', ''never''), start_seconds 1, start_retries 3, stop_wait 10 s, no max_runtime, no max_memory_bytes, no job_timeout; 0 means none. 42710: it exists; 55000: needs preload.';

CREATE FUNCTION jobq.alter_pool(name text, queue text DEFAULT NULL, size int DEFAULT NULL, autostart boolean DEFAULT NULL,
    restart text DEFAULT NULL, start_seconds int DEFAULT NULL, start_retries int DEFAULT NULL, stop_wait interval DEFAULT NULL,
    max_runtime interval DEFAULT NULL, max_memory_bytes bigint DEFAULT NULL, job_timeout interval DEFAULT NULL, options jsonb DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_alter_pool';
COMMENT ON FUNCTION jobq.alter_pool IS 'Changes the options that are given, leaves those that are NULL, while the pool runs. Returns whether anything changed.';

CREATE FUNCTION jobq.drop_pool(name text) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_drop_pool';
COMMENT ON FUNCTION jobq.drop_pool IS 'Stops a pool as stop_pool does and forgets it. Returns true. 42704: there is none.';

CREATE FUNCTION jobq.start_pool(name text) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_start_pool';
COMMENT ON FUNCTION jobq.start_pool IS 'Starts what does not run of a pool: after stop_pool, without autostart, workers that are FATAL. Returns whether it had been stopped.';

CREATE FUNCTION jobq.stop_pool(name text) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_stop_pool';
COMMENT ON FUNCTION jobq.stop_pool IS 'Lets each worker of a pool finish its job; after stop_wait the job is cancelled and goes back to its queue, the attempt given back. It stays stopped, over restarts of the server, until start_pool. Returns whether it had been started.';

CREATE FUNCTION jobq.restart_pool(name text) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_restart_pool';
COMMENT ON FUNCTION jobq.restart_pool IS 'Replaces each worker of a pool by a new process, stopping it as stop_pool does. Returns true.';

CREATE FUNCTION jobq.resize_pool(name text, size int) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_resize_pool';
COMMENT ON FUNCTION jobq.resize_pool IS 'Gives a pool so many workers (0 to 256); those that are too many stop as with stop_pool. Returns whether the size changed.';

-- Migration

CREATE TYPE jobq.imported_job AS (jobid bigint, schedule text, cron text, kind text, function text, run_as text, outcome text);
COMMENT ON TYPE jobq.imported_job IS 'What import_pg_cron makes, or would make, of a job of pg_cron. outcome: imported, can be imported, or skipped and why.';

CREATE FUNCTION jobq.import_pg_cron(schema text, dry_run boolean DEFAULT NULL, run_as regrole DEFAULT NULL) RETURNS SETOF jobq.imported_job
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'jobq_import_pg_cron';
COMMENT ON FUNCTION jobq.import_pg_cron IS 'Makes of each of pg_cron''s jobs in this database a function in schema with its command as body, a handler for kind cron/<jobid> that runs as run_as (its user), and a schedule (paused if it is not active). dry_run (true): only says what would become of them. pg_cron''s own jobs stay: unschedule them there. 42704: pg_cron is not installed.';
