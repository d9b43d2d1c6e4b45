-- What CREATE EXTENSION makes: the contract, and who may touch it.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare

-- The signatures. Final once released: a change here breaks somebody's code.
\pset format unaligned
\pset tuples_only on
SELECT p.proname || '(' || pg_get_function_arguments(p.oid) || ') RETURNS ' || pg_get_function_result(p.oid)
FROM pg_proc AS p WHERE p.pronamespace = 'jobq'::regnamespace AND p.proname !~ '^_' ORDER BY p.proname;

-- The columns of result types and views.
SELECT c.relname || ': ' || string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'jobq'::regnamespace AND c.relkind IN ('c', 'v') AND c.relname !~ '^_'
GROUP BY c.relname ORDER BY c.relname;
\pset format aligned
\pset tuples_only off

-- No name is overloaded; no function is strict (NULL would swallow a job) or runs with its owner's rights by itself.
SELECT p.proname, count(*) FROM pg_proc AS p WHERE p.pronamespace = 'jobq'::regnamespace GROUP BY p.proname HAVING count(*) > 1;
SELECT p.proname FROM pg_proc AS p
WHERE p.pronamespace = 'jobq'::regnamespace AND (p.proisstrict OR p.prosecdef OR p.proparallel <> 'u') ORDER BY p.proname;

-- Looking is STABLE, everything else is VOLATILE.
SELECT p.provolatile, string_agg(p.proname, ' ' ORDER BY p.proname) AS functions
FROM pg_proc AS p WHERE p.pronamespace = 'jobq'::regnamespace AND p.proname !~ '^_' GROUP BY p.provolatile ORDER BY p.provolatile;

-- Every optional argument defaults to NULL; only payload to {}.
SELECT p.proname, d.value
FROM pg_proc AS p, regexp_matches(pg_get_function_arguments(p.oid), '(\w+) \S+ DEFAULT ([^,]+?)(?:::[a-z \[\]]+)?(?:,|$)', 'g') AS d (value)
WHERE p.pronamespace = 'jobq'::regnamespace AND d.value[2] <> 'NULL' ORDER BY p.proname;

-- Types that every driver reads: results, and the columns of result rows and views. Arguments: nothing that drivers take apart.
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'jobq'::regnamespace AND c.relkind IN ('c', 'v') AND c.relname !~ '^_'
  AND a.atttypid <> ALL ('{uuid,text,boolean,int,double precision,timestamptz,jsonb,bigint}'::regtype[]);
SELECT p.proname, p.prorettype::regtype FROM pg_proc AS p
WHERE p.pronamespace = 'jobq'::regnamespace AND p.proname !~ '^_' AND p.prokind <> 'p'
  AND p.prorettype <> ALL ('{uuid,text,boolean,int,double precision,timestamptz,jsonb,bigint}'::regtype[])
  AND NOT EXISTS (SELECT 1 FROM pg_type AS y WHERE y.oid = p.prorettype AND y.typnamespace = 'jobq'::regnamespace AND y.typtype = 'c');
SELECT p.proname FROM pg_proc AS p
WHERE p.pronamespace = 'jobq'::regnamespace AND p.proargtypes::oid[] && '{jsonb[],real,smallint,name,char,json}'::regtype[]::oid[];

-- Every public object has a comment.
SELECT 'schema' AS object, n.nspname::text FROM pg_namespace AS n WHERE n.nspname = 'jobq' AND obj_description(n.oid, 'pg_namespace') IS NULL
UNION ALL
SELECT 'extension', e.extname::text FROM pg_extension AS e WHERE e.extname = 'jobq' AND obj_description(e.oid, 'pg_extension') IS NULL
UNION ALL
SELECT 'function', p.proname::text FROM pg_proc AS p
WHERE p.pronamespace = 'jobq'::regnamespace AND p.proname !~ '^_' AND obj_description(p.oid, 'pg_proc') IS NULL
UNION ALL
SELECT 'type', y.typname::text FROM pg_type AS y JOIN pg_class AS c ON c.oid = y.typrelid
WHERE c.relnamespace = 'jobq'::regnamespace AND c.relkind = 'c' AND y.typname !~ '^_' AND obj_description(y.oid, 'pg_type') IS NULL
UNION ALL
SELECT 'relation', c.relname::text FROM pg_class AS c
WHERE c.relnamespace = 'jobq'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relname !~ '^_' AND obj_description(c.oid, 'pg_class') IS NULL;

-- Security: functions that run as their owner pin search_path; nothing is executable by PUBLIC; nobody but the owner has rights on
-- a relation; nothing takes or returns internal; PUBLIC cannot even see the schema.
SELECT p.oid::regprocedure FROM pg_proc AS p JOIN pg_depend AS d ON d.objid = p.oid AND d.deptype = 'e'
WHERE p.prosecdef AND NOT EXISTS (SELECT 1 FROM unnest(coalesce(p.proconfig, '{}')) AS c WHERE c LIKE 'search_path=%');
SELECT p.proname FROM pg_proc AS p
WHERE p.pronamespace = 'jobq'::regnamespace
  AND (p.proacl IS NULL OR EXISTS (SELECT 1 FROM aclexplode(p.proacl) AS a WHERE a.grantee <> p.proowner));
SELECT c.relname, a.privilege_type FROM pg_class AS c, aclexplode(c.relacl) AS a
WHERE c.relnamespace = 'jobq'::regnamespace AND a.grantee <> c.relowner;
SELECT p.proname FROM pg_proc AS p
WHERE p.pronamespace = 'jobq'::regnamespace AND ('internal'::regtype = ANY (p.proargtypes) OR p.prorettype = 'internal'::regtype);
SELECT a.privilege_type FROM pg_namespace AS n, aclexplode(n.nspacl) AS a WHERE n.nspname = 'jobq' AND a.grantee <> n.nspowner;
SELECT y.typname, a.grantee FROM pg_type AS y, aclexplode(y.typacl) AS a
WHERE y.typnamespace = 'jobq'::regnamespace AND a.grantee NOT IN (0, y.typowner);

-- Everything in the schema is a member of the extension and belongs to its owner; nothing of it lives elsewhere.
SELECT o.kind, o.name FROM (
    SELECT 'function' AS kind, p.proname::text AS name, p.oid, 'pg_proc'::regclass AS catalog, p.proowner AS owner FROM pg_proc AS p WHERE p.pronamespace = 'jobq'::regnamespace
    UNION ALL
    SELECT 'relation', c.relname, c.oid, 'pg_class', c.relowner FROM pg_class AS c
    WHERE c.relnamespace = 'jobq'::regnamespace AND c.relkind NOT IN ('i', 'I', 'c')
) AS o
WHERE o.owner <> (SELECT e.extowner FROM pg_extension AS e WHERE e.extname = 'jobq')
   OR NOT EXISTS (SELECT 1 FROM pg_depend AS d WHERE d.classid = o.catalog AND d.objid = o.oid AND d.deptype = 'e');
SELECT pg_describe_object(d.classid, d.objid, 0)
FROM pg_depend AS d
WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'jobq') AND d.deptype = 'e'
  AND pg_describe_object(d.classid, d.objid, 0) !~ 'jobq';

-- Nothing is unlogged. Every table and sequence with a user's data is dumped, and none of them has a row from the install script,
-- which a restore would insert a second time.
SELECT c.relname FROM pg_class AS c WHERE c.relnamespace = 'jobq'::regnamespace AND c.relpersistence <> 'p';
SELECT c.relname AS not_dumped FROM pg_class AS c
WHERE c.relnamespace = 'jobq'::regnamespace AND c.relkind IN ('r', 'S')
  AND c.oid <> ALL ((SELECT e.extconfig FROM pg_extension AS e WHERE e.extname = 'jobq')::oid[]);
SELECT (SELECT count(*) FROM jobq._queue) + (SELECT count(*) FROM jobq._job) + (SELECT count(*) FROM jobq._dead) + (SELECT count(*) FROM jobq._history) AS rows_installed;

-- No index and no index predicate names a column that a claim or heartbeat changes.
SELECT i.indexrelid::regclass, a.attname
FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid
WHERE i.indrelid = 'jobq._job'::regclass
  AND a.attname IN ('state', 'bound', 'cancel_requested', 'attempt', 'crashes', 'progress', 'lease', 'lease_ms', 'claimed_at', 'seen_at',
                    'lease_expires_at', 'deadline_at', 'note', 'worker', 'spent_key')
  AND (a.attnum = ANY (i.indkey) OR pg_get_expr(i.indpred, i.indrelid) ~ ('\m' || a.attname || '\M'));

-- The control file: superuser only, not relocatable, no schema of its own (it would adopt somebody else's).
SELECT v.superuser, v.trusted, v.relocatable, v.schema, v.requires
FROM pg_available_extension_versions AS v WHERE v.name = 'jobq' AND v.installed;
SELECT e.extversion = a.default_version AS newest, jobq.version() LIKE '%' || e.extversion || '%' AS version_says_so
FROM pg_extension AS e JOIN pg_available_extensions AS a ON a.name = e.extname WHERE e.extname = 'jobq';

-- It cannot be put elsewhere, nor moved. (Without preload each installation says so in a warning.)
SET client_min_messages = error;
DROP EXTENSION jobq CASCADE;
SELECT to_regnamespace('jobq') AS schema_left, count(*) AS functions_left FROM pg_proc AS p WHERE p.probin = 'jobq' OR p.probin LIKE '%/jobq';
CREATE SCHEMA elsewhere;
CREATE EXTENSION jobq SCHEMA elsewhere;
SELECT n.nspname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE p.proname = 'enqueue';
ALTER EXTENSION jobq SET SCHEMA elsewhere;
DROP EXTENSION IF EXISTS jobq CASCADE;
DROP SCHEMA elsewhere;

-- Only a superuser installs it.
CREATE ROLE regress_jobq_installer;
SELECT format('GRANT CREATE ON DATABASE %I TO regress_jobq_installer', current_database()) \gexec
SET ROLE regress_jobq_installer;
CREATE EXTENSION jobq;
RESET ROLE;
SELECT format('REVOKE CREATE ON DATABASE %I FROM regress_jobq_installer', current_database()) \gexec
DROP ROLE regress_jobq_installer;

-- Dropped and made again in one transaction, and rolled back: it is still there, with its jobs.
CREATE EXTENSION jobq;
SELECT count(jobq.enqueue('kept')) FROM generate_series(1, 3);
BEGIN;
DROP EXTENSION jobq;
CREATE EXTENSION jobq;
SELECT count(*) FROM jobq.jobs;
ROLLBACK;
SELECT kind, count(*) FROM jobq.jobs GROUP BY kind;
