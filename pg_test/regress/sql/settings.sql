-- Settings: who may change them, what they accept, what they do.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
SELECT jobq.version() IS NOT NULL AS library_loaded;

-- Those that exist with and without preload. No user may change any of them.
SELECT name, vartype, unit, context, current_setting(name) AS value FROM pg_settings
WHERE name IN ('jobq.enabled', 'jobq.tick_interval', 'jobq.rescue_grace', 'jobq.async_claim', 'jobq.max_payload_bytes') ORDER BY name;
SELECT name, context FROM pg_settings WHERE name LIKE 'jobq.%' AND context IN ('user', 'backend');
SELECT name FROM pg_settings WHERE name LIKE 'jobq.%' AND (short_desc IS NULL OR short_desc = '');
SELECT context FROM pg_settings WHERE name = 'jobq.databases' AND context <> 'postmaster';
CREATE ROLE regress_jobq_user;
SET ROLE regress_jobq_user;
SET jobq.max_payload_bytes = '1GB';
SET jobq.async_claim = off;
SET jobq.enabled = off;
RESET ROLE;
DROP ROLE regress_jobq_user;

-- Refused values.
ALTER SYSTEM SET jobq.max_payload_bytes = -1;
ALTER SYSTEM SET jobq.max_payload_bytes = '1 parsec';
ALTER SYSTEM SET jobq.tick_interval = 0;
ALTER SYSTEM SET jobq.tick_interval = -1;
ALTER SYSTEM SET jobq.tick_interval = 'NaN';
ALTER SYSTEM SET jobq.tick_interval = '2147483648s';
ALTER SYSTEM SET jobq.rescue_grace = -2;
ALTER SYSTEM SET jobq.enabled = 'perhaps';
ALTER SYSTEM SET jobq.async_claim = 2;
SELECT count(*) FROM pg_file_settings WHERE name LIKE 'jobq.%' AND sourcefile LIKE '%postgresql.auto.conf';

-- max_payload_bytes takes effect at a reload, for payloads of every form and for results. (The server reloads when it gets to it:
-- each statement below looks, for a minute at most.)
CREATE PROCEDURE t.pause_unless(value text) LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('jobq.max_payload_bytes') <> value THEN PERFORM pg_sleep(0.05); END IF;
END
$$;
SELECT count(jobq.enqueue('before', jsonb_build_object('x', repeat('x', 20000))));
SELECT t.take();
ALTER SYSTEM SET jobq.max_payload_bytes = '10kB';
SELECT pg_reload_conf();
\set ECHO none
SELECT 'CALL t.pause_unless(''10kB'')' FROM generate_series(1, 1200) \gexec
\set ECHO all
SHOW jobq.max_payload_bytes;
SELECT t.outcome($$jobq.enqueue('k', jsonb_build_object('x', repeat('x', 9000)))$$), t.outcome($$jobq.enqueue('k', jsonb_build_object('x', repeat('canary', 2000)))$$, 'payload'),
       t.outcome($$jobq.enqueue_many('k', jsonb_build_array('{}'::jsonb, jsonb_build_object('x', repeat('canary', 2000))))$$, 'payload'),
       t.outcome($$jobq.enqueue_jobs(jsonb_build_array('{"kind": "k"}'::jsonb, jsonb_build_object('kind', 'k', 'payload', jsonb_build_object('x', repeat('canary', 2000)))))$$, 'payload');
-- Many small ones are not one large one; what is there already is served.
SELECT t.outcome($$jobq.enqueue_many('k', (SELECT jsonb_agg(jsonb_build_object('x', repeat('x', 9000))) FROM generate_series(1, 10)))$$);
SELECT jobq.fail(t.id('before'), t.lease('before'), 'e', '0'), t.take(), jobq.complete(t.id('before'), t.lease('before'), '{"small": true}'), t.seen('before');
ALTER SYSTEM RESET jobq.max_payload_bytes;
SELECT pg_reload_conf();
\set ECHO none
SELECT 'CALL t.pause_unless(''1MB'')' FROM generate_series(1, 1200) \gexec
\set ECHO all
SELECT t.outcome($$jobq.enqueue('k', jsonb_build_object('x', repeat('x', 20000)))$$);
