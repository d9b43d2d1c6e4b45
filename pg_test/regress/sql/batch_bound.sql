-- Never more than batch, however the statements are planned.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
SELECT count(*) FROM jobq.enqueue_many('k', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 500)));
ANALYZE jobq._job;

\set VERBOSITY terse
DO $$
DECLARE
    knobs text[] := '{enable_hashjoin,enable_mergejoin,enable_nestloop,enable_sort,enable_hashagg,enable_material,enable_indexscan}';
    mask int;
    wanted int;
    runs int := 0;
    claimed bigint;
    changed bigint;
    moved bigint;
BEGIN
    FOR mask IN 0 .. 127 LOOP
        FOR i IN 1 .. 7 LOOP
            PERFORM set_config(knobs[i], CASE WHEN mask & (1 << (i - 1)) > 0 THEN 'off' ELSE 'on' END, true);
        END LOOP;
        DISCARD PLANS;
        FOREACH wanted IN ARRAY '{1,3,100}'::int[] LOOP
            BEGIN
                SELECT count(DISTINCT id) INTO claimed FROM jobq.claim(batch => wanted);
                SELECT count(*) INTO changed FROM jobq._job WHERE state = 'r';
                SELECT count(*) INTO moved FROM (
                    SELECT array_agg(id ORDER BY id DESC) AS ids, array_agg(lease ORDER BY id DESC) AS leases FROM jobq._job WHERE state = 'r') AS x,
                    jobq.complete_many(x.ids, x.leases) AS f WHERE f.completed;
                RAISE EXCEPTION USING ERRCODE = 'T0000';
            EXCEPTION WHEN SQLSTATE 'T0000' THEN NULL;
            END;
            runs := runs + 1;
            IF claimed <> wanted OR changed <> wanted OR moved <> wanted THEN
                RAISE WARNING 'batch of % with %: % claimed, % changed, % completed', wanted,
                    (SELECT string_agg(name, ' ') FROM pg_settings WHERE name = ANY (knobs) AND setting = 'off'), claimed, changed, moved;
            END IF;
        END LOOP;
    END LOOP;
    RAISE WARNING 'runs: %', runs;
END
$$;
SELECT state, count(*) FROM jobq.jobs GROUP BY state;
