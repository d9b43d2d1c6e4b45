-- A user who puts a schema of his own before pg_catalog in search_path, with a twin of every function and operator jobq could
-- possibly use, gets none of them called.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
SET client_min_messages = error;
DROP SCHEMA IF EXISTS evil CASCADE;
DROP ROLE IF EXISTS regress_jobq_mallory, regress_jobq_friend;
SET client_min_messages = warning;
CREATE SCHEMA evil;
GRANT ALL ON SCHEMA evil TO PUBLIC;
CREATE TABLE evil.fired (what text, who text);
GRANT ALL ON evil.fired TO PUBLIC;

-- The twins: they write down that they were called, and as whom, and then do what the original does.
DO $$
DECLARE
    known regtype[] := '{uuid,text,name,"char",boolean,smallint,int,bigint,oid,double precision,numeric,timestamptz,timestamp,date,interval,jsonb,json,bit,regclass,regtype,
        uuid[],bigint[],int[],text[],jsonb[],anyelement,anyarray,anynonarray}';
    twin record;
    made int := 0;
BEGIN
    FOR twin IN
        SELECT p.proname, p.prorettype::regtype AS result, p.proretset, pg_get_function_identity_arguments(p.oid) AS arguments,
               (SELECT string_agg(y::regtype::text, ', ' ORDER BY n) FROM unnest(p.proargtypes) WITH ORDINALITY AS a (y, n)) AS types,
               (SELECT string_agg('$' || n, ', ' ORDER BY n) FROM unnest(p.proargtypes) WITH ORDINALITY AS a (y, n)) AS names
        FROM pg_proc AS p
        WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.provariadic = 0 AND p.prorettype = ANY (known) AND p.proargtypes::regtype[] <@ known
          AND p.proname !~ '^(pg_stat|RI_|binary_upgrade|pg_logical|pg_replication|has_|lo_|jsonb?_populate)'
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s%s LANGUAGE plpgsql AS $f$ BEGIN INSERT INTO evil.fired VALUES (%L, current_user); %s pg_catalog.%I(%s); END $f$',
                twin.proname, twin.types, CASE WHEN twin.proretset THEN 'SETOF ' ELSE '' END, twin.result, twin.proname || '(' || coalesce(twin.types, '') || ')',
                CASE WHEN twin.proretset THEN 'RETURN QUERY SELECT' ELSE 'RETURN' END, twin.proname, twin.names);
            made := made + 1;
        EXCEPTION WHEN duplicate_function OR invalid_function_definition THEN
            NULL;
        END;
    END LOOP;
    FOR twin IN
        SELECT o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS result, o.oid
        FROM pg_operator AS o
        WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprkind = 'b' AND o.oprleft = ANY (known) AND o.oprright = ANY (known) AND o.oprresult = ANY (known)
    LOOP
        EXECUTE format('CREATE FUNCTION evil.%I(%s, %s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN INSERT INTO evil.fired VALUES (%L, current_user); RETURN $1 OPERATOR(pg_catalog.%s) $2; END $f$',
            'operator_' || twin.oid, twin.l, twin.r, twin.result, twin.oid::regoperator, twin.oprname);
        EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.%I)', twin.oprname, twin.l, twin.r, 'operator_' || twin.oid);
        made := made + 1;
    END LOOP;
    IF made < 1000 THEN RAISE WARNING 'only % twins', made; END IF;
END
$$;
CREATE TABLE evil._job (LIKE jobq._job);
CREATE TABLE evil._queue (LIKE jobq._queue);
CREATE VIEW evil.jobs AS SELECT * FROM jobq.jobs WHERE false;
CREATE TABLE evil.pg_class (LIKE pg_catalog.pg_class);
CREATE TABLE evil.pg_extension (extname name, oid oid, extversion text);
CREATE DOMAIN evil.uuid AS text;
CREATE DOMAIN evil.jsonb AS text;
CREATE TYPE evil.claimed_job AS (id text);
GRANT ALL ON ALL TABLES IN SCHEMA evil TO PUBLIC;
CREATE ROLE regress_jobq_mallory;
CREATE ROLE regress_jobq_friend;
SELECT jobq.grant_access('regress_jobq_mallory', 'admin');

-- They work when they are meant to.
SET search_path = evil, pg_catalog, pg_temp;
SELECT 1 = 1 AND lower('A') = 'a';
RESET search_path;
SELECT count(*) > 1 AS trap_works FROM evil.fired;
TRUNCATE evil.fired;

-- As a user with every access: all verbs, in plain statements that name no function or operator of their own.
SET ROLE regress_jobq_mallory;
CREATE TEMP TABLE _job (id int);
CREATE TEMP TABLE _queue (id int);
CREATE TEMP TABLE pg_class (oid oid);
CREATE TEMP TABLE pg_extension (extname name);
SET search_path = pg_temp, evil, pg_catalog;
SELECT jobq.create_queue('q', 2, 5, '5 minutes', '1 hour', '{"kind": "list", "delays": ["0s"]}', 3, '7 days', true, 1000);
SELECT jobq.alter_queue('q', max_attempts => 6), jobq.alter_queue('default', max_attempts => 6), jobq.pause('q'), jobq.resume('q');
SELECT jobq.enqueue('k1', '{"a": 1}', 'q', 1, NULL, '0', 4, '1 hour', 'key', '{"h": 1}', '{"unique_while": "pending"}') AS k1 \gset
SELECT jobq.enqueue('k1', '{"a": 1}', 'q', unique_key => 'key') AS again \gset
SELECT created FROM jobq.enqueue_many('k2', '[{}, [1]]', 'q', delay => '1 second');
SELECT created FROM jobq.enqueue_jobs('[{"kind": "k3", "queue": "q", "unique_key": "other", "delay": "1 s", "headers": {}}, {"kind": "k4", "queue": "q"}, {"kind": "k5", "queue": "q"}]');
SELECT id, lease, kind FROM jobq.claim('q,default', 1, 'w1', '1 minute', '{k1}') \gset
SELECT jobq.heartbeat(:'id', :lease, '1 minute', 5, 'note');
SELECT held FROM jobq.heartbeat_many(ARRAY[:'id']::pg_catalog.uuid[], '{1}');
SELECT jobq.release(:'id', :lease);
SELECT id, lease, kind FROM jobq.claim('q', 1, 'w1', kinds => '{k1}') \gset
SELECT jobq.fail(:'id', :lease, 'broken');
SELECT id, lease, kind FROM jobq.claim('q', 1, 'w1', kinds => '{k1}') \gset
SELECT jobq.complete(:'id', :lease, '{"r": 1}');
SELECT jobq.complete(:'id', :lease);
SELECT jobq.complete(:'id', 1);
SELECT id, lease, kind FROM jobq.claim('q', 1, 'w1', kinds => '{k4}') \gset
SELECT completed FROM jobq.complete_many(ARRAY[:'id']::pg_catalog.uuid[], '{1}', '[null]', 'skip');
SELECT jobq.cancel(:'id');
SELECT jobq.fail(:'id', :lease);
SELECT jobq.retry(:'id');
SELECT jobq.reschedule(:'id', '2030-01-01', 5, 7);
SELECT jobq.delete(:'id');
SELECT id, lease, kind FROM jobq.claim('q', 1, 'w1', kinds => '{k5}') \gset
SELECT jobq.fail(:'id', :lease, 'broken', retry => false);
SELECT jobq.retry_failed('q', 'k5');
SELECT jobq.rescue_zombies('1 day', 10);
SELECT jobq.tick();
SELECT jobq.purge('q', 'completed', '0');
SELECT jobq.resume_after_restore();
SELECT jobq.grant_access('regress_jobq_friend', 'worker'), jobq.revoke_access('regress_jobq_friend', 'worker');
SELECT state FROM jobq.job(:'id');
SELECT queue FROM jobq.stats();
SELECT queue FROM jobq.stats('q');
SELECT status FROM jobq.diagnose() LIMIT 0;
SELECT kind, state FROM jobq.jobs ORDER BY kind;
SELECT kind FROM jobq.running_jobs;
SELECT kind FROM jobq.failed_jobs;
SELECT name, pending, scheduled FROM jobq.queues ORDER BY name;
SELECT name FROM jobq.workers;
SELECT jobq.complete(NULL, NULL), jobq.claim('nosuch');
SELECT jobq.drop_queue('q');
SELECT jobq.drop_queue('q', true);
SHOW search_path;
RESET ROLE;
RESET search_path;
SELECT what, who FROM evil.fired;

-- The same with the plans of the statements above forgotten, and as the owner himself.
DISCARD PLANS;
SET search_path = evil, pg_catalog;
SELECT jobq.create_queue('q');
SELECT jobq.enqueue('k1', queue => 'q', unique_key => 'key') AS k1 \gset
SELECT id, lease, kind FROM jobq.claim('q') \gset
SELECT completed FROM jobq.complete_many(ARRAY[:'id']::pg_catalog.uuid[], ARRAY[:lease]);
SELECT jobq.tick();
SELECT queue FROM jobq.stats('q');
SELECT jobq.drop_queue('q', true);
RESET search_path;
SELECT what, who FROM evil.fired;

-- And while it is installed.
SET client_min_messages = error;
DROP EXTENSION jobq CASCADE;
DISCARD TEMP;
SET search_path = evil, pg_catalog;
CREATE EXTENSION jobq;
RESET search_path;
SELECT what, who FROM evil.fired;
SELECT count(*) FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'jobq' WHERE d.deptype = 'e' AND pg_describe_object(d.classid, d.objid, 0) LIKE '%evil%';

DROP SCHEMA evil CASCADE;
DROP OWNED BY regress_jobq_mallory, regress_jobq_friend;
DROP ROLE regress_jobq_mallory, regress_jobq_friend;
