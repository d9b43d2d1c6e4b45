-- Who may do what: five kinds of access and none, every function and every relation.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_jobq_producer, regress_jobq_worker, regress_jobq_reader, regress_jobq_handler, regress_jobq_admin, regress_jobq_none, "regress_jobq o'x""y x";
SET client_min_messages = warning;
CREATE ROLE regress_jobq_producer;
CREATE ROLE regress_jobq_worker;
CREATE ROLE regress_jobq_reader;
CREATE ROLE regress_jobq_handler;
CREATE ROLE regress_jobq_admin;
CREATE ROLE regress_jobq_none;

-- true when something changed.
SELECT jobq.grant_access('regress_jobq_producer', 'producer'), jobq.grant_access('regress_jobq_worker', 'worker'), jobq.grant_access('regress_jobq_reader', 'reader'), jobq.grant_access('regress_jobq_handler', 'handler'), jobq.grant_access('regress_jobq_admin', 'admin');
SELECT jobq.grant_access('regress_jobq_producer', 'producer'), jobq.grant_access('regress_jobq_worker', 'worker'), jobq.grant_access('regress_jobq_reader', 'reader'), jobq.grant_access('regress_jobq_handler', 'handler'), jobq.grant_access('regress_jobq_admin', 'admin');

-- The matrix: what each access is for, as the contract groups it. (admin is all of it.)
CREATE TABLE t.meant (access text, function text);
INSERT INTO t.meant SELECT 'producer', f FROM unnest('{enqueue,enqueue_many,enqueue_jobs,cancel,reschedule}'::text[]) AS f;
INSERT INTO t.meant SELECT 'worker', f FROM unnest('{claim,claim_wait,complete_and_claim,complete,complete_many,fail,release,heartbeat,heartbeat_many,rescue_zombies}'::text[]) AS f;
INSERT INTO t.meant SELECT 'reader', f FROM unnest('{job,why,stats,diagnose,preview,_workers,_pool_workers,_seen_at,_lease_expires_at,_progress}'::text[]) AS f;
INSERT INTO t.meant SELECT 'handler', f FROM unnest('{snooze,discard}'::text[]) AS f;
INSERT INTO t.meant SELECT access, 'version' FROM unnest('{producer,worker,reader,handler}'::text[]) AS access;
INSERT INTO t.meant SELECT 'admin', p.proname FROM pg_proc AS p WHERE p.pronamespace = 'jobq'::regnamespace AND (p.proname !~ '^_' OR p.proname IN ('_workers', '_pool_workers', '_seen_at', '_lease_expires_at', '_progress'));
-- What really happens: each function is called with a NULL for every argument, by each role; anything but 42501 got past the door.
CREATE VIEW t.call AS
SELECT p.proname::text AS function, p.oid,
       CASE p.prokind WHEN 'p' THEN 'CALL ' ELSE '' END || format('jobq.%I(%s)', p.proname, (SELECT string_agg('NULL::' || a.type::regtype, ', ' ORDER BY a.place) FROM unnest(p.proargtypes) WITH ORDINALITY AS a (type, place))) AS call
FROM pg_proc AS p WHERE p.pronamespace = 'jobq'::regnamespace;
CREATE TABLE t.call_list AS SELECT * FROM t.call;
GRANT SELECT ON ALL TABLES IN SCHEMA t TO PUBLIC;
CREATE TABLE t.happened (access text, function text, outcome text);
GRANT INSERT ON t.happened TO PUBLIC;
CREATE FUNCTION t.try_all(access text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO t.happened SELECT try_all.access, c.function, t.outcome(c.call) FROM t.call_list AS c;
    RETURN (SELECT count(*) FROM t.call_list);
END
$$;
SET ROLE regress_jobq_producer; SELECT t.try_all('producer') > 30 AS tried; RESET ROLE;
SET ROLE regress_jobq_worker; SELECT t.try_all('worker') > 30 AS tried; RESET ROLE;
SET ROLE regress_jobq_reader; SELECT t.try_all('reader') > 30 AS tried; RESET ROLE;
SET ROLE regress_jobq_handler; SELECT t.try_all('handler') > 30 AS tried; RESET ROLE;
SET ROLE regress_jobq_admin; SELECT t.try_all('admin') > 30 AS tried; RESET ROLE;
SET ROLE regress_jobq_none; SELECT t.try_all('none') > 30 AS tried; RESET ROLE;
SELECT access, count(*) FILTER (WHERE outcome <> '42501') AS allowed, count(*) FILTER (WHERE outcome = '42501') AS denied FROM t.happened GROUP BY access ORDER BY access;
SELECT h.access, h.function, h.outcome AS differs_from_what_is_meant FROM t.happened AS h
WHERE (h.outcome <> '42501') <> EXISTS (SELECT 1 FROM t.meant AS m WHERE m.access = h.access AND m.function = h.function) ORDER BY 1, 2;
-- Nothing got further than a complaint about its arguments, or about being called inside a function.
SELECT access, function, outcome FROM t.happened WHERE outcome NOT IN ('ok', '42501', '22004') ORDER BY 1, 2;
-- The catalog says the same.
SELECT h.access, h.function FROM t.happened AS h JOIN t.call_list AS c USING (function)
WHERE has_function_privilege('regress_jobq_' || h.access, c.oid, 'EXECUTE') <> (h.outcome <> '42501') ORDER BY 1, 2;

-- Relations: views for readers and admins, tables for nobody, and nothing but SELECT.
SELECT r.role, c.relname, p.privilege
FROM unnest('{producer,worker,reader,handler,admin,none}'::text[]) AS r (role), pg_class AS c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS p (privilege)
WHERE c.relnamespace = 'jobq'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND has_schema_privilege('regress_jobq_' || r.role, 'jobq', 'USAGE')
  AND (has_table_privilege('regress_jobq_' || r.role, c.oid, p.privilege) OR p.privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES') AND has_any_column_privilege('regress_jobq_' || r.role, c.oid, p.privilege))
ORDER BY 1, 2, 3;
SELECT r.role, c.relname FROM unnest('{producer,worker,reader,handler,admin,none}'::text[]) AS r (role), pg_class AS c
WHERE c.relnamespace = 'jobq'::regnamespace AND c.relkind = 'S' AND has_sequence_privilege('regress_jobq_' || r.role, c.oid, 'USAGE, SELECT, UPDATE');
SELECT r.role, has_schema_privilege('regress_jobq_' || r.role, 'jobq', 'USAGE') AS usage, has_schema_privilege('regress_jobq_' || r.role, 'jobq', 'CREATE') AS "create"
FROM unnest('{producer,worker,reader,handler,admin,none}'::text[]) AS r (role);
SET ROLE regress_jobq_admin;
SELECT lease FROM jobq._job;
UPDATE jobq._job SET state = 'p';
INSERT INTO jobq._queue (id, name, created_at) VALUES (99, 'x', now());
TRUNCATE jobq._job;
CREATE TRIGGER planted AFTER UPDATE ON jobq._job FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
CREATE FUNCTION jobq.planted() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE jobq.planted (x int);
SELECT * FROM jobq._queue_options;
SELECT count(*) FROM jobq.jobs;
RESET ROLE;

-- Each role can do its work, from end to end.
SET ROLE regress_jobq_producer;
SELECT jobq.enqueue('a') IS NOT NULL AS enqueued, jobq.enqueue('b') AS b \gset
SELECT jobq.reschedule(:'b', priority => 9), jobq.cancel(:'b');
SELECT count(*) FROM jobq.enqueue_many('c', '[{}, {}]'), jobq.enqueue_jobs('[{"kind": "d"}]');
SELECT count(*) FROM jobq.jobs;
RESET ROLE;
SET ROLE regress_jobq_worker;
SELECT id AS a, lease AS a_lease, kind FROM jobq.claim(worker => 'w1') \gset
SELECT jobq.heartbeat(:'a', :a_lease), jobq.complete(:'a', :a_lease);
SELECT completed FROM jobq.claim(batch => 10) AS c, jobq.complete_many(ARRAY[c.id], ARRAY[c.lease]);
SELECT jobq.rescue_zombies();
RESET ROLE;
SET ROLE regress_jobq_reader;
SELECT state, count(*) FROM jobq.jobs GROUP BY state ORDER BY state;
SELECT count(*) FROM jobq.running_jobs, jobq.failed_jobs;
SELECT name, running, completed FROM jobq.workers WHERE name = 'w1';
SELECT name FROM jobq.queues;
SELECT queue, completed_today FROM jobq.stats();
SELECT count(*) > 0 AS answers FROM jobq.diagnose();
SELECT count(*) FROM jobq.jobs AS j, jobq.job(j.id);
RESET ROLE;
SET ROLE regress_jobq_admin;
SELECT jobq.create_queue('made_by_admin'), jobq.pause('made_by_admin'), jobq.drop_queue('made_by_admin'), jobq.retry(:'b'), jobq.delete(:'b'), jobq.purge('default', 'completed', '0') > 0 AS purged, jobq.tick() >= 0 AS ticked,
       jobq.resume_after_restore() AS was_waiting;
SELECT jobq.grant_access('regress_jobq_none', 'reader'), jobq.revoke_access('regress_jobq_none', 'reader');
RESET ROLE;
-- What they make belongs to the extension's owner, not to them.
SELECT count(*) FROM pg_class AS c JOIN pg_roles AS r ON r.oid = c.relowner WHERE r.rolname LIKE 'regress\_jobq%';

-- A role member has its role's access; a function with its owner's rights lends them.
CREATE ROLE regress_jobq_member IN ROLE regress_jobq_producer;
SET ROLE regress_jobq_member;
SELECT jobq.enqueue('member') IS NOT NULL AS enqueued;
RESET ROLE;
DROP ROLE regress_jobq_member;
CREATE FUNCTION t.lent() RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$ SELECT jobq.enqueue('lent') IS NOT NULL $$;
SET ROLE regress_jobq_none;
SELECT t.lent();
SELECT jobq.enqueue('not lent');
RESET ROLE;

-- An error inside leaves the caller's rights and settings as they were, also when it is caught; and SET ROLE still works.
SET ROLE regress_jobq_worker;
SET search_path = t, public;
SELECT jobq.complete('00000000-0000-0000-0000-000000000000', 1);
SELECT current_user, current_setting('search_path'), current_setting('is_superuser'), current_setting('role');
BEGIN;
SELECT jobq.complete('00000000-0000-0000-0000-000000000000', 1);
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT jobq.claim(batch => 0);
ROLLBACK TO SAVEPOINT s;
SELECT current_user, current_setting('search_path'), current_setting('enable_seqscan');
SELECT lease FROM jobq._job;
ROLLBACK;
DO $$
DECLARE
    before text := (SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name <> 'application_name');
    verb text;
BEGIN
    FOREACH verb IN ARRAY ARRAY['jobq.complete(''00000000-0000-0000-0000-000000000000'', 1)', 'jobq.claim(batch => 0)', 'jobq.claim(''nosuch'')', 'jobq.enqueue(''k'')',
        'jobq.fail(''00000000-0000-0000-0000-000000000000'', 1)', 'jobq.heartbeat(NULL, 1)', 'jobq.claim()', 'jobq.rescue_zombies()', 'jobq.complete_many(''{}'', NULL)'] LOOP
        BEGIN
            EXECUTE 'SELECT count(*) FROM ' || verb;
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
        IF current_user <> 'regress_jobq_worker' OR (SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name <> 'application_name') <> before THEN
            RAISE WARNING '% leaves something behind', verb;
        END IF;
        SET LOCAL ROLE regress_jobq_none;
        SET LOCAL ROLE regress_jobq_worker;
    END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'cannot even set the role';
END
$$;
RESET ROLE;
RESET search_path;
-- A statement that is cancelled in the middle, too.
SET statement_timeout = '200ms';
SET ROLE regress_jobq_producer;
SELECT count(jobq.enqueue('slow')) FROM generate_series(1, 1000) AS a, generate_series(1, 10000) AS b;
SELECT current_user, current_setting('search_path');
RESET ROLE;
RESET statement_timeout;
SELECT t.seen('slow');

-- revoke_access: true when something changed; afterwards nothing is left.
SELECT jobq.revoke_access('regress_jobq_producer', 'producer'), jobq.revoke_access('regress_jobq_worker', 'worker'), jobq.revoke_access('regress_jobq_reader', 'reader'), jobq.revoke_access('regress_jobq_handler', 'handler'), jobq.revoke_access('regress_jobq_admin', 'admin');
SELECT jobq.revoke_access('regress_jobq_producer', 'producer'), jobq.revoke_access('regress_jobq_worker', 'worker'), jobq.revoke_access('regress_jobq_reader', 'reader'), jobq.revoke_access('regress_jobq_handler', 'handler'), jobq.revoke_access('regress_jobq_admin', 'admin');
SELECT c.relname, c.relacl FROM pg_class AS c WHERE c.relnamespace = 'jobq'::regnamespace AND c.relacl::text LIKE '%regress\_jobq%'
UNION ALL SELECT p.proname, p.proacl FROM pg_proc AS p WHERE p.pronamespace = 'jobq'::regnamespace AND p.proacl::text LIKE '%regress\_jobq%'
UNION ALL SELECT n.nspname, n.nspacl FROM pg_namespace AS n WHERE n.nspname = 'jobq' AND n.nspacl::text LIKE '%regress\_jobq%';
TRUNCATE t.happened;
SET ROLE regress_jobq_admin; SELECT t.try_all('admin') > 30 AS tried; SELECT count(*) FROM jobq.jobs; RESET ROLE;
SELECT outcome, count(*) > 30 AS all_of_them FROM t.happened GROUP BY outcome;

-- What another access still needs stays.
SELECT jobq.grant_access('regress_jobq_none', 'producer'), jobq.grant_access('regress_jobq_none', 'worker'), jobq.grant_access('regress_jobq_none', 'reader');
SELECT jobq.revoke_access('regress_jobq_none', 'worker');
TRUNCATE t.happened;
SET ROLE regress_jobq_none; SELECT t.try_all('producer and reader') > 30 AS tried; SELECT count(*) > 0 AS sees FROM jobq.jobs; RESET ROLE;
SELECT h.function FROM t.happened AS h
WHERE (h.outcome <> '42501') <> EXISTS (SELECT 1 FROM t.meant AS m WHERE m.access IN ('producer', 'reader') AND m.function = h.function) ORDER BY 1;
SELECT jobq.revoke_access('regress_jobq_none', 'producer'), jobq.revoke_access('regress_jobq_none', 'reader');
SELECT has_schema_privilege('regress_jobq_none', 'jobq', 'USAGE') AS usage_left;

-- Roles by any name; and what is refused.
CREATE ROLE "regress_jobq o'x""y x";
SELECT jobq.grant_access('"regress_jobq o''x""y x"', 'worker');
SET ROLE "regress_jobq o'x""y x";
SELECT count(*) FROM jobq.claim(batch => 100);
SELECT jobq.enqueue('k');
RESET ROLE;
SELECT jobq.revoke_access('"regress_jobq o''x""y x"', 'worker');
SET ROLE "regress_jobq o'x""y x";
SELECT count(*) FROM jobq.claim();
RESET ROLE;
DROP ROLE "regress_jobq o'x""y x";
SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.grant_access(NULL, 'reader')$$, 'role'),
    (2, $$jobq.grant_access('regress_jobq_none', NULL)$$, 'access'),
    (3, $$jobq.grant_access('regress_jobq_none', 'owner')$$, 'access'),
    (4, $$jobq.grant_access('regress_jobq_none', '')$$, 'access'),
    (5, $$jobq.grant_access('regress_jobq_none', 'Reader')$$, 'access'),
    (6, $$jobq.grant_access('nosuch', 'reader')$$, NULL),
    (7, $$jobq.grant_access(4000000000::oid, 'reader')$$, NULL),
    (8, $$jobq.grant_access('-', 'reader')$$, NULL),
    (9, $$jobq.revoke_access(NULL, 'reader')$$, 'role'),
    (10, $$jobq.revoke_access('regress_jobq_none', NULL)$$, 'access'),
    (11, $$jobq.revoke_access('regress_jobq_none', 'owner')$$, 'access'),
    (12, $$jobq.revoke_access(4000000000::oid, 'reader')$$, NULL),
    (13, $$jobq.revoke_access('regress_jobq_none', 'reader')$$, NULL)
) AS v (n, what, says) ORDER BY n;

-- A role with access can be dropped after DROP OWNED, with jobs in the queue.
SELECT jobq.grant_access('regress_jobq_none', 'admin');
SET ROLE regress_jobq_none;
SELECT jobq.enqueue('orphan') IS NOT NULL AS enqueued;
RESET ROLE;
DROP ROLE regress_jobq_none;
DROP OWNED BY regress_jobq_none;
DROP ROLE regress_jobq_none;
SELECT t.seen('orphan'), t.take(kinds => '{orphan}');
DROP ROLE regress_jobq_producer;
DROP ROLE regress_jobq_worker;
DROP ROLE regress_jobq_reader;
DROP ROLE regress_jobq_handler;
DROP ROLE regress_jobq_admin;
SELECT t.unsound();
