-- Never more than batch, however the statements are planned.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
SELECT count(*) FROM jobq.enqueue_many('k', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 500)));
ANALYZE jobq._job;

-- (A plan that is forbidden costs so much that it would be compiled.)
SET jit = off;
\set VERBOSITY terse
DO $$
DECLARE
    knobs text[] := '{enable_hashjoin,enable_mergejoin,enable_nestloop,enable_sort,enable_hashagg,enable_material,enable_indexscan}';
    runs int := 0;
    off text;
    wanted int;
    claimed bigint;
    changed bigint;
    completed bigint;
BEGIN
    FOR mask IN 0 .. 127 LOOP
        off := '';
        FOR i IN 1 .. 7 LOOP
            IF mask & (1 << (i - 1)) > 0 THEN
                PERFORM set_config(knobs[i], 'off', true);
                off := off || ' ' || knobs[i];
            END IF;
        END LOOP;
        DISCARD PLANS;
        FOREACH wanted IN ARRAY '{1,3,100}'::int[] LOOP
            PERFORM jobq.enqueue_many('k', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, wanted)));
            SELECT count(DISTINCT id) INTO claimed FROM jobq.claim(batch => wanted);
            SELECT count(*) INTO changed FROM jobq._job WHERE state = 'r';
            SELECT count(*) INTO completed FROM (
                SELECT array_agg(id ORDER BY id DESC) AS ids, array_agg(lease ORDER BY id DESC) AS leases FROM jobq._job WHERE state = 'r') AS x,
                jobq.complete_many(x.ids, x.leases) AS f WHERE f.completed;
            runs := runs + 1;
            IF claimed <> wanted OR changed <> wanted OR completed <> wanted THEN
                RAISE WARNING 'batch of %: % claimed, % changed, % completed; off:%', wanted, claimed, changed, completed, off;
            END IF;
        END LOOP;
        COMMIT;
    END LOOP;
    RAISE WARNING 'runs: %', runs;
END
$$;
SELECT state, count(*) FROM jobq.jobs GROUP BY state;
