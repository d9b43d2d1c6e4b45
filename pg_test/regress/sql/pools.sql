-- Handlers and pools as SQL shows them: who may make which, with what options. No worker is ever started: pg_test/pools does that.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_jobq_runs, regress_jobq_creates, "regress_jobq O'x ""y";
SET client_min_messages = warning;
CREATE ROLE regress_jobq_runs LOGIN;
CREATE ROLE "regress_jobq O'x ""y" LOGIN;
CREATE ROLE regress_jobq_creates LOGIN IN ROLE regress_jobq_runs, "regress_jobq O'x ""y";
SELECT jobq.grant_access('regress_jobq_creates', 'admin');
GRANT CREATE ON SCHEMA t TO regress_jobq_creates;
SELECT jobq.create_queue('high'), jobq.create_queue('low');

CREATE FUNCTION t.answers(jobq.claimed_job) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb($1) $$;
CREATE FUNCTION t.silent(jobq.claimed_job) RETURNS void LANGUAGE sql AS '';
CREATE PROCEDURE t.procedure(jobq.claimed_job) LANGUAGE sql AS '';
CREATE PROCEDURE t.with_result(job jobq.claimed_job, INOUT result jsonb) LANGUAGE sql AS $$ SELECT '1'::jsonb $$;
CREATE FUNCTION t."It's ""odd"""(jobq.claimed_job) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION t.closed(jobq.claimed_job) RETURNS void LANGUAGE sql AS '';
REVOKE EXECUTE ON FUNCTION t.closed FROM PUBLIC;

-- A superuser's own name is no default for it.
SELECT t.outcome($$jobq.create_handler('k', 't.answers(jobq.claimed_job)')$$, 'superuser'), t.outcome($$jobq.create_pool('p')$$, 'superuser');
SELECT name, setting, context FROM pg_settings WHERE name = 'jobq.allow_superuser_handlers';
SET jobq.allow_superuser_handlers = on;

SET SESSION AUTHORIZATION regress_jobq_creates;
SELECT jobq.create_handler('answers', 't.answers(jobq.claimed_job)', 'regress_jobq_runs'),
       jobq.create_handler('silent', 't.silent(jobq.claimed_job)'),
       jobq.create_handler('procedure', 't.procedure(jobq.claimed_job)', '"regress_jobq O''x ""y"', '{}'),
       jobq.create_handler(kind => 'with_result', function => 't.with_result(jobq.claimed_job, jsonb)', run_as => NULL, options => NULL),
       jobq.create_handler('odd', 't."It''s ""odd"""(jobq.claimed_job)');
SELECT kind, function, run_as, created_by, created_at <= clock_timestamp() AS created, problem FROM jobq.handlers ORDER BY kind COLLATE "C";

SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.create_handler(NULL, 't.answers(jobq.claimed_job)')$$, 'kind'),
    (2, $$jobq.create_handler('', 't.answers(jobq.claimed_job)')$$, 'kind'),
    (3, $$jobq.create_handler('a b', 't.answers(jobq.claimed_job)')$$, 'kind'),
    (4, $$jobq.create_handler(repeat('k', 129), 't.answers(jobq.claimed_job)')$$, 'kind'),
    (5, $$jobq.create_handler('k', NULL)$$, 'function'),
    (6, $$jobq.create_handler('k', 0::oid::regprocedure)$$, 'function'),
    (7, $$jobq.create_handler('k', 'now()')$$, 'function'),
    (8, $$jobq.create_handler('k', 'jobq.complete(uuid, bigint, jsonb)')$$, 'function'),
    (9, $$jobq.create_handler('k', 'count(*)')$$, ''),
    (10, $$jobq.create_handler('k', 't.no_such(jobq.claimed_job)')$$, 'no_such'),
    (11, $$jobq.create_handler('k', 't.closed(jobq.claimed_job)')$$, 'GRANT EXECUTE'),
    (12, $$jobq.create_handler('k', 't.answers(jobq.claimed_job)', 'no_such_role')$$, 'no_such_role'),
    (13, $$jobq.create_handler('k', 't.answers(jobq.claimed_job)', 0::oid::regrole)$$, 'role'),
    (14, $$jobq.create_handler('k', 't.answers(jobq.claimed_job)', 10::oid::regrole)$$, 'member'),
    (15, $$jobq.create_handler('k', 't.answers(jobq.claimed_job)', options => '{"x": 1}')$$, 'x'),
    (16, $$jobq.create_handler('k', 't.answers(jobq.claimed_job)', options => '[]')$$, 'options'),
    (17, $$jobq.create_handler('answers', 't.silent(jobq.claimed_job)')$$, 'already exists'),
    (20, $$jobq.drop_handler(NULL)$$, 'kind'),
    (21, $$jobq.drop_handler('')$$, 'kind'),
    (30, $$jobq.snooze(NULL)$$, 'delay'),
    (31, $$jobq.snooze('-1 s')$$, 'delay'),
    (32, $$jobq.snooze('11 years')$$, 'delay'),
    (33, $$jobq.snooze('1 mon -30 days')$$, 'delay'),
    (34, $$jobq.snooze('90 s')$$, '90000'),
    (35, $$jobq.snooze('0')$$, '0'),
    (36, $$jobq.discard(NULL)$$, 'reason'),
    (37, $$jobq.discard('the reason')$$, 'the reason'),
    (38, $$jobq.discard('')$$, '')
) AS refused (n, what, says) ORDER BY n;

-- Signatures that are none: by their modes, too.
CREATE PROCEDURE t.gives_the_job_back(INOUT job jobq.claimed_job) LANGUAGE sql AS $$ SELECT $1 $$;
CREATE PROCEDURE t.gives_both_back(INOUT job jobq.claimed_job, INOUT result jsonb) LANGUAGE sql AS $$ SELECT $1, $2 $$;
CREATE PROCEDURE t.out(job jobq.claimed_job, OUT result jsonb) LANGUAGE sql AS $$ SELECT '1'::jsonb $$;
CREATE PROCEDURE t.text(job jobq.claimed_job, INOUT result text) LANGUAGE sql AS $$ SELECT '1'::text $$;
CREATE FUNCTION t.set(jobq.claimed_job) RETURNS SETOF jsonb LANGUAGE sql AS $$ SELECT '1'::jsonb $$;
CREATE FUNCTION t.number(jobq.claimed_job) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION t.two(jobq.claimed_job, int DEFAULT 1) RETURNS jsonb LANGUAGE sql AS $$ SELECT '1'::jsonb $$;
CREATE FUNCTION t.trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE FUNCTION t.anything(anyelement) RETURNS jsonb LANGUAGE sql AS $$ SELECT '1'::jsonb $$;
CREATE FUNCTION t.state(jsonb, jobq.claimed_job) RETURNS jsonb LANGUAGE sql AS $$ SELECT $1 $$;
CREATE AGGREGATE t.aggregate(jobq.claimed_job) (SFUNC = t.state, STYPE = jsonb);
SELECT p.oid::regprocedure, t.outcome(format('jobq.create_handler(%L, %s::oid::regprocedure)', 'k', p.oid), 'function')
FROM pg_proc AS p WHERE p.pronamespace = 't'::regnamespace AND p.proowner = 'regress_jobq_creates'::regrole ORDER BY p.oid::regprocedure::text COLLATE "C";

-- What happens to the function or the role afterwards is told.
RESET SESSION AUTHORIZATION;
ALTER FUNCTION t.silent OWNER TO regress_jobq_creates;
REVOKE EXECUTE ON FUNCTION t.answers FROM PUBLIC;
DROP PROCEDURE t.with_result(jobq.claimed_job, jsonb);
ALTER ROLE "regress_jobq O'x ""y" NOLOGIN;
SELECT kind, problem FROM jobq.handlers ORDER BY kind COLLATE "C";
ALTER ROLE "regress_jobq O'x ""y" SUPERUSER LOGIN;
GRANT EXECUTE ON FUNCTION t.answers TO regress_jobq_runs;
REVOKE regress_jobq_runs FROM regress_jobq_creates;
SELECT kind, problem FROM jobq.handlers ORDER BY kind COLLATE "C";
GRANT regress_jobq_runs TO regress_jobq_creates;
ALTER ROLE "regress_jobq O'x ""y" NOSUPERUSER;
SELECT jobq.drop_handler('silent'), jobq.drop_handler('silent'), jobq.drop_handler('with_result');
BEGIN;
SELECT jobq.drop_handler('answers');
ROLLBACK;
SELECT kind, problem FROM jobq.handlers ORDER BY kind COLLATE "C";

-- Pools
SET SESSION AUTHORIZATION regress_jobq_creates;
SELECT jobq.create_pool('plain', autostart => false),
       jobq.create_pool('full', 'high,low', 7, 'regress_jobq_runs', false, 'always', 5, 9, '1 min', '1 day', 33554432, '1 hour', '{}'),
       jobq.create_pool('A.b:c_d-9', 'default', 0, '"regress_jobq O''x ""y"', NULL, 'never', 0, 0, '0', '0', 0, '0', NULL);
SELECT * FROM jobq.pools WHERE false;
SELECT name, queue, run_as, size, state, running, busy, completed, failed, reason, autostart, restart, start_seconds, start_retries, stop_wait_seconds, max_runtime_seconds,
       max_memory_bytes, job_timeout_seconds, created_by, created_at <= clock_timestamp() AS created FROM jobq.pools ORDER BY name COLLATE "C" \gx
SELECT * FROM jobq.pool_workers;

-- NULL is unchanged, 0 is none; true when something changed.
SELECT jobq.alter_pool('full'), jobq.alter_pool('full', 'high,low', 7, false, 'always', 5, 9, '1 min', '1 day', 33554432, '1 hour'), jobq.alter_pool('full', size => 6),
       jobq.alter_pool('full', 'low', 6, false, 'unexpected', 0, 0, '0', '0', 0, '0', '{}'), jobq.alter_pool('full', max_runtime => '0');
SELECT queue, size, autostart, restart, start_seconds, start_retries, stop_wait_seconds, max_runtime_seconds, max_memory_bytes, job_timeout_seconds FROM jobq.pools WHERE name = 'full';
SELECT jobq.resize_pool('full', 0), jobq.resize_pool('full', 0), jobq.alter_pool('full', max_runtime => '90 s', job_timeout => '1 s');
SELECT size, max_runtime_seconds, job_timeout_seconds FROM jobq.pools WHERE name = 'full';
-- stopped, started, dropped; a pool of size 0 has no worker.
SELECT jobq.stop_pool('full'), jobq.start_pool('full'), jobq.start_pool('full'), jobq.stop_pool('full'), jobq.stop_pool('full'), jobq.restart_pool('full');
SELECT state FROM jobq.pools WHERE name = 'full';
BEGIN;
SELECT jobq.drop_pool('full'), jobq.create_pool('full', size => 0), jobq.create_pool('undone', size => 3);
SELECT name, size, queue FROM jobq.pools ORDER BY name COLLATE "C";
ROLLBACK;
SELECT name, size FROM jobq.pools ORDER BY name COLLATE "C";

SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.create_pool(NULL)$$, 'name'),
    (2, $$jobq.create_pool('')$$, 'name'),
    (3, $$jobq.create_pool('a b')$$, 'name'),
    (4, $$jobq.create_pool('a,b')$$, 'name'),
    (5, $$jobq.create_pool(repeat('p', 64))$$, 'name'),
    (6, $$jobq.create_pool('plain')$$, 'alter_pool'),
    (10, $$jobq.create_pool('n', 'no-such-queue')$$, 'no-such-queue'),
    (11, $$jobq.create_pool('n', 'high,no-such-queue')$$, 'no-such-queue'),
    (12, $$jobq.create_pool('n', '')$$, 'queue'),
    (13, $$jobq.create_pool('n', 'high,')$$, 'queue'),
    (14, $$jobq.create_pool('n', 'a b')$$, 'queue'),
    (20, $$jobq.create_pool('n', size => -1)$$, 'size'),
    (21, $$jobq.create_pool('n', size => 257)$$, 'size'),
    (22, $$jobq.create_pool('n', size => 2147483647)$$, 'size'),
    (30, $$jobq.create_pool('n', run_as => 10::oid::regrole)$$, 'member'),
    (31, $$jobq.create_pool('n', run_as => 0::oid::regrole)$$, 'role'),
    (40, $$jobq.create_pool('n', restart => 'sometimes')$$, 'restart'),
    (41, $$jobq.create_pool('n', restart => 'ALWAYS')$$, 'restart'),
    (42, $$jobq.create_pool('n', restart => '')$$, 'restart'),
    (50, $$jobq.create_pool('n', start_seconds => -1)$$, 'start_seconds'),
    (51, $$jobq.create_pool('n', start_seconds => 3601)$$, 'start_seconds'),
    (52, $$jobq.create_pool('n', start_retries => -1)$$, 'start_retries'),
    (53, $$jobq.create_pool('n', start_retries => 1001)$$, 'start_retries'),
    (54, $$jobq.create_pool('n', stop_wait => '-1 s')$$, 'stop_wait'),
    (55, $$jobq.create_pool('n', stop_wait => '25 hours')$$, 'stop_wait'),
    (56, $$jobq.create_pool('n', stop_wait => '1 mon -30 days')$$, 'stop_wait'),
    (57, $$jobq.create_pool('n', max_runtime => '-1 s')$$, 'max_runtime'),
    (58, $$jobq.create_pool('n', max_runtime => '11 years')$$, 'max_runtime'),
    (59, $$jobq.create_pool('n', max_runtime => '999 ms')$$, 'max_runtime'),
    (60, $$jobq.create_pool('n', max_memory_bytes => -1)$$, 'max_memory_bytes'),
    (61, $$jobq.create_pool('n', max_memory_bytes => 1)$$, 'max_memory_bytes'),
    (62, $$jobq.create_pool('n', max_memory_bytes => 9223372036854775807)$$, 'max_memory_bytes'),
    (63, $$jobq.create_pool('n', job_timeout => '-1 s')$$, 'job_timeout'),
    (64, $$jobq.create_pool('n', job_timeout => '178000000 years')$$, 'job_timeout'),
    (65, $$jobq.create_pool('n', options => '{"x": 1}')$$, 'x'),
    (66, $$jobq.create_pool('n', options => '[]')$$, 'options')
) AS refused (n, what, says) ORDER BY n;
-- The same options refused by alter_pool, and pools that are not there.
SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.alter_pool('plain', queue => 'no-such-queue')$$, 'no-such-queue'),
    (2, $$jobq.alter_pool('plain', size => -1)$$, 'size'),
    (3, $$jobq.alter_pool('plain', restart => 'x')$$, 'restart'),
    (4, $$jobq.alter_pool('plain', start_seconds => -1)$$, 'start_seconds'),
    (5, $$jobq.alter_pool('plain', start_retries => -1)$$, 'start_retries'),
    (6, $$jobq.alter_pool('plain', stop_wait => '-1 s')$$, 'stop_wait'),
    (7, $$jobq.alter_pool('plain', max_runtime => '-1 s')$$, 'max_runtime'),
    (8, $$jobq.alter_pool('plain', max_memory_bytes => 1)$$, 'max_memory_bytes'),
    (9, $$jobq.alter_pool('plain', job_timeout => '-1 s')$$, 'job_timeout'),
    (10, $$jobq.alter_pool('plain', options => '{"x": 1}')$$, 'x'),
    (11, $$jobq.resize_pool('plain', NULL)$$, 'size'),
    (12, $$jobq.resize_pool('plain', -1)$$, 'size'),
    (13, $$jobq.resize_pool('plain', 257)$$, 'size')
) AS refused (n, what, says) ORDER BY n;
SELECT verb, t.outcome(format('jobq.%s_pool(NULL%s)', verb, more), 'name'), t.outcome(format('jobq.%s_pool(%L%s)', verb, 'no-such-pool', more), 'no-such-pool')
FROM (VALUES ('alter', ''), ('drop', ''), ('start', ''), ('stop', ''), ('restart', ''), ('resize', ', 1')) AS v (verb, more);
RESET SESSION AUTHORIZATION;

-- Access: what a role as which pools run may call; what a reader sees, also of functions in schemas that are closed to it.
SELECT jobq.grant_access('regress_jobq_runs', 'handler'), jobq.grant_access('regress_jobq_runs', 'handler');
SELECT p.proname FROM pg_proc AS p WHERE p.pronamespace = 'jobq'::regnamespace AND has_function_privilege('regress_jobq_runs', p.oid, 'EXECUTE') ORDER BY 1;
SELECT c.relname FROM pg_class AS c WHERE c.relnamespace = 'jobq'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND has_table_privilege('regress_jobq_runs', c.oid, 'SELECT');
SET SESSION AUTHORIZATION regress_jobq_runs;
SELECT jobq.snooze('1 s');
SELECT jobq.discard('no use');
SELECT jobq.create_pool('n');
SELECT count(*) FROM jobq._pool_workers();
SELECT * FROM jobq.pools;
RESET SESSION AUTHORIZATION;
SELECT jobq.revoke_access('regress_jobq_runs', 'handler'), jobq.revoke_access('regress_jobq_runs', 'handler'), has_schema_privilege('regress_jobq_runs', 'jobq', 'USAGE');
REVOKE USAGE ON SCHEMA t FROM PUBLIC;
SELECT jobq.grant_access('regress_jobq_runs', 'reader');
SET SESSION AUTHORIZATION regress_jobq_runs;
SELECT kind, function FROM jobq.handlers ORDER BY kind COLLATE "C";
SELECT count(*) FROM jobq.pools, jobq.pool_workers;
RESET SESSION AUTHORIZATION;
-- A role that is gone leaves its number, and does no harm.
SELECT jobq.drop_pool(name) FROM jobq.pools;
SELECT jobq.drop_handler(kind) FROM jobq.handlers WHERE run_as <> 'regress_jobq_runs';
DROP OWNED BY regress_jobq_runs, regress_jobq_creates, "regress_jobq O'x ""y" CASCADE;
DROP ROLE regress_jobq_runs, regress_jobq_creates, "regress_jobq O'x ""y";
SELECT kind, run_as ~ '^\d+$' AS a_number, problem FROM jobq.handlers;
SELECT jobq.drop_handler('answers');
SELECT t.unsound();
